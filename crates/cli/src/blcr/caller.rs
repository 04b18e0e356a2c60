//! A program that has this command started by libcr: its descriptors are taken from it, and it is told what came of it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use cryonaut_sys::{descriptor, pidfd};

use super::errno::{Trouble, of_system};

/// Whose numbers of descriptors those on the command line are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// The program; without one they are this command's own.
    pub process: Option<i32>,
    /// Where it wants its answer.
    pub answer: Option<i32>,
    /// What it waits for.
    pub ring: Option<i32>,
}

impl Caller {
    /// What one of the numbers leads to.
    pub fn open(self, number: i32) -> Result<File, Trouble> {
        /// The program permits it a moment after it has started this.
        const PATIENCE: Duration = Duration::from_secs(1);
        let Some(process) = self.process else {
            let copy = descriptor::copy_of_number(number);
            return copy.map(File::from).map_err(|_| Trouble::new(libc::EBADF));
        };
        let start = Instant::now();
        loop {
            let copy = pidfd::open(process)
                .and_then(|process| pidfd::get_descriptor(process.as_fd(), number));
            match copy {
                Ok(copy) => return Ok(File::from(copy)),
                Err(error) if start.elapsed() > PATIENCE => return Err(of_system(&error)),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Tells it an error number, and what is known besides.
    pub fn answer(self, number: i32, details: &[u8]) {
        let Some(place) = self.answer.and_then(|place| self.open(place).ok()) else {
            return;
        };
        let mut answer = number.to_ne_bytes().to_vec();
        answer.extend(details);
        let mut place = place;
        // Without an answer the library reports that this command has failed.
        let _ = place.write_all(&answer);
        if let Some(mut bell) = self.ring.and_then(|bell| self.open(bell).ok()) {
            let _ = bell.write_all(&1_u64.to_ne_bytes());
        }
    }
}
