//! Letting what is under way between two sockets arrive, so that it can be looked at where it is received.
//!
//! Nobody may look into what a socket has sent and its peer has not taken, but what has arrived may be looked at (MSG_PEEK). So the
//! receiver is given room: the program notices nothing but that a buffer is larger. Nothing of it may stay if this process is killed,
//! so that a child does it which finishes whatever becomes of its parent.

use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use cryonaut_sys::descriptor;
use cryonaut_sys::socket::{self, Tcp};
use cryonaut_sys::spawn::signal::{SignalSet, set_signal_mask};
use cryonaut_sys::spawn::{self, WaitFor, WaitStatus};

use super::standing::has_heard_all;
use crate::error::Attempt;
use crate::resource::file::socket::receive_limit;
use crate::{Error, Result, finisher};

/// Rounds without giving receivers more room.
const PATIENT: u32 = 2;
/// Room beyond what is known to be under way.
const SPARE_ROOM: usize = 256 * 1024;
/// Which sizes of buffers the program has set itself.
const SO_BUF_LOCK: i32 = 72;
/// The bit in that of the buffer for what is received.
const RECEIVING: i32 = 2;

/// One direction of a connection.
#[derive(Debug, Clone, Copy)]
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

/// Receivers that were given more room than the kernel gives by itself, with the size that they had and who is to size them: put back
/// when everything has arrived.
struct Enlarged<'a>(Vec<(BorrowedFd<'a>, i32, i32)>);

impl Drop for Enlarged<'_> {
    fn drop(&mut self) {
        for (socket, size, lock) in &self.0 {
            let _ = set_size(*socket, *size / 2);
            let _ = socket::set_option(*socket, libc::SOL_SOCKET, SO_BUF_LOCK, &lock.to_ne_bytes());
        }
    }
}

