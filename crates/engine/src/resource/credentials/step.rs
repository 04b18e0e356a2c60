//! The steps that give a stub its credentials and flags.
//!
//! What a stub starts with is read from its status, so that the same step serves root, an ordinary user in a fresh user
//! namespace (all capabilities there, kept ambient) and a user who may choose pids.

use std::fmt;

use cryonaut_procfs::{ProcessDirectory, Status};
use cryonaut_tracee::{Argument, CallId, CallList, Outcomes};

use super::capability::{SETPCAP, members, split};
use super::{CapabilitySets, CredentialsRecord, four, names};
use crate::error::Attempt;
use crate::plan::Action;
use crate::rebuild::Rebuild;
use crate::{Error, Result};

/// Sets what the out-of-memory killer thinks of a process. Done from outside and first, while its files are still ours.
pub(super) struct AdjustScore {
    pub(super) process: i32,
    pub(super) score: i32,
}

impl fmt::Display for AdjustScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set oom_score_adj to {}", self.score)
    }
}

impl Action for AdjustScore {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let pid = rebuild.built(self.process)?.pid;
        let now = ProcessDirectory::open(pid)?.oom_score_adj()?;
        if now == self.score {
            return Ok(());
        }
        match std::fs::write(format!("/proc/{pid}/oom_score_adj"), self.score.to_string()) {
            // Only root may lower it: the plan remarked on that.
            Err(error)
                if error.kind() == std::io::ErrorKind::PermissionDenied && self.score < now =>
            {
                Ok(())
            }
            outcome => {
                outcome.attempt(|| format!("process {}: setting oom_score_adj", self.process))
            }
        }
    }
}

/// Gives every task of a process its users, groups and capabilities.
pub(super) struct SetCredentials {
    pub(super) tasks: Vec<i32>,
    pub(super) record: CredentialsRecord,
}

impl fmt::Display for SetCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.record;
        write!(
            f,
            "become user {} group {}",
            four(&record.users),
            four(&record.groups)
        )?;
        match record.capabilities.permitted {
            0 => write!(f, " without capabilities"),
            permitted => write!(f, " with {}", names(permitted)),
        }
    }
}

impl Action for SetCredentials {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let process = self.record.process;
        // All of these began as copies of the leader, and nothing has changed them since.
        let Some(&first) = self.tasks.first() else {
            return Ok(());
        };
        let now = ProcessDirectory::open(rebuild.task(process, first)?)?.status()?;
        let calls = Calls::from(&self.record, &now);
        for &task in &self.tasks {
            calls.check(process, &rebuild.run_in_task(process, task, &calls.list)?)?;
        }
        Ok(())
    }
}

/// Gives the only task of a process its users and groups, and leaves it the capabilities that it has: before it enters a user
/// namespace in which they may have other names, or none.
///
/// # Errors
/// When a call fails.
pub(crate) fn become_before_user_namespace(
    rebuild: &Rebuild<'_>,
    record: &CredentialsRecord,
) -> Result<()> {
    let process = record.process;
    let now = ProcessDirectory::open(rebuild.built(process)?.pid)?.status()?;
    let mut calls = Calls {
        list: CallList::new(),
        expected: Vec::new(),
    };
    let may_set_bits = CapabilitySets::of(&now).effective >> SETPCAP & 1 == 1;
    calls.identity(record, &now, may_set_bits);
    if calls.list.is_empty() {
        return Ok(());
    }
    calls.check(process, &rebuild.run(process, &calls.list)?)
}

