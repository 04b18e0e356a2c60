//! `/proc/PID/timers`: POSIX timers, proc_pid_timers(5), kernel `show_timer` in fs/proc/base.c.

use crate::error::ParseError;
use crate::scan::{self, Lines};

/// One timer of timer_create(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// Kernel timer id, unique in the process.
    pub id: i32,
    /// Signal sent at expiration.
    pub signal: i32,
    /// Value sent with it (`sigev_value`).
    pub value: u64,
    /// Kind of notification.
    pub notify: NotifyKind,
    /// Who is notified.
    pub target: NotifyTarget,
    /// Clock id; negative for CPU clocks: -6 is the process's own (`CLOCK_PROCESS_CPUTIME_ID`), -2 the
    /// thread's own, others name a process or thread (include/linux/posix-timers_types.h).
    pub clock: i32,
}

/// How a timer notifies (`sigev_notify` without `SIGEV_THREAD_ID`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyKind {
    /// `SIGEV_SIGNAL`.
    Signal,
    /// `SIGEV_NONE`.
    None,
    /// `SIGEV_THREAD`.
    Thread,
}

/// Whom a timer notifies, in the reader's pid namespace; 0 if outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyTarget {
    /// The process.
    Process(i32),
    /// One thread (`SIGEV_THREAD_ID`).
    Thread(i32),
}

/// Parses a `timers` file; an empty one means no timers.
///
/// # Errors
/// If the four lines of a timer are not there in order or not valid.
pub fn parse(text: &[u8]) -> Result<Vec<Timer>, ParseError> {
    let mut lines = Lines::new(text);
    let mut timers = Vec::new();
    while lines.peek().is_some() {
        let id = field(&mut lines, b"ID", scan::decimal)?;
        let (signal, value) = field(&mut lines, b"signal", |text| {
            let (signal, value) = scan::cut(text, b'/')?;
            Some((scan::decimal(signal)?, pointer(value)?))
        })?;
        let (notify, target) = field(&mut lines, b"notify", notification)?;
        let clock = field(&mut lines, b"ClockID", scan::decimal)?;
        timers.push(Timer {
            id,
            signal,
            value,
            notify,
            target,
            clock,
        });
    }
    Ok(timers)
}

/// Reads the next line, which must be `key: value`.
fn field<T>(
    lines: &mut Lines<'_>,
    key: &[u8],
    read: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, ParseError> {
    let (number, line) = lines.next().unwrap_or((lines.number() + 1, b""));
    scan::cut(line, b':')
        .filter(|(found, _)| *found == key)
        .and_then(|(_, value)| read(value.trim_ascii()))
        .ok_or_else(|| {
            ParseError::new(
                "timers",
                number,
                "expected ID, signal, notify or ClockID with a value",
                line,
            )
        })
}

/// A pointer as `%px` writes it.
fn pointer(text: &[u8]) -> Option<u64> {
    scan::hexadecimal(text.strip_prefix(b"0x").unwrap_or(text))
}

/// `signal/pid.17`, `none/tid.18` …
fn notification(text: &[u8]) -> Option<(NotifyKind, NotifyTarget)> {
    let (kind, target) = scan::cut(text, b'/')?;
    let kind = match kind {
        b"signal" => NotifyKind::Signal,
        b"none" => NotifyKind::None,
        b"thread" => NotifyKind::Thread,
        _ => return None,
    };
    let (whom, number) = scan::cut(target, b'.')?;
    let number = scan::decimal(number)?;
    let target = match whom {
        b"pid" => NotifyTarget::Process(number),
        b"tid" => NotifyTarget::Thread(number),
        _ => return None,
    };
    Some((kind, target))
}
