//! `/proc/PID/stat` and `/proc/PID/task/TID/stat`: proc_pid_stat(5), kernel `do_task_stat` in fs/proc/array.c.

use crate::error::ParseError;
use crate::scan;

/// One task's or process's `stat`. Addresses and `exit_code` are 0 for a reader without ptrace access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Thread group id, or thread id in a `task` directory, in the reader's pid namespace.
    pub pid: i32,
    /// Command name as it is, without any escape; may hold parentheses, blanks and newlines. At most
    /// 15 bytes for programs, up to 63 for kernel threads.
    pub comm: Vec<u8>,
    /// State letter: `R` running, `S` sleeping, `D` disk sleep, `T` stopped, `t` tracing stop,
    /// `Z` zombie, `X` dead, `I` idle kernel thread, `P` parked.
    pub state: char,
    /// Parent process; 0 if it lies outside the reader's pid namespace.
    pub ppid: i32,
    /// Process group.
    pub pgrp: i32,
    /// Session.
    pub session: i32,
    /// Controlling terminal as the kernel's encoded device number (`new_encode_dev`); 0 for none.
    pub tty_nr: i32,
    /// Foreground process group of the controlling terminal; -1 without a terminal.
    pub tpgid: i32,
    /// `PF_*` flags of the task, include/linux/sched.h.
    pub flags: u32,
    /// User time, clock ticks.
    pub utime: u64,
    /// System time, clock ticks.
    pub stime: u64,
    /// Nice value, -20 to 19.
    pub nice: i32,
    /// Threads in the process.
    pub num_threads: u32,
    /// Start time in clock ticks after boot (in the reader's time namespace). With the pid it names a process for one boot.
    pub starttime: u64,
    /// Lowest address of the program text.
    pub start_code: u64,
    /// End of the program text.
    pub end_code: u64,
    /// Bottom of the initial stack.
    pub start_stack: u64,
    /// Signal sent to the parent at exit; -1 for threads other than the leader.
    pub exit_signal: i32,
    /// Processor it ran on last.
    pub processor: i32,
    /// Real-time priority, 1 to 99; 0 for other policies.
    pub rt_priority: u32,
    /// Scheduling policy, `SCHED_*`.
    pub policy: u32,
    /// Start of initialised data.
    pub start_data: u64,
    /// End of initialised data.
    pub end_data: u64,
    /// Start of the heap (brk area).
    pub start_brk: u64,
    /// Start of the command line.
    pub arg_start: u64,
    /// End of the command line.
    pub arg_end: u64,
    /// Start of the environment.
    pub env_start: u64,
    /// End of the environment.
    pub env_end: u64,
    /// Wait status (as wait(2) reports it) once the task is a zombie.
    pub exit_code: i32,
}

/// The space-separated values after the command name; the first is field 3 of proc_pid_stat(5).
struct Fields<'text> {
    values: Vec<&'text [u8]>,
    text: &'text [u8],
}

impl Fields<'_> {
    /// Field `number`, counted as in the man page.
    fn get<T: TryFrom<i128>>(&self, number: usize, what: &'static str) -> Result<T, ParseError> {
        number
            .checked_sub(3)
            .and_then(|index| self.values.get(index))
            .and_then(|value| scan::decimal(value))
            .ok_or_else(|| ParseError::new("stat", 1, what, self.text))
    }
}

/// Parses one `stat` file.
///
/// # Errors
/// If there is no command name in parentheses, or a field is missing or out of range.
pub fn parse(text: &[u8]) -> Result<Stat, ParseError> {
    let fail = |what| ParseError::new("stat", 1, what, text);
    let open = text
        .iter()
        .position(|&byte| byte == b'(')
        .ok_or_else(|| fail("no '('"))?;
    // The name is not escaped and may hold ')'; nothing after it can, so the last one ends it.
    let close = text
        .iter()
        .rposition(|&byte| byte == b')')
        .ok_or_else(|| fail("no ')'"))?;
    let comm = text
        .get(open + 1..close)
        .ok_or_else(|| fail("')' before '('"))?;
    let pid = text.get(..open).unwrap_or_default();
    let pid = pid
        .strip_suffix(b" ")
        .and_then(scan::decimal)
        .ok_or_else(|| fail("bad pid"))?;
    let rest = scan::without_newline(text.get(close + 1..).unwrap_or_default());
    let fields = Fields {
        values: scan::words(rest).collect(),
        text: rest,
    };
    let state = match fields.values.first() {
        Some([letter]) if letter.is_ascii_alphabetic() => char::from(*letter),
        _ => return Err(fail("bad state")),
    };
    Ok(Stat {
        pid,
        comm: comm.to_vec(),
        state,
        ppid: fields.get(4, "bad ppid")?,
        pgrp: fields.get(5, "bad pgrp")?,
        session: fields.get(6, "bad session")?,
        tty_nr: fields.get(7, "bad tty_nr")?,
        tpgid: fields.get(8, "bad tpgid")?,
        flags: fields.get(9, "bad flags")?,
        utime: fields.get(14, "bad utime")?,
        stime: fields.get(15, "bad stime")?,
        nice: fields.get(19, "bad nice")?,
        num_threads: fields.get(20, "bad num_threads")?,
        starttime: fields.get(22, "bad starttime")?,
        start_code: fields.get(26, "bad startcode")?,
        end_code: fields.get(27, "bad endcode")?,
        start_stack: fields.get(28, "bad startstack")?,
        exit_signal: fields.get(38, "bad exit_signal")?,
        processor: fields.get(39, "bad processor")?,
        rt_priority: fields.get(40, "bad rt_priority")?,
        policy: fields.get(41, "bad policy")?,
        start_data: fields.get(45, "bad start_data")?,
        end_data: fields.get(46, "bad end_data")?,
        start_brk: fields.get(47, "bad start_brk")?,
        arg_start: fields.get(48, "bad arg_start")?,
        arg_end: fields.get(49, "bad arg_end")?,
        env_start: fields.get(50, "bad env_start")?,
        env_end: fields.get(51, "bad env_end")?,
        exit_code: fields.get(52, "bad exit_code")?,
    })
}
