//! The options of sockets that are kept, one row each.
//!
//! Those that a family or protocol lacks are left out of themselves: the kernel does not know them. Not kept are those that show a
//! state of the moment (TCP_QUICKACK), and those that no call shows: TCP_MD5SIG, TCP_AO, IP_ROUTER_ALERT, the interface of
//! IP_MULTICAST_IF where it was given by its number.

use super::SocketFacts;

/// When an option is set again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the socket gets a name or anything is sent: what decides on names.
    Early,
    /// Once the queues are full: what would change messages on their way.
    Late,
}

/// One option that is kept.
pub struct Row {
    /// `SOL_*` or a protocol.
    pub level: i32,
    /// Its number at that level.
    pub name: i32,
    /// Its name.
    pub text: &'static str,
    /// Bytes of its value, at most.
    pub room: usize,
    /// When it is set again.
    pub when: When,
}

const fn row(level: i32, name: i32, text: &'static str, room: usize, when: When) -> Row {
    Row {
        level,
        name,
        text,
        room,
        when,
    }
}

/// A number that is set late, as most are.
const fn late(level: i32, name: i32, text: &'static str) -> Row {
    row(level, name, text, 4, When::Late)
}

const fn early(level: i32, name: i32, text: &'static str) -> Row {
    row(level, name, text, 4, When::Early)
}

/// The rows of a socket, in the order in which they are set.
pub fn rows(facts: &SocketFacts) -> impl Iterator<Item = &'static Row> + use<> {
    let internet: &[&[Row]] = match facts.family {
        libc::AF_INET => &[IP],
        libc::AF_INET6 => &[IP, IPV6],
        _ => &[],
    };
    let protocol: &[&[Row]] = match (facts.family, facts.kind) {
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) => &[TCP],
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) => &[GROUPS, DATAGRAM],
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_RAW) => &[GROUPS, RAW],
        (libc::AF_NETLINK, _) => &[NETLINK],
        _ => &[],
    };
    let general: &[&[Row]] = &[GENERAL];
    // IP_TOS sets the priority: that comes last.
    let last: &[&[Row]] = &[LAST];
    let all = [general, internet, protocol, last];
    all.into_iter().flatten().flat_map(|rows| rows.iter())
}

/// The row of an option.
pub fn find(level: i32, name: i32) -> Option<&'static Row> {
    let tables = [GENERAL, IP, IPV6, GROUPS, TCP, DATAGRAM, RAW, NETLINK, LAST];
    let mut all = tables.into_iter().flatten();
    all.find(|row| (row.level, row.name) == (level, name))
}

// Numbers newer than the libc crate's: include/uapi/asm-generic/socket.h.
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_TIMESTAMPING_NEW: i32 = 65;
const SO_RESERVE_MEM: i32 = 73;
const SO_TXREHASH: i32 = 74;
const SO_RCVMARK: i32 = 75;
const SO_PASSPIDFD: i32 = 76;
const SO_RCVPRIORITY: i32 = 82;
const SO_PASSRIGHTS: i32 = 83;
const SO_INQ: i32 = 84;

const SOCKET: i32 = libc::SOL_SOCKET;

