//! Rebuilding: the state of a restart under way, and the few operations that actions are made of.
//!
//! Every process begins as a stub: a program of a few bytes that runs the system calls we list. Stubs carry
//! PTRACE_O_EXITKILL: until the commit in `release`, the end of this process, and dropping [`Rebuild`], kill all that was built.

use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;

use cryonaut_image::{RecordSet, SeekableImage};
use cryonaut_launch::{Child, ChildSpec, Nursery, Program, Role, Session, StopBeforeExec};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::spawn::message;
use cryonaut_sys::{RemotePtr, descriptor, pidfd, ptrace, task, wait};
use cryonaut_tracee::{Argument, CallId, CallList, Outcomes, Stub};

use crate::error::Attempt;
use crate::guardian::Guardian;
use crate::resource::memory::{AddressSpace, AreaRecord, Backing, SharedObject};
use crate::{Error, Result};

/// Bytes of list memory in a stub.
const STUB_DATA: u64 = 256 * 1024;
/// The same in the program that a stub is loaded as.
const LOADER_DATA: u64 = 64 * 1024;
/// Room for moving the vDSO and its data by way of.
const SPARE: u64 = 64 * 1024;
/// Where the search for room begins: above what executables use, below where libraries and stacks are.
const SEARCH_FROM: u64 = 0x1000_0000_0000;
const SEARCH_TO: u64 = 0x7000_0000_0000;
/// The signals that stubs block: all but SIGTRAP, which the breakpoint at the end of a list must not find blocked, or the kernel
/// resets its action.
const STUB_MASK: u64 = !(1 << (libc::SIGTRAP - 1));
const OPTIONS: ptrace::Options = ptrace::KILL_WITH_TRACER
    | ptrace::STOP_AT_EXEC
    | ptrace::MARK_SYSTEM_CALLS
    | libc::PTRACE_O_TRACEFORK;

/// A process that is being rebuilt.
#[derive(Debug)]
pub struct Built {
    /// Its pid as we see it.
    pub pid: i32,
    /// Its tasks: id in the image, id as we see it; the leader first.
    pub tasks: Vec<(i32, i32)>,
    areas: Vec<AreaRecord>,
}

/// Where job-wide memory lies while a job is rebuilt: free in every process.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    stub: u64,
    spare: u64,
    loader: u64,
    arena: u64,
    arena_length: u64,
}

impl Places {
    /// Finds room that no process of the image uses.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(records: &RecordSet) -> Result<Self> {
        let page = cryonaut_sys::PAGE_SIZE;
        let mut arena_length = 0;
        for object in records.all::<SharedObject>()? {
            arena_length += object.size.next_multiple_of(page) + page;
        }
        let wanted = page + STUB_DATA + page + SPARE + page + page + LOADER_DATA + page + arena_length + page;
        let mut used: Vec<(u64, u64)> = records
            .all::<AddressSpace>()?
            .iter()
            .flat_map(|space| space.areas.iter().map(|area| (area.start, area.end)))
            .collect();
        used.sort_unstable();
        let mut at = SEARCH_FROM;
        for (start, end) in used {
            if start >= at + wanted {
                break;
            }
            at = at.max(end.next_multiple_of(page) + page);
        }
        if at + wanted > SEARCH_TO {
            return Err(Error::Failed("the job's processes leave no address range free for rebuilding them".into()));
        }
        let spare = at + page + STUB_DATA + page;
        let loader = spare + SPARE + page;
        Ok(Self { stub: at, spare, loader, arena: loader + page + LOADER_DATA + page, arena_length })
    }
}

/// A restart under way.
pub struct Rebuild<'a> {
    /// The image.
    pub image: &'a SeekableImage,
    /// Its records.
    pub records: &'a RecordSet,
    /// Where processes are born.
    pub nursery: &'a Nursery,
    /// Kernel objects that slots refer to, by their number in the image.
    pub objects: BTreeMap<u64, OwnedFd>,
    /// Replacements for standard descriptors that lie outside the job.
    pub standard: [Option<std::fs::File>; 3],
    /// The master side of the terminal that the job is given.
    pub terminal: Option<OwnedFd>,
    /// What is to be done once the job is committed (cutting back files that grew).
    pub after_commit: Vec<Box<dyn FnOnce() -> Result<()>>>,
    /// Set when the user wants to stop.
    pub stop: &'a AtomicBool,
    stub: Stub,
    loader: Stub,
    places: Places,
    program: OwnedFd,
    channel: (OwnedFd, OwnedFd),
    channel_number: i32,
    progenitor: Option<(Child, i32)>,
    processes: BTreeMap<i32, Built>,
    shared: BTreeMap<u64, u64>,
    shared_content: BTreeMap<u64, Vec<(u64, u64)>>,
    helpers: Vec<i32>,
    roots: Vec<i32>,
    processor: Option<OneProcessor>,
    committed: bool,
}

