//! Remote system calls in a live program.
//!
//! The code sits in unused bytes after the vDSO's image (or after the text of a mapped file), written there through
//! /proc/PID/mem; lists sit in a small private mapping of their own. The order of requests is such that the task comes home by
//! itself if this process is killed after any single one of them: first the code and the way back are in place, then
//! registers point there; the way back undoes the mapping, restores mask and registers, and continues the interrupted call.
//!
//! *Delicate* tasks are the one exception. The filters of a task under seccomp are suspended while it runs a list, and in force
//! again at the moment its tracer dies, when the rest of the list and the way back may be calls that they punish. No order of
//! requests helps there: the kernel asks the filters after the last stop before a call. System call user dispatch is switched off
//! meanwhile, and would stay off. Whoever traces such a task must not be what a user kills; see `cryonaut_cli`, which has a
//! process apart do it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use cryonaut_procfs::maps::{Area, AreaName};
use cryonaut_sys::arch::{self, GuestFrame};
use cryonaut_sys::{PAGE_SIZE, RemotePtr, ptrace, wait};

use crate::waiting::await_stop;
use crate::{CallList, Error, Outcomes, Result, Stopped, at, read_exact, write_all};

/// How much a process maps to run call lists, in bytes.
pub const REGION: u64 = 64 * 1024;
const ENOSYS: u64 = -(libc::ENOSYS as i64) as u64;

/// Signals whose default is to be ignored: they can end a list unseen by the program. SIGCONT never: it undoes job stops.
const QUIET_SIGNALS: [i32; 3] = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD];

/// A process that runs call lists for us while it is stopped.
#[derive(Debug)]
pub struct Guest {
    pid: i32,
    memory: File,
    code: u64,
    region: u64,
}

/// Bytes between two places for guest code.
fn stride() -> usize {
    arch::guest_code().len().next_multiple_of(16)
}

/// The last page of an area, with the places for guest code in it.
struct Page {
    address: u64,
    bytes: [u8; PAGE_SIZE as usize],
}

impl Page {
    fn read(pid: i32, area: &Area) -> Option<Self> {
        let mut page = Self {
            address: area.end - PAGE_SIZE,
            bytes: [0; PAGE_SIZE as usize],
        };
        read_exact(pid, RemotePtr::new(page.address), &mut page.bytes).ok()?;
        Some(page)
    }

    fn is_guest(&self, offset: usize) -> bool {
        self.bytes[offset..].starts_with(arch::GUEST_MAGIC)
    }

    /// Offsets of all places after the image's own last byte and a gap: zeros right after it may belong to it.
    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let first_guest = (0..self.bytes.len() - 16)
            .step_by(16)
            .find(|&offset| self.is_guest(offset));
        let image = &self.bytes[..first_guest.unwrap_or(self.bytes.len())];
        let used = image
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        let start = (used + 32).next_multiple_of(16);
        let start = first_guest.map_or(start, |guest| start.min(guest));
        (start..)
            .step_by(stride())
            .take_while(|offset| offset + stride() <= self.bytes.len())
    }
}

/// Mappings that can take guest code: executable, private, not writable; the vDSO first.
fn candidates(areas: &[Area]) -> Vec<&Area> {
    let fits = |area: &&Area| {
        let usable = matches!(area.name, AreaName::Vdso | AreaName::File { .. });
        usable && area.permissions.execute && !area.permissions.write && !area.permissions.shared
    };
    let mut candidates: Vec<&Area> = areas.iter().filter(fits).collect();
    candidates.sort_by_key(|area| !matches!(area.name, AreaName::Vdso));
    candidates
}

/// Finds room for the guest's code among a process' mappings: unused bytes after the image in the last page. What a killed
/// tracer has left behind is used again only when there is no other place: a signal handler may still return to it.
///
/// # Errors
/// [`Error::Unexpected`] when no mapping has room.
pub fn find_room(pid: i32, areas: &[Area]) -> Result<u64> {
    let mut left_behind = None;
    for area in candidates(areas) {
        let Some(page) = Page::read(pid, area) else {
            continue;
        };
        for offset in page.places() {
            let place = &page.bytes[offset..offset + stride()];
            if place.iter().all(|&byte| byte == 0) {
                return Ok(page.address + offset as u64);
            }
            if page.is_guest(offset) && left_behind.is_none() {
                left_behind = Some(page.address + offset as u64);
            }
        }
        if matches!(area.name, AreaName::Vdso) && left_behind.is_some() {
            break;
        }
    }
    left_behind.ok_or_else(|| {
        Error::Unexpected(
            pid,
            "no mapping of it has room for the code that asks it about itself".into(),
        )
    })
}

