//! Connections whose peer is outside the job and notices nothing: looked at, and held while their job goes from memory to disk.
//!
//! What a connection is made of, TCP tells of a socket in repair (TCP_REPAIR, with CAP_NET_ADMIN over its network namespace). In
//! repair a socket takes segments in and confirms them as ever; but the program would get errors, and its end would not be told to
//! the peer. So no socket is in repair but while its job is looked at, and it is the work of a process apart, whose death is nobody's
//! aim; a guardian stands by all the same, which takes the sockets out of repair should that process die.
//!
//! A job that runs on is looked at and nothing more: until two looks at the sequence numbers with one at the bytes between them
//! agree. One that is to be killed must not confirm a byte that its image does not have. So from the look on its sockets are deaf: a
//! filter loses every segment that comes, which for the peer is a bad line. Just before the kill the firewall (see
//! `crate::firewall`) takes that over, for as long as there is no socket. Then the guardian is told to turn: from there on, should
//! this process die, it kills the rest of the job. Whoever kills has a copy of each socket, puts it into repair when all are killed,
//! and closes it last: so it leaves without a word.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cryonaut_sys::pidfd;
use cryonaut_sys::socket::repair::{self, Queue, Repair, Window};
use cryonaut_sys::socket::{self, Tcp, state};

use super::queue::{self, Unread};
use super::record::TcpConnection;
use super::standing::has_heard_all;
use crate::error::Attempt;
use crate::firewall::{Ends, Table};
use crate::guardian::Guardian;
use crate::target::Firewall;
use crate::{Error, Result};

/// How long a connection of a job that runs on is looked at until nothing comes between two looks.
const LIMIT: Duration = Duration::from_millis(500);
/// Room beyond the bytes that are not confirmed: a buffer that is confirmed in part is shown whole.
const SPARE_ROOM: usize = 128 * 1024;
/// SO_BINDTODEVICE and the like stay; this one is lost in repair.
const LOST_IN_REPAIR: i32 = libc::SO_REUSEADDR;

/// Whether this process may put sockets of its network namespace into repair.
pub fn is_permitted() -> bool {
    let fresh = socket::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP);
    fresh.is_ok_and(|fresh| repair::repair(fresh.as_fd(), Repair::On).is_ok())
}

/// What becomes of the job once it is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// It runs on, or stays where it is.
    Stays,
    /// It is killed.
    Goes,
}

/// A socket, and what it was like before.
#[derive(Debug)]
pub struct Watched {
    socket: OwnedFd,
    /// Its inode number.
    pub inode: u64,
    /// What it is called in messages.
    pub name: String,
    ends: Ends,
    reuse: i32,
    filter: Vec<u8>,
    /// What it expected next when it was looked at, once it has been.
    expected: Option<u32>,
}

impl Watched {
    /// A socket as it is now.
    ///
    /// # Errors
    /// When it cannot be asked, or its filter is no classic program.
    pub fn new(socket: OwnedFd, inode: u64, name: String, ends: Ends) -> Result<Self> {
        let what = || format!("{name}: looking at its options");
        let ask = |option| socket::number_option(socket.as_fd(), libc::SOL_SOCKET, option);
        let reuse = ask(LOST_IN_REPAIR).attempt(what)?;
        let mut filter = socket::filter(socket.as_fd()).attempt(what)?;
        if filter == repair::NOTHING {
            // What a cryo has left that was killed together with its guardian.
            repair::remove_filter(socket.as_fd()).attempt(what)?;
            filter.clear();
        }
        Ok(Self {
            inode,
            ends,
            reuse,
            filter,
            expected: None,
            name,
            socket,
        })
    }

    /// Takes it out of repair. What fails here fails because the socket has gone.
    fn leave_repair(&self) {
        let socket = self.socket.as_fd();
        let _ = repair::repair(socket, Repair::OffQuietly);
        let reuse = self.reuse.to_ne_bytes();
        let _ = socket::set_option(socket, libc::SOL_SOCKET, LOST_IN_REPAIR, &reuse);
    }

    /// Its state, and what it expects next; it is left in repair.
    fn standing(&self) -> std::io::Result<(u8, u32)> {
        let socket = self.socket.as_fd();
        repair::repair(socket, Repair::On)?;
        repair::choose_queue(socket, Queue::Receive)?;
        Ok((Tcp::of(socket)?.state, repair::next_sequence(socket)?))
    }

    /// Has it leave without a word once nobody has it any more.
    fn silence(&self) {
        let _ = repair::repair(self.socket.as_fd(), Repair::On);
    }

    /// Makes it as it was.
    fn undo(&self, parting: Parting) {
        let socket = self.socket.as_fd();
        if parting == Parting::Goes {
            let _ = match self.filter.as_slice() {
                [] => repair::remove_filter(socket),
                filter => socket::set_filter(socket, filter),
            };
        }
        self.leave_repair();
    }
}

/// Whether a socket has a filter that may not be exchanged.
pub fn has_locked_filter(socket: BorrowedFd<'_>) -> bool {
    socket::number_option(socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER).unwrap_or(0) != 0
}