impl<'a> Rebuild<'a> {
    /// Prepares; nothing is built yet. `standard` replaces standard descriptors that lie outside the job.
    ///
    /// # Errors
    /// When the stub program cannot be made.
    pub fn new(
        image: &'a SeekableImage,
        records: &'a RecordSet,
        nursery: &'a Nursery,
        standard: [Option<std::fs::File>; 3],
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let channel_number = crate::resource::file::free_number(records)?;
        let places = Places::find(records)?;
        let stub = Stub::at(places.stub, STUB_DATA);
        let loader = Stub::at(places.loader, LOADER_DATA);
        let program = descriptor::memory_file(c"cryo-stub").attempt(|| "making the stub program".into())?;
        let mut file = std::fs::File::from(program);
        file.write_all(&loader.executable()).attempt(|| "writing the stub program".into())?;
        file.rewind().attempt(|| "writing the stub program".into())?;
        let channel = message::message_sockets().attempt(|| "making a channel to the job".into())?;
        Ok(Self {
            image,
            records,
            nursery,
            objects: BTreeMap::new(),
            standard,
            terminal: None,
            after_commit: Vec::new(),
            stop,
            stub,
            loader,
            places,
            program: file.into(),
            channel,
            channel_number,
            progenitor: None,
            processes: BTreeMap::new(),
            shared: BTreeMap::new(),
            shared_content: BTreeMap::new(),
            helpers: Vec::new(),
            roots: Vec::new(),
            processor: OneProcessor::stay(),
            committed: false,
        })
    }

    /// Starts the process from which all others descend: it becomes no part of the job, but gives it its session and shared memory.
    ///
    /// # Errors
    /// When it cannot be started; a taken pid is said.
    pub fn start_progenitor(&mut self, pid: Option<i32>, session: Session) -> Result<()> {
        let file = self.program.try_clone().attempt(|| "starting a process".into())?;
        let mut spec = ChildSpec::new(Program::Image { file, name: "cryo-stub".into() });
        spec.inner_pid = pid;
        spec.session = session;
        spec.stop_before_exec = StopBeforeExec::Yes;
        spec.privilege = cryonaut_launch::Privilege::Kept;
        spec.role = Role::Other;
        let theirs = self.channel.1.try_clone().attempt(|| "starting a process".into())?;
        spec.keep_descriptors = vec![(theirs, self.channel_number)];
        let mut child = self.nursery.spawn(&spec).map_err(|error| Error::Failed(error.to_string()))?;
        let outer = child.pid;
        // Siblings are reported as clones (clone3 knows them by an exit signal of 0).
        ptrace::seize(outer, OPTIONS | libc::PTRACE_O_TRACECLONE).attempt(|| "tracing the first process".into())?;
        task::kill(outer, libc::SIGCONT).attempt(|| "starting the first process".into())?;
        loop {
            match wait::wait_for(outer).attempt(|| "waiting for the first process".into())? {
                wait::Status::Stopped { event: ptrace::EVENT_EXEC, .. } => break,
                wait::Status::Stopped { event: 0, signal } if signal != libc::SIGCONT && signal != libc::SIGSTOP => {
                    ptrace::resume(outer, signal).attempt(|| "starting the first process".into())?;
                }
                wait::Status::Stopped { .. } => {
                    ptrace::resume(outer, 0).attempt(|| "starting the first process".into())?;
                }
                wait::Status::Continued => {}
                _ => {
                    child.exec_outcome().map_err(|error| Error::Failed(error.to_string()))?;
                    return Err(Error::Failed("the first process ended before it was built".into()));
                }
            }
        }
        child.exec_outcome().map_err(|error| Error::Failed(error.to_string()))?;
        if let Some(processor) = &self.processor {
            // What follows has its own affinity restored; where this fails the rebuild is only slower.
            let _ = task::set_affinity(outer, &processor.only);
        }
        ptrace::set_signal_mask(outer, STUB_MASK).attempt(|| "blocking signals".into())?;
        let areas = self.clear_stub(outer)?;
        let inner = child.inner_pid;
        self.processes.insert(0, Built { pid: outer, tasks: vec![(inner, outer)], areas });
        self.progenitor = Some((child, inner));
        Ok(())
    }

    /// Leaves nothing mapped but the stub and what the kernel provides. The stub moves to anonymous memory: as long as any part
    /// of a process' executable is mapped, the kernel does not let it have another one.
    fn clear_stub(&self, pid: i32) -> Result<Vec<AreaRecord>> {
        let page = cryonaut_sys::PAGE_SIZE;
        let mut list = CallList::new();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let code = libc::PROT_READ | libc::PROT_EXEC;
        let data = libc::PROT_READ | libc::PROT_WRITE;
        let mut wanted = Vec::new();
        for (at, length, protection) in [(self.stub.base(), page, code), (self.stub.data(), STUB_DATA, data)] {
            let arguments =
                [at.into(), length.into(), protection.into(), flags.into(), u64::MAX.into(), 0_u64.into()];
            wanted.push((list.call(libc::SYS_mmap, &arguments), at));
        }
        let outcomes = self.loader.run(pid, pid, &list)?;
        for (call, at) in wanted {
            if outcomes.result(call).attempt(|| "mapping the stub".into())? != at {
                return Err(Error::Failed("the stub went to a wrong place".into()));
            }
        }
        write_memory(pid, self.stub.code(), cryonaut_sys::arch::stub_code())?;
        let mut kept = Vec::new();
        let mut list = CallList::new();
        let own = self.stub.base()..self.stub.base() + self.stub.length();
        for area in ProcessDirectory::open(pid)?.maps()? {
            let backing = match area.name {
                cryonaut_procfs::AreaName::Vdso => Backing::Vdso,
                cryonaut_procfs::AreaName::Vvar => Backing::Vvar,
                cryonaut_procfs::AreaName::VvarVclock => Backing::VvarVclock,
                cryonaut_procfs::AreaName::Vsyscall => continue,
                _ if own.contains(&area.start) => continue,
                _ => {
                    list.call(libc::SYS_munmap, &[area.start.into(), area.length().into()]);
                    continue;
                }
            };
            kept.push(AreaRecord { start: area.start, end: area.end, backing: backing as i32, ..AreaRecord::default() });
        }
        // Standard descriptors came along from us; only the channel stays.
        let channel = self.channel_number;
        if channel > 0 {
            list.call(libc::SYS_close_range, &[0.into(), (channel - 1).into(), 0.into()]);
        }
        list.call(libc::SYS_close_range, &[(channel + 1).into(), u64::from(u32::MAX).into(), 0.into()]);
        self.stub.run(pid, pid, &list)?;
        Ok(kept)
    }

