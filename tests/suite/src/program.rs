//! A program to be started by a test.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::outcome::{Outcome, skip};
use crate::place;

/// What to execute, with arguments and additions to the environment.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments, without its name.
    pub arguments: Vec<OsString>,
    /// Variables beside the few that every program gets.
    pub environment: Vec<(OsString, OsString)>,
}

impl Program {
    /// An executable file.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// An installed program, found on the usual paths; a skip if it is not there.
    pub fn installed(name: &str) -> Outcome<Self> {
        for directory in ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"] {
            let path = PathBuf::from(directory).join(name);
            if path.exists() {
                return Ok(Self::at(path));
            }
        }
        skip(format!("{name} is not installed; run cargo xtask setup"))
    }

    /// A C program of the victims' directory, compiled with these additional options.
    pub fn victim(name: &str, options: &[&str]) -> Outcome<Self> {
        let directory = place::victims();
        let mut compiler = vec!["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"];
        compiler.extend(options);
        let sources = [
            directory.join(format!("{name}.c")),
            directory.join("victim.h"),
        ];
        Ok(Self::at(place::compile(name, &compiler, &sources)?))
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }
}
