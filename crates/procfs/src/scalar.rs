//! Files of `/proc/PID` that hold one value or a plain list.

use crate::error::ParseError;
use crate::scan;

/// `loginuid` of a process that no login has marked.
const NO_LOGIN: u32 = u32::MAX;

/// Beginning of the line between the heading of `sched` and its values; longer than any command name.
const HEADING_RULE: &[u8] = &[b'-'; 64];

/// Reads the one value of `file`.
fn value<T>(
    file: &'static str,
    text: &[u8],
    read: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, ParseError> {
    read(text.trim_ascii()).ok_or_else(|| ParseError::new(file, 1, "bad value", text))
}

/// `personality`: the execution domain of personality(2).
///
/// # Errors
/// If it is not a hexadecimal number.
pub fn parse_personality(text: &[u8]) -> Result<u32, ParseError> {
    value("personality", text, scan::hexadecimal)
}

/// `oom_score_adj`: -1000 to 1000.
///
/// # Errors
/// If it is not a number.
pub fn parse_oom_score_adj(text: &[u8]) -> Result<i32, ParseError> {
    value("oom_score_adj", text, scan::decimal)
}

/// `timerslack_ns`: timer slack in nanoseconds; 0 for real-time tasks.
///
/// # Errors
/// If it is not a number.
pub fn parse_timerslack_ns(text: &[u8]) -> Result<u64, ParseError> {
    value("timerslack_ns", text, scan::decimal)
}

/// `coredump_filter`: core(5). Empty, `None`, for a task without memory.
///
/// # Errors
/// If it is not a hexadecimal number.
pub fn parse_coredump_filter(text: &[u8]) -> Result<Option<u32>, ParseError> {
    if text.is_empty() {
        return Ok(None);
    }
    value("coredump_filter", text, scan::hexadecimal).map(Some)
}

/// `loginuid`: the user who logged in, `None` if unset.
///
/// # Errors
/// If it is not a number.
pub fn parse_loginuid(text: &[u8]) -> Result<Option<u32>, ParseError> {
    let uid = value("loginuid", text, scan::decimal)?;
    Ok((uid != NO_LOGIN).then_some(uid))
}

/// `task/TID/children`: the thread's children, in order of creation.
///
/// # Errors
/// If it is not a list of numbers.
pub fn parse_children(text: &[u8]) -> Result<Vec<i32>, ParseError> {
    value("children", text, scan::numbers)
}

/// `se.exec_start` of `sched`: milliseconds on the scheduler's clock when the task last ran; `None`
/// if there is no such line (the task's class may keep none).
///
/// # Errors
/// If the line has no number.
pub fn parse_exec_start(text: &[u8]) -> Result<Option<f64>, ParseError> {
    // The heading holds the command name as it is, newlines included; it is too short to forge the rule below it.
    let body = scan::Lines::new(text).skip_while(|(_, line)| !line.starts_with(HEADING_RULE));
    for (number, line) in body {
        if let Some(rest) = line.strip_prefix(b"se.exec_start") {
            let milliseconds = scan::cut(rest, b':')
                .and_then(|(_, value)| str::from_utf8(value).ok())
                .and_then(|value| value.trim().parse().ok())
                .ok_or_else(|| ParseError::new("sched", number, "bad se.exec_start", line))?;
            return Ok(Some(milliseconds));
        }
    }
    Ok(None)
}

/// `comm`: the command name without the file's final newline; a name may hold newlines itself.
pub fn parse_comm(text: &[u8]) -> Vec<u8> {
    scan::without_newline(text).to_vec()
}
