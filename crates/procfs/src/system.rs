//! What `/proc` tells about the whole machine, and the list of its processes.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{ParseError, ProcError};
use crate::process::{self, PROC, ProcessDirectory};
use crate::scan;
use crate::{FileLock, Processor, Stat, SwapArea, TcpEntry, cpuinfo, locks, swap, sysvipc, tcp};

/// Every process of the reader's `/proc`, ascending; threads are not listed.
///
/// # Errors
/// If `/proc` cannot be listed.
pub fn all_pids() -> Result<Vec<i32>, ProcError> {
    all_pids_under(Path::new(PROC))
}

/// Every process of another mount of procfs.
///
/// # Errors
/// If `root` cannot be listed.
pub fn all_pids_under(root: &Path) -> Result<Vec<i32>, ProcError> {
    fs::read_dir(root)
        .and_then(process::numeric_names)
        .map_err(|error| ProcError::io(root, error))
}

/// The `stat` of every process, ascending by pid. Those that end meanwhile are left out.
///
/// # Errors
/// If `/proc` cannot be listed or a `stat` not be understood.
pub fn all_stats() -> Result<Vec<Stat>, ProcError> {
    all_stats_under(Path::new(PROC))
}

/// The `stat` of every process of another mount of procfs.
///
/// # Errors
/// As [`all_stats`].
pub fn all_stats_under(root: &Path) -> Result<Vec<Stat>, ProcError> {
    let mut stats = Vec::new();
    for pid in all_pids_under(root)? {
        match ProcessDirectory::open_under(root, pid).and_then(|directory| directory.stat()) {
            Ok(stat) => stats.push(stat),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(stats)
}

/// The id of this boot, a UUID in text.
///
/// # Errors
/// If the file cannot be read.
pub fn boot_id() -> Result<String, ProcError> {
    parsed("sys/kernel/random/boot_id", parse_boot_id)
}

/// Time of boot, seconds since 1970.
///
/// # Errors
/// If `/proc/stat` cannot be read or has no `btime`.
pub fn boot_time() -> Result<u64, ProcError> {
    parsed("stat", parse_boot_time)
}

/// The first processor, with its feature flags.
///
/// # Errors
/// If `/proc/cpuinfo` cannot be read or has no flags.
pub fn processor() -> Result<Processor, ProcError> {
    parsed("cpuinfo", cpuinfo::parse)
}

/// The file locks of this machine whose holders the reader's pid namespace shows, and the requests that wait for them.
///
/// # Errors
/// If `/proc/locks` cannot be read.
pub fn locks() -> Result<Vec<FileLock>, ProcError> {
    parsed("locks", locks::parse)
}

/// The swap areas in use; none where the kernel was built without swap.
///
/// # Errors
/// If `/proc/swaps` is there and cannot be read.
pub fn swaps() -> Result<Vec<SwapArea>, ProcError> {
    listed("swaps", swap::parse)
}

/// The TCP sockets of the caller's network namespace, with what is left of closed connections; none where the kernel was built
/// without TCP.
///
/// # Errors
/// If `/proc/net/tcp` or `tcp6` is there and cannot be read.
pub fn tcp_sockets() -> Result<Vec<TcpEntry>, ProcError> {
    let mut all = listed("net/tcp", tcp::parse)?;
    all.extend(listed("net/tcp6", tcp::parse)?);
    Ok(all)
}

/// The System V shared memory segments of the caller's IPC namespace; none where the kernel was built without System V IPC.
///
/// # Errors
/// If `/proc/sysvipc/shm` is there and cannot be read.
pub fn segments() -> Result<Vec<sysvipc::Segment>, ProcError> {
    listed("sysvipc/shm", sysvipc::segments)
}

/// The sets of System V semaphores of the caller's IPC namespace.
///
/// # Errors
/// As [`segments`].
pub fn semaphore_sets() -> Result<Vec<sysvipc::SemaphoreSet>, ProcError> {
    listed("sysvipc/sem", sysvipc::semaphore_sets)
}

/// The System V message queues of the caller's IPC namespace.
///
/// # Errors
/// As [`segments`].
pub fn message_queues() -> Result<Vec<sysvipc::MessageQueue>, ProcError> {
    listed("sysvipc/msg", sysvipc::message_queues)
}

fn listed<T>(
    name: &str,
    parse: impl FnOnce(&[u8]) -> Result<Vec<T>, ParseError>,
) -> Result<Vec<T>, ProcError> {
    match parsed(name, parse) {
        Err(error) if error.is_missing() => Ok(Vec::new()),
        outcome => outcome,
    }
}

/// What is on its way to swap or still in memory after it, for the whole machine, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapTraffic {
    /// Pages that are in swap and in memory, unchanged since.
    pub cached: u64,
    /// Pages of all kinds that are being written.
    pub being_written: u64,
}

/// What is on its way to swap.
///
/// # Errors
/// If `/proc/meminfo` cannot be read, or lacks it.
pub fn swap_traffic() -> Result<SwapTraffic, ProcError> {
    parsed("meminfo", parse_swap_traffic)
}

/// Finds `SwapCached` and `Writeback` in `/proc/meminfo` (proc_meminfo(5)).
///
/// # Errors
/// If one of them is not there.
pub fn parse_swap_traffic(text: &[u8]) -> Result<SwapTraffic, ParseError> {
    Ok(SwapTraffic {
        cached: kilobytes(text, "SwapCached:")?,
        being_written: kilobytes(text, "Writeback:")?,
    })
}

/// The memory that can be had without swapping, in bytes.
///
/// # Errors
/// If `/proc/meminfo` cannot be read, or lacks it.
pub fn available_memory() -> Result<u64, ProcError> {
    let kilobytes = parsed("meminfo", |text| kilobytes(text, "MemAvailable:"))?;
    Ok(kilobytes.saturating_mul(1024))
}

/// The KiB that a line of `/proc/meminfo` tells.
fn kilobytes(text: &[u8], name: &str) -> Result<u64, ParseError> {
    let value = |line: &[u8]| {
        let rest = line.strip_prefix(name.as_bytes())?.trim_ascii();
        scan::decimal(rest.strip_suffix(b" kB")?)
    };
    scan::Lines::new(text)
        .find_map(|(_, line)| value(line))
        .ok_or_else(|| ParseError::new("meminfo", 1, "no line of this name", text))
}

/// Parses `/proc/sys/kernel/random/boot_id`.
///
/// # Errors
/// If it is not a UUID.
pub fn parse_boot_id(text: &[u8]) -> Result<String, ParseError> {
    str::from_utf8(text.trim_ascii())
        .ok()
        .filter(|id| {
            id.len() == 36
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        })
        .map(str::to_owned)
        .ok_or_else(|| ParseError::new("boot_id", 1, "not a UUID", text))
}

/// Finds `btime` in `/proc/stat`.
///
/// # Errors
/// If there is none.
pub fn parse_boot_time(text: &[u8]) -> Result<u64, ParseError> {
    scan::Lines::new(text)
        .find_map(|(_, line)| scan::decimal(line.strip_prefix(b"btime ")?))
        .ok_or_else(|| ParseError::new("stat", 1, "no line 'btime'", text))
}

/// Reads `/proc/NAME` and parses it.
fn parsed<T>(
    name: &str,
    parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
) -> Result<T, ProcError> {
    let path = Path::new(PROC).join(name);
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| process::read_whole(file, &mut bytes))
        .map_err(|error| ProcError::io(&path, error))?;
    parse(&bytes).map_err(|error| ProcError::parse(&path, error))
}
