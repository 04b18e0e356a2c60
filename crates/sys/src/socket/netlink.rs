//! Questions to the kernel over netlink(7): one request that asks for everything, answered by a row of messages.

use std::os::fd::{AsFd, AsRawFd};

use super::{send, socket};
use crate::{Result, check};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;

/// Asks for everything that a request of this type is about, in the network namespace of the calling thread; `take` is given the type
/// and the body of each message of the answer, and says nothing of a damaged one.
///
/// # Errors
/// What the kernel answers: EOPNOTSUPP, EPROTONOSUPPORT or ENOENT where it knows no such request; EBADMSG for a damaged answer.
pub fn dump(
    protocol: i32,
    kind: u16,
    body: &[u8],
    take: &mut dyn FnMut(u16, &[u8]) -> Option<()>,
) -> Result<()> {
    let netlink = socket(libc::AF_NETLINK, libc::SOCK_DGRAM, protocol)?;
    let length = HEADER + body.len();
    let mut request = Vec::with_capacity(length);
    request.extend_from_slice(&(length as u32).to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(body);
    send(netlink.as_fd(), &request, None, &[], 0)?;
    let mut room = vec![0_u8; 64 * 1024];
    loop {
        // SAFETY: the room outlives the call, and its length is told.
        let length = check(unsafe {
            libc::recv(
                netlink.as_raw_fd(),
                room.as_mut_ptr().cast(),
                room.len(),
                libc::MSG_TRUNC,
            )
        } as i64)? as usize;
        if length > room.len() {
            return Err(std::io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        if let Answer::End = parse(&room[..length], take)? {
            return Ok(());
        }
    }
}

/// The attributes of a message, which follow its fixed part: type, without its flags, and value. A damaged rest is left out.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const NESTED_OR_ORDERED: u16 = 0xc000;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(number(rest, 0)?));
        let kind = u16::from_ne_bytes(number(rest, 2)?);
        let value = rest.get(4..length)?;
        rest = rest
            .get(length.next_multiple_of(4).min(rest.len())..)
            .unwrap_or_default();
        Some((kind & !NESTED_OR_ORDERED, value))
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    More,
    End,
}

pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn parse(mut bytes: &[u8], take: &mut dyn FnMut(u16, &[u8]) -> Option<()>) -> Result<Answer> {
    let damaged = || std::io::Error::from_raw_os_error(libc::EBADMSG);
    while bytes.len() >= HEADER {
        let length = u32::from_ne_bytes(number(bytes, 0).ok_or_else(damaged)?) as usize;
        let kind = u16::from_ne_bytes(number(bytes, 4).ok_or_else(damaged)?);
        let body = bytes.get(HEADER..length).ok_or_else(damaged)?;
        match kind {
            NLMSG_DONE => return Ok(Answer::End),
            NLMSG_ERROR => {
                let error = i32::from_ne_bytes(number(body, 0).ok_or_else(damaged)?);
                return Err(std::io::Error::from_raw_os_error(-error));
            }
            kind => take(kind, body).ok_or_else(damaged)?,
        }
        bytes = bytes
            .get(length.next_multiple_of(4).min(bytes.len())..)
            .unwrap_or_default();
    }
    Ok(Answer::More)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RTM_GETLINK and its answer RTM_NEWLINK (linux/rtnetlink.h).
    const GET_LINK: u16 = 18;
    const NEW_LINK: u16 = 16;

    #[test]
    fn the_loopback_device_is_listed() {
        let mut names = Vec::new();
        dump(
            libc::NETLINK_ROUTE,
            GET_LINK,
            &[0; 16],
            &mut |kind, body| {
                assert_eq!(kind, NEW_LINK);
                let name = attributes(body.get(16..)?).find(|(kind, _)| *kind == 3);
                names.extend(name.map(|(_, name)| name.to_vec()));
                Some(())
            },
        )
        .unwrap();
        assert!(names.contains(&b"lo\0".to_vec()), "{names:?}");
    }

    #[test]
    fn damaged_answers_are_errors() {
        let mut bytes = vec![0_u8; 40];
        bytes[0] = 60;
        assert!(parse(&bytes, &mut |_, _| Some(())).is_err());
        bytes[0] = 18;
        bytes[4] = 20;
        assert!(parse(&bytes, &mut |_, _| None).is_err());
        assert_eq!(attributes(&[40, 0, 2, 0]).count(), 0);
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0);
        assert_eq!(
            attributes(&[5, 0, 2, 0x80, 7, 0, 0, 0, 4, 0, 3, 0]).collect::<Vec<_>>(),
            [(2, &[7_u8][..]), (3, &[][..])]
        );
    }
}
