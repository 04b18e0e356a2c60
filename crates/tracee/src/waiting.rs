//! Waiting for the next stop of a task that works for us.

use std::time::{Duration, Instant};

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::wait;

use crate::{Error, Result, at};

/// Waits for a task's next stop while it works for us. That comes within microseconds, but memory that goes to a slow disk, for
/// instance, may take minutes. Two kinds never come: a task that the freezer of a cgroup takes out of our hands, and the first
/// thread of a process that was killed, whose end the kernel tells only when that of all others has been taken notice of.
///
/// # Errors
/// [`Error::Gone`], [`Error::Held`].
pub(crate) fn await_stop(tid: i32) -> Result<wait::Status> {
    /// Within this the task is nearly always back: looking again costs less than sleeping.
    const SOON: Duration = Duration::from_micros(200);
    const LONGEST: Duration = Duration::from_millis(5);
    let start = Instant::now();
    let mut watch = Watch::new(start);
    loop {
        if let Some(status) = at(tid, "waiting for it", wait::poll(tid))? {
            return Ok(status);
        }
        let elapsed = start.elapsed();
        if elapsed < SOON {
            std::thread::yield_now();
            continue;
        }
        watch.look(tid)?;
        std::thread::sleep((elapsed / 8).min(LONGEST));
    }
}

/// Whether a task has ended, though the kernel may not have told its tracer.
pub(crate) fn has_ended(tid: i32) -> bool {
    !matches!(state(tid), Some(state) if !matches!(state, 'Z' | 'X'))
}

fn state(tid: i32) -> Option<char> {
    let directory = ProcessDirectory::open(tid).ok()?;
    Some(directory.stat().ok()?.state)
}

/// Looks now and then what has become of a task that works for us. One that is held by a freezer sleeps, as none of our calls does
/// for long otherwise.
struct Watch {
    next: Instant,
    asleep: u32,
}

impl Watch {
    const PAUSE: Duration = Duration::from_millis(100);
    /// So many looks in a row find it asleep.
    const LOOKS: u32 = 100;

    fn new(now: Instant) -> Self {
        Self {
            next: now + Self::PAUSE,
            asleep: 0,
        }
    }

    fn look(&mut self, tid: i32) -> Result<()> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + Self::PAUSE;
        let asleep = match state(tid) {
            None | Some('Z' | 'X') => return Err(Error::Gone(tid)),
            Some('S' | 'T') => true,
            Some('D') => is_in_refrigerator(tid),
            Some(_) => false,
        };
        self.asleep = if asleep { self.asleep + 1 } else { 0 };
        match self.asleep >= Self::LOOKS {
            true => Err(Error::Held(tid)),
            false => Ok(()),
        }
    }
}

/// The freezer of cgroup v1 looks like a disk.
fn is_in_refrigerator(tid: i32) -> bool {
    let place = ProcessDirectory::open(tid).and_then(|directory| directory.read("wchan"));
    place.is_ok_and(|place| place.ends_with(b"refrigerator"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_does_not_exist_has_ended() {
        assert!(has_ended(i32::MAX));
        assert!(!has_ended(std::process::id() as i32));
    }
}