/// Address ranges of guest code in the vDSO that killed tracers have left behind. A task in there is on its way home.
pub fn left_behind(pid: i32, areas: &[Area]) -> Vec<std::ops::Range<u64>> {
    let Some(vdso) = areas
        .iter()
        .find(|area| matches!(area.name, AreaName::Vdso))
    else {
        return Vec::new();
    };
    let Some(page) = Page::read(pid, vdso) else {
        return Vec::new();
    };
    page.places()
        .filter(|&offset| page.is_guest(offset))
        .map(|offset| page.address + offset as u64..page.address + (offset + stride()) as u64)
        .collect()
}

impl Guest {
    /// Prepares a process to run lists; `task` is one of its stopped tasks, `room` comes from [`find_room`], and (`process`,
    /// `task id`) is what the task calls itself. Processes that share its memory can run lists, too.
    ///
    /// # Errors
    /// When its memory cannot be written, or has no room for a small mapping.
    pub fn enter(pid: i32, task: &mut Stopped, inner: (i32, i32), room: u64) -> Result<Self> {
        let path = format!("/proc/{pid}/mem");
        let memory = at(
            pid,
            "opening its memory",
            OpenOptions::new().read(true).write(true).open(path),
        )?;
        let mut guest = Self {
            pid,
            memory,
            code: room,
            region: 0,
        };
        at(
            pid,
            "placing code",
            guest.memory.write_all_at(arch::guest_code(), room),
        )?;
        guest.place_frame(task, inner, 0)?;
        let mut region = guest.map_region(task, libc::MAP_PRIVATE)?;
        if region == -i64::from(libc::ENOMEM) as u64 {
            // Shared memory does not count as data memory (RLIMIT_DATA; is_data_mapping in mm/vma.h).
            region = guest.map_region(task, libc::MAP_SHARED)?;
        }
        if region > u64::MAX - 4095 {
            guest.bring_back(task)?;
            guest.remove_code()?;
            let error = std::io::Error::from_raw_os_error(-(region as i64) as i32);
            return Err(Error::NoMemory(pid, error));
        }
        guest.region = region;
        guest.place_frame(task, inner, 0)?;
        guest.bring_back(task)?;
        Ok(guest)
    }

    /// Has the task map the region; gives its address, or a negative error number.
    fn map_region(&self, task: &mut Stopped, sharing: i32) -> Result<u64> {
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (sharing | libc::MAP_ANONYMOUS) as u64;
        let boot = self.code + arch::guest_boot();
        let arguments = [0, REGION, protection, flags, u64::MAX, 0];
        let registers = task
            .registers()
            .about_to_call(boot, libc::SYS_mmap as u64, arguments);
        self.send_off(task, &registers, !0)?;
        self.until_call_returns(task, boot + 2)
    }

    /// Runs a list in `task`, which calls itself `inner` (process id, task id); `caught` are the signals that its process
    /// handles (`SigCgt`).
    ///
    /// # Errors
    /// [`Error::Gone`]; a list that does not fit is [`Error::Unexpected`].
    pub fn run(
        &self,
        task: &mut Stopped,
        inner: (i32, i32),
        caught: u64,
        list: &CallList,
    ) -> Result<Outcomes> {
        let bytes = list.encode(self.region);
        if bytes.len() as u64 > REGION {
            return Err(Error::Unexpected(
                self.pid,
                format!("a list of {} bytes is too long", bytes.len()),
            ));
        }
        write_all(self.pid, RemotePtr::new(self.region), &bytes)?;
        let blocked = caught | task.mask();
        let signal = QUIET_SIGNALS
            .into_iter()
            .find(|signal| blocked & (1 << (signal - 1)) == 0)
            .unwrap_or(0);
        self.place_frame(task, inner, signal)?;
        let start = self.code + arch::guest_run();
        let registers = task
            .registers()
            .about_to_run(start, self.region, list.len() as u64);
        let mask = if signal == 0 {
            !0
        } else {
            !(1 << (signal - 1))
        };
        self.send_off(task, &registers, mask)?;
        let end = self.code + arch::guest_stopped();
        if signal == 0 {
            self.until_call_returns(task, end)?;
        } else {
            self.until_signal(task, signal, end)?;
        }
        self.bring_back(task)?;
        let mut bytes = bytes;
        read_exact(self.pid, RemotePtr::new(self.region), &mut bytes)?;
        Ok(list.outcomes(bytes))
    }

