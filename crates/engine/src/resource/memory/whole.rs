//! What holds for a process' memory as a whole: whether new mappings are locked, and which protection keys are given out.

use cryonaut_tracee::CallList;

use crate::error::Attempt;
use crate::freeze::FrozenProcess;
use crate::{Error, Refusal, Result};

/// `MCL_FUTURE` and `MCL_ONFAULT` of mlockall(2).
pub const LOCK_FUTURE: u32 = 2;
/// See [`LOCK_FUTURE`].
pub const LOCK_ON_FAULT: u32 = 4;

/// Whether new mappings of a process are locked (mlockall(2) with MCL_FUTURE), as `MCL_*` bits. The kernel shows it nowhere, but
/// call lists use a mapping that was made as any of the program's own: it is locked if new ones are.
///
/// # Errors
/// When the process has ended.
pub fn future_lock(process: &FrozenProcess) -> Result<u32> {
    use cryonaut_procfs::smaps::VmFlag;
    let Some(sample) = process.list_memory() else {
        return Ok(0);
    };
    // The walk over the page tables is only for those that have locked something, which the sample itself would be.
    if process.directory.status()?.vm_locked.unwrap_or(0) == 0 {
        return Ok(0);
    }
    let areas = process.directory.smaps()?;
    let flags = areas
        .iter()
        .find(|area| (area.area.start..area.area.end).contains(&sample))
        .map(|area| &area.flags);
    Ok(match flags {
        Some(flags) if flags.contains(VmFlag::LockOnFault) => LOCK_FUTURE | LOCK_ON_FAULT,
        Some(flags) if flags.contains(VmFlag::Locked) => LOCK_FUTURE,
        _ => 0,
    })
}

/// Refuses a process that has protection keys (pkey_alloc(2)), also those that protect no area. They are asked for by calls of
/// pkey_mprotect(2) about addresses that no program can have: the kernel looks at the key first (do_mprotect_pkey in
/// mm/mprotect.c), and says EINVAL to one that is not given out, else ENOMEM.
///
/// # Errors
/// [`Error::Refused`].
pub fn refuse_protection_keys(process: &mut FrozenProcess) -> Result<()> {
    const KEYS: std::ops::Range<i32> = 1..16;
    const NOWHERE: u64 = 0xffff_8000_0000_0000;
    let mut list = CallList::new();
    let calls: Vec<_> = KEYS
        .map(|key| {
            let arguments = [
                NOWHERE.into(),
                cryonaut_sys::PAGE_SIZE.into(),
                libc::PROT_READ.into(),
                key.into(),
            ];
            (key, list.call(libc::SYS_pkey_mprotect, &arguments))
        })
        .collect();
    let outcomes = process.run(0, &list)?;
    let taken = calls.iter().find(|(_, call)| {
        outcomes
            .result(*call)
            .is_err_and(|error| error.raw_os_error() == Some(libc::ENOMEM))
    });
    match taken {
        Some((key, _)) => Err(Error::Refused(vec![Refusal {
            pid: process.pid,
            process: process.name(),
            object: format!("memory protection key {key}"),
            reason: "the keys that a program has (pkey_alloc) are not saved".into(),
            remedy: "start the program without protection keys".into(),
        }])),
        None => Ok(()),
    }
}

/// Whether this machine's processor and kernel have protection keys at all.
///
/// # Errors
/// When /proc/cpuinfo cannot be read.
pub fn has_protection_keys() -> Result<bool> {
    Ok(crate::host::processor()?.flags.contains("ospke"))
}

/// Arguments of the call that has new mappings locked.
///
/// # Errors
/// When this user may lock nothing.
pub fn lock_future(
    rebuild: &crate::rebuild::Rebuild<'_>,
    process: i32,
    future_lock: u32,
) -> Result<()> {
    let mut list = CallList::new();
    let call = list.call(libc::SYS_mlockall, &[u64::from(future_lock).into()]);
    rebuild
        .run(process, &list)?
        .result(call)
        .attempt(|| {
            format!("process {process}: having new mappings locked as before (see `ulimit -l`)")
        })
        .map(drop)
}