/// Options of level SOL_SOCKET.
const GENERAL: &[Row] = &[
    row(
        SOCKET,
        libc::SO_BINDTODEVICE,
        "SO_BINDTODEVICE",
        16,
        When::Early,
    ),
    late(SOCKET, libc::SO_DEBUG, "SO_DEBUG"),
    early(SOCKET, libc::SO_REUSEADDR, "SO_REUSEADDR"),
    early(SOCKET, libc::SO_REUSEPORT, "SO_REUSEPORT"),
    late(SOCKET, libc::SO_DONTROUTE, "SO_DONTROUTE"),
    late(SOCKET, libc::SO_BROADCAST, "SO_BROADCAST"),
    late(SOCKET, libc::SO_KEEPALIVE, "SO_KEEPALIVE"),
    late(SOCKET, libc::SO_OOBINLINE, "SO_OOBINLINE"),
    late(SOCKET, libc::SO_NO_CHECK, "SO_NO_CHECK"),
    row(SOCKET, libc::SO_LINGER, "SO_LINGER", 8, When::Late),
    late(SOCKET, libc::SO_PASSCRED, "SO_PASSCRED"),
    late(SOCKET, libc::SO_PASSSEC, "SO_PASSSEC"),
    late(SOCKET, SO_PASSPIDFD, "SO_PASSPIDFD"),
    late(SOCKET, SO_PASSRIGHTS, "SO_PASSRIGHTS"),
    late(SOCKET, SO_INQ, "SO_INQ"),
    late(SOCKET, libc::SO_RCVLOWAT, "SO_RCVLOWAT"),
    row(SOCKET, libc::SO_RCVTIMEO, "SO_RCVTIMEO", 16, When::Late),
    row(SOCKET, libc::SO_SNDTIMEO, "SO_SNDTIMEO", 16, When::Late),
    late(SOCKET, libc::SO_TIMESTAMP, "SO_TIMESTAMP"),
    late(SOCKET, libc::SO_TIMESTAMPNS, "SO_TIMESTAMPNS"),
    late(SOCKET, SO_TIMESTAMP_NEW, "SO_TIMESTAMP_NEW"),
    late(SOCKET, SO_TIMESTAMPNS_NEW, "SO_TIMESTAMPNS_NEW"),
    row(
        SOCKET,
        libc::SO_TIMESTAMPING,
        "SO_TIMESTAMPING",
        8,
        When::Late,
    ),
    row(
        SOCKET,
        SO_TIMESTAMPING_NEW,
        "SO_TIMESTAMPING_NEW",
        8,
        When::Late,
    ),
    late(SOCKET, libc::SO_MARK, "SO_MARK"),
    late(SOCKET, SO_RCVMARK, "SO_RCVMARK"),
    late(SOCKET, SO_RCVPRIORITY, "SO_RCVPRIORITY"),
    late(SOCKET, libc::SO_RXQ_OVFL, "SO_RXQ_OVFL"),
    late(SOCKET, libc::SO_WIFI_STATUS, "SO_WIFI_STATUS"),
    late(SOCKET, libc::SO_NOFCS, "SO_NOFCS"),
    late(SOCKET, libc::SO_PEEK_OFF, "SO_PEEK_OFF"),
    late(SOCKET, libc::SO_SELECT_ERR_QUEUE, "SO_SELECT_ERR_QUEUE"),
    late(SOCKET, libc::SO_BUSY_POLL, "SO_BUSY_POLL"),
    row(
        SOCKET,
        libc::SO_MAX_PACING_RATE,
        "SO_MAX_PACING_RATE",
        8,
        When::Late,
    ),
    late(SOCKET, libc::SO_INCOMING_CPU, "SO_INCOMING_CPU"),
    late(SOCKET, libc::SO_ZEROCOPY, "SO_ZEROCOPY"),
    late(SOCKET, SO_RESERVE_MEM, "SO_RESERVE_MEM"),
    late(SOCKET, SO_TXREHASH, "SO_TXREHASH"),
];

const LAST: &[Row] = &[late(SOCKET, libc::SO_PRIORITY, "SO_PRIORITY")];

/// Options of level IPPROTO_IP (include/uapi/linux/in.h), which sockets of IPv6 have as well.
const IP: &[Row] = &[
    early(libc::IPPROTO_IP, 15, "IP_FREEBIND"),
    early(libc::IPPROTO_IP, 19, "IP_TRANSPARENT"),
    early(libc::IPPROTO_IP, 24, "IP_BIND_ADDRESS_NO_PORT"),
    late(libc::IPPROTO_IP, 1, "IP_TOS"),
    late(libc::IPPROTO_IP, 2, "IP_TTL"),
    late(libc::IPPROTO_IP, 6, "IP_RECVOPTS"),
    late(libc::IPPROTO_IP, 7, "IP_RETOPTS"),
    late(libc::IPPROTO_IP, 8, "IP_PKTINFO"),
    late(libc::IPPROTO_IP, 10, "IP_MTU_DISCOVER"),
    late(libc::IPPROTO_IP, 11, "IP_RECVERR"),
    late(libc::IPPROTO_IP, 12, "IP_RECVTTL"),
    late(libc::IPPROTO_IP, 13, "IP_RECVTOS"),
    late(libc::IPPROTO_IP, 18, "IP_PASSSEC"),
    late(libc::IPPROTO_IP, 20, "IP_RECVORIGDSTADDR"),
    late(libc::IPPROTO_IP, 21, "IP_MINTTL"),
    late(libc::IPPROTO_IP, 23, "IP_CHECKSUM"),
    late(libc::IPPROTO_IP, 25, "IP_RECVFRAGSIZE"),
    late(libc::IPPROTO_IP, 26, "IP_RECVERR_RFC4884"),
    late(libc::IPPROTO_IP, 50, "IP_UNICAST_IF"),
    late(libc::IPPROTO_IP, 51, "IP_LOCAL_PORT_RANGE"),
    row(libc::IPPROTO_IP, 4, "IP_OPTIONS", 40, When::Late),
];