    /// The address of the mapping for lists. It was made as any mapping of the program's own would be, with what the kernel gives
    /// to all new ones of that process.
    pub fn list_memory(&self) -> u64 {
        self.region
    }

    /// Undoes everything that [`Guest::enter`] did.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn leave(self, task: &mut Stopped, inner: (i32, i32)) -> Result<()> {
        self.place_frame(task, inner, 0)?;
        let unmapped = self.code + arch::guest_unmapped();
        let arguments = [self.region, REGION, 0, 0, 0, 0];
        // The code's own unmapping call: what follows it is the way home, should we vanish here.
        let registers =
            task.registers()
                .about_to_call(unmapped - 2, libc::SYS_munmap as u64, arguments);
        self.send_off(task, &registers, !0)?;
        self.until_call_returns(task, unmapped)?;
        self.bring_back(task)?;
        self.remove_code()
    }

    fn remove_code(&self) -> Result<()> {
        at(
            self.pid,
            "removing code",
            self.memory
                .write_all_at(&vec![0; arch::guest_code().len()], self.code),
        )
    }

    fn place_frame(&self, task: &Stopped, (process, tid): (i32, i32), signal: i32) -> Result<()> {
        let frame = GuestFrame {
            process,
            task: tid,
            signal,
            region: (self.region, REGION),
            mask: task.mask(),
            registers: task.registers().continued(),
        };
        at(self.pid, "placing the way back", {
            self.memory
                .write_all_at(&frame.to_bytes(), self.code + arch::guest_frame())
        })
    }

    /// Registers first: from then on the code itself restores the mask. Filters before all: a task whose tracer dies right after
    /// that is at home, and under its filters again.
    fn send_off(&self, task: &Stopped, registers: &arch::Registers, mask: u64) -> Result<()> {
        task.suspend_judges()?;
        at(
            task.tid(),
            "setting registers",
            ptrace::set_registers(task.tid(), registers),
        )?;
        at(
            task.tid(),
            "blocking signals",
            ptrace::set_signal_mask(task.tid(), mask),
        )
    }

    /// The mask first: until the registers are back, the code would restore it anyway. Filters last: nothing of the program's
    /// own runs without them.
    fn bring_back(&self, task: &Stopped) -> Result<()> {
        at(
            task.tid(),
            "restoring its signal mask",
            ptrace::set_signal_mask(task.tid(), task.mask()),
        )?;
        at(
            task.tid(),
            "restoring registers",
            ptrace::set_registers(task.tid(), task.registers()),
        )?;
        task.restore_judges()
    }

    /// Runs until the system call that ends at `end` has returned; gives its result.
    fn until_call_returns(&self, task: &mut Stopped, end: u64) -> Result<u64> {
        let tid = task.tid();
        loop {
            at(
                tid,
                "letting it run a call",
                ptrace::resume_to_system_call(tid, 0),
            )?;
            match await_stop(tid)? {
                wait::Status::Stopped { signal, event: 0 } if signal == libc::SIGTRAP | 0x80 => {
                    let registers = at(tid, "reading registers", ptrace::registers(tid))?;
                    if registers.rip == end && registers.rax != ENOSYS {
                        return Ok(registers.rax);
                    }
                }
                wait::Status::Stopped { signal, event: 0 } => task.hold(signal),
                wait::Status::Stopped { .. } => {}
                _ => return Err(Error::Gone(tid)),
            }
        }
    }

    /// Runs until the list's closing signal to itself arrives. Others of that number mean nothing to the program: dropped.
    fn until_signal(&self, task: &mut Stopped, signal: i32, end: u64) -> Result<()> {
        let tid = task.tid();
        loop {
            at(tid, "letting it run a list", ptrace::resume(tid, 0))?;
            match await_stop(tid)? {
                wait::Status::Stopped {
                    signal: seen,
                    event: 0,
                } if seen == signal => {
                    if at(tid, "reading registers", ptrace::registers(tid))?.rip == end {
                        return Ok(());
                    }
                }
                wait::Status::Stopped {
                    signal: seen,
                    event: 0,
                } => task.hold(seen),
                wait::Status::Stopped { .. } => {}
                _ => return Err(Error::Gone(tid)),
            }
        }
    }
}
