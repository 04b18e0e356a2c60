//! Memory of processes being rebuilt.

use std::collections::BTreeMap;

use cryonaut_sys::{RemotePtr, ptrace, wait};
use cryonaut_tracee::CallList;

use super::{Queue, Rebuild};
use crate::error::Attempt;
use crate::resource::memory::AreaRecord;
use crate::resource::system_v::SharedSegment;
use crate::{Error, Result};

/// What a process' executable is (/proc/PID/exe).
#[derive(Clone, Copy, Debug)]
pub enum Executable<'a> {
    /// The file at this path.
    Path(&'a [u8]),
    /// What this descriptor of the process is open for.
    Number(i32),
    /// It is not known: that of the stub stays.
    Unknown,
}

impl Rebuild<'_> {
    /// The areas of a process as they are now.
    pub fn areas_of(&self, process: i32) -> Vec<AreaRecord> {
        let own = self.processes.get(&process);
        let shared = own
            .and_then(|built| built.memory)
            .and_then(|holder| self.processes.get(&holder));
        shared
            .or(own)
            .map(|built| built.areas.clone())
            .unwrap_or_default()
    }

    /// Notes the areas of a process after a change.
    pub fn set_areas(&mut self, process: i32, areas: Vec<AreaRecord>) {
        if let Some(built) = self.processes.get_mut(&process) {
            built.areas = areas;
        }
    }

    /// An address with some room that is free in every process.
    pub fn spare_place(&self) -> u64 {
        self.places.spare
    }

    /// Makes a shared memory object in the progenitor, from whom all inherit it, and fills it.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn make_shared_object(&mut self, object: u64, size: u64) -> Result<()> {
        let page = cryonaut_sys::PAGE_SIZE;
        let length = size.next_multiple_of(page).max(page);
        let at = self.reserve(object, length, page)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED
            | libc::MAP_ANONYMOUS
            | libc::MAP_FIXED_NOREPLACE
            | libc::MAP_NORESERVE;
        let arguments = [
            at.into(),
            length.into(),
            protection.into(),
            flags.into(),
            u64::MAX.into(),
            0_u64.into(),
        ];
        let mapped = self.call(0, "mapping shared memory", libc::SYS_mmap, &arguments)?;
        self.fill_shared(object, (at, mapped))
    }

    /// Attaches a System V segment in the progenitor, from whom all inherit it attached, and fills it.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn hold_segment(&mut self, segment: &SharedSegment, identifier: i32) -> Result<()> {
        let (object, length) = (segment.object(), segment.length());
        let at = self.reserve(object, length, segment.page())?;
        let arguments = [identifier.into(), at.into(), 0.into()];
        let what = "attaching a shared memory segment";
        let attached = self.call(0, what, libc::SYS_shmat, &arguments)?;
        self.segments.insert(object, (identifier, length));
        self.fill_shared(object, (at, attached))
    }

    /// A place in the arena for pages of this size.
    fn reserve(&mut self, object: u64, length: u64, page: u64) -> Result<u64> {
        let at = (self.places.arena + self.arena_used).next_multiple_of(page);
        self.arena_used = at + length + cryonaut_sys::PAGE_SIZE - self.places.arena;
        if self.arena_used > self.places.arena_length {
            return Err(Error::Failed("shared memory has no place".into()));
        }
        self.shared.insert(object, at);
        Ok(at)
    }

    fn fill_shared(&mut self, object: u64, (at, mapped): (u64, u64)) -> Result<()> {
        if mapped != at {
            return Err(Error::Failed("shared memory went to a wrong place".into()));
        }
        let pid = self.built(0)?.pid;
        let filled =
            crate::copy_in::fill(self.image, object, (pid, at), self.processors(), self.stop)?;
        self.shared_content.insert(object, filled);
        Ok(())
    }

    /// Id and length of the System V segment that an area refers to.
    ///
    /// # Errors
    /// When it has not been made: the image is damaged.
    pub fn segment(&self, object: u64) -> Result<(i32, u64)> {
        self.segments
            .get(&object)
            .copied()
            .ok_or_else(|| Error::Failed(format!("no shared memory segment {object}")))
    }

    /// An address with room for any one System V segment that is free in every process.
    pub fn workplace(&self) -> u64 {
        self.places.workplace
    }

    /// Has the pages of a shared object that exist mapped in a process, which mlock on fault would otherwise leave out.
    ///
    /// # Errors
    /// When the process stumbles.
    pub fn fault_in_shared(&self, process: i32, area: &AreaRecord) -> Result<()> {
        let pid = self.built(process)?.pid;
        let mut byte = [0];
        for &(start, end) in self.shared_content.get(&area.object).into_iter().flatten() {
            let from = start.max(area.offset);
            let to = end.min(area.offset + area.length());
            for offset in (from..to).step_by(cryonaut_sys::PAGE_SIZE as usize) {
                // An area without read permission keeps its pages unmapped, as it does for its process.
                let _ = cryonaut_sys::memory::read(
                    pid,
                    RemotePtr::new(area.start + offset - area.offset),
                    &mut byte,
                );
            }
        }
        Ok(())
    }

    /// The processors that this process may use, of which a rebuild itself keeps to one.
    pub fn processors(&self) -> &[u64] {
        self.processor
            .as_ref()
            .map_or(&[], |processor| &processor.all)
    }

    /// Where a shared memory object lies in every stub.
    ///
    /// # Errors
    /// When it has not been made.
    pub fn shared_object(&self, object: u64) -> Result<u64> {
        self.shared
            .get(&object)
            .copied()
            .ok_or_else(|| Error::Failed(format!("no shared memory {object}")))
    }

    /// Fills the private memory of a process from the image; of `kept`, inherited ranges, what the image does not say is dropped.
    ///
    /// # Errors
    /// When the image is damaged or memory is short.
    pub fn fill(&mut self, process: i32, kept: &[(u64, u64)]) -> Result<()> {
        let others: BTreeMap<u64, i32> = self
            .processes
            .iter()
            .map(|(process, built)| (*process as u64, built.pid))
            .collect();
        let pid = self.built(process)?.pid;
        let filled = crate::copy_in::fill_process(
            self.image,
            (process as u64, pid),
            kept,
            &others,
            self.processors(),
            self.stop,
        )?;
        let mut queue = Queue::new(process);
        for (start, end) in crate::copy_in::gaps(kept, &filled) {
            let arguments = [
                start.into(),
                (end - start).into(),
                libc::MADV_DONTNEED.into(),
            ];
            queue.expect(
                self,
                "dropping inherited pages",
                libc::SYS_madvise,
                &arguments,
                0,
            )?;
        }
        queue.flush(self)
    }

    /// prctl(PR_SET_MM, PR_SET_MM_MAP): eleven addresses, then the auxiliary vector and the executable.
    ///
    /// # Errors
    /// When the kernel finds the layout inconsistent, or forbids the executable.
    pub fn set_memory_map(
        &self,
        process: i32,
        layout: &[u64],
        auxiliary: &[u8],
        executable: Executable<'_>,
    ) -> Result<()> {
        const PR_SET_MM: i32 = 35;
        const PR_SET_MM_MAP: i32 = 14;
        let opened = match executable {
            Executable::Path(path) => {
                let mut list = CallList::new();
                let path = list.path(path);
                let open = list.call(
                    libc::SYS_openat,
                    &[libc::AT_FDCWD.into(), path.into(), libc::O_RDONLY.into()],
                );
                let outcomes = self.run(process, &list)?;
                Some(
                    outcomes
                        .result(open)
                        .attempt(|| format!("process {process}: opening its executable"))?,
                )
            }
            Executable::Number(_) | Executable::Unknown => None,
        };
        let descriptor = match executable {
            Executable::Number(number) => number as u32,
            _ => opened.map_or(u32::MAX, |number| number as u32),
        };
        let mut list = CallList::new();
        let vector = list.bytes(auxiliary);
        let map = list.space(13 * 8);
        for (index, word) in layout.iter().enumerate() {
            list.set_word(map, index * 8, *word);
        }
        list.point(map, 88, vector);
        list.set_word(
            map,
            96,
            auxiliary.len() as u64 | u64::from(descriptor) << 32,
        );
        let call = list.call(
            libc::SYS_prctl,
            &[
                PR_SET_MM.into(),
                PR_SET_MM_MAP.into(),
                map.into(),
                (13 * 8).into(),
                0.into(),
            ],
        );
        if let Some(number) = opened {
            list.call(libc::SYS_close, &[number.into()]);
        }
        self.run(process, &list)?
            .result(call)
            .attempt(|| format!("process {process}: setting its memory layout and executable"))
            .map(drop)
    }

    /// Takes the stub itself out of a process; afterwards no list can run there, and its leader stands at a system call's exit.
    ///
    /// # Errors
    /// When the process stumbles.
    pub fn unmap_stub(&mut self, process: i32) -> Result<()> {
        let pid = self.built(process)?.speaker;
        // No list may run any more (see `signal`): one call takes away the stub and all that lies after it, the arena last.
        let length = self.places.arena + self.places.arena_length - self.stub.base();
        let start = self.stub.call_instruction();
        let what = || format!("process {process}: unmapping the stub");
        let registers = ptrace::registers(pid).attempt(what)?;
        let arguments = [self.stub.base(), length, 0, 0, 0, 0];
        let registers = registers.about_to_call(start, libc::SYS_munmap as u64, arguments);
        ptrace::set_registers(pid, &registers).attempt(what)?;
        for _ in 0..16 {
            ptrace::resume_to_system_call(pid, 0).attempt(what)?;
            wait::wait_for(pid).attempt(what)?;
            let now = ptrace::registers(pid).attempt(what)?;
            if now.rip == start + 2 && now.rax == 0 {
                return Ok(());
            }
        }
        Err(Error::Failed(what()))
    }
}