/// Calls with what they are for, and what they must return where that tells success from failure.
pub(super) struct Calls {
    pub(super) list: CallList,
    expected: Vec<(CallId, &'static str, Option<u64>)>,
}

impl Calls {
    /// The calls that lead one task from what it is to what it was.
    pub(super) fn from(record: &CredentialsRecord, now: &Status) -> Self {
        let mut calls = Self {
            list: CallList::new(),
            expected: Vec::new(),
        };
        let wanted = record.capabilities.known_here();
        let has = CapabilitySets::of(now);
        let may_set_bits = has.effective >> SETPCAP & 1 == 1;
        calls.identity(record, now, may_set_bits);
        // From here on the task holds what it was started with, so that sets can grow before they shrink.
        let unchanged = wanted == has;
        if !unchanged {
            calls.capability_sets(
                "its inheritable capabilities",
                has.permitted,
                has.permitted,
                wanted.inheritable,
            );
            calls.prctl(
                "its ambient capabilities",
                &[
                    libc::PR_CAP_AMBIENT.into(),
                    libc::PR_CAP_AMBIENT_CLEAR_ALL.into(),
                ],
            );
            for capability in members(wanted.ambient) {
                let arguments = [
                    libc::PR_CAP_AMBIENT.into(),
                    libc::PR_CAP_AMBIENT_RAISE.into(),
                    capability.into(),
                ];
                calls.prctl("its ambient capabilities", &arguments);
            }
            for capability in members(has.bounding & !wanted.bounding) {
                calls.prctl(
                    "its capability bounding set",
                    &[libc::PR_CAPBSET_DROP.into(), capability.into()],
                );
            }
        }
        if may_set_bits {
            calls.prctl(
                "its secure bits",
                &[
                    libc::PR_SET_SECUREBITS.into(),
                    u64::from(record.secure_bits).into(),
                ],
            );
        }
        if !unchanged {
            calls.capability_sets(
                "its capabilities",
                wanted.effective,
                wanted.permitted,
                wanted.inheritable,
            );
        }
        // A stub has that of the restart, whatever it is.
        calls.add(
            "its personality",
            libc::SYS_personality,
            &[u64::from(record.personality).into()],
            None,
        );
        if record.no_new_privileges {
            calls.prctl(
                "no_new_privs",
                &[libc::PR_SET_NO_NEW_PRIVS.into(), 1.into()],
            );
        }
        calls
    }

    /// Whether each call did what it was for.
    pub(super) fn check(&self, process: i32, outcomes: &Outcomes) -> Result<()> {
        for (call, what, expected) in &self.expected {
            let value = outcomes
                .result(*call)
                .attempt(|| format!("process {process}: setting {what}"))?;
            if expected.is_some_and(|expected| expected != value) {
                return Err(Error::Failed(format!(
                    "process {process}: setting {what} had no effect"
                )));
            }
        }
        Ok(())
    }

    /// Groups first, while the right to set them is there; users last. Capabilities are kept meanwhile.
    fn identity(&mut self, record: &CredentialsRecord, now: &Status, may_set_bits: bool) {
        let mut groups_now = now.groups.clone();
        groups_now.sort_unstable();
        if record.supplementary != groups_now {
            let bytes: Vec<u8> = record
                .supplementary
                .iter()
                .flat_map(|group| group.to_le_bytes())
                .collect();
            let buffer = self.list.bytes(&bytes);
            let count = record.supplementary.len() as u64;
            self.add(
                "its supplementary groups",
                libc::SYS_setgroups,
                &[count.into(), buffer.into()],
                Some(0),
            );
        }
        if record.groups != now.gid {
            self.three("its groups", libc::SYS_setresgid, &record.groups);
            self.file_system_id(
                "its file system group",
                libc::SYS_setfsgid,
                record.groups[3],
            );
        }
        if record.users != now.uid {
            if may_set_bits {
                let bits = libc::SECBIT_NO_SETUID_FIXUP as u32;
                self.prctl(
                    "the bit that keeps capabilities",
                    &[libc::PR_SET_SECUREBITS.into(), u64::from(bits).into()],
                );
            } else {
                self.prctl(
                    "the bit that keeps capabilities",
                    &[libc::PR_SET_KEEPCAPS.into(), 1.into()],
                );
            }
            self.three("its users", libc::SYS_setresuid, &record.users);
            self.file_system_id("its file system user", libc::SYS_setfsuid, record.users[3]);
            if !may_set_bits {
                self.prctl(
                    "the bit that keeps capabilities",
                    &[libc::PR_SET_KEEPCAPS.into(), 0.into()],
                );
            }
        }
    }

    fn add(
        &mut self,
        what: &'static str,
        number: i64,
        arguments: &[Argument],
        expected: Option<u64>,
    ) {
        let call = self.list.call(number, arguments);
        self.expected.push((call, what, expected));
    }

    fn prctl(&mut self, what: &'static str, arguments: &[Argument]) {
        self.add(what, libc::SYS_prctl, arguments, Some(0));
    }