/// Connections that are being taken along. Dropping it leaves them, and their peers, as they were.
#[derive(Debug)]
pub struct KeptConnections {
    guardian: Option<Guardian>,
    sockets: Vec<Watched>,
    parting: Parting,
    table: Option<Table>,
}

impl KeptConnections {
    /// Takes these in hand, which belong to these processes.
    ///
    /// # Errors
    /// When no guardian can be started, or they cannot be held.
    pub fn begin(
        sockets: Vec<Watched>,
        processes: &[i32],
        (parting, firewall): (Parting, Firewall),
    ) -> Result<Self> {
        let table = match (parting, firewall) {
            (Parting::Goes, Firewall::Holds) => Some(Table::fresh()?),
            _ => None,
        };
        let mut opened = Vec::new();
        if parting == Parting::Goes {
            for pid in processes {
                opened.push(pidfd::open(*pid).attempt(|| format!("opening process {pid}"))?);
            }
        }
        let undo = || {
            sockets.iter().for_each(|watched| watched.undo(parting));
            if let Some(table) = &table {
                let _ = table.remove();
            }
        };
        let finish = || {
            for process in &opened {
                let _ = pidfd::send_signal(process.as_fd(), libc::SIGKILL);
            }
            // This process has them too: none was closed yet.
            sockets.iter().for_each(Watched::silence);
        };
        let guardian = Guardian::of_two_minds(undo, finish)?;
        let kept = Self {
            guardian: Some(guardian),
            sockets,
            parting,
            table,
        };
        if parting == Parting::Goes {
            for watched in &kept.sockets {
                repair::deafen(watched.socket.as_fd())
                    .attempt(|| format!("{}: holding back what comes", watched.name))?;
            }
            // What was on its way past the earlier filter arrives now.
            if repair::await_processors().is_err() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(kept)
    }

    /// The name of the table of the firewall that is to hold them; empty for none.
    pub fn table(&self) -> &str {
        self.table.as_ref().map_or("", Table::name)
    }

    /// Looks at the connection of a socket.
    ///
    /// # Errors
    /// When it cannot be looked at, or does not come to rest.
    pub fn look(&mut self, inode: u64) -> Result<Look> {
        let table = self.table().to_owned();
        let mut sockets = self.sockets.iter_mut();
        let watched = sockets
            .find(|watched| watched.inode == inode)
            .ok_or_else(|| Error::Failed("a connection appeared while it was saved".into()))?;
        let filter = match self.parting {
            // It is among the socket's options.
            Parting::Stays => Vec::new(),
            Parting::Goes => watched.filter.clone(),
        };
        let look = Look::at(watched.socket.as_fd()).map(|look| Look {
            filter,
            connection: TcpConnection {
                inode,
                table,
                ..look.connection
            },
            ..look
        });
        // In no case longer than needed.
        watched.leave_repair();
        let look = look?;
        watched.expected = Some(look.connection.expected);
        Ok(look)
    }

    /// The image is complete: hands the connections to the firewall.
    ///
    /// # Errors
    /// When one has received something since it was looked at, or the firewall does not do it. They are as they were when this
    /// is dropped.
    pub fn seal(&self) -> Result<()> {
        for watched in &self.sockets {
            let standing = watched.standing();
            watched.leave_repair();
            let what = || format!("{}: holding it", watched.name);
            let (state, expected) = standing.attempt(what)?;
            if state == state::CLOSE || Some(expected) != watched.expected {
                return Err(Error::Failed(format!(
                    "{}: it went on while its job was saved: try again",
                    watched.name
                )));
            }
        }
        let ends: Vec<Ends> = self.sockets.iter().map(|watched| watched.ends).collect();
        match &self.table {
            Some(table) => table.hold(&ends),
            None => Ok(()),
        }
    }

    /// The commit: from here on the job is killed, by the guardian if need be, and its connections leave without a word. Gives
    /// the guardian, to be dismissed when all are killed.
    ///
    /// # Errors
    /// When the guardian has ended. They are as they were.
    pub fn part(mut self) -> Result<Parted> {
        let mut guardian = self.guardian.take();
        if let Some(guardian) = &mut guardian {
            let told = guardian.turn();
            if told.is_err() {
                self.restore();
            }
            told?;
        }
        Ok(Parted {
            guardian,
            sockets: std::mem::take(&mut self.sockets),
        })
    }

    /// What the guardian does, in case that has ended.
    fn restore(&self) {
        let sockets = self.sockets.iter();
        sockets.for_each(|watched| watched.undo(self.parting));
        if let Some(table) = &self.table {
            let _ = table.remove();
        }
    }
}

impl Drop for KeptConnections {
    fn drop(&mut self) {
        // It does what is to be done, as it would without this process.
        drop(self.guardian.take());
        let sockets = self.sockets.iter();
        sockets.for_each(|watched| watched.undo(self.parting));
    }
}

/// Connections that leave with their job.
#[derive(Debug)]
pub struct Parted {
    guardian: Option<Guardian>,
    /// Copies: whatever the job closes, none is closed before it is in repair.
    sockets: Vec<Watched>,
}

impl Parted {
    /// All processes of the job have been killed.
    ///
    /// # Errors
    /// As [`Guardian::dismiss`].
    pub fn dismiss(self) -> Result<()> {
        self.sockets.iter().for_each(Watched::silence);
        self.guardian.map_or(Ok(()), Guardian::dismiss)
    }
}

/// What a connection is made of.
#[derive(Debug)]
pub struct Look {
    /// What is told of it.
    pub connection: TcpConnection,
    /// What its program has not received; none when it cannot be looked at whole.
    pub unread: Option<Unread>,
    /// What its peer has not confirmed.
    pub sent: Vec<u8>,
    /// The filter that it had before it was made deaf; empty for none.
    pub filter: Vec<u8>,
}

/// What changes when anything comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    state: u8,
    expected: u32,
    written: u32,
    unconfirmed: usize,
    unsent: u32,
}