    /// The process that the image calls `process`; 0 is the progenitor.
    ///
    /// # Errors
    /// When it has not been built: the plan is wrong.
    pub fn built(&self, process: i32) -> Result<&Built> {
        self.processes.get(&process).ok_or_else(|| Error::Failed(format!("process {process} is not there yet")))
    }

    /// All processes built so far, without the progenitor.
    pub fn all(&self) -> impl Iterator<Item = (i32, &Built)> {
        self.processes.iter().filter(|(process, _)| **process != 0).map(|(process, built)| (*process, built))
    }

    /// Makes the calls of a list in the leader of a process.
    ///
    /// # Errors
    /// When the process stumbles; the calls' own errors are in the outcomes.
    pub fn run(&self, process: i32, list: &CallList) -> Result<Outcomes> {
        let pid = self.built(process)?.pid;
        Ok(self.stub.run(pid, pid, list)?)
    }

    /// Makes the calls of a list in one task of a process.
    ///
    /// # Errors
    /// As [`Rebuild::run`].
    pub fn run_in_task(&self, process: i32, task: i32, list: &CallList) -> Result<Outcomes> {
        let (pid, tid) = (self.built(process)?.pid, self.task(process, task)?);
        Ok(self.stub.run(pid, tid, list)?)
    }

    /// Makes one call, which must succeed; `what` says what it is for.
    ///
    /// # Errors
    /// The call's error.
    pub fn call(&self, process: i32, what: &str, number: i64, arguments: &[Argument]) -> Result<u64> {
        let mut list = CallList::new();
        let call = list.call(number, arguments);
        self.run(process, &list)?.result(call).attempt(|| format!("process {process}: {what}"))
    }