    fn three(&mut self, what: &'static str, number: i64, ids: &[u32]) {
        let arguments: Vec<Argument> = ids[..3].iter().map(|id| u64::from(*id).into()).collect();
        self.add(what, number, &arguments, Some(0));
    }

    /// setfsuid(2) and setfsgid(2) return the old id and never an error: asking again, by an id that none is, tells.
    fn file_system_id(&mut self, what: &'static str, number: i64, id: u32) {
        self.add(what, number, &[u64::from(id).into()], None);
        self.add(
            what,
            number,
            &[u64::from(u32::MAX).into()],
            Some(u64::from(id)),
        );
    }

    fn capability_sets(
        &mut self,
        what: &'static str,
        effective: u64,
        permitted: u64,
        inheritable: u64,
    ) {
        const VERSION_3: u64 = 0x2008_0522;
        let header = self.list.bytes(&VERSION_3.to_le_bytes());
        let data = self.list.bytes(&split(effective, permitted, inheritable));
        self.add(
            what,
            libc::SYS_capset,
            &[header.into(), data.into()],
            Some(0),
        );
    }
}

/// Sets what belongs to the whole process. Last, since a change of users resets the dumpable flag.
pub(super) struct SetFlags {
    pub(super) record: CredentialsRecord,
}

impl fmt::Display for SetFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.record;
        write!(
            f,
            "set core dump filter {:#x}, dumpable {}",
            record.core_dump_filter,
            dumpable(record)
        )?;
        if record.child_subreaper {
            write!(f, ", child subreaper")?;
        }
        if record.huge_pages_disabled != 0 {
            write!(f, ", no huge pages")?;
        }
        if record.deny_write_execute != 0 {
            write!(f, ", write-or-execute")?;
        }
        if record.memory_merge {
            write!(f, ", page merging")?;
        }
        Ok(())
    }
}

impl Action for SetFlags {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let record = &self.record;
        let process = record.process;
        let pid = rebuild.built(process)?.pid;
        if ProcessDirectory::open(pid)?.coredump_filter()? != Some(record.core_dump_filter) {
            std::fs::write(
                format!("/proc/{pid}/coredump_filter"),
                format!("{:#x}", record.core_dump_filter),
            )
            .attempt(|| format!("process {process}: setting its core dump filter"))?;
        }
        let calls = flag_calls(record);
        calls.check(process, &rebuild.run(process, &calls.list)?)
    }
}

/// The kernel sets 2 by itself and lets nobody ask for it; 0 shows no more to anybody.
fn dumpable(record: &CredentialsRecord) -> u64 {
    u64::from(record.dumpable == 1)
}

pub(super) fn flag_calls(record: &CredentialsRecord) -> Calls {
    const PR_SET_MDWE: i32 = 65;
    const PR_SET_MEMORY_MERGE: i32 = 67;
    let mut calls = Calls {
        list: CallList::new(),
        expected: Vec::new(),
    };
    if record.child_subreaper {
        calls.prctl(
            "that it adopts orphans",
            &[libc::PR_SET_CHILD_SUBREAPER.into(), 1.into()],
        );
    }
    // These two a stub may have from the restart.
    let disable = u64::from(record.huge_pages_disabled != 0);
    let flags = u64::from(record.huge_pages_disabled) & !1;
    calls.prctl(
        "its use of huge pages",
        &[
            libc::PR_SET_THP_DISABLE.into(),
            disable.into(),
            flags.into(),
        ],
    );
    let merge = [
        PR_SET_MEMORY_MERGE.into(),
        u64::from(record.memory_merge).into(),
    ];
    if record.memory_merge {
        calls.prctl("that its pages are merged", &merge);
    } else {
        // Kernels that do not know it have it off.
        calls.list.call(libc::SYS_prctl, &merge);
    }
    if record.deny_write_execute != 0 {
        let mask = u64::from(record.deny_write_execute);
        calls.prctl(
            "that memory is writable or executable",
            &[PR_SET_MDWE.into(), mask.into()],
        );
    }
    calls.prctl(
        "its dumpable flag",
        &[libc::PR_SET_DUMPABLE.into(), dumpable(record).into()],
    );
    calls
}
