//! `/proc/net/tcp` and `tcp6`: proc(5), kernel `get_tcp4_sock` in net/ipv4/tcp_ipv4.c.

use crate::error::ParseError;
use crate::scan;

/// One TCP socket, or what is left of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpEntry {
    /// Its own port.
    pub port: u16,
    /// Its state (include/net/tcp_states.h): 6 is TIME_WAIT, 10 LISTEN.
    pub state: u8,
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
    let own = std::str::from_utf8(words.next()?).ok()?;
    let state = std::str::from_utf8(words.nth(1)?).ok()?;
    Some(TcpEntry {
        port: u16::from_str_radix(own.rsplit_once(':')?.1, 16).ok()?,
        state: u8::from_str_radix(state, 16).ok()?,
    })
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
        assert_eq!((entries[0].port, entries[0].state), (41425, 6));
        assert_eq!((entries[1].port, entries[1].state), (22, 10));
        assert!(parse(b"heading\n  0: 0100007F\n").is_err());
        assert!(parse(b"").unwrap().is_empty());
    }
}