    /// The task as we see it that the image calls `task`.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn task(&self, process: i32, task: i32) -> Result<i32> {
        let found = self.built(process)?.tasks.iter().find(|(inner, _)| *inner == task);
        found.map(|(_, outer)| *outer).ok_or_else(|| Error::Failed(format!("task {task} is not there yet")))
    }

    /// Has `parent` (0: the progenitor, as a sibling) fork the process `pid`. Its memory is a copy of its parent's.
    ///
    /// # Errors
    /// When the pid is taken, or fork fails.
    pub fn birth(&mut self, parent: i32, pid: i32, sibling: Sibling) -> Result<()> {
        let flags = if sibling == Sibling::Yes { libc::CLONE_PARENT as u64 } else { 0 };
        // With CLONE_PARENT the exit signal is the parent's own (clone(2)).
        let signal = if sibling == Sibling::Yes { 0 } else { libc::SIGCHLD as u64 };
        let mut list = CallList::new();
        let call = clone_call(&mut list, flags, signal, Some(pid));
        let by = self.built(parent)?.pid;
        let (outcomes, births) = self.stub.run_births(by, by, &list)?;
        outcomes.result(call).map_err(|error| match error.raw_os_error() {
            Some(libc::EEXIST) => Error::Failed(format!("pid {pid} was taken meanwhile; try again, or use --pids namespace")),
            _ => Error::Failed(format!("starting process {pid}: {error}")),
        })?;
        let outer = match births.first() {
            Some(&outer) => outer,
            None => return Err(Error::Failed(format!("process {pid} was started, but did not report"))),
        };
        await_birth(outer)?;
        ptrace::set_options(outer, OPTIONS).attempt(|| format!("tracing process {pid}"))?;
        let areas = self.built(parent)?.areas.clone();
        self.processes.insert(pid, Built { pid: outer, tasks: vec![(pid, outer)], areas });
        if sibling == Sibling::Yes {
            self.roots.push(pid);
        }
        Ok(())
    }

    /// Forks a process from `parent` that only holds an id and is ended by [`Rebuild::end_helper`]. Its parent is told nothing.
    ///
    /// # Errors
    /// When the pid is taken, or fork fails.
    pub fn birth_of_helper(&mut self, parent: i32, pid: i32) -> Result<()> {
        self.birth(parent, pid, Sibling::No)?;
        self.helpers.push(pid);
        Ok(())
    }

    /// Ends a helper; its parent reaps it.
    ///
    /// # Errors
    /// When that fails.
    pub fn end_helper(&mut self, parent: i32, pid: i32) -> Result<()> {
        self.end_process(pid, Some(libc::SIGKILL), 0)?;
        self.helpers.retain(|helper| *helper != pid);
        self.call(parent, "reaping a helper", libc::SYS_wait4, &[pid.into(), 0.into(), libc::__WALL.into(), 0.into()])?;
        self.drain_child_signal(parent)
    }

    /// Has a process end by `signal`, or with `status`; its parent does not reap it.
    ///
    /// # Errors
    /// When it does not.
    pub fn end_process(&mut self, process: i32, signal: Option<i32>, status: i32) -> Result<()> {
        let built = self.processes.remove(&process).ok_or_else(|| Error::Failed(format!("no process {process}")))?;
        let pid = built.pid;
        let start = self.stub.call_instruction();
        let registers = ptrace::registers(pid).attempt(|| format!("ending process {process}"))?;
        match signal {
            Some(libc::SIGKILL) => task::kill(pid, libc::SIGKILL).attempt(|| format!("ending process {process}"))?,
            Some(signal) => {
                // Its memory was dumped, if at all, at its first end. A limit of 1 keeps dumps from files and from programs
                // alike (core(5)).
                let limit = task::limit(pid, libc::RLIMIT_CORE).attempt(|| format!("ending process {process}"))?;
                let none = task::Limit { soft: 1.min(limit.hard), ..limit };
                task::set_limit(pid, libc::RLIMIT_CORE, none).attempt(|| format!("ending process {process}"))?;
                let mut list = CallList::new();
                // The default action of every signal is in force in a stub; only its mask keeps it from acting.
                list.call(libc::SYS_kill, &[process.into(), signal.into()]);
                self.stub.run(pid, pid, &list)?;
                ptrace::set_signal_mask(pid, 0).attempt(|| format!("ending process {process}"))?;
                ptrace::resume(pid, 0).attempt(|| format!("ending process {process}"))?;
            }
            None => {
                let arguments = [status as u64, 0, 0, 0, 0, 0];
                let registers = registers.about_to_call(start, libc::SYS_exit_group as u64, arguments);
                ptrace::set_registers(pid, &registers).attempt(|| format!("ending process {process}"))?;
                ptrace::resume(pid, 0).attempt(|| format!("ending process {process}"))?;
            }
        }
        loop {
            match wait::wait_for(pid) {
                Ok(wait::Status::Stopped { signal, event: 0 }) => {
                    ptrace::resume(pid, signal).attempt(|| format!("ending process {process}"))?;
                }
                Ok(wait::Status::Stopped { .. }) => {
                    ptrace::resume(pid, 0).attempt(|| format!("ending process {process}"))?;
                }
                Ok(wait::Status::Continued) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(Error::Failed(format!("ending process {process}: {error}"))),
            }
        }
    }

    /// Stops a process as job control does, by `signal` if that has any effect where it is, else by SIGSTOP. It still runs lists.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop_by_job_control(&self, process: i32, signal: i32) -> Result<()> {
        let pid = self.built(process)?.pid;
        let what = || format!("process {process}: stopping it again");
        // A blocked signal would be queued rather than delivered.
        ptrace::set_signal_mask(pid, STUB_MASK & !(1 << (signal - 1))).attempt(what)?;
        let stopped = self.deliver_stop(pid, signal);
        ptrace::set_signal_mask(pid, STUB_MASK).attempt(what)?;
        stopped.attempt(what)
    }

    fn deliver_stop(&self, pid: i32, signal: i32) -> std::io::Result<()> {
        for signal in [signal, libc::SIGSTOP] {
            task::kill(pid, libc::SIGSTOP)?;
            let mut deliver = 0;
            loop {
                ptrace::resume(pid, deliver)?;
                match wait::wait_for(pid)? {
                    wait::Status::Stopped { event: 0, signal: libc::SIGSTOP } => deliver = signal,
                    wait::Status::Stopped { event: ptrace::EVENT_STOP, .. } => return Ok(()),
                    // Back at its breakpoint: a stop by the terminal has no effect in an orphaned group.
                    wait::Status::Stopped { .. } => break,
                    _ => return Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
                }
            }
        }
        Err(std::io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Takes the SIGCHLD that the end of a child has left pending.
    ///
    /// # Errors
    /// When the process stumbles.
    pub fn drain_child_signal(&self, process: i32) -> Result<()> {
        let mut list = CallList::new();
        let set = list.bytes(&(1_u64 << (libc::SIGCHLD - 1)).to_le_bytes());
        let zero = list.space(16);
        list.call(libc::SYS_rt_sigtimedwait, &[set.into(), 0.into(), zero.into(), 8.into()]);
        self.run(process, &list)?;
        Ok(())
    }

    /// Starts the other threads of a process, with these ids.
    ///
    /// # Errors
    /// When an id is taken or a limit reached.
    pub fn start_threads(&mut self, process: i32, threads: &[i32]) -> Result<()> {
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM
            | libc::CLONE_PTRACE;
        let pid = self.built(process)?.pid;
        for chunk in threads.chunks(700) {
            let mut list = CallList::new();
            let calls: Vec<CallId> =
                chunk.iter().map(|&tid| clone_call(&mut list, flags as u64, 0, Some(tid))).collect();
            let outcomes = self.stub.run(pid, pid, &list)?;
            for (call, tid) in calls.iter().zip(chunk) {
                outcomes.result(*call).attempt(|| format!("process {process}: starting thread {tid}"))?;
            }
        }
        let nested = self.nursery.namespaces().is_some();
        let mut found: Vec<(i32, i32)> = Vec::new();
        if nested {
            let directory = ProcessDirectory::open(pid)?;
            for outer in directory.threads()? {
                if outer != pid {
                    let status = directory.task(outer)?.status()?;
                    found.push((status.namespace_pid.last().copied().unwrap_or(outer), outer));
                }
            }
        } else {
            found.extend(threads.iter().map(|&tid| (tid, tid)));
        }
        for &(_, outer) in &found {
            await_birth(outer)?;
        }
        let built = self.processes.get_mut(&process).expect("it was there above");
        built.tasks.extend(found);
        Ok(())
    }

    /// The areas of a process as they are now.
    pub fn areas_of(&self, process: i32) -> Vec<AreaRecord> {
        self.processes.get(&process).map(|built| built.areas.clone()).unwrap_or_default()
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
        let at = self.shared.values().copied().max().map_or(self.places.arena, |last| {
            let length = self.shared_length(last);
            last + length + page
        });
        let length = size.next_multiple_of(page).max(page);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE;
        let arguments =
            [at.into(), length.into(), protection.into(), flags.into(), u64::MAX.into(), 0_u64.into()];
        let mapped = self.call(0, "mapping shared memory", libc::SYS_mmap, &arguments)?;
        if mapped != at {
            return Err(Error::Failed("shared memory went to a wrong place".into()));
        }
        self.shared.insert(object, at);
        let pid = self.built(0)?.pid;
        let filled = crate::copy_in::fill(self.image, object, (pid, at), self.processors(), self.stop)?;
        self.shared_content.insert(object, filled);
        Ok(())
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
                let _ = cryonaut_sys::memory::read(pid, RemotePtr::new(area.start + offset - area.offset), &mut byte);
            }
        }
        Ok(())
    }

    /// The processors that threads of ours may use.
    fn processors(&self) -> &[u64] {
        self.processor.as_ref().map_or(&[], |processor| &processor.all)
    }

    fn shared_length(&self, at: u64) -> u64 {
        let object = self.shared.iter().find(|(_, place)| **place == at).map(|(object, _)| *object);
        let objects = self.records.all::<SharedObject>().unwrap_or_default();
        let size = objects.iter().find(|candidate| Some(candidate.id) == object).map_or(0, |object| object.size);
        size.next_multiple_of(cryonaut_sys::PAGE_SIZE).max(cryonaut_sys::PAGE_SIZE)
    }

    /// Where a shared memory object lies in every stub.
    ///
    /// # Errors
    /// When it has not been made.
    pub fn shared_object(&self, object: u64) -> Result<u64> {
        self.shared.get(&object).copied().ok_or_else(|| Error::Failed(format!("no shared memory {object}")))
    }

    /// Fills the private memory of a process from the image; of `kept`, inherited ranges, what the image does not say is dropped.
    ///
    /// # Errors
    /// When the image is damaged or memory is short.
    pub fn fill(&mut self, process: i32, kept: &[(u64, u64)]) -> Result<()> {
        let others: BTreeMap<u64, i32> =
            self.processes.iter().map(|(process, built)| (*process as u64, built.pid)).collect();
        let pid = self.built(process)?.pid;
        let filled = crate::copy_in::fill_process(self.image, (process as u64, pid), kept, &others, self.processors(), self.stop)?;
        let mut queue = Queue::new(process);
        for (start, end) in crate::copy_in::gaps(kept, &filled) {
            let arguments = [start.into(), (end - start).into(), libc::MADV_DONTNEED.into()];
            queue.expect(self, "dropping inherited pages", libc::SYS_madvise, &arguments, 0)?;
        }
        queue.flush(self)
    }

    /// Puts objects into descriptor slots of a process: (object, number, close on exec).
    ///
    /// # Errors
    /// When the process cannot have so many.
    pub fn give(&self, process: i32, slots: &[(BorrowedFd<'_>, i32, CloseOnExec)]) -> Result<()> {
        const AT_ONCE: usize = 200;
        let above = self.channel_number + 1;
        for chunk in slots.chunks(AT_ONCE) {
            let numbers: Vec<i32> = chunk.iter().map(|(object, ..)| object.as_raw_fd()).collect();
            message::send_message(self.channel.0.as_fd(), b"fds", &numbers, message::Waiting::Block)
                .attempt(|| format!("process {process}: sending descriptors"))?;
            let mut list = CallList::new();
            let received = self.receive_call(&mut list, chunk.len());
            let mut placed = Vec::new();
            let outcomes = self.run(process, &list)?;
            outcomes.result(received.call).attempt(|| format!("process {process}: receiving descriptors"))?;
            let arrived: Vec<i32> = outcomes.buffer(received.control)[16..]
                .chunks_exact(4)
                .take(chunk.len())
                .map(|bytes| i32::from_le_bytes(bytes.try_into().expect("four bytes")))
                .collect();
            let mut list = CallList::new();
            // First out of the way of numbers that are to be filled, then each to its own.
            let aside: Vec<CallId> = arrived
                .iter()
                .map(|&number| {
                    let call = list.call(libc::SYS_fcntl, &[number.into(), libc::F_DUPFD.into(), above.into()]);
                    list.call(libc::SYS_close, &[number.into()]);
                    call
                })
                .collect();
            for (call, (_, number, close)) in aside.iter().zip(chunk) {
                let flags = if *close == CloseOnExec::Yes { libc::O_CLOEXEC } else { 0 };
                placed.push((list.call(libc::SYS_dup3, &[(*call).into(), (*number).into(), flags.into()]), *number));
                list.call(libc::SYS_close, &[(*call).into()]);
            }
            let outcomes = self.run(process, &list)?;
            for (call, number) in placed {
                outcomes.result(call).attempt(|| format!("process {process}: placing descriptor {number}"))?;
            }
        }
        Ok(())
    }

    /// recvmsg(2) on the channel, with room for `count` descriptors.
    fn receive_call(&self, list: &mut CallList, count: usize) -> Received {
        let data = list.space(16);
        let control = list.space(16 + (count * 4).next_multiple_of(8));
        let vector = list.space(16);
        let header = list.space(56);
        list.point(vector, 0, data);
        list.set_word(vector, 8, 16);
        list.point(header, 16, vector);
        list.set_word(header, 24, 1);
        list.point(header, 32, control);
        list.set_word(header, 40, (16 + (count * 4).next_multiple_of(8)) as u64);
        let call = list.call(libc::SYS_recvmsg, &[self.channel_number.into(), header.into(), 0.into()]);
        Received { call, control }
    }

    /// prctl(PR_SET_MM, PR_SET_MM_MAP): eleven addresses, then the auxiliary vector and the executable's path.
    ///
    /// # Errors
    /// When the kernel finds the layout inconsistent, or forbids the executable.
    pub fn set_memory_map(&self, process: i32, layout: &[u64], auxiliary: &[u8], path: Option<&[u8]>) -> Result<()> {
        const PR_SET_MM: i32 = 35;
        const PR_SET_MM_MAP: i32 = 14;
        let executable = match path {
            Some(path) => {
                let mut list = CallList::new();
                let path = list.path(path);
                let open = list.call(libc::SYS_openat, &[libc::AT_FDCWD.into(), path.into(), libc::O_RDONLY.into()]);
                let outcomes = self.run(process, &list)?;
                Some(outcomes.result(open).attempt(|| format!("process {process}: opening its executable"))?)
            }
            None => None,
        };
        let mut list = CallList::new();
        let vector = list.bytes(auxiliary);
        let map = list.space(13 * 8);
        for (index, word) in layout.iter().enumerate() {
            list.set_word(map, index * 8, *word);
        }
        list.point(map, 88, vector);
        let descriptor = executable.map_or(u32::MAX, |number| number as u32);
        list.set_word(map, 96, auxiliary.len() as u64 | u64::from(descriptor) << 32);
        let call = list.call(
            libc::SYS_prctl,
            &[PR_SET_MM.into(), PR_SET_MM_MAP.into(), map.into(), (13 * 8).into(), 0.into()],
        );
        if let Some(number) = executable {
            list.call(libc::SYS_close, &[number.into()]);
        }
        self.run(process, &list)?
            .result(call)
            .attempt(|| format!("process {process}: setting its memory layout and executable"))
            .map(drop)
    }

    /// Closes the channel in a process: nothing of ours stays in its table.
    ///
    /// # Errors
    /// When the process stumbles.
    pub fn close_channel(&self, process: i32) -> Result<()> {
        self.call(process, "closing the channel", libc::SYS_close, &[self.channel_number.into()]).map(drop)
    }

    /// Takes the stub itself out of a process; afterwards no list can run there, and its leader stands at a system call's exit.
    ///
    /// # Errors
    /// When the process stumbles.
    pub fn unmap_stub(&mut self, process: i32) -> Result<()> {
        let pid = self.built(process)?.pid;
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

    /// Puts a task back into a sleep that has `remaining` ns left: the call is begun with that time and interrupted at once, so
    /// that the kernel has its own restart block and goes on with it when the task's registers show the interrupted call.
    ///
    /// # Errors
    /// When the task stumbles.
    pub fn resume_sleep(&self, process: i32, task: i32, registers: &cryonaut_sys::arch::Registers, remaining: u64) -> Result<()> {
        let (pid, tid) = (self.built(process)?.pid, self.task(process, task)?);
        let what = || format!("task {task}: resuming its sleep");
        let start = self.stub.call_instruction();
        let time = self.stub.data();
        let mut bytes = [0_u8; 16];
        bytes[..8].copy_from_slice(&(remaining / 1_000_000_000).to_le_bytes());
        bytes[8..].copy_from_slice(&(remaining % 1_000_000_000).to_le_bytes());
        cryonaut_tracee::write_all(pid, RemotePtr::new(time), &bytes)?;
        let number = registers.system_call().unwrap_or(libc::SYS_nanosleep as u64);
        let mut arguments = registers.arguments();
        let request = if number == libc::SYS_clock_nanosleep as u64 { 2 } else { 0 };
        arguments[request] = time;
        let now = ptrace::registers(tid).attempt(what)?;
        ptrace::set_registers(tid, &now.about_to_call(start, number, arguments)).attempt(what)?;
        ptrace::resume_to_system_call(tid, 0).attempt(what)?;
        wait::wait_for(tid).attempt(what)?;
        // At the entry: an interrupt that is pending when the sleep begins ends it at once.
        ptrace::interrupt(tid).attempt(what)?;
        ptrace::resume(tid, 0).attempt(what)?;
        wait::wait_for(tid).attempt(what).map(drop)
    }

    /// Makes one call in a task, which must succeed, without a list and its breakpoint; `data` lies at the address that
    /// `arguments` is given. The task then stands at the call's exit.
    ///
    /// # Errors
    /// The call's error, or that of a task that stumbles.
    pub fn call_directly(
        &self,
        (process, task): (i32, i32),
        what: &str,
        number: i64,
        data: &[u8],
        arguments: impl FnOnce(u64) -> [u64; 6],
    ) -> Result<u64> {
        let (pid, tid) = (self.built(process)?.pid, self.task(process, task)?);
        let what = || format!("process {process}: {what}");
        cryonaut_tracee::write_all(pid, RemotePtr::new(self.stub.data()), data)?;
        let registers = ptrace::registers(tid).attempt(what)?;
        let arguments = arguments(self.stub.data());
        let registers = registers.about_to_call(self.stub.call_instruction(), number as u64, arguments);
        ptrace::set_registers(tid, &registers).attempt(what)?;
        // Two stops that count: the call's entry and its exit.
        for expected in [1, 2] {
            loop {
                ptrace::resume_to_system_call(tid, 0).attempt(what)?;
                match wait::wait_for(tid).attempt(what)? {
                    wait::Status::Stopped { event: 0, signal } if signal == libc::SIGTRAP | 0x80 => break,
                    wait::Status::Stopped { .. } | wait::Status::Continued => {}
                    _ => return Err(Error::Failed(format!("{}: it ended (stop {expected})", what()))),
                }
            }
        }
        let result = ptrace::registers(tid).attempt(what)?.rax;
        match -(result as i64) {
            error @ 1..=4095 => Err(std::io::Error::from_raw_os_error(error as i32)).attempt(what),
            _ => Ok(result),
        }
    }

    /// The processes that are children of the nursery, as the image calls them.
    pub fn roots(&self) -> &[i32] {
        &self.roots
    }

    /// Ends the progenitor, whose work is done.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn end_progenitor(&mut self) -> Result<()> {
        if self.progenitor.take().is_some() {
            self.end_process(0, Some(libc::SIGKILL), 0)?;
        }
        Ok(())
    }

    /// Commits and lets the job run: from here on nothing kills it.
    ///
    /// # Errors
    /// When a process has ended meanwhile, or something planned for after the commit fails.
    pub fn release(mut self) -> Result<()> {
        // In namespaces their init ends with us until it is told otherwise, and all with it. Elsewhere a guardian does that.
        let nested = self.nursery.namespaces().is_some();
        let mut descriptors = Vec::new();
        for built in self.processes.values().filter(|_| !nested) {
            descriptors.push(pidfd::open(built.pid).attempt(|| format!("opening process {}", built.pid))?);
        }
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let guardian = if nested { None } else { Some(Guardian::watch(&borrowed)?) };
        for built in self.processes.values() {
            for &(_, tid) in &built.tasks {
                ptrace::set_options(tid, 0).attempt(|| format!("letting task {tid} go"))?;
            }
        }
        self.nursery
            .set_lifetime(cryonaut_launch::Lifetime::Independent)
            .map_err(|error| Error::Failed(error.to_string()))?;
        if let Some(guardian) = guardian {
            guardian.dismiss()?;
        }
        self.committed = true;
        let mut outcome = Ok(());
        for action in std::mem::take(&mut self.after_commit) {
            outcome = outcome.and(action());
        }
        for built in self.processes.values() {
            for &(_, tid) in &built.tasks {
                ptrace::detach(tid, 0).attempt(|| format!("letting task {tid} go"))?;
            }
        }
        outcome
    }
}

impl Drop for Rebuild<'_> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        for built in self.processes.values() {
            let _ = task::kill(built.pid, libc::SIGKILL);
        }
        for built in self.processes.values() {
            for &(_, tid) in built.tasks.iter().rev() {
                while matches!(wait::wait_for(tid), Ok(wait::Status::Stopped { .. } | wait::Status::Continued)) {
                    let _ = ptrace::resume(tid, 0);
                }
            }
        }
    }
}

