//! A process at its memory limit: the calls that a checkpoint makes in it need a little memory, too.
//!
//! Its soft limits are raised for one call and put back at once. Should `cryo` die in between, a guardian puts them back. Where the
//! hard limit is full as well, and we may not raise it, the checkpoint is refused.

use cryonaut_sys::task::{self, Limit};
use cryonaut_sys::uapi::{RLIMIT_AS, RLIMIT_MEMLOCK};
use cryonaut_tracee::{Guest, REGION};

use super::FrozenProcess;
use crate::guardian::Guardian;
use crate::resource::limits;
use crate::{Error, Refusal, Result};

/// The limits that any new mapping has to keep.
const IN_THE_WAY: [u32; 2] = [RLIMIT_AS, RLIMIT_MEMLOCK];

/// Repeats `enter`, which has failed for want of memory, with the limits of process `pid` raised.
///
/// # Errors
/// Those of `enter`; when no guardian can be started.
pub(super) fn with_room(
    pid: i32,
    enter: impl FnOnce() -> cryonaut_tracee::Result<Guest>,
) -> Result<cryonaut_tracee::Result<Guest>> {
    let mut found = Vec::new();
    for resource in IN_THE_WAY {
        if let Ok(limit) = task::limit(pid, resource)
            && limit.soft != u64::MAX
        {
            found.push((resource, limit));
        }
    }
    let put_back = |found: &[(u32, Limit)]| {
        for (resource, limit) in found {
            // An error means that the process has ended.
            let _ = task::set_limit(pid, *resource, *limit);
        }
    };
    // Before anything is raised: it must know what to put back.
    let guardian = Guardian::standing_by(|| put_back(&found))?;
    for (resource, limit) in &found {
        raise(pid, *resource, *limit);
    }
    let entered = enter();
    put_back(&found);
    guardian.dismiss()?;
    Ok(entered)
}

/// Raises a limit as far as we may: without end with CAP_SYS_RESOURCE, else as far as the hard limit is.
fn raise(pid: i32, resource: u32, limit: Limit) {
    let unlimited = Limit {
        soft: u64::MAX,
        hard: u64::MAX,
    };
    let up_to_hard = Limit {
        soft: limit.hard,
        ..limit
    };
    let _ = task::set_limit(pid, resource, unlimited)
        .or_else(|_| task::set_limit(pid, resource, up_to_hard));
}

/// Why a process gets no memory although its soft limits were raised.
pub(super) fn refusal(process: &FrozenProcess, cause: &std::io::Error) -> Error {
    let status = &process.status;
    let (resource, option, used) = match cause.raw_os_error() {
        Some(libc::EAGAIN) => (RLIMIT_MEMLOCK, "memlock", status.vm_locked),
        _ => (RLIMIT_AS, "as", status.vm_size),
    };
    let used = used.unwrap_or(0).saturating_mul(1024);
    let limit = task::limit(process.pid, resource).unwrap_or_default();
    let (reason, remedy) = if used.saturating_add(REGION) > limit.hard {
        let name = limits::name_of(resource);
        (
            format!(
                "it has {} KiB, its hard limit {name} is {} KiB, and the {} KiB that a checkpoint needs in it are not left",
                used >> 10,
                limit.hard >> 10,
                REGION >> 10
            ),
            format!(
                "have root raise the limit (prlimit --pid {} --{option}=SOFT:HARD), or checkpoint it with CAP_SYS_RESOURCE",
                process.pid
            ),
        )
    } else {
        (
            format!("the kernel gives it no memory for the calls that a checkpoint makes in it: {cause}"),
            "free memory, or raise the number of mappings that a process may have (sysctl vm.max_map_count); then try again".into(),
        )
    };
    Error::Refused(vec![Refusal {
        pid: process.pid,
        process: process.name(),
        object: "its memory limit".into(),
        reason,
        remedy,
    }])
}
