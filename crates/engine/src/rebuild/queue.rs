//! Long sequences of calls.

use std::os::unix::fs::FileExt;

use cryonaut_sys::RemotePtr;
use cryonaut_tracee::{Argument, CallId, CallList};

use super::Rebuild;
use crate::error::Attempt;
use crate::{Error, Result};

/// Calls on their way to a process, checked as they come back. Runs a list whenever one is full.
pub struct Queue {
    process: i32,
    list: CallList,
    expected: Vec<(CallId, &'static str, Option<u64>)>,
}

impl Queue {
    /// An empty queue for a process.
    pub fn new(process: i32) -> Self {
        Self {
            process,
            list: CallList::new(),
            expected: Vec::new(),
        }
    }

    /// The list that the next call goes to, for its buffers.
    pub fn list(&mut self) -> &mut CallList {
        &mut self.list
    }

    /// Adds a call that must return `value`.
    ///
    /// # Errors
    /// Those of earlier calls, when the list is full and runs.
    pub fn expect(
        &mut self,
        rebuild: &Rebuild<'_>,
        what: &'static str,
        number: i64,
        arguments: &[Argument],
        value: u64,
    ) -> Result<()> {
        let call = self.list.call(number, arguments);
        self.expected.push((call, what, Some(value)));
        self.flush_if_full(rebuild)
    }

    /// Maps a file: (address, length, protection, flags, offset).
    ///
    /// # Errors
    /// As [`Queue::expect`].
    pub fn map_file(
        &mut self,
        rebuild: &Rebuild<'_>,
        path: &[u8],
        mode: i32,
        map: [u64; 5],
    ) -> Result<()> {
        let [start, length, protection, flags, offset] = map;
        let path = self.list.path(path);
        let mode = mode | libc::O_CLOEXEC;
        let open = self.list.call(
            libc::SYS_openat,
            &[libc::AT_FDCWD.into(), path.into(), mode.into()],
        );
        let arguments = [
            start.into(),
            length.into(),
            protection.into(),
            flags.into(),
            open.into(),
            offset.into(),
        ];
        let call = self.list.call(libc::SYS_mmap, &arguments);
        self.list.call(libc::SYS_close, &[open.into()]);
        self.expected.push((open, "opening a mapped file", None));
        self.expected.push((call, "mapping a file", Some(start)));
        self.flush_if_full(rebuild)
    }

    /// Maps what a descriptor of the process is open for: (address, length, protection, flags, offset).
    ///
    /// # Errors
    /// As [`Queue::expect`].
    pub fn map_descriptor(
        &mut self,
        rebuild: &Rebuild<'_>,
        number: i32,
        map: [u64; 5],
    ) -> Result<()> {
        let [start, length, protection, flags, offset] = map;
        let arguments = [
            start.into(),
            length.into(),
            protection.into(),
            flags.into(),
            number.into(),
            offset.into(),
        ];
        let what = "mapping a file that was kept by content";
        self.expect(rebuild, what, libc::SYS_mmap, &arguments, start)
    }

    fn flush_if_full(&mut self, rebuild: &Rebuild<'_>) -> Result<()> {
        if self.list.size() + 8192 > rebuild.stub.capacity() {
            self.flush(rebuild)
        } else {
            Ok(())
        }
    }

    /// Runs what is queued and checks it.
    ///
    /// # Errors
    /// The first call that failed or returned something else.
    pub fn flush(&mut self, rebuild: &Rebuild<'_>) -> Result<()> {
        let list = std::mem::take(&mut self.list);
        if list.is_empty() {
            return Ok(());
        }
        let outcomes = rebuild.run(self.process, &list)?;
        for (call, what, value) in self.expected.drain(..) {
            let result = outcomes
                .result(call)
                .attempt(|| format!("process {}: {what}", self.process))?;
            if value.is_some_and(|value| value != result) {
                return Err(Error::Failed(format!(
                    "process {}: {what} gave {result:#x}",
                    self.process
                )));
            }
        }
        Ok(())
    }
}

/// Writes into the memory of a process being rebuilt, also where it is read-only by now.
///
/// # Errors
/// When the address is not mapped.
pub fn write_memory(pid: i32, address: u64, bytes: &[u8]) -> Result<()> {
    let path = format!("/proc/{pid}/mem");
    let memory = std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .attempt(|| format!("opening {path}"))?;
    memory
        .write_all_at(bytes, address)
        .attempt(|| format!("writing memory at {}", RemotePtr::new(address)))
}
