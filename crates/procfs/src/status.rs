//! `/proc/PID/status`: proc_pid_status(5), kernel `proc_pid_status` in fs/proc/array.c.

use crate::error::ParseError;
use crate::scan;

/// The lines of `status` that matter to a checkpoint. `Option`s are lines that kernel threads and
/// zombies (no memory), some kernel configurations or older kernels lack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Command name with the file's escapes (`\n`, `\\`) undone.
    pub name: Vec<u8>,
    /// File mode creation mask; absent for a zombie.
    pub umask: Option<u32>,
    /// State letter, as in [`Stat::state`](crate::Stat::state).
    pub state: char,
    /// Thread group id.
    pub tgid: i32,
    /// Thread id.
    pub pid: i32,
    /// Parent process; 0 if outside the reader's pid namespace.
    pub ppid: i32,
    /// Process that traces this task; 0 for none.
    pub tracer_pid: i32,
    /// Real, effective, saved and file system user id, in the reader's user namespace.
    pub uid: [u32; 4],
    /// Real, effective, saved and file system group id.
    pub gid: [u32; 4],
    /// Size of the descriptor table; a bound on descriptor numbers.
    pub fd_size: Option<u32>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Thread group id in each nested pid namespace, the reader's first, the task's own last.
    pub namespace_tgid: Vec<i32>,
    /// Thread id in each nested pid namespace.
    pub namespace_pid: Vec<i32>,
    /// Process group in each nested pid namespace.
    pub namespace_pgid: Vec<i32>,
    /// Session in each nested pid namespace.
    pub namespace_sid: Vec<i32>,
    /// It is a kernel thread (Linux 6.6).
    pub kernel_thread: Option<bool>,
    /// Address space size, KiB.
    pub vm_size: Option<u64>,
    /// Highest address space size, KiB.
    pub vm_peak: Option<u64>,
    /// Locked memory, KiB.
    pub vm_locked: Option<u64>,
    /// Pinned memory, KiB.
    pub vm_pinned: Option<u64>,
    /// Resident memory, KiB.
    pub vm_resident: Option<u64>,
    /// Resident anonymous memory, KiB.
    pub resident_anonymous: Option<u64>,
    /// Resident file mappings, KiB.
    pub resident_file: Option<u64>,
    /// Resident shared memory, KiB.
    pub resident_shared_memory: Option<u64>,
    /// Private data, KiB.
    pub vm_data: Option<u64>,
    /// Stack, KiB.
    pub vm_stack: Option<u64>,
    /// Swapped-out private anonymous memory, KiB; shared memory is not counted.
    pub vm_swap: Option<u64>,
    /// hugetlb memory, KiB.
    pub hugetlb_pages: Option<u64>,
    /// It is writing a core dump now (Linux 4.15).
    pub core_dumping: Option<bool>,
    /// Transparent huge pages are allowed: `PR_SET_THP_DISABLE` is off (Linux 5.0).
    pub thp_enabled: Option<bool>,
    /// Threads in the process.
    pub threads: u32,
    /// Queued signals of the real user id, and their limit.
    pub signals_queued: (u64, u64),
    /// Signals pending for the thread; bit 0 is signal 1.
    pub signals_pending: u64,
    /// Signals pending for the process.
    pub signals_pending_shared: u64,
    /// Blocked signals.
    pub signals_blocked: u64,
    /// Ignored signals.
    pub signals_ignored: u64,
    /// Signals with a handler.
    pub signals_caught: u64,
    /// Inheritable capabilities.
    pub capabilities_inheritable: u64,
    /// Permitted capabilities.
    pub capabilities_permitted: u64,
    /// Effective capabilities.
    pub capabilities_effective: u64,
    /// Capability bounding set.
    pub capabilities_bounding: u64,
    /// Ambient capabilities.
    pub capabilities_ambient: u64,
    /// `PR_SET_NO_NEW_PRIVS` is set.
    pub no_new_privileges: Option<bool>,
    /// seccomp mode: 0 none, 1 strict, 2 filter.
    pub seccomp: Option<u32>,
    /// Number of seccomp filters (Linux 5.9).
    pub seccomp_filters: Option<u32>,
    /// Speculative store bypass, the kernel's words, for example `thread vulnerable`.
    pub speculation_store_bypass: Option<String>,
    /// Indirect branch speculation, the kernel's words (Linux 5.10).
    pub speculation_indirect_branch: Option<String>,
    /// Processors it may run on, list format (`0-3,8`).
    pub cpus_allowed_list: Option<String>,
    /// Memory nodes it may use, list format.
    pub mems_allowed_list: Option<String>,
    /// x86 features in use by the thread, for example `shstk` (Linux 6.6).
    pub x86_thread_features: Option<Vec<String>>,
    /// x86 features whose setting is locked.
    pub x86_thread_features_locked: Option<Vec<String>>,
    /// Switches the task asked for by waiting.
    pub voluntary_switches: Option<u64>,
    /// Switches forced on the task.
    pub involuntary_switches: Option<u64>,
}

