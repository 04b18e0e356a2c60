//! `/proc/net/tcp` and `tcp6`: proc(5), kernel `get_tcp4_sock` in net/ipv4/tcp_ipv4.c.

use crate::error::ParseError;
use crate::scan;

/// One TCP socket, or what is left of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpEntry {
    /// Its own port.
    pub port: u16,
    /// The port of its peer; 0 for none.
    pub peer_port: u16,
    /// Its state (include/net/tcp_states.h): 6 is TIME_WAIT, 10 LISTEN.
    pub state: u8,
    /// The inode number of the socket; 0 when no process has it, as what is left of a connection that was closed.
    pub inode: u64,
}

/// Parses `/proc/net/tcp` or `tcp6`: a heading, then one line for each socket.
///
/// # Errors
/// At the first line that is no socket.
pub fn parse(text: &[u8]) -> Result<Vec<TcpEntry>, ParseError> {
    scan::Lines::new(text)
        .skip(1)
        .map(|(number, line)| {
            parse_line(line).ok_or_else(|| ParseError::new("net/tcp", number, "no socket", line))
        })
        .collect()
}

fn parse_line(line: &[u8]) -> Option<TcpEntry> {
    let mut words = scan::words(line).skip(1);
    let mut text = || std::str::from_utf8(words.next()?).ok();
    let (own, peer, state) = (text()?, text()?, text()?);
    // Queues, timer, retransmissions, user and timeout are between.
    let inode = words.nth(5)?;
    Some(TcpEntry {
        port: port(own)?,
        peer_port: port(peer)?,
        state: u8::from_str_radix(state, 16).ok()?,
        inode: std::str::from_utf8(inode).ok()?.parse().ok()?,
    })
}

fn port(address: &str) -> Option<u16> {
    u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_states_are_read() {
        let text = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     \x20  0: 0100007F:A1D1 0100007F:88DE 06 00000000:00000000 03:00000F6B 00000000     0        0 0 3 0000000000000000\n\
                     \x20  1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 123 1\n";
        let entries = parse(text).unwrap();
        let found = |port, peer_port, state, inode| TcpEntry {
            port,
            peer_port,
            state,
            inode,
        };
        assert_eq!(entries, [found(41425, 35038, 6, 0), found(22, 0, 10, 123)]);
        assert!(parse(b"heading\n  0: 0100007F\n").is_err());
        assert!(parse(b"").unwrap().is_empty());
    }
}
