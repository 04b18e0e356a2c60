//! `cryo __hold-terminal`: keeps the master side of a detached job's terminal open, as standard input, until no process has
//! the terminal open any more. Without it the terminal would hang up with the `cryo restart --detach` that made it.

use std::io::stdin;
use std::os::fd::AsFd;

use cryonaut_sys::spawn;
use cryonaut_sys::terminal::{Readiness, wait_ready};

use crate::exit::Failure;

/// Holds it.
pub fn run() -> Result<u8, Failure> {
    // Out of the session that the restart was done in, whose end is not this process' end. It fails for a leader only.
    let _ = spawn::new_session();
    let input = stdin();
    // Nothing is asked for, so only the hang-up wakes it: what the job prints waits in the terminal.
    let mut wishes = [Readiness::new(input.as_fd(), 0)];
    wait_ready(&mut wishes, None).map_err(Failure::system("wait for the terminal's end"))?;
    Ok(0)
}
