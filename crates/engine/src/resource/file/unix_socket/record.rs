//! What an image says of unix sockets.

use cryonaut_image::{Kind, Record};

use crate::resource::file::socket::SocketOption;

/// A unix socket.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnixSocket {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// What other sockets of the image call it: its inode number then.
    #[prost(uint64, tag = "3")]
    pub inode: u64,
    /// `SOCK_*`.
    #[prost(int32, tag = "4")]
    pub kind: i32,
    /// A process that has it; 0 when it is only in flight.
    #[prost(int32, tag = "5")]
    pub process: i32,
    /// Its options.
    #[prost(message, repeated, tag = "6")]
    pub options: Vec<SocketOption>,
    /// Its name as in `sun_path`: a path without the final zero, or a zero and an abstract name. Absent for none.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub name: Option<Vec<u8>>,
    /// Where its name is the path of a file that it was bound to: that file.
    #[prost(message, optional, tag = "8")]
    pub file: Option<SocketFile>,
    /// How it stands to others.
    #[prost(enumeration = "Link", tag = "9")]
    pub link: i32,
    /// The `inode` of its peer, or of the socket that it waits to be accepted by.
    #[prost(uint64, tag = "10")]
    pub peer: u64,
    /// The name of a peer that has gone or is outside.
    #[prost(bytes = "vec", optional, tag = "11")]
    pub peer_name: Option<Vec<u8>>,
    /// Whether its name is that of the socket which accepted it.
    #[prost(bool, tag = "12")]
    pub accepted: bool,
    /// Closed directions: 1 receiving, 2 sending.
    #[prost(uint32, tag = "13")]
    pub shutdown: u32,
    /// How many connections may wait, for one that listens.
    #[prost(uint32, tag = "14")]
    pub backlog: u32,
    /// The `inode` of each client that waits, in order.
    #[prost(uint64, repeated, tag = "15")]
    pub waiting: Vec<u64>,
    /// What it has not received yet, in order.
    #[prost(message, repeated, tag = "16")]
    pub queue: Vec<Message>,
    /// Whether it is to be told that its peer closed with data unread (ECONNRESET).
    #[prost(bool, tag = "17")]
    pub reset: bool,
    /// Who its peer was when they were connected (SO_PEERCRED).
    #[prost(message, optional, tag = "18")]
    pub peer_credentials: Option<Sender>,
    /// Whether it is to be connected again to `peer_name`, which is outside the job.
    #[prost(bool, tag = "19")]
    pub reconnect: bool,
    /// The network namespace that it belongs to, by its number, where the job has made that itself; otherwise 0.
    #[prost(uint64, tag = "20")]
    pub network: u64,
}

impl Record for UnixSocket {
    const KIND: Kind = Kind {
        name: "file.unix-socket",
        version: 1,
    };
}

/// How a socket stands to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Link {
    /// It has no peer.
    Alone = 0,
    /// It waits for connections.
    Listening = 1,
    /// `peer` is its peer.
    Connected = 2,
    /// Its peer has gone.
    Gone = 3,
    /// It waits to be accepted by `peer`.
    Waiting = 4,
}

/// The file that a socket was bound to.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SocketFile {
    /// Where it is, an absolute path as `cryo` sees it; absent when it has been deleted.
    #[prost(bytes = "vec", optional, tag = "1")]
    pub path: Option<Vec<u8>>,
    /// `st_mode`.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Its owner.
    #[prost(uint32, tag = "3")]
    pub user: u32,
    /// Its group.
    #[prost(uint32, tag = "4")]
    pub group: u32,
    /// Time of last modification, in ns since 1970.
    #[prost(int64, tag = "5")]
    pub modified: i64,
}

/// A message, or a piece of a stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// Its bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
    /// The name of the socket that sent it, absent for none.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub from: Option<Vec<u8>>,
    /// Who sent it, where the kernel noted that (SCM_CREDENTIALS).
    #[prost(message, optional, tag = "3")]
    pub sender: Option<Sender>,
    /// The open file descriptions in flight with it (SCM_RIGHTS).
    #[prost(uint64, repeated, tag = "4")]
    pub descriptors: Vec<u64>,
    /// 1: it is the urgent byte (MSG_OOB), not read yet; 2: it is empty, and its place that of an urgent byte which was read.
    #[prost(uint32, tag = "5")]
    pub mark: u32,
}

/// [`Message::mark`] of an urgent byte.
pub const URGENT: u32 = 1;
/// [`Message::mark`] of the place of an urgent byte that was read.
pub const TAKEN: u32 = 2;

/// Who a process was.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct Sender {
    /// Its pid, in the job's own pid namespace; 0 when it is not visible there.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Its user.
    #[prost(uint32, tag = "2")]
    pub user: u32,
    /// Its group.
    #[prost(uint32, tag = "3")]
    pub group: u32,
}

impl UnixSocket {
    /// The path that it was bound to, if its name is one.
    pub fn path_name(&self) -> Option<&[u8]> {
        let name = self.name.as_deref()?;
        is_path(name).then_some(name)
    }

    /// Whether `peer` is a datagram socket whose peer this is in turn, and one of them has no name: so socketpair(2) made both.
    pub fn is_pair_with(&self, peer: &UnixSocket) -> bool {
        self.link() == Link::Connected
            && peer.link() == Link::Connected
            && (self.peer, peer.peer) == (peer.inode, self.inode)
            && (self.name.is_none() || peer.name.is_none())
    }

    /// Whether its name has a meaning in this network namespace: an abstract one has only in its own.
    pub fn is_known_in(&self, network: u64) -> bool {
        self.network == network || self.name.as_deref().is_some_and(is_path)
    }

    /// Whether it has a name that it was given by bind(2) itself.
    pub fn is_bound(&self) -> bool {
        self.name.is_some() && !self.accepted
    }
}

/// Whether a name is a path, not an abstract name.
pub fn is_path(name: &[u8]) -> bool {
    name.first().is_some_and(|first| *first != 0)
}

/// A name for people: `@` stands for the zero of an abstract name, as in ss(8).
pub fn readable(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.replace('\0', "@")
        .chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect()
}