/// Has everything arrive. Gives the flows of which something is still under way after `limit`.
///
/// # Errors
/// When a socket cannot be looked at.
pub fn settle(flows: Vec<Flow<'_>>, limit: Duration) -> Result<Vec<Flow<'_>>> {
    let mut flows = under_way(flows)?;
    if flows.is_empty() {
        return Ok(flows);
    }
    let what = "letting what is under way between sockets arrive";
    let answer = finisher::ask(c"cryo-sockets", what, |link| {
        let (status, answer) = match settle_here(flows.clone(), limit) {
            Ok(left) => {
                let left = left.iter().flat_map(|flow| flow.index.to_ne_bytes());
                (0, left.collect())
            }
            Err(error) => (1, error.to_string().into_bytes()),
        };
        match link.write_all(&answer) {
            Ok(()) => status,
            Err(_) => 1,
        }
    })?;
    if answer.await_end(what)? != WaitStatus::Exited(0) {
        return Err(match answer.bytes.as_slice() {
            [] => finisher::killed(what),
            why => Error::Failed(format!("{what}: {}", String::from_utf8_lossy(why))),
        });
    }
    let (left, _) = answer.bytes.as_chunks();
    let left: Vec<usize> = left
        .iter()
        .map(|index| usize::from_ne_bytes(*index))
        .collect();
    flows.retain(|flow| left.contains(&flow.index));
    Ok(flows)
}

/// Of these, those of which something has not arrived yet.
fn under_way(flows: Vec<Flow<'_>>) -> Result<Vec<Flow<'_>>> {
    let mut left = Vec::new();
    for flow in flows {
        if !flow.has_arrived()? {
            left.push(flow);
        }
    }
    Ok(left)
}

/// As [`settle`], by this process itself. Buffers are as large again as they were: what has arrived stays.
fn settle_here(mut flows: Vec<Flow<'_>>, limit: Duration) -> Result<Vec<Flow<'_>>> {
    let start = Instant::now();
    let mut enlarged = Enlarged(Vec::new());
    for round in 0.. {
        flows = under_way(flows)?;
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
    Ok(flows)
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

/// Sets how much a socket may hold, as the program would: half of what the kernel counts.
fn set_size(socket: BorrowedFd<'_>, half: i32) -> std::io::Result<()> {
    let set = |name: i32| socket::set_option(socket, libc::SOL_SOCKET, name, &half.to_ne_bytes());
    set(libc::SO_RCVBUFFORCE).or_else(|_| {
        // Cut down to the limit it would be less than before, perhaps, and nobody could give that back.
        let before = number(socket, libc::SOL_SOCKET, libc::SO_RCVBUF) / 2;
        match receive_limit() {
            Some(limit) if before <= limit => set(libc::SO_RCVBUF),
            _ => Err(std::io::Error::from_raw_os_error(libc::EPERM)),
        }
    })
}
/// Gives receivers more room: those that the kernel sizes first as it does, which ends at a limit (net.ipv4.tcp_rmem).
fn enlarge<'a>(flows: &[Flow<'a>], enlarged: &mut Enlarged<'a>) -> Result<()> {
    let mut wanting = Vec::new();
    for flow in flows {
        let held = descriptor::readable_bytes(flow.receiver).unwrap_or(0);
        let sent = flow
            .sender
            .and_then(|sender| socket::unreceived(sender).ok());
        // Nobody tells how much one that is gone has sent.
        let wanted = held + sent.unwrap_or(held + SPARE_ROOM) + SPARE_ROOM;
        let wanted = i32::try_from(wanted * 2).unwrap_or(i32::MAX / 2);
        // Not known before Linux 5.14, which could not be told to go on sizing a buffer either.
        let lock = socket::number_option(flow.receiver, libc::SOL_SOCKET, SO_BUF_LOCK).ok();
        wanting.push((flow.receiver, wanted, lock));
    }
    let set_by_program = |lock: i32| lock & RECEIVING != 0;
    let growing = wanting
        .iter()
        .filter(|(_, _, lock)| !lock.is_some_and(set_by_program));
    let growing: Vec<_> = growing
        .map(|&(socket, wanted, _)| (socket, wanted))
        .collect();
    grow(&growing)?;
    for (socket, wanted, lock) in wanting {
        let Some(lock) = lock else {
            continue;
        };
        let size = number(socket, libc::SOL_SOCKET, libc::SO_RCVBUF);
        let room = if set_by_program(lock) { size / 2 } else { size };
        if room < wanted && set_size(socket, wanted).is_ok() {
            let mut known = enlarged.0.iter();
            if !known.any(|(known, ..)| known.as_raw_fd() == socket.as_raw_fd()) {
                enlarged.0.push((socket, size, lock));
            }
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    /// Two ends, of which the second has a small buffer of its own choice.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let small = 4096_i32.to_ne_bytes();
        let option = libc::SO_RCVBUF;
        socket::set_option(listener.as_fd(), libc::SOL_SOCKET, option, &small).unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (sender, listener.accept().unwrap().0)
    }

    /// What the program has set, and could notice.
    fn settings(sender: &TcpStream, receiver: &TcpStream) -> [i32; 3] {
        [
            number(sender.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY),
            number(receiver.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF),
            number(receiver.as_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT),
        ]
    }

    #[test]
    fn a_kill_leaves_no_trace() {
        for round in 0..60_u64 {
            let (mut sender, receiver) = connection();
            let before = settings(&sender, &receiver);
            sender.set_nonblocking(true).unwrap();
            while sender.write(&[7; 4096]).is_ok() {}
            finisher::kill_after(Duration::from_micros(round * 400), || {
                let flow = Flow {
                    sender: Some(sender.as_fd()),
                    receiver: receiver.as_fd(),
                    index: 0,
                };
                settle(vec![flow], Duration::from_millis(200)).map(drop)
            });
            assert_eq!(settings(&sender, &receiver), before, "round {round}");
        }
    }

    #[test]
    fn a_buffer_of_the_kernels_choice_stays_that() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let receiver = listener.accept().unwrap().0;
        let settings = || {
            let option = |name| socket::number_option(receiver.as_fd(), libc::SOL_SOCKET, name);
            (option(SO_BUF_LOCK).ok(), option(libc::SO_RCVBUF).unwrap())
        };
        let before @ (lock, size) = settings();
        let Some(lock) = lock else {
            return;
        };
        assert_eq!(lock & RECEIVING, 0);
        let _ = set_size(receiver.as_fd(), 64 << 20);
        drop(Enlarged(vec![(receiver.as_fd(), size, lock)]));
        assert_eq!(settings(), before);
    }

    #[test]
    fn everything_arrives() {
        let (mut sender, receiver) = connection();
        let before = settings(&sender, &receiver);
        sender.write_all(&[7; 1000]).unwrap();
        let flow = Flow {
            sender: Some(sender.as_fd()),
            receiver: receiver.as_fd(),
            index: 3,
        };
        assert!(
            settle(vec![flow], Duration::from_secs(60))
                .unwrap()
                .is_empty()
        );
        assert_eq!(descriptor::readable_bytes(receiver.as_fd()).unwrap(), 1000);
        assert_eq!(settings(&sender, &receiver), before);
    }
}
