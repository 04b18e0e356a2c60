//! Files lent to the processes of a job while it is rebuilt: what they map, or execute, that no path leads to.
//!
//! A descriptor for each is put into the progenitor, at a number that the job does not use. Every process inherits it as it inherits
//! the arena, maps what it needs, and closes it before its threads are born.

use std::os::fd::{AsFd, BorrowedFd};

use cryonaut_tracee::CallList;

use super::{CloseOnExec, Rebuild};
use crate::resource::file::{DIRECTORIES, FILLED, raise_limit};
use crate::{Error, Result};

/// What a lent descriptor is open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// For reading only: what is mapped by it shared can never be made writable.
    Reading,
    /// For reading and writing.
    Writing,
}

impl Rebuild<'_> {
    /// Lends a file to all processes that are born from now on; one number for each file and access.
    ///
    /// # Errors
    /// When the progenitor stumbles.
    pub fn lend(&mut self, kept: u64, access: Access, file: BorrowedFd<'_>) -> Result<()> {
        let number = self.numbers.lent.get(self.lent.len());
        let number = *number.ok_or_else(|| {
            Error::Failed("the image is damaged: more files are lent than are needed".into())
        })?;
        raise_limit(self.built(0)?.pid)?;
        self.give(0, &[(file, number, CloseOnExec::Yes)])?;
        self.lent.insert((kept, access), number);
        Ok(())
    }

    /// The number of a lent descriptor in every process.
    ///
    /// # Errors
    /// When it was not lent: the image is damaged.
    pub fn lent(&self, kept: u64, access: Access) -> Result<i32> {
        let number = self.lent.get(&(kept, access)).copied();
        number.ok_or_else(|| {
            Error::Failed(format!(
                "the image is damaged: kept file {kept} is missing where it is mapped"
            ))
        })
    }

    /// Gives a kept directory to a process for a moment, which then closes it: its number there. `place`, 0 or 1, tells apart what
    /// is given at the same time.
    ///
    /// # Errors
    /// When the image has no such file, or the process stumbles.
    pub fn give_kept(&self, process: i32, kept: u64, place: usize) -> Result<i32> {
        let file = self.kept.get(&kept).ok_or_else(|| {
            Error::Failed(format!("the image is damaged: kept file {kept} is missing"))
        })?;
        let number = self.numbers.spare[DIRECTORIES + place];
        self.give(process, &[(file.as_fd(), number, CloseOnExec::Yes)])?;
        Ok(number)
    }

    /// Gives a descriptor to a process for a moment, which then closes it: its number there.
    ///
    /// # Errors
    /// When the process stumbles.
    pub fn give_spare(&self, process: i32, file: BorrowedFd<'_>) -> Result<i32> {
        let number = self.numbers.spare[FILLED];
        raise_limit(self.built(process)?.pid)?;
        self.give(process, &[(file, number, CloseOnExec::Yes)])?;
        Ok(number)
    }

    /// Closes all that was lent in a process.
    ///
    /// # Errors
    /// When the process stumbles.
    pub fn return_lent(&self, process: i32) -> Result<()> {
        let mut list = CallList::new();
        for number in self.lent.values() {
            list.call(libc::SYS_close, &[(*number).into()]);
        }
        if list.is_empty() {
            return Ok(());
        }
        // One that shares its table with another finds it done.
        self.run(process, &list).map(drop)
    }
}
