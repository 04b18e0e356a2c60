//! Links in `/proc/PID/ns` and the files that describe user and time namespaces: namespaces(7).

use crate::error::ParseError;
use crate::scan;

/// One line of `uid_map` or `gid_map`, user_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id outside: in the parent namespace, or the reader's if that is another.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

/// One line of `timens_offsets`, time_namespaces(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockOffset {
    /// `monotonic` or `boottime`.
    pub clock: String,
    /// Seconds, may be negative.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// The inode number in the target of a link of `/proc/PID/ns`, for example `pid:[4026531836]`.
///
/// # Errors
/// If the target has another form.
pub fn parse_link(target: &[u8]) -> Result<u64, ParseError> {
    scan::cut(target, b'[')
        .and_then(|(_, rest)| scan::decimal(rest.strip_suffix(b"]")?))
        .ok_or_else(|| ParseError::new("ns", 1, "expected TYPE:[INODE]", target))
}

/// Parses `uid_map` or `gid_map`; an empty one is a map not written yet.
///
/// # Errors
/// At the first line that is not three numbers.
pub fn parse_id_map(text: &[u8]) -> Result<Vec<IdRange>, ParseError> {
    scan::Lines::new(text)
        .map(|(number, line)| match scan::numbers(line).as_deref() {
            Some(&[inside, outside, count]) => Ok(IdRange {
                inside,
                outside,
                count,
            }),
            _ => Err(ParseError::new(
                "uid_map",
                number,
                "expected three numbers",
                line,
            )),
        })
        .collect()
}

/// Parses `timens_offsets`.
///
/// # Errors
/// At the first line that is not a clock and two numbers.
pub fn parse_time_offsets(text: &[u8]) -> Result<Vec<ClockOffset>, ParseError> {
    scan::Lines::new(text)
        .map(|(number, line)| {
            time_offset(line).ok_or_else(|| {
                ParseError::new("timens_offsets", number, "not a clock offset", line)
            })
        })
        .collect()
}

/// `monotonic SECONDS NANOSECONDS`.
fn time_offset(line: &[u8]) -> Option<ClockOffset> {
    let mut words = scan::words(line);
    let clock = String::from_utf8_lossy(words.next()?).into_owned();
    let offset = ClockOffset {
        clock,
        seconds: scan::decimal(words.next()?)?,
        nanoseconds: scan::decimal(words.next()?)?,
    };
    words.next().is_none().then_some(offset)
}
