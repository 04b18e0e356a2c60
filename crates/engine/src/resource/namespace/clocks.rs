//! The monotonic clocks of a job that comes back with its pids, beside everything else: after a reboot or on another machine
//! they would jump, and deadlines that the program keeps in its memory with them. A time namespace (time_namespaces(7)) lets
//! them go on from where they were. The first process makes it; it takes effect for those born of it, which all others are.

use std::fmt;
use std::path::Path;

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::{spawn, task};
use cryonaut_tracee::CallList;

use super::{NamespacesRecord, offset, offsets};
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::{Error, Result};

/// The clocks that a time namespace moves: number, name in /proc/PID/timens_offsets.
const CLOCKS: [(i32, &str); 2] = [
    (libc::CLOCK_MONOTONIC, "monotonic"),
    (libc::CLOCK_BOOTTIME, "boottime"),
];
const NANOSECONDS: i128 = 1_000_000_000;

/// Identifies the time since this machine was started: /proc/sys/kernel/random/boot_id.
pub fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().into()
}

/// Plans the clocks of a job that shares our pids; in fresh namespaces they go on anyway.
pub fn plan(record: &NamespacesRecord, host: &Host, plan: &mut Plan) {
    let clock = |clock: i32| task::clock(clock).unwrap_or(i128::MAX);
    let goes_back = clock(libc::CLOCK_MONOTONIC) < i128::from(record.monotonic)
        || clock(libc::CLOCK_BOOTTIME) < i128::from(record.boottime);
    if !host.shares_pids || !(goes_back || jumps(record, &boot())) {
        return;
    }
    if may_set_clocks() {
        plan.linked_step(
            Stage::Objects,
            0,
            vec![Token::Process(0)],
            vec![],
            SetClocks {
                monotonic: record.monotonic,
                boottime: record.boottime,
            },
        );
    } else if goes_back {
        plan.remarks.push(
            "this machine has been up for a shorter time than the job has seen, and time namespaces are not to be had: its \
             monotonic clocks go back"
                .into(),
        );
    } else {
        plan.remarks.push(
            "this machine was started at another time than the one that the job ran on, and time namespaces are not to be \
             had: its monotonic clocks jump ahead"
                .into(),
        );
    }
}

/// Whether the job's clocks had nothing to do with those of this machine: another boot, or a time namespace of its own.
fn jumps(record: &NamespacesRecord, boot: &str) -> bool {
    let rebooted = !record.boot.is_empty() && record.boot != boot;
    rebooted || record.has_own("time")
}

/// Whether time namespaces can be made here, and their clocks set.
fn may_set_clocks() -> bool {
    const NEEDED: u64 = 1 << 21 | 1 << 25;
    let capabilities = spawn::effective_capabilities().unwrap_or(0);
    let most = std::fs::read_to_string("/proc/sys/user/max_time_namespaces").unwrap_or_default();
    capabilities & NEEDED == NEEDED
        && Path::new("/proc/self/timens_offsets").exists()
        && most.trim() != "0"
}

/// Has all processes that are born of the first live in a time namespace where the clocks go on.
struct SetClocks {
    /// CLOCK_MONOTONIC at the checkpoint, in ns.
    monotonic: i64,
    /// CLOCK_BOOTTIME at the checkpoint, in ns.
    boottime: i64,
}

impl fmt::Display for SetClocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "let the monotonic clocks go on from where they were")
    }
}

impl Action for SetClocks {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let here = offsets(&ProcessDirectory::open(spawn::own_pid())?)?;
        let mut lines = String::new();
        for ((clock, name), saved) in CLOCKS.into_iter().zip([self.monotonic, self.boottime]) {
            let now = task::clock(clock).attempt(|| format!("reading the {name} clock"))?;
            // The file counts from the machine's own clocks; we may live in a time namespace ourselves.
            let ahead = offset(&here, name) + i128::from(saved) - now;
            lines.push_str(&line(name, ahead));
        }
        let mut list = CallList::new();
        let unshare = list.call(libc::SYS_unshare, &[spawn::namespace::TIME.into()]);
        let [open, write] = list.write_file(b"/proc/self/timens_offsets", lines.as_bytes());
        let outcomes = rebuild.run(0, &list)?;
        for (call, what) in [
            (unshare, "making a time namespace"),
            (open, "opening /proc/self/timens_offsets"),
            (write, "setting the clocks of the time namespace"),
        ] {
            outcomes.result(call).map_err(|error| {
                Error::Failed(format!(
                    "{what}: {error}; --pids namespace may still be possible"
                ))
            })?;
        }
        Ok(())
    }
}

/// A line of timens_offsets.
fn line(name: &str, ahead: i128) -> String {
    let (seconds, rest) = (ahead.div_euclid(NANOSECONDS), ahead.rem_euclid(NANOSECONDS));
    format!("{name} {seconds} {rest}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_kept_where_they_would_jump() {
        let record = NamespacesRecord {
            boot: "a".into(),
            ..NamespacesRecord::default()
        };
        assert!(!jumps(&record, "a"));
        assert!(jumps(&record, "b"));
        assert!(!jumps(&NamespacesRecord::default(), "b"));
        let moved = NamespacesRecord {
            own: vec!["time".into()],
            ..record
        };
        assert!(jumps(&moved, "a"));
        assert!(!boot().is_empty());
    }

    #[test]
    fn offsets_are_written_as_the_kernel_reads_them() {
        assert_eq!(line("monotonic", 1_500_000_000), "monotonic 1 500000000\n");
        assert_eq!(line("boottime", -1), "boottime -1 999999999\n");
    }
}
