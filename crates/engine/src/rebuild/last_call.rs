//! Calls of a task that has no stub any more: the very last, by an instruction and memory of its own.

use cryonaut_procfs::ProcessDirectory;
use cryonaut_procfs::maps::{Area, AreaName};
use cryonaut_sys::{RemotePtr, ptrace, wait};
use cryonaut_tracee::{read_exact, write_all};

use super::Rebuild;
use crate::error::Attempt;
use crate::{Error, Result};

/// The bytes of the `syscall` instruction.
const CALL: [u8; 2] = [0x0f, 0x05];

impl Rebuild<'_> {
    /// Makes one call, which must succeed, in a task that is otherwise complete; `data` lies at the address that `arguments` is
    /// given. All registers, the signal mask and the memory that is borrowed are as before when it returns.
    ///
    /// # Errors
    /// The call's error, or that of a task that ends by it.
    pub fn last_call(
        &self,
        at: (i32, i32),
        what: &str,
        number: i64,
        data: &[u8],
        arguments: impl FnOnce(u64) -> [u64; 6],
    ) -> Result<u64> {
        self.last_call_at(at, what, number, data.len(), |address| {
            (data.to_vec(), arguments(address))
        })
    }

    /// As [`Rebuild::last_call`], with `length` bytes of data that depend on where they lie.
    ///
    /// # Errors
    /// As [`Rebuild::last_call`].
    pub fn last_call_at(
        &self,
        (process, task): (i32, i32),
        what: &str,
        number: i64,
        length: usize,
        make: impl FnOnce(u64) -> (Vec<u8>, [u64; 6]),
    ) -> Result<u64> {
        let (pid, tid) = (self.built(process)?.speaker, self.task(process, task)?);
        let what = || format!("task {task}: {what}");
        let areas = ProcessDirectory::open(pid)?.maps()?;
        let nowhere = |thing: &str| Error::Failed(format!("{}: it has no {thing} left", what()));
        let instruction =
            find_call(pid, &areas).ok_or_else(|| nowhere("system call instruction"))?;
        let place = find_memory(&areas, length as u64).ok_or_else(|| nowhere("memory"))?;
        let registers = ptrace::registers(tid).attempt(what)?;
        let mask = ptrace::signal_mask(tid).attempt(what)?;
        let mut borrowed = vec![0; length];
        read_exact(pid, RemotePtr::new(place), &mut borrowed)?;
        let (data, arguments) = make(place);
        write_all(pid, RemotePtr::new(place), &data)?;
        // Signals that are pending must wait until the task is let go.
        ptrace::set_signal_mask(tid, !0).attempt(what)?;
        let call = registers.about_to_call(instruction, number as u64, arguments);
        ptrace::set_registers(tid, &call).attempt(what)?;
        let result = until_returned(tid, instruction + 2, &what)?;
        ptrace::set_registers(tid, &registers).attempt(what)?;
        ptrace::set_signal_mask(tid, mask).attempt(what)?;
        write_all(pid, RemotePtr::new(place), &borrowed)?;
        match -(result as i64) {
            error @ 1..=4095 => Err(std::io::Error::from_raw_os_error(error as i32)).attempt(what),
            _ => Ok(result),
        }
    }
}

/// Lets a task run to the exit of its call, which ends before the instruction at `end`; gives its result.
fn until_returned(tid: i32, end: u64, what: &impl Fn() -> String) -> Result<u64> {
    const ENOSYS: u64 = -(libc::ENOSYS as i64) as u64;
    for _ in 0..16 {
        ptrace::resume_to_system_call(tid, 0).attempt(what)?;
        match wait::wait_for(tid).attempt(what)? {
            wait::Status::Stopped { .. } | wait::Status::Continued => {}
            _ => break,
        }
        let now = ptrace::registers(tid).attempt(what)?;
        // At its entry a call shows ENOSYS.
        if now.rip == end && now.rax != ENOSYS {
            return Ok(now.rax);
        }
    }
    Err(Error::Failed(format!("{}: it did not return", what())))
}

/// The address of a system call instruction in a process, also one in the middle of another instruction; the vDSO has some.
fn find_call(pid: i32, areas: &[Area]) -> Option<u64> {
    let executable = |area: &&Area| area.permissions.execute && area.permissions.read;
    let mut candidates: Vec<&Area> = areas.iter().filter(executable).collect();
    candidates.sort_by_key(|area| !matches!(area.name, AreaName::Vdso));
    candidates.into_iter().find_map(|area| {
        const LIMIT: u64 = 1 << 24;
        let mut bytes = vec![0; (area.end - area.start).min(LIMIT) as usize];
        read_exact(pid, RemotePtr::new(area.start), &mut bytes).ok()?;
        let at = bytes.windows(2).position(|pair| pair == CALL)?;
        Some(area.start + at as u64)
    })
}

/// Memory that a process can read and only it sees: the end of its stack, which is always in use, or of another area.
fn find_memory(areas: &[Area], length: u64) -> Option<u64> {
    let usable = |area: &&Area| {
        let permissions = &area.permissions;
        permissions.read
            && permissions.write
            && !permissions.shared
            && area.end - area.start >= length + 16
    };
    let mut candidates: Vec<&Area> = areas.iter().filter(usable).collect();
    candidates.sort_by_key(|area| !matches!(area.name, AreaName::Stack));
    candidates
        .first()
        .map(|area| (area.end - length) & !15)
        .filter(|place| *place != 0)
}
