//! `cryo attach`: takes up the terminal of a job that runs.

use clap::{Args, ValueHint};
use cryonaut_launch::WatchedSignals;
use cryonaut_launch::registry::Registry;
use cryonaut_launch::terminal::{Replay, ViewEnd, view};

use crate::console::Console;
use crate::exit::{self, Failure, INSTEAD_OF_JOB};
use crate::terminal::{self, DetachKeyArgument, User};

/// Shows the terminal of a running job on yours, and types into it
///
/// What was printed before is shown first, up to 256 KiB. Several may be attached at once: the window is as small as the smallest
/// of theirs. The detach keys (Ctrl-\ and then d) leave the job to itself, as does the end of your terminal; nothing of that
/// disturbs the job. When the job ends, so does cryo, with its exit status.
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED_FOR_ATTACH)]
pub struct Arguments {
    /// The name of a job (see `cryo list`)
    #[arg(value_name = "NAME", value_hint = ValueHint::Other)]
    name: String,
    /// Do not show what was printed before
    #[arg(long)]
    no_scrollback: bool,
    #[command(flatten)]
    key: DetachKeyArgument,
}

impl Arguments {
    /// Views it.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        self.attach(console).map_err(Failure::instead_of_job)
    }

    fn attach(self, console: Console) -> Result<u8, Failure> {
        let signals = WatchedSignals::block()?;
        let registry = Registry::open()?;
        let mut replay = match self.no_scrollback {
            true => Replay::Nothing,
            false => Replay::Kept,
        };
        loop {
            let job = registry.find(&self.name)?;
            let holder = terminal::take_up(&registry, &job)?;
            let mut viewer = User::Standard.view(holder, replay, &self.key.detach_key)?;
            let end = view(&mut viewer, &signals)?;
            // The user's terminal is put back before anything is said.
            drop(viewer);
            match end {
                ViewEnd::Over(Some(code)) => return Ok(code),
                ViewEnd::Over(None) => {
                    console.warning(&format!(
                        "the job {} has ended; how, this kernel tells nobody but the process that started it",
                        self.name
                    ));
                    return Ok(INSTEAD_OF_JOB);
                }
                ViewEnd::Detached => {
                    console.remark(&terminal::runs_on(&self.name));
                    return Ok(0);
                }
                ViewEnd::Signal(number) => {
                    return Ok(u8::try_from(128 + number).unwrap_or(INSTEAD_OF_JOB));
                }
                // The holder was killed: another one takes over, as long as the job runs.
                ViewEnd::Lost => replay = Replay::Nothing,
            }
        }
    }
}