/// While it lives, the calling thread keeps to one processor. Stubs are put there too: each list is a switch to the stub and back,
/// which on one processor takes a fraction of the time that waking another one takes.
pub(crate) struct OneProcessor {
    all: Vec<u64>,
    only: Vec<u64>,
}

impl OneProcessor {
    fn stay() -> Option<Self> {
        let all = task::affinity(0).ok()?;
        let processor = ProcessDirectory::open(std::process::id() as i32).ok()?.stat().ok()?.processor as usize;
        let mut only = vec![0; all.len()];
        *only.get_mut(processor / 64)? |= 1 << (processor % 64);
        task::set_affinity(0, &only).ok()?;
        Some(Self { all, only })
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        let _ = task::set_affinity(0, &self.all);
    }
}

struct Received {
    call: CallId,
    control: cryonaut_tracee::BufferId,
}

/// Whether a new process is to be its creator's sibling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sibling {
    /// It has the same parent as its creator.
    Yes,
    /// It is its creator's child.
    No,
}

/// Whether a slot closes at exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseOnExec {
    /// It does.
    Yes,
    /// It stays.
    No,
}

/// clone3(2) with `struct clone_args` of 88 bytes.
fn clone_call(list: &mut CallList, flags: u64, signal: u64, pid: Option<i32>) -> CallId {
    let arguments = list.space(88);
    list.set_word(arguments, 0, flags);
    list.set_word(arguments, 32, signal);
    if let Some(pid) = pid {
        let ids = list.bytes(&pid.to_le_bytes());
        list.point(arguments, 64, ids);
        list.set_word(arguments, 72, 1);
    }
    list.call(libc::SYS_clone3, &[arguments.into(), 88.into()])
}

