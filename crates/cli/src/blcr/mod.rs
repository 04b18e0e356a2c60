//! The commands of BLCR: `cryo` under the names `cr_run`, `cr_checkpoint`, `cr_restart` and `cr_info`, with their options, exit codes
//! and messages (docs/blcr.md).

mod caller;
mod checkpoint;
mod destination;
mod errno;
mod info;
mod options;
mod restart;
mod run;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

pub use restart::{Ending, Manner};

/// The version of BLCR that they do as.
const VERSION: &str = "0.8.6_b4";

/// What a command line that makes no sense ends with.
const USAGE: u8 = 255;

/// Does what the name says that this program was called by, if that is one of them.
pub fn main() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    let name = words.next()?;
    let words: Vec<OsString> = words.collect();
    let status = match Path::new(&name).file_name()?.as_bytes() {
        b"cr_run" => run::run(words),
        b"cr_checkpoint" => {
            crate::prepare();
            checkpoint::run(words)
        }
        b"cr_restart" => {
            crate::prepare();
            restart::run(words)
        }
        b"cr_info" => info::run(words),
        _ => return None,
    };
    Some(ExitCode::from(status))
}

/// Prints to standard output; a reader that has had enough is no failure.
fn print(text: &str) -> u8 {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}

/// Prints to standard error, where that is wanted.
fn complain(speech: Speech, text: &str) {
    if speech == Speech::Normal {
        eprintln!("{text}");
    }
}

/// Whether anything is printed to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Speech {
    /// It is.
    #[default]
    Normal,
    /// Nothing (`--quiet`).
    Quiet,
}

/// When what is known beyond the one message is printed (`--kmsg-*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Messages {
    /// Never.
    Never,
    /// After a failure.
    #[default]
    OnFailure,
    /// Always.
    Always,
}

/// Prints such lines, each after `- `.
fn tell(speech: Speech, lines: &[String]) {
    for line in lines.iter().flat_map(|text| text.lines()) {
        complain(speech, &format!("- {line}"));
    }
}

/// A signal's number as an option gives it.
fn signal(text: &OsString) -> Option<i32> {
    let number = text.to_str()?.parse().ok()?;
    (1..=64).contains(&number).then_some(number)
}