/// Options of level IPPROTO_IPV6 (include/uapi/linux/in6.h).
const IPV6: &[Row] = &[
    early(libc::IPPROTO_IPV6, 26, "IPV6_V6ONLY"),
    early(libc::IPPROTO_IPV6, 75, "IPV6_TRANSPARENT"),
    early(libc::IPPROTO_IPV6, 78, "IPV6_FREEBIND"),
    late(libc::IPPROTO_IPV6, 16, "IPV6_UNICAST_HOPS"),
    late(libc::IPPROTO_IPV6, 23, "IPV6_MTU_DISCOVER"),
    late(libc::IPPROTO_IPV6, 25, "IPV6_RECVERR"),
    late(libc::IPPROTO_IPV6, 31, "IPV6_RECVERR_RFC4884"),
    late(libc::IPPROTO_IPV6, 33, "IPV6_FLOWINFO_SEND"),
    late(libc::IPPROTO_IPV6, 49, "IPV6_RECVPKTINFO"),
    late(libc::IPPROTO_IPV6, 51, "IPV6_RECVHOPLIMIT"),
    late(libc::IPPROTO_IPV6, 53, "IPV6_RECVHOPOPTS"),
    late(libc::IPPROTO_IPV6, 56, "IPV6_RECVRTHDR"),
    late(libc::IPPROTO_IPV6, 58, "IPV6_RECVDSTOPTS"),
    late(libc::IPPROTO_IPV6, 60, "IPV6_RECVPATHMTU"),
    late(libc::IPPROTO_IPV6, 62, "IPV6_DONTFRAG"),
    late(libc::IPPROTO_IPV6, 66, "IPV6_RECVTCLASS"),
    late(libc::IPPROTO_IPV6, 67, "IPV6_TCLASS"),
    late(libc::IPPROTO_IPV6, 70, "IPV6_AUTOFLOWLABEL"),
    late(libc::IPPROTO_IPV6, 72, "IPV6_ADDR_PREFERENCES"),
    late(libc::IPPROTO_IPV6, 73, "IPV6_MINHOPCOUNT"),
    late(libc::IPPROTO_IPV6, 74, "IPV6_RECVORIGDSTADDR"),
    late(libc::IPPROTO_IPV6, 76, "IPV6_UNICAST_IF"),
    late(libc::IPPROTO_IPV6, 77, "IPV6_RECVFRAGSIZE"),
];

/// Options for sending to groups, which streams do not do.
const GROUPS: &[Row] = &[
    late(libc::IPPROTO_IP, 32, "IP_MULTICAST_IF"),
    late(libc::IPPROTO_IP, 33, "IP_MULTICAST_TTL"),
    late(libc::IPPROTO_IP, 34, "IP_MULTICAST_LOOP"),
    late(libc::IPPROTO_IP, 49, "IP_MULTICAST_ALL"),
    late(libc::IPPROTO_IPV6, 17, "IPV6_MULTICAST_IF"),
    late(libc::IPPROTO_IPV6, 18, "IPV6_MULTICAST_HOPS"),
    late(libc::IPPROTO_IPV6, 19, "IPV6_MULTICAST_LOOP"),
    late(libc::IPPROTO_IPV6, 29, "IPV6_MULTICAST_ALL"),
];