impl Marks {
    fn of(socket: BorrowedFd<'_>) -> std::io::Result<Self> {
        repair::choose_queue(socket, Queue::Send)?;
        let written = repair::next_sequence(socket);
        // In no case longer than needed: meanwhile nothing that is sent leaves.
        repair::choose_queue(socket, Queue::Receive)?;
        Ok(Self {
            state: Tcp::of(socket)?.state,
            expected: repair::next_sequence(socket)?,
            written: written?,
            unconfirmed: socket::unreceived(socket)?,
            unsent: repair::unsent(socket)?,
        })
    }
}

impl Look {
    /// Looks at a socket, which is left in repair.
    fn at(socket: BorrowedFd<'_>) -> Result<Self> {
        let what = || "looking at a TCP connection (TCP_REPAIR)".to_owned();
        let start = Instant::now();
        repair::repair(socket, Repair::On).attempt(what)?;
        loop {
            let before = Marks::of(socket).attempt(what)?;
            let unread = queue::unread(socket, None)?;
            let window = repair::window(socket).attempt(what)?;
            repair::choose_queue(socket, Queue::Send).attempt(what)?;
            let sent = peek_sent(socket, before.unconfirmed);
            let now = Marks::of(socket).attempt(what)?;
            let sent = sent.attempt(what)?;
            if now == before {
                return Self::put_together(socket, now, window, (unread, sent)).attempt(what);
            }
            if start.elapsed() > LIMIT {
                return Err(Error::Failed(
                    "a TCP connection to outside the job does not come to rest: try again".into(),
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn put_together(
        socket: BorrowedFd<'_>,
        marks: Marks,
        window: Window,
        (unread, mut sent): (Option<Unread>, Vec<u8>),
    ) -> std::io::Result<Self> {
        const TCP_MAXSEG: i32 = 2;
        let tcp = Tcp::of(socket)?;
        let room = |option| socket::number_option(socket, libc::SOL_SOCKET, option);
        let ended = has_ended(marks.state);
        // Its end counts as one byte, until it is confirmed.
        let end = usize::from(ended && marks.unconfirmed > 0);
        let bytes = marks.unconfirmed - end;
        let unsent = (marks.unsent as usize).saturating_sub(end).min(bytes);
        sent.drain(..sent.len().saturating_sub(bytes));
        if sent.len() != bytes {
            return Err(std::io::Error::other(
                "not all that was sent and not confirmed is shown",
            ));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let has = |bit: u8| tcp.agreed & bit != 0;
        let connection = TcpConnection {
            expected: marks.expected,
            written: marks.written.wrapping_sub(u32::from(ended)),
            under_way: (bytes - unsent) as u32,
            told_by: window.told_by,
            peer_window: window.peer,
            peer_window_most: window.peer_most,
            own_window: window.own,
            own_window_from: window.own_from,
            segment_size: socket::number_option(socket, libc::IPPROTO_TCP, TCP_MAXSEG)? as u32,
            peer_scale: has(4).then_some(tcp.scales.0.into()),
            own_scale: tcp.scales.1.into(),
            selective: has(2),
            timestamp: match has(1) {
                true => Some(repair::timestamp(socket)?),
                false => None,
            },
            microseconds: has(64),
            at: now.map_or(0, |now| now.as_millis() as u64),
            ended,
            peer_ended: has_heard_all(marks.state),
            receive_room: room(libc::SO_RCVBUF)? as u32,
            send_room: room(libc::SO_SNDBUF)? as u32,
            ..TcpConnection::default()
        };
        Ok(Self {
            connection,
            unread,
            sent,
            filter: Vec::new(),
        })
    }
}

/// Whether a socket in this state has closed its direction.
fn has_ended(of: u8) -> bool {
    matches!(
        of,
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING | state::LAST_ACK
    )
}

/// What a socket in repair has sent and its peer has not confirmed: at least as much as asked for.
fn peek_sent(socket: BorrowedFd<'_>, length: usize) -> std::io::Result<Vec<u8>> {
    if length == 0 {
        return Ok(Vec::new());
    }
    socket::peek(socket, length + SPARE_ROOM, 0).map(|peeked| peeked.bytes)
}
