//! What an image says of TCP sockets.

use cryonaut_image::{Kind, Record};
use cryonaut_sys::socket::Address;

use crate::resource::file::internet::Place;
use crate::resource::file::socket::SocketOption;

/// A TCP socket.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TcpSocket {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// What other sockets of the image call it: its inode number then.
    #[prost(uint64, tag = "3")]
    pub inode: u64,
    /// `AF_INET` or `AF_INET6`.
    #[prost(int32, tag = "4")]
    pub family: i32,
    /// Its options.
    #[prost(message, repeated, tag = "5")]
    pub options: Vec<SocketOption>,
    /// Its own address (struct sockaddr_in, sockaddr_in6); absent where it has no port.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub own_address: Option<Vec<u8>>,
    /// The address of its peer.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub peer_address: Option<Vec<u8>>,
    /// How it stands to others.
    #[prost(enumeration = "Link", tag = "8")]
    pub link: i32,
    /// The `inode` of its peer, where that is in the image.
    #[prost(uint64, tag = "9")]
    pub peer: u64,
    /// Closed directions: 1 receiving, 2 sending.
    #[prost(uint32, tag = "10")]
    pub shutdown: u32,
    /// How many connections may wait, for one that listens.
    #[prost(uint32, tag = "11")]
    pub backlog: u32,
    /// Where the urgent byte (MSG_OOB) is among the bytes that it has not received yet.
    #[prost(uint64, optional, tag = "12")]
    pub urgent: Option<u64>,
    /// Whether that one has been received.
    #[prost(bool, tag = "13")]
    pub urgent_taken: bool,
    /// Whether its own address was none of the machine's (IP_FREEBIND).
    #[prost(bool, tag = "14")]
    pub foreign: bool,
    /// Whether it is one of Multipath TCP, which takes connections of plain TCP as well.
    #[prost(bool, tag = "15")]
    pub multipath: bool,
}

impl Record for TcpSocket {
    const KIND: Kind = Kind {
        name: "file.tcp-socket",
        version: 1,
    };
}

/// Bytes that a TCP socket has not received yet; all records of one socket together, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TcpData {
    /// The `inode` of the socket.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// The bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
}

impl Record for TcpData {
    const KIND: Kind = Kind {
        name: "file.tcp-data",
        version: 1,
    };
}

/// A connection whose peer is outside the job, and that goes on with the same segments: with it is a `TcpSocket` that is `Kept`.
/// Sequence numbers are those of TCP, modulo 2^32.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TcpConnection {
    /// The `inode` of the socket.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// What is expected from the peer next, after its end of the stream where that has come.
    #[prost(uint32, tag = "2")]
    pub expected: u32,
    /// What is behind the last byte that the program has sent; its end of the stream is not counted.
    #[prost(uint32, tag = "3")]
    pub written: u32,
    /// How many of the bytes that the peer has not confirmed were sent; the others were not yet.
    #[prost(uint32, tag = "4")]
    pub under_way: u32,
    /// The segment that told the peer's window last.
    #[prost(uint32, tag = "5")]
    pub told_by: u32,
    /// How many bytes the peer takes.
    #[prost(uint32, tag = "6")]
    pub peer_window: u32,
    /// The largest window that the peer has had, in bytes.
    #[prost(uint32, tag = "7")]
    pub peer_window_most: u32,
    /// How many bytes the peer was told that it may send.
    #[prost(uint32, tag = "8")]
    pub own_window: u32,
    /// From where on it was told.
    #[prost(uint32, tag = "9")]
    pub own_window_from: u32,
    /// The largest segment that was agreed on, in bytes.
    #[prost(uint32, tag = "10")]
    pub segment_size: u32,
    /// The power of two by which the peer's window is told; absent where windows are told as they are.
    #[prost(uint32, optional, tag = "11")]
    pub peer_scale: Option<u32>,
    /// The same of its own window.
    #[prost(uint32, tag = "12")]
    pub own_scale: u32,
    /// Whether selective confirmation was agreed on.
    #[prost(bool, tag = "13")]
    pub selective: bool,
    /// Where segments carry timestamps, the one that a segment would have carried.
    #[prost(uint32, optional, tag = "14")]
    pub timestamp: Option<u32>,
    /// When that was, in milliseconds since 1970.
    #[prost(uint64, tag = "15")]
    pub at: u64,
    /// Whether the program has closed its direction.
    #[prost(bool, tag = "16")]
    pub ended: bool,
    /// Whether the peer has closed its direction, and that has been heard.
    #[prost(bool, tag = "17")]
    pub peer_ended: bool,
    /// Size of the buffer for what is received, as getsockopt(2) tells it.
    #[prost(uint32, tag = "18")]
    pub receive_room: u32,
    /// Size of that for what is sent.
    #[prost(uint32, tag = "19")]
    pub send_room: u32,
    /// The table of the firewall that drops its segments until the restart; empty for none.
    #[prost(string, tag = "20")]
    pub table: String,
    /// Whether its timestamps count microseconds, and not milliseconds.
    #[prost(bool, tag = "21")]
    pub microseconds: bool,
}

impl Record for TcpConnection {
    const KIND: Kind = Kind {
        name: "file.tcp-connection",
        version: 1,
    };
}

/// Bytes that a TCP socket has sent and its peer has not confirmed, and after them those that it has not sent yet; all records of
/// one socket together, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TcpSent {
    /// The `inode` of the socket.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// The bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
}

impl Record for TcpSent {
    const KIND: Kind = Kind {
        name: "file.tcp-sent",
        version: 1,
    };
}

/// How a socket stands to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Link {
    /// It is not connected.
    Alone = 0,
    /// It waits for connections.
    Listening = 1,
    /// `peer` is its peer, perhaps itself.
    Connected = 2,
    /// Its peer has closed and is gone; it has not closed its own direction.
    Gone = 3,
    /// It waits to be accepted at `peer_address`.
    Waiting = 4,
    /// It has asked `peer_address` for a connection, and waits for the answer.
    Connecting = 5,
    /// It was connected; both directions are closed.
    Ended = 6,
    /// It is to be connected again to `peer_address`, which is outside the job.
    Again = 7,
    /// Its peer is outside the job; a `TcpConnection` says how it goes on.
    Kept = 8,
}

impl TcpSocket {
    /// Its own address.
    pub fn own(&self) -> Option<Address> {
        self.own_address.clone().map(Address::from_bytes)
    }

    /// The address of its peer.
    pub fn to(&self) -> Option<Address> {
        self.peer_address.clone().map(Address::from_bytes)
    }

    /// Where it is.
    pub fn place(&self) -> Option<Place> {
        self.own()?.place()
    }
}