/// Options of level IPPROTO_TCP (include/uapi/linux/tcp.h).
const TCP: &[Row] = &[
    early(libc::IPPROTO_TCP, 2, "TCP_MAXSEG"),
    early(libc::IPPROTO_TCP, 30, "TCP_FASTOPEN_CONNECT"),
    early(libc::IPPROTO_TCP, 34, "TCP_FASTOPEN_NO_COOKIE"),
    early(libc::IPPROTO_TCP, 27, "TCP_SAVE_SYN"),
    late(libc::IPPROTO_TCP, 1, "TCP_NODELAY"),
    late(libc::IPPROTO_TCP, 4, "TCP_KEEPIDLE"),
    late(libc::IPPROTO_TCP, 5, "TCP_KEEPINTVL"),
    late(libc::IPPROTO_TCP, 6, "TCP_KEEPCNT"),
    late(libc::IPPROTO_TCP, 7, "TCP_SYNCNT"),
    late(libc::IPPROTO_TCP, 8, "TCP_LINGER2"),
    late(libc::IPPROTO_TCP, 9, "TCP_DEFER_ACCEPT"),
    late(libc::IPPROTO_TCP, 10, "TCP_WINDOW_CLAMP"),
    late(libc::IPPROTO_TCP, 16, "TCP_THIN_LINEAR_TIMEOUTS"),
    late(libc::IPPROTO_TCP, 18, "TCP_USER_TIMEOUT"),
    late(libc::IPPROTO_TCP, 23, "TCP_FASTOPEN"),
    late(libc::IPPROTO_TCP, 25, "TCP_NOTSENT_LOWAT"),
    late(libc::IPPROTO_TCP, 36, "TCP_INQ"),
    late(libc::IPPROTO_TCP, 37, "TCP_TX_DELAY"),
    late(libc::IPPROTO_TCP, 44, "TCP_RTO_MAX_MS"),
    late(libc::IPPROTO_TCP, 45, "TCP_RTO_MIN_US"),
    late(libc::IPPROTO_TCP, 46, "TCP_DELACK_MAX_US"),
    row(libc::IPPROTO_TCP, 13, "TCP_CONGESTION", 16, When::Late),
    late(libc::IPPROTO_TCP, 3, "TCP_CORK"),
];

/// Options of levels IPPROTO_UDP and IPPROTO_UDPLITE (include/uapi/linux/udp.h).
const DATAGRAM: &[Row] = &[
    late(libc::IPPROTO_UDP, 101, "UDP_NO_CHECK6_TX"),
    late(libc::IPPROTO_UDP, 102, "UDP_NO_CHECK6_RX"),
    late(libc::IPPROTO_UDP, 103, "UDP_SEGMENT"),
    late(libc::IPPROTO_UDP, 104, "UDP_GRO"),
    late(libc::IPPROTO_UDP, 1, "UDP_CORK"),
    late(libc::IPPROTO_UDPLITE, 10, "UDPLITE_SEND_CSCOV"),
    late(libc::IPPROTO_UDPLITE, 11, "UDPLITE_RECV_CSCOV"),
];

/// Options of raw sockets.
const RAW: &[Row] = &[
    late(libc::IPPROTO_IP, 3, "IP_HDRINCL"),
    late(libc::IPPROTO_IP, 22, "IP_NODEFRAG"),
    late(libc::IPPROTO_IPV6, 36, "IPV6_HDRINCL"),
    late(libc::IPPROTO_IPV6, 7, "IPV6_CHECKSUM"),
    late(libc::IPPROTO_RAW, 1, "ICMP_FILTER"),
    row(libc::IPPROTO_ICMPV6, 1, "ICMPV6_FILTER", 32, When::Late),
];

/// Options of level SOL_NETLINK (include/uapi/linux/netlink.h).
const NETLINK: &[Row] = &[
    late(libc::SOL_NETLINK, 3, "NETLINK_PKTINFO"),
    late(libc::SOL_NETLINK, 4, "NETLINK_BROADCAST_ERROR"),
    late(libc::SOL_NETLINK, 5, "NETLINK_NO_ENOBUFS"),
    late(libc::SOL_NETLINK, 8, "NETLINK_LISTEN_ALL_NSID"),
    late(libc::SOL_NETLINK, 10, "NETLINK_CAP_ACK"),
    late(libc::SOL_NETLINK, 11, "NETLINK_EXT_ACK"),
    late(libc::SOL_NETLINK, 12, "NETLINK_GET_STRICT_CHK"),
];