/// Waits for the first stop of a task that its creator's tracing has attached to us.
fn await_birth(tid: i32) -> Result<()> {
    loop {
        match wait::wait_for(tid).attempt(|| format!("waiting for new task {tid}"))? {
            wait::Status::Stopped { event: ptrace::EVENT_STOP, .. } => return Ok(()),
            wait::Status::Stopped { .. } => ptrace::resume(tid, 0).attempt(|| format!("starting task {tid}"))?,
            wait::Status::Continued => {}
            _ => return Err(Error::Failed(format!("new task {tid} ended before it was built"))),
        }
    }
}

/// Calls on their way to a process, checked as they come back. Runs a list whenever one is full.
pub struct Queue {
    process: i32,
    list: CallList,
    expected: Vec<(CallId, &'static str, Option<u64>)>,
}

impl Queue {
    /// An empty queue for a process.
    pub fn new(process: i32) -> Self {
        Self { process, list: CallList::new(), expected: Vec::new() }
    }

    /// Adds a call that must return `value`.
    ///
    /// # Errors
    /// Those of earlier calls, when the list is full and runs.
    pub fn expect(
        &mut self,
        rebuild: &Rebuild<'_>,
        what: &'static str,
        number: i64,
        arguments: &[Argument],
        value: u64,
    ) -> Result<()> {
        let call = self.list.call(number, arguments);
        self.expected.push((call, what, Some(value)));
        self.flush_if_full(rebuild)
    }

