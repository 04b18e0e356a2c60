//! The `cryo` command: one small file for each subcommand under `command/`.
//!
//! Results go to standard output; remarks and progress go to standard error, and only to a terminal; errors go to standard
//! error. With `--json` each of them is a JSON object.
#![forbid(unsafe_code)]

mod apart;
mod blcr;
mod command;
mod console;
mod exit;
mod handover;
mod interrupt;
mod job;
mod kept;
mod line;
mod logging;
mod notify;
mod opening;
mod original;
mod ourselves;
mod packing;
mod progress;
mod saver;
mod subject;
mod terminal;
mod units;
mod when;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(status) = blcr::main() {
        return status;
    }
    prepare();
    command::main()
}

/// What every command that handles jobs wants first.
fn prepare() {
    // Now, while there is one thread: a job's descriptors pass through here.
    cryonaut_sys::descriptor::make_room(4096);
    // With capabilities of its file it may not be inspected, and what it bears not be traced. What it may do stays its own: who
    // may not do as much cannot trace it either (`cap_ptrace_access_check` in security/commoncap.c). Where this fails, tracing says so.
    if !cryonaut_sys::task::is_dumpable() {
        let _ = cryonaut_sys::spawn::allow_inspection();
    }
}