/// Parses one `status` file. Unknown lines are skipped.
///
/// # Errors
/// If a known line has no valid value, or a line every kernel writes (`Name`, `State`, `Tgid`, `Pid`,
/// `PPid`, `Uid`, `Gid`) is missing.
pub fn parse(text: &[u8]) -> Result<Status, ParseError> {
    let mut status = Status::default();
    let mut seen = 0_u32;
    let mut last = 1;
    for (number, line) in scan::Lines::new(text) {
        last = number;
        let Some((key, value)) = scan::cut(line, b':') else {
            continue;
        };
        // Only the tab belongs to the file: a name may begin or end with blanks.
        let value = value.strip_prefix(b"\t").unwrap_or(value);
        let known = name(&mut status, key, value);
        let value = value.trim_ascii();
        let known = known
            .or_else(|| identity(&mut status, key, value))
            .or_else(|| memory(&mut status, key, value))
            .or_else(|| signals(&mut status, key, value))
            .or_else(|| security(&mut status, key, value))
            .or_else(|| scheduling(&mut status, key, value));
        if known == Some(None) {
            return Err(ParseError::new("status", number, "bad value", line));
        }
        if let Some(bit) = REQUIRED
            .iter()
            .position(|required| required.as_bytes() == key)
        {
            seen |= 1 << bit;
        }
    }
    if seen != (1 << REQUIRED.len()) - 1 {
        return Err(ParseError::new(
            "status",
            last,
            "one of Name, State, Tgid, Pid, PPid, Uid, Gid is missing",
            text,
        ));
    }
    Ok(status)
}

/// Lines that every kernel writes for every task.
const REQUIRED: [&str; 7] = ["Name", "State", "Tgid", "Pid", "PPid", "Uid", "Gid"];

/// What a group of lines says to one line: `None` for "not mine", `Some(None)` for "mine, and wrong".
type Known = Option<Option<()>>;

/// Stores `value` if there is one.
fn put<T>(place: &mut T, value: Option<T>) -> Known {
    Some(value.map(|value| *place = value))
}

/// Stores `value` in an optional field if there is one.
fn some<T>(place: &mut Option<T>, value: Option<T>) -> Known {
    Some(value.map(|value| *place = Some(value)))
}

/// The command name.
fn name(status: &mut Status, key: &[u8], value: &[u8]) -> Known {
    if key == b"Name" {
        put(&mut status.name, Some(unescape_name(value)))
    } else {
        None
    }
}

/// Ids and namespaces.
fn identity(status: &mut Status, key: &[u8], value: &[u8]) -> Known {
    match key {
        b"Umask" => some(
            &mut status.umask,
            scan::unsigned(value, 8).and_then(|mask| u32::try_from(mask).ok()),
        ),
        b"State" => put(
            &mut status.state,
            value
                .first()
                .filter(|byte| byte.is_ascii_alphabetic())
                .map(|&byte| char::from(byte)),
        ),
        b"Tgid" => put(&mut status.tgid, scan::decimal(value)),
        b"Pid" => put(&mut status.pid, scan::decimal(value)),
        b"PPid" => put(&mut status.ppid, scan::decimal(value)),
        b"TracerPid" => put(&mut status.tracer_pid, scan::decimal(value)),
        b"Uid" => put(&mut status.uid, four(value)),
        b"Gid" => put(&mut status.gid, four(value)),
        b"FDSize" => some(&mut status.fd_size, scan::decimal(value)),
        b"Groups" => put(&mut status.groups, scan::numbers(value)),
        b"NStgid" => put(&mut status.namespace_tgid, scan::numbers(value)),
        b"NSpid" => put(&mut status.namespace_pid, scan::numbers(value)),
        b"NSpgid" => put(&mut status.namespace_pgid, scan::numbers(value)),
        b"NSsid" => put(&mut status.namespace_sid, scan::numbers(value)),
        b"Kthread" => some(&mut status.kernel_thread, flag(value)),
        b"Threads" => put(&mut status.threads, scan::decimal(value)),
        _ => None,
    }
}