    /// Maps a file: (address, length, protection, flags, offset).
    ///
    /// # Errors
    /// As [`Queue::expect`].
    pub fn map_file(&mut self, rebuild: &Rebuild<'_>, path: &[u8], mode: i32, map: [u64; 5]) -> Result<()> {
        let [start, length, protection, flags, offset] = map;
        let path = self.list.path(path);
        let mode = mode | libc::O_CLOEXEC;
        let open = self.list.call(libc::SYS_openat, &[libc::AT_FDCWD.into(), path.into(), mode.into()]);
        let arguments =
            [start.into(), length.into(), protection.into(), flags.into(), open.into(), offset.into()];
        let call = self.list.call(libc::SYS_mmap, &arguments);
        self.list.call(libc::SYS_close, &[open.into()]);
        self.expected.push((open, "opening a mapped file", None));
        self.expected.push((call, "mapping a file", Some(start)));
        self.flush_if_full(rebuild)
    }

    fn flush_if_full(&mut self, rebuild: &Rebuild<'_>) -> Result<()> {
        if self.list.size() + 8192 > rebuild.stub.capacity() { self.flush(rebuild) } else { Ok(()) }
    }

    /// Runs what is queued and checks it.
    ///
    /// # Errors
    /// The first call that failed or returned something else.
    pub fn flush(&mut self, rebuild: &Rebuild<'_>) -> Result<()> {
        let list = std::mem::take(&mut self.list);
        if list.is_empty() {
            return Ok(());
        }
        let outcomes = rebuild.run(self.process, &list)?;
        for (call, what, value) in self.expected.drain(..) {
            let result = outcomes.result(call).attempt(|| format!("process {}: {what}", self.process))?;
            if value.is_some_and(|value| value != result) {
                return Err(Error::Failed(format!("process {}: {what} gave {result:#x}", self.process)));
            }
        }
        Ok(())
    }
}

/// Writes into the memory of a process being rebuilt, also where it is read-only by now.
///
/// # Errors
/// When the address is not mapped.
pub fn write_memory(pid: i32, address: u64, bytes: &[u8]) -> Result<()> {
    let path = format!("/proc/{pid}/mem");
    let memory = std::fs::OpenOptions::new().write(true).open(&path).attempt(|| format!("opening {path}"))?;
    memory.write_all_at(bytes, address).attempt(|| format!("writing memory at {}", RemotePtr::new(address)))
}
