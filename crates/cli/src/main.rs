//! The `cryo` command: one small file for each subcommand under `command/`.
//!
//! Results go to standard output; remarks and progress go to standard error, and only to a terminal; errors go to standard
//! error. With `--json` each of them is a JSON object.
#![forbid(unsafe_code)]

mod apart;
mod command;
mod console;
mod exit;
mod interrupt;
mod job;
mod logging;
mod progress;
mod subject;
mod units;
mod when;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Now, while there is one thread: a job's descriptors pass through here.
    cryonaut_sys::descriptor::make_room(4096);
    command::main()
}
