//! Letting what is under way between two sockets arrive, so that it can be looked at where it is received.
//!
//! Nobody may look into what a socket has sent and its peer has not taken, but what has arrived may be looked at (MSG_PEEK). So the
//! receiver is given room: the program notices nothing but that a buffer is larger. What must not stay if this process is killed is
//! done by a child that finishes it.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use cryonaut_sys::descriptor;
use cryonaut_sys::socket::{self, Tcp};
use cryonaut_sys::spawn::signal::{SignalSet, set_signal_mask};
use cryonaut_sys::spawn::{self, WaitFor};

use super::standing::has_heard_all;
use crate::Result;
use crate::error::Attempt;

/// Rounds without giving receivers more room.
const PATIENT: u32 = 2;
/// Room beyond what is known to be under way.
const SPARE_ROOM: usize = 256 * 1024;
/// Setting the size of a buffer beyond the limit, for root.
const SO_BUF_LOCK: i32 = 72;

/// One direction of a connection.
#[derive(Clone, Copy)]
pub struct Flow<'a> {
    /// Who has sent; none when it has closed and nobody has it any more.
    pub sender: Option<BorrowedFd<'a>>,
    /// Who is to receive.
    pub receiver: BorrowedFd<'a>,
    /// What the receiver is called.
    pub index: usize,
}

impl Flow<'_> {
    fn has_arrived(&self) -> Result<bool> {
        let what = || "looking at a TCP socket".to_owned();
        match self.sender {
            Some(sender) => Ok(socket::unreceived(sender).attempt(what)? == 0),
            None => Ok(has_heard_all(Tcp::of(self.receiver).attempt(what)?.state)),
        }
    }
}

/// A receiver whose buffer the program had set, and that size: put back when everything has been read.
pub struct Enlarged<'a>(Vec<(BorrowedFd<'a>, i32)>);

impl Drop for Enlarged<'_> {
    fn drop(&mut self) {
        for (socket, size) in &self.0 {
            let _ = set_size(*socket, *size / 2);
        }
    }
}

/// Has everything arrive. Gives the flows of which something is still under way after `limit`, and what keeps buffers large.
///
/// # Errors
/// When a socket cannot be looked at.
pub fn settle<'a>(
    mut flows: Vec<Flow<'a>>,
    limit: Duration,
) -> Result<(Vec<Flow<'a>>, Enlarged<'a>)> {
    let start = Instant::now();
    let mut enlarged = Enlarged(Vec::new());
    for round in 0.. {
        let mut left = Vec::new();
        for flow in flows {
            if !flow.has_arrived()? {
                left.push(flow);
            }
        }
        flows = left;
        if flows.is_empty() || start.elapsed() > limit {
            break;
        }
        if round > 0 {
            std::thread::sleep(Duration::from_millis(u64::from(round).min(10)));
        }
        if round >= PATIENT {
            enlarge(&flows, &mut enlarged)?;
        }
        for flow in &flows {
            if let Some(sender) = flow.sender {
                push(sender);
            }
            tell(flow.receiver);
        }
    }
    Ok((flows, enlarged))
}

fn number(socket: BorrowedFd<'_>, level: i32, name: i32) -> i32 {
    socket::number_option(socket, level, name).unwrap_or(0)
}

/// Has a socket send what it holds back to send it together with more (TCP_CORK, Nagle's algorithm).
fn push(sender: BorrowedFd<'_>) {
    let set = |value: i32| {
        let value = value.to_ne_bytes();
        let _ = socket::set_option(sender, libc::IPPROTO_TCP, libc::TCP_NODELAY, &value);
    };
    let before = number(sender, libc::IPPROTO_TCP, libc::TCP_NODELAY);
    set(1);
    if before == 0 {
        set(0);
    }
}

/// Has a socket tell its peer what it has got and how much more it can take.
fn tell(receiver: BorrowedFd<'_>) {
    // An even number goes back to confirming together with data, once it has confirmed.
    let quick = number(receiver, libc::IPPROTO_TCP, libc::TCP_QUICKACK);
    let value = if quick == 0 { 2_i32 } else { 1 };
    let value = value.to_ne_bytes();
    let _ = socket::set_option(receiver, libc::IPPROTO_TCP, libc::TCP_QUICKACK, &value);
    // The program's own place for looking would move.
    let place = socket::number_option(receiver, libc::SOL_SOCKET, libc::SO_PEEK_OFF);
    if place.unwrap_or(-1) < 0 {
        let _ = socket::peek(receiver, 1, 0);
    }
}

fn set_size(socket: BorrowedFd<'_>, half: i32) -> std::io::Result<()> {
    let half = half.to_ne_bytes();
    socket::set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &half)
        .or_else(|_| socket::set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &half))
}

/// Gives receivers more room.
fn enlarge<'a>(flows: &[Flow<'a>], enlarged: &mut Enlarged<'a>) -> Result<()> {
    const SET_BY_PROGRAM: i32 = 2;
    let mut growing = Vec::new();
    for flow in flows {
        let held = descriptor::readable_bytes(flow.receiver).unwrap_or(0);
        let sent = flow
            .sender
            .and_then(|sender| socket::unreceived(sender).ok());
        // Nobody tells how much one that is gone has sent.
        let wanted = held + sent.unwrap_or(held + SPARE_ROOM) + SPARE_ROOM;
        let wanted = i32::try_from(wanted * 2).unwrap_or(i32::MAX / 2);
        if number(flow.receiver, libc::SOL_SOCKET, SO_BUF_LOCK) & SET_BY_PROGRAM == 0 {
            growing.push((flow.receiver, wanted));
            continue;
        }
        let size = number(flow.receiver, libc::SOL_SOCKET, libc::SO_RCVBUF);
        if size / 2 < wanted && set_size(flow.receiver, wanted).is_ok() {
            let known = enlarged.0.iter().any(|(socket, _)| {
                std::os::fd::AsRawFd::as_raw_fd(socket)
                    == std::os::fd::AsRawFd::as_raw_fd(&flow.receiver)
            });
            if !known {
                enlarged.0.push((flow.receiver, size));
            }
        }
    }
    grow(&growing)
}

/// Has the kernel itself make the buffers of sockets larger, as it does when it is asked to wait for much (SO_RCVLOWAT). Between the
/// two calls a program would wait for as much: a child makes both, whatever happens to this process.
pub fn grow(sockets: &[(BorrowedFd<'_>, i32)]) -> Result<()> {
    let what = || "giving sockets more room".to_owned();
    if sockets.is_empty() {
        return Ok(());
    }
    let started = spawn::fork_child(|| {
        let _ = set_signal_mask(SignalSet::FULL);
        let _ = spawn::new_session();
        for (socket, wanted) in sockets {
            let before = number(*socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT).max(1);
            for value in [*wanted, before] {
                let value = value.to_ne_bytes();
                let _ = socket::set_option(*socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &value);
            }
        }
        0
    })
    .attempt(what)?;
    spawn::wait_for(WaitFor::Pid(started.pid), libc::WEXITED)
        .attempt(what)
        .map(drop)
}
