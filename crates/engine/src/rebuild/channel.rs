//! How descriptors get into processes being rebuilt.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use cryonaut_sys::spawn::message;
use cryonaut_tracee::{CallId, CallList};

use super::Rebuild;
use crate::Result;
use crate::error::Attempt;

impl Rebuild<'_> {
    /// Puts objects into descriptor slots of a process: (object, number, close on exec).
    ///
    /// # Errors
    /// When the process cannot have so many.
    pub fn give(&self, process: i32, slots: &[(BorrowedFd<'_>, i32, CloseOnExec)]) -> Result<()> {
        for chunk in slots.chunks(self.numbers.aside.len()) {
            let numbers: Vec<i32> = chunk
                .iter()
                .map(|(object, ..)| object.as_raw_fd())
                .collect();
            message::send_message(
                self.channel.0.as_fd(),
                b"fds",
                &numbers,
                message::Waiting::Block,
            )
            .attempt(|| format!("process {process}: sending descriptors"))?;
            let mut list = CallList::new();
            let received = self.receive_call(&mut list, chunk.len());
            let mut placed = Vec::new();
            let outcomes = self.run(process, &list)?;
            outcomes
                .result(received.call)
                .attempt(|| format!("process {process}: receiving descriptors"))?;
            let arrived: Vec<i32> = outcomes.buffer(received.control)[16..]
                .chunks_exact(4)
                .take(chunk.len())
                .map(|bytes| i32::from_le_bytes(bytes.try_into().expect("four bytes")))
                .collect();
            let mut list = CallList::new();
            // First out of the way of numbers that are to be filled, then each to its own.
            let mut free = self.numbers.aside.iter();
            let mut moved = Vec::new();
            let aside: Vec<i32> = arrived
                .iter()
                .map(|&number| {
                    if self.numbers.aside.contains(&number) {
                        return number;
                    }
                    let place = free.by_ref().find(|place| !arrived.contains(place));
                    // There are as many as arrive.
                    let place = place.copied().unwrap_or(number);
                    let arguments = [number.into(), place.into(), 0.into()];
                    moved.push(list.call(libc::SYS_dup3, &arguments));
                    list.call(libc::SYS_close, &[number.into()]);
                    place
                })
                .collect();
            for (waiting, (_, number, close)) in aside.iter().zip(chunk) {
                let flags = if *close == CloseOnExec::Yes {
                    libc::O_CLOEXEC
                } else {
                    0
                };
                placed.push((
                    list.call(
                        libc::SYS_dup3,
                        &[(*waiting).into(), (*number).into(), flags.into()],
                    ),
                    *number,
                ));
                list.call(libc::SYS_close, &[(*waiting).into()]);
            }
            let outcomes = self.run(process, &list)?;
            for call in moved {
                outcomes
                    .result(call)
                    .attempt(|| format!("process {process}: receiving descriptors"))?;
            }
            for (call, number) in placed {
                outcomes
                    .result(call)
                    .attempt(|| format!("process {process}: placing descriptor {number}"))?;
            }
        }
        Ok(())
    }

    /// recvmsg(2) on the channel, with room for `count` descriptors.
    fn receive_call(&self, list: &mut CallList, count: usize) -> Received {
        let data = list.space(16);
        let control = list.space(16 + (count * 4).next_multiple_of(8));
        let vector = list.space(16);
        let header = list.space(56);
        list.point(vector, 0, data);
        list.set_word(vector, 8, 16);
        list.point(header, 16, vector);
        list.set_word(header, 24, 1);
        list.point(header, 32, control);
        list.set_word(header, 40, (16 + (count * 4).next_multiple_of(8)) as u64);
        let call = list.call(
            libc::SYS_recvmsg,
            &[self.numbers.channel.into(), header.into(), 0.into()],
        );
        Received { call, control }
    }

    /// Closes everything but the channel.
    ///
    /// # Errors
    /// When the process stumbles.
    pub fn close_all(&self, process: i32) -> Result<()> {
        let channel = self.numbers.channel;
        let mut list = CallList::new();
        for (first, last) in [(0, (channel - 1) as u32), ((channel + 1) as u32, u32::MAX)] {
            let arguments = [u64::from(first).into(), u64::from(last).into(), 0.into()];
            list.call(libc::SYS_close_range, &arguments);
        }
        self.run(process, &list).map(drop)
    }

    /// Closes the channel in a process: nothing of ours stays in its table.
    ///
    /// # Errors
    /// When the process stumbles.
    pub fn close_channel(&self, process: i32) -> Result<()> {
        self.call(
            process,
            "closing the channel",
            libc::SYS_close,
            &[self.numbers.channel.into()],
        )
        .map(drop)
    }
}

struct Received {
    call: CallId,
    control: cryonaut_tracee::BufferId,
}

/// Whether a slot closes at exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseOnExec {
    /// It does.
    Yes,
    /// It stays.
    No,
}
