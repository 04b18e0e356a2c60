//! Running other programs, seen by whoever watches.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What went wrong, for people.
pub type Result<T = ()> = std::result::Result<T, String>;

/// The top of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cargo that runs this, or the one on the path.
pub fn cargo() -> Command {
    program(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
}

/// A command in the repository, without input.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.current_dir(repository()).stdin(Stdio::null());
    command
}

/// Runs a command whose output everybody sees; an error unless it succeeds.
pub fn run(command: &mut Command) -> Result {
    let what = describe(command);
    println!("$ {what}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {status}")),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

/// Whether a command succeeds; nobody sees its output.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command that has nothing to say unless it fails; then everybody sees all that it said.
pub fn quietly(command: &mut Command) -> Result {
    let what = describe(command);
    println!("$ {what}");
    let output = command
        .output()
        .map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    for said in [&output.stdout, &output.stderr] {
        print!("{}", String::from_utf8_lossy(said));
    }
    Err(format!("{what}: {}", output.status))
}

/// What a command prints; an error unless it succeeds.
pub fn output(command: &mut Command) -> Result<String> {
    let what = describe(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("{what}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{what}: {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{what}: {error}"))
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text += " ";
        text += &argument.to_string_lossy();
    }
    text
}
