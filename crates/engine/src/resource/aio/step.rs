//! The step that rebuilds a context: made anywhere, moved to its address, brought to its position by requests that read nothing.

use std::fmt;

use cryonaut_tracee::CallList;

use super::{AioContext, EVENT, pieces, place};
use crate::error::Attempt;
use crate::plan::Action;
use crate::rebuild::{Rebuild, write_memory};
use crate::{Error, Result};

/// Requests that are made in one list.
const AT_ONCE: u32 = 1000;
/// Size in bytes of `struct iocb`.
const REQUEST: usize = 64;
/// `IOCB_CMD_PREAD`, the operation of 0.
const NOTHING_TO_READ: u64 = 1;

/// Makes a context with the events that were not fetched.
pub struct MakeContext {
    pub(super) context: AioContext,
}

impl fmt::Display for MakeContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "make a context of asynchronous I/O for {} events, {} of them there",
            self.context.capacity,
            self.context.events.len() as u64 / EVENT
        )
    }
}

impl Action for MakeContext {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        self.make(rebuild)?;
        self.advance(rebuild)?;
        let context = &self.context;
        let pid = rebuild.built(context.process)?.pid;
        let mut events = context.events.as_slice();
        let count = (events.len() as u64 / EVENT) as u32;
        for (index, number) in pieces(context.head, count, context.capacity) {
            let (piece, rest) = events.split_at((u64::from(number) * EVENT) as usize);
            write_memory(pid, place(context.address, index), piece)?;
            events = rest;
        }
        Ok(())
    }
}

impl MakeContext {
    fn what(&self, what: &str) -> String {
        let AioContext {
            process, address, ..
        } = self.context;
        format!("process {process}: {what} the asynchronous I/O context at {address:#x}")
    }

    /// Makes it with its ring where it was. The kernel follows when the ring is moved (`aio_ring_mremap` in fs/aio.c).
    fn make(&self, rebuild: &Rebuild<'_>) -> Result<()> {
        let context = &self.context;
        let (address, length) = (context.address, context.length);
        let mut list = CallList::new();
        // The place is taken meanwhile, or the kernel might put the ring partly there.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let arguments = [
            address.into(),
            length.into(),
            libc::PROT_NONE.into(),
            flags.into(),
            u64::MAX.into(),
            0.into(),
        ];
        let hold = list.call(libc::SYS_mmap, &arguments);
        let id = list.space(8);
        // The kernel makes room for twice as many, and two.
        let number = u64::from((context.capacity - 2) / 2);
        let setup = list.call(libc::SYS_io_setup, &[number.into(), id.into()]);
        let outcomes = rebuild.run(context.process, &list)?;
        let held = outcomes
            .result(hold)
            .attempt(|| self.what("finding room for"))?;
        outcomes.result(setup).map_err(|error| {
            Error::Failed(format!(
                "{}: {error} (see /proc/sys/fs/aio-max-nr)",
                self.what("making")
            ))
        })?;
        let made = outcomes.word(id);
        let mut list = CallList::new();
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let arguments = [
            made.into(),
            length.into(),
            length.into(),
            flags.into(),
            address.into(),
        ];
        let moving = list.call(libc::SYS_mremap, &arguments);
        let moved = rebuild
            .run(context.process, &list)?
            .result(moving)
            .attempt(|| self.what("moving"))?;
        let mut header = [0; EVENT as usize];
        let pid = rebuild.built(context.process)?.pid;
        cryonaut_tracee::read_exact(pid, cryonaut_sys::RemotePtr::new(address), &mut header)?;
        let size = super::parse(&header, length).map(|(capacity, ..)| capacity);
        if held != address || moved != address || size != Some(context.capacity) {
            return Err(Error::Failed(format!(
                "{}: the kernel made one of another size",
                self.what("making")
            )));
        }
        Ok(())
    }

    /// Brings the kernel's own position to where it was: the tail moves by one with each request that completes, the head with
    /// each event that is fetched. As many as were there are left.
    fn advance(&self, rebuild: &Rebuild<'_>) -> Result<()> {
        let context = &self.context;
        let left = (context.events.len() as u64 / EVENT) as u32;
        let laps = if context.tail < left {
            context.capacity
        } else {
            0
        };
        let to_submit = context.tail + laps;
        let to_fetch = to_submit - left;
        if to_submit == 0 {
            return Ok(());
        }
        let mut list = CallList::new();
        let name = list.path(b"cryo-aio");
        let open = list.call(libc::SYS_memfd_create, &[name.into(), 0.into()]);
        let file = rebuild
            .run(context.process, &list)?
            .result(open)
            .attempt(|| self.what("advancing"))?;
        let outcome = self.move_to(rebuild, file, (to_submit, to_fetch));
        rebuild.call(
            context.process,
            "closing a memory file",
            libc::SYS_close,
            &[file.into()],
        )?;
        outcome
    }

    fn move_to(
        &self,
        rebuild: &Rebuild<'_>,
        file: u64,
        (mut to_submit, mut to_fetch): (u32, u32),
    ) -> Result<()> {
        while to_submit > 0 || to_fetch > 0 {
            // Never more than there is room for.
            let requests = to_submit.min(AT_ONCE).min(self.context.capacity / 4 + 1);
            let (submitted, fetched) =
                self.batch(rebuild, file, requests, to_fetch.min(AT_ONCE))?;
            to_submit = to_submit.saturating_sub(submitted);
            to_fetch = to_fetch.saturating_sub(fetched);
            if submitted == 0 && fetched == 0 {
                return Err(Error::Failed(format!(
                    "{}: it takes no more requests",
                    self.what("advancing")
                )));
            }
        }
        Ok(())
    }

    /// Submits requests and fetches events; how many of each it were.
    fn batch(
        &self,
        rebuild: &Rebuild<'_>,
        file: u64,
        requests: u32,
        events: u32,
    ) -> Result<(u32, u32)> {
        let mut list = CallList::new();
        // All are the same request: the kernel takes a copy of each.
        let request = list.space(REQUEST);
        list.set_word(request, 16, file << 32);
        let buffer = list.space(8);
        list.point(request, 24, buffer);
        list.set_word(request, 32, NOTHING_TO_READ);
        let pointers = list.space(requests.max(1) as usize * 8);
        for index in 0..requests as usize {
            list.point(pointers, index * 8, request);
        }
        let fetched = list.space(events.max(1) as usize * EVENT as usize);
        let zero = list.space(16);
        let id = self.context.address;
        let submit = list.call(
            libc::SYS_io_submit,
            &[id.into(), u64::from(requests).into(), pointers.into()],
        );
        let fetch = list.call(
            libc::SYS_io_getevents,
            &[
                id.into(),
                0.into(),
                u64::from(events).into(),
                fetched.into(),
                zero.into(),
            ],
        );
        let outcomes = rebuild.run(self.context.process, &list)?;
        let result = |call| {
            outcomes
                .result(call)
                .attempt(|| self.what("advancing"))
                .map(|count| count as u32)
        };
        Ok((result(submit)?, result(fetch)?))
    }
}