/// Memory sizes and switches.
fn memory(status: &mut Status, key: &[u8], value: &[u8]) -> Known {
    let place = match key {
        b"VmSize" => &mut status.vm_size,
        b"VmPeak" => &mut status.vm_peak,
        b"VmLck" => &mut status.vm_locked,
        b"VmPin" => &mut status.vm_pinned,
        b"VmRSS" => &mut status.vm_resident,
        b"RssAnon" => &mut status.resident_anonymous,
        b"RssFile" => &mut status.resident_file,
        b"RssShmem" => &mut status.resident_shared_memory,
        b"VmData" => &mut status.vm_data,
        b"VmStk" => &mut status.vm_stack,
        b"VmSwap" => &mut status.vm_swap,
        b"HugetlbPages" => &mut status.hugetlb_pages,
        b"CoreDumping" => return some(&mut status.core_dumping, flag(value)),
        b"THP_enabled" => return some(&mut status.thp_enabled, flag(value)),
        _ => return None,
    };
    let digits = value.strip_suffix(b" kB");
    some(place, digits.and_then(scan::decimal))
}

/// Signal sets.
fn signals(status: &mut Status, key: &[u8], value: &[u8]) -> Known {
    let place = match key {
        b"SigPnd" => &mut status.signals_pending,
        b"ShdPnd" => &mut status.signals_pending_shared,
        b"SigBlk" => &mut status.signals_blocked,
        b"SigIgn" => &mut status.signals_ignored,
        b"SigCgt" => &mut status.signals_caught,
        b"SigQ" => {
            let pair = scan::cut(value, b'/')
                .and_then(|(queued, limit)| Some((scan::decimal(queued)?, scan::decimal(limit)?)));
            return put(&mut status.signals_queued, pair);
        }
        _ => return None,
    };
    put(place, scan::hexadecimal(value))
}

/// Capabilities, seccomp and speculation.
fn security(status: &mut Status, key: &[u8], value: &[u8]) -> Known {
    let place = match key {
        b"CapInh" => &mut status.capabilities_inheritable,
        b"CapPrm" => &mut status.capabilities_permitted,
        b"CapEff" => &mut status.capabilities_effective,
        b"CapBnd" => &mut status.capabilities_bounding,
        b"CapAmb" => &mut status.capabilities_ambient,
        b"NoNewPrivs" => return some(&mut status.no_new_privileges, flag(value)),
        b"Seccomp" => return some(&mut status.seccomp, scan::decimal(value)),
        b"Seccomp_filters" => return some(&mut status.seccomp_filters, scan::decimal(value)),
        b"Speculation_Store_Bypass" => {
            return some(&mut status.speculation_store_bypass, Some(words(value)));
        }
        b"SpeculationIndirectBranch" => {
            return some(&mut status.speculation_indirect_branch, Some(words(value)));
        }
        b"x86_Thread_features" => return some(&mut status.x86_thread_features, Some(list(value))),
        b"x86_Thread_features_locked" => {
            return some(&mut status.x86_thread_features_locked, Some(list(value)));
        }
        _ => return None,
    };
    put(place, scan::hexadecimal(value))
}

/// Placement and switches.
fn scheduling(status: &mut Status, key: &[u8], value: &[u8]) -> Known {
    match key {
        b"Cpus_allowed_list" => some(&mut status.cpus_allowed_list, Some(words(value))),
        b"Mems_allowed_list" => some(&mut status.mems_allowed_list, Some(words(value))),
        b"voluntary_ctxt_switches" => some(&mut status.voluntary_switches, scan::decimal(value)),
        b"nonvoluntary_ctxt_switches" => {
            some(&mut status.involuntary_switches, scan::decimal(value))
        }
        _ => None,
    }
}

/// The four ids of `Uid` and `Gid`.
fn four(value: &[u8]) -> Option<[u32; 4]> {
    scan::numbers(value)?.try_into().ok()
}

/// `0` or `1`.
fn flag(value: &[u8]) -> Option<bool> {
    match value {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

/// Text the kernel writes in plain ASCII.
fn words(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// Blank-separated ASCII words.
fn list(value: &[u8]) -> Vec<String> {
    scan::words(value).map(words).collect()
}

/// `Name` is written by `seq_escape_str` with ESCAPE_SPACE and ESCAPE_SPECIAL for newline and backslash only.
fn unescape_name(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\\', Some(b'n')) => {
                plain.push(b'\n');
                bytes.next();
            }
            (b'\\', Some(b'\\')) => {
                plain.push(b'\\');
                bytes.next();
            }
            _ => plain.push(byte),
        }
    }
    plain
}
