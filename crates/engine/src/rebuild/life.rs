//! Births, stops and ends of processes being rebuilt.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cryonaut_launch::{ChildSpec, LaunchError, Program, Role, Session, StopBeforeExec};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::{ptrace, task, wait};
use cryonaut_tracee::{CallId, CallList};

use super::{Built, OPTIONS, Rebuild, STUB_DATA, STUB_MASK, write_memory};
use crate::error::Attempt;
use crate::resource::memory::AreaRecord;
use crate::resource::process::ProcessRecord;
use crate::resource::sharing::ThreadBirths;
use crate::{Error, Result};

/// The timer slack that tasks mostly have, in ns (`init_task` in init/init_task.c).
pub const USUAL_SLACK: u64 = 50_000;

impl Rebuild<'_> {
    /// Says with which timer slack tasks are to be born, in ns, those not named with the usual one. It is what they go back to.
    pub fn note_slacks(&mut self, slacks: &BTreeMap<i32, u64>) {
        self.slacks.clone_from(slacks);
    }

    /// Has the task that runs the list take the timer slack that the one it bears next is to be born with.
    fn lend_slack(&self, list: &mut CallList, born: i32) {
        let slack = self.slacks.get(&born).copied().unwrap_or(USUAL_SLACK);
        let arguments = [libc::PR_SET_TIMERSLACK.into(), slack.into()];
        list.call(libc::SYS_prctl, &arguments);
    }

    /// Starts the process from which all others descend: it becomes no part of the job, but gives it its session and shared memory.
    ///
    /// # Errors
    /// When it cannot be started; a taken pid is said.
    pub fn start_progenitor(&mut self, pid: Option<i32>, session: Session) -> Result<()> {
        let file = self
            .program
            .try_clone()
            .attempt(|| "starting a process".into())?;
        let mut spec = ChildSpec::new(Program::Image {
            file,
            name: "cryo-stub".into(),
        });
        spec.inner_pid = pid;
        spec.session = session;
        spec.stop_before_exec = StopBeforeExec::Yes;
        spec.privilege = cryonaut_launch::Privilege::Kept;
        spec.role = Role::Other;
        let theirs = self
            .channel
            .1
            .try_clone()
            .attempt(|| "starting a process".into())?;
        spec.keep_descriptors = vec![(theirs, self.numbers.channel)];
        let mut child = self.nursery.spawn(&spec).map_err(|error| match error {
            LaunchError::PidTaken { pid } => Error::PidTaken(pid),
            error => Error::Failed(error.to_string()),
        })?;
        let outer = child.pid;
        // Siblings are reported as clones (clone3 knows them by an exit signal of 0).
        ptrace::seize(outer, OPTIONS | libc::PTRACE_O_TRACECLONE)
            .attempt(|| "tracing the first process".into())?;
        task::kill(outer, libc::SIGCONT).attempt(|| "starting the first process".into())?;
        loop {
            match wait::wait_for(outer).attempt(|| "waiting for the first process".into())? {
                wait::Status::Stopped {
                    event: ptrace::EVENT_EXEC,
                    ..
                } => break,
                wait::Status::Stopped { event: 0, signal }
                    if signal != libc::SIGCONT && signal != libc::SIGSTOP =>
                {
                    ptrace::resume(outer, signal)
                        .attempt(|| "starting the first process".into())?;
                }
                wait::Status::Stopped { .. } => {
                    ptrace::resume(outer, 0).attempt(|| "starting the first process".into())?;
                }
                wait::Status::Continued => {}
                _ => {
                    child
                        .exec_outcome()
                        .map_err(|error| Error::Failed(error.to_string()))?;
                    return Err(Error::Failed(
                        "the first process ended before it was built".into(),
                    ));
                }
            }
        }
        child
            .exec_outcome()
            .map_err(|error| Error::Failed(error.to_string()))?;
        if let Some(processor) = &self.processor {
            // What follows has its own affinity restored; where this fails the rebuild is only slower.
            let _ = task::set_affinity(outer, &processor.only);
        }
        ptrace::set_signal_mask(outer, STUB_MASK).attempt(|| "blocking signals".into())?;
        let areas = self.clear_stub(outer)?;
        let inner = child.inner_pid;
        self.processes.insert(
            0,
            Built {
                pid: outer,
                speaker: outer,
                tasks: vec![(inner, outer)],
                areas,
                memory: None,
            },
        );
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
        for (at, length, protection) in [
            (self.stub.base(), page, code),
            (self.stub.data(), STUB_DATA, data),
        ] {
            let arguments = [
                at.into(),
                length.into(),
                protection.into(),
                flags.into(),
                u64::MAX.into(),
                0_u64.into(),
            ];
            wanted.push((list.call(libc::SYS_mmap, &arguments), at));
        }
        let outcomes = self.loader.run(pid, pid, &list)?;
        for (call, at) in wanted {
            if outcomes
                .result(call)
                .attempt(|| "mapping the stub".into())?
                != at
            {
                return Err(Error::Failed("the stub went to a wrong place".into()));
            }
        }
        write_memory(pid, self.stub.code(), cryonaut_sys::arch::stub_code())?;
        let mut kept = Vec::new();
        let mut list = CallList::new();
        let own = self.stub.base()..self.stub.base() + self.stub.length();
        for area in ProcessDirectory::open(pid)?.maps()? {
            if matches!(area.name, cryonaut_procfs::AreaName::Vsyscall) || own.contains(&area.start)
            {
                continue;
            }
            match AreaRecord::provided(&area) {
                Some(provided) => kept.push(provided),
                None => {
                    list.call(libc::SYS_munmap, &[area.start.into(), area.length().into()]);
                }
            }
        }
        // Standard descriptors came along from us; only the channel stays.
        let channel = self.numbers.channel;
        if channel > 0 {
            list.call(
                libc::SYS_close_range,
                &[0.into(), (channel - 1).into(), 0.into()],
            );
        }
        list.call(
            libc::SYS_close_range,
            &[(channel + 1).into(), u64::from(u32::MAX).into(), 0.into()],
        );
        self.stub.run(pid, pid, &list)?;
        Ok(kept)
    }

    /// Has a process (0: the progenitor) bear the process `pid`. Its memory is a copy of the other's unless both share it.
    ///
    /// # Errors
    /// When the pid is taken, or fork fails.
    pub fn birth(&mut self, pid: i32, descent: Descent) -> Result<()> {
        let parent = descent.by;
        // With CLONE_PARENT the exit signal is the parent's own (clone(2)).
        let (flags, signal) = match descent.sibling {
            Sibling::Yes => (descent.flags | libc::CLONE_PARENT as u64, 0),
            Sibling::No => (descent.flags, descent.exit_signal as u64),
        };
        self.fork(parent, flags, signal, Some(pid)).map(drop)
    }

    /// Has a child of `leader` bear the process `pid` and end, so that `reaper`, an ancestor, adopts it; 0 is whoever adopts orphans
    /// outside the job. As yet nobody in the job adopts any.
    ///
    /// # Errors
    /// When the pid is taken, or a call fails.
    pub fn birth_of_orphan(&mut self, pid: i32, leader: i32, reaper: i32) -> Result<()> {
        let adopt = |rebuild: &Self, adopts: u64| match reaper {
            0 => Ok(0),
            reaper => {
                let arguments = [libc::PR_SET_CHILD_SUBREAPER.into(), adopts.into()];
                rebuild.call(reaper, "adopting an orphan", libc::SYS_prctl, &arguments)
            }
        };
        adopt(self, 1)?;
        // A number that the job does not need, where numbers are the job's own.
        let aside = match self.nursery.namespaces() {
            Some(_) => Some(self.free_pid()?),
            None => None,
        };
        let between = self.fork(leader, 0, libc::SIGCHLD as u64, aside)?;
        self.fork(between, 0, libc::SIGCHLD as u64, Some(pid))?;
        self.end_placeholder(leader, between)?;
        adopt(self, 0).map(drop)
    }

    /// A process id that nobody in the image has.
    fn free_pid(&self) -> Result<i32> {
        let processes = self.records.all::<ProcessRecord>()?;
        let used: BTreeSet<i32> = processes
            .iter()
            .flat_map(|process| {
                let own = [process.pid, process.group, process.session];
                process.tasks.iter().copied().chain(own)
            })
            .chain(self.processes.keys().copied())
            .chain(self.progenitor.iter().map(|(_, inner)| *inner))
            .collect();
        let free = (2..).find(|id| !used.contains(id));
        free.ok_or_else(|| Error::Failed("there is no free process id".into()))
    }

    /// Has a process of the job's pid namespace be born, looked at by `look` (its pid as we see it), end with a wait status, and be
    /// reaped: what is left is what `look` gives. Only as long as there is the progenitor.
    ///
    /// # Errors
    /// That of `look`; when fork fails.
    pub fn short_life<T>(&mut self, status: i32, look: impl FnOnce(i32) -> Result<T>) -> Result<T> {
        let process = self.fork(0, 0, libc::SIGCHLD as u64, None)?;
        let seen = look(self.built(process)?.pid);
        let signal = Some(status & 0x7f).filter(|&signal| signal != 0);
        self.end_process(process, signal, status >> 8 & 0xff)?;
        self.reap(0, process)?;
        seen
    }

    /// Has a process bear a child, for as long as `meanwhile` takes (its pid as the job sees it), which nobody is told of: neither its
    /// birth nor its end leaves a trace in the process.
    ///
    /// # Errors
    /// That of `meanwhile`; when fork fails.
    pub fn short_life_of_child<T>(
        &mut self,
        parent: i32,
        meanwhile: impl FnOnce(&mut Self, i32) -> Result<T>,
    ) -> Result<T> {
        // Without an exit signal it is there to be waited for even where the signal of a child's end is ignored.
        let child = self.fork(parent, 0, 0, None)?;
        let outcome = meanwhile(self, child);
        self.end_process(child, Some(libc::SIGKILL), 0)?;
        self.wait_for_end(parent, child)?;
        outcome
    }

    /// Has `parent` fork, with flags and an exit signal, a process with this pid or any; gives its pid in its own namespace.
    fn fork(&mut self, parent: i32, flags: u64, signal: u64, pid: Option<i32>) -> Result<i32> {
        let mut list = CallList::new();
        self.lend_slack(&mut list, pid.unwrap_or(0));
        let call = clone_call(&mut list, flags, signal, pid);
        let by = self.built(parent)?.speaker;
        // What is not born with SIGCHLD is reported as a clone; only the progenitor always is to.
        let as_clone = parent != 0 && signal != libc::SIGCHLD as u64;
        if as_clone {
            ptrace::set_options(by, OPTIONS | libc::PTRACE_O_TRACECLONE)
                .attempt(|| format!("tracing process {parent}"))?;
        }
        let (outcomes, births) = self.stub.run_births(by, by, &list)?;
        if as_clone {
            ptrace::set_options(by, OPTIONS).attempt(|| format!("tracing process {parent}"))?;
        }
        let pid = match (outcomes.result(call), pid) {
            (Ok(pid), _) => pid as i32,
            (Err(error), Some(pid)) if error.raw_os_error() == Some(libc::EEXIST) => {
                return Err(Error::PidTaken(pid));
            }
            (Err(error), pid) => {
                let pid = pid.unwrap_or(0);
                return Err(Error::Failed(format!("starting process {pid}: {error}")));
            }
        };
        let outer = match births.first() {
            Some(&outer) => outer,
            None => {
                return Err(Error::Failed(format!(
                    "process {pid} was started, but did not report"
                )));
            }
        };
        await_birth(outer)?;
        ptrace::set_options(outer, OPTIONS).attempt(|| format!("tracing process {pid}"))?;
        let bearer = self.built(parent)?;
        let shares_memory = flags & libc::CLONE_VM as u64 != 0;
        let memory = shares_memory.then(|| bearer.memory.unwrap_or(parent));
        let areas = if shares_memory {
            Vec::new()
        } else {
            self.areas_of(parent)
        };
        self.processes.insert(
            pid,
            Built {
                pid: outer,
                speaker: outer,
                tasks: vec![(pid, outer)],
                areas,
                memory,
            },
        );
        Ok(pid)
    }

    /// Has a process bear one that only holds a pid, until [`Rebuild::end_placeholder`].
    ///
    /// # Errors
    /// When the pid is taken, or fork fails.
    pub fn birth_of_placeholder(&mut self, parent: i32, pid: i32) -> Result<()> {
        self.fork(parent, 0, libc::SIGCHLD as u64, Some(pid))
            .map(drop)
    }

    /// Ends a placeholder; its parent reaps it.
    ///
    /// # Errors
    /// When that fails.
    pub fn end_placeholder(&mut self, parent: i32, pid: i32) -> Result<()> {
        self.end_process(pid, Some(libc::SIGKILL), 0)?;
        self.reap(parent, pid)
    }

    /// Has a parent wait for a child that has ended.
    fn reap(&self, parent: i32, pid: i32) -> Result<()> {
        self.wait_for_end(parent, pid)?;
        self.drain_signal(parent, libc::SIGCHLD)
    }

    /// As [`Rebuild::reap`], where no signal tells of it.
    fn wait_for_end(&self, parent: i32, pid: i32) -> Result<()> {
        let arguments = [pid.into(), 0.into(), libc::__WALL.into(), 0.into()];
        self.call(parent, "reaping a placeholder", libc::SYS_wait4, &arguments)
            .map(drop)
    }

    /// Has a process end by `signal`, or with `status`; its parent does not reap it.
    ///
    /// # Errors
    /// When it does not.
    pub fn end_process(&mut self, process: i32, signal: Option<i32>, status: i32) -> Result<()> {
        let built = self
            .processes
            .remove(&process)
            .ok_or_else(|| Error::Failed(format!("no process {process}")))?;
        let pid = built.pid;
        let start = self.stub.call_instruction();
        let registers = ptrace::registers(pid).attempt(|| format!("ending process {process}"))?;
        match signal {
            Some(libc::SIGKILL) => {
                task::kill(pid, libc::SIGKILL).attempt(|| format!("ending process {process}"))?
            }
            Some(signal) => {
                // Its memory was dumped, if at all, at its first end. A limit of 1 keeps dumps from files and from programs
                // alike (core(5)).
                let limit = task::limit(pid, cryonaut_sys::uapi::RLIMIT_CORE)
                    .attempt(|| format!("ending process {process}"))?;
                let none = task::Limit {
                    soft: 1.min(limit.hard),
                    ..limit
                };
                task::set_limit(pid, cryonaut_sys::uapi::RLIMIT_CORE, none)
                    .attempt(|| format!("ending process {process}"))?;
                let mut list = CallList::new();
                // The default action of every signal is in force in a stub; only its mask keeps it from acting.
                list.call(libc::SYS_kill, &[process.into(), signal.into()]);
                self.stub.run(pid, pid, &list)?;
                ptrace::set_signal_mask(pid, 0).attempt(|| format!("ending process {process}"))?;
                ptrace::resume(pid, 0).attempt(|| format!("ending process {process}"))?;
            }
            None => {
                let arguments = [status as u64, 0, 0, 0, 0, 0];
                let registers =
                    registers.about_to_call(start, libc::SYS_exit_group as u64, arguments);
                ptrace::set_registers(pid, &registers)
                    .attempt(|| format!("ending process {process}"))?;
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
                Err(error) => {
                    return Err(Error::Failed(format!("ending process {process}: {error}")));
                }
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
                    wait::Status::Stopped {
                        event: 0,
                        signal: libc::SIGSTOP,
                    } => deliver = signal,
                    wait::Status::Stopped {
                        event: ptrace::EVENT_STOP,
                        ..
                    } => return Ok(()),
                    // Back at its breakpoint: a stop by the terminal has no effect in an orphaned group.
                    wait::Status::Stopped { .. } => break,
                    _ => return Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
                }
            }
        }
        Err(std::io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Takes the signal that the end of a child has left pending.
    ///
    /// # Errors
    /// When the process stumbles.
    pub fn drain_signal(&self, process: i32, signal: i32) -> Result<()> {
        let mut list = CallList::new();
        let set = list.bytes(&(1_u64 << (signal - 1)).to_le_bytes());
        let zero = list.space(16);
        list.call(
            libc::SYS_rt_sigtimedwait,
            &[set.into(), 0.into(), zero.into(), 8.into()],
        );
        self.run(process, &list)?;
        Ok(())
    }

    /// Starts the other threads of a process, with these ids.
    ///
    /// # Errors
    /// When an id is taken or a limit reached.
    pub fn start_threads(&mut self, process: i32, births: &[ThreadBirths]) -> Result<()> {
        for births in births {
            self.start_alike(process, births)?;
            if births.apart != 0 {
                let threads = births.threads.iter();
                self.apart.extend(threads.map(|&thread| (thread, process)));
            }
        }
        Ok(())
    }

    fn start_alike(&mut self, process: i32, births: &ThreadBirths) -> Result<()> {
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM
            | libc::CLONE_PTRACE;
        let flags = flags as u64 & !births.apart;
        let (pid, by) = (self.built(process)?.pid, self.task(process, births.by)?);
        if self.confined.contains(&process) {
            return self.start_by_turns((process, pid, by), flags, &births.threads);
        }
        let mut born = Vec::new();
        for chunk in births.threads.chunks(500) {
            let mut list = CallList::new();
            let calls: Vec<CallId> = chunk
                .iter()
                .map(|&tid| {
                    self.lend_slack(&mut list, tid);
                    clone_call(&mut list, flags, 0, Some(tid))
                })
                .collect();
            let outcomes = self.stub.run(pid, by, &list)?;
            let mut failure = None;
            for (call, &tid) in calls.iter().zip(chunk) {
                match outcomes.result(*call) {
                    Ok(_) => born.push(tid),
                    Err(error) => failure = failure.or(Some((tid, error))),
                }
            }
            if let Some((tid, error)) = failure {
                // Those that are there are to be ended with the rest.
                self.note_threads(process, pid, &born)?;
                return match error.raw_os_error() {
                    Some(libc::EEXIST) => Err(Error::PidTaken(tid)),
                    _ => Err(error).attempt(|| format!("process {process}: starting thread {tid}")),
                };
            }
        }
        self.note_threads(process, pid, &births.threads)
    }

    /// Starts threads one by one, where the process may not choose their ids: somebody who may has the kernel give each its own.
    fn start_by_turns(
        &mut self,
        (process, pid, by): (i32, i32, i32),
        flags: u64,
        threads: &[i32],
    ) -> Result<()> {
        for (index, &tid) in threads.iter().enumerate() {
            if let Err(error) = self.start_by_turn((process, pid, by), flags, tid) {
                // Those that are there are to be ended with the rest.
                self.note_threads(process, pid, &threads[..index])?;
                return Err(error);
            }
        }
        self.note_threads(process, pid, threads)
    }

    fn start_by_turn(
        &self,
        (process, pid, by): (i32, i32, i32),
        flags: u64,
        tid: i32,
    ) -> Result<()> {
        // Outside of fresh namespaces others may be faster.
        const TRIES: usize = 200;
        let what = || format!("process {process}: starting thread {tid}");
        for _ in 0..TRIES {
            self.nursery
                .choose_next_id(tid)
                .map_err(|error| Error::Failed(format!("{}: {error}", what())))?;
            let mut list = CallList::new();
            self.lend_slack(&mut list, tid);
            let call = clone_call(&mut list, flags, 0, None);
            let outcomes = self.stub.run(pid, by, &list)?;
            let born = outcomes.result(call).attempt(what)?;
            if born == tid as u64 {
                return Ok(());
            }
            if self.nursery.namespaces().is_some() {
                break;
            }
            self.end_thread(born as i32, process)?;
        }
        Err(Error::PidTaken(tid))
    }

    /// Ends a thread that has just been born, as we see it.
    fn end_thread(&self, tid: i32, process: i32) -> Result<()> {
        let what = || format!("process {process}: ending thread {tid}");
        await_birth(tid)?;
        let registers = ptrace::registers(tid).attempt(what)?;
        let start = self.stub.call_instruction();
        let registers = registers.about_to_call(start, libc::SYS_exit as u64, [0; 6]);
        ptrace::set_registers(tid, &registers).attempt(what)?;
        ptrace::resume(tid, 0).attempt(what)?;
        loop {
            match wait::wait_for(tid).attempt(what)? {
                wait::Status::Stopped { .. } => ptrace::resume(tid, 0).attempt(what)?,
                wait::Status::Continued => {}
                _ => return Ok(()),
            }
        }
    }

    /// Says that a process has entered a user namespace of the job's making.
    pub fn note_own_user_namespace(&mut self, process: i32) {
        self.confined.insert(process);
    }

    /// Finds the threads that have just been started, and waits for their first stop.
    fn note_threads(&mut self, process: i32, pid: i32, threads: &[i32]) -> Result<()> {
        let nested = self.nursery.namespaces().is_some();
        let mut found: Vec<(i32, i32)> = Vec::new();
        if nested {
            let known: BTreeSet<i32> = self
                .built(process)?
                .tasks
                .iter()
                .map(|(_, outer)| *outer)
                .collect();
            let directory = ProcessDirectory::open(pid)?;
            for outer in directory.threads()? {
                if !known.contains(&outer) {
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
        let built = self
            .processes
            .get_mut(&process)
            .expect("it was there above");
        built.tasks.extend(found);
        Ok(())
    }

    /// Suspends the seccomp filters of a task as long as we trace it: what it still does as a stub they must not see. The kernel
    /// ends the suspension with the tracing; from the commit on the task makes no call for us.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN in the initial user namespace, or under seccomp ourselves.
    pub fn suspend_seccomp(&self, process: i32, task: i32) -> Result<()> {
        ptrace::set_options(self.task(process, task)?, OPTIONS | ptrace::SUSPEND_SECCOMP)
            .attempt(|| format!("task {task}: suspending seccomp while it is rebuilt"))
    }

    /// Has the first thread of a process end by itself, with `status`, while its others live on. The kernel tells its tracer of that
    /// only when all have ended, and keeps it from the parent until the tracer has taken notice: so it goes untraced.
    ///
    /// # Errors
    /// When it does not end, or is the only one.
    pub fn end_leader(&mut self, process: i32, status: i32) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let what = || format!("process {process}: ending its first thread");
        let built = self.built(process)?;
        let pid = built.pid;
        let others = built.tasks.iter().find(|(_, outer)| *outer != pid);
        let Some(&(_, speaker)) = others else {
            return Err(Error::Failed(format!(
                "the image is damaged: process {process} has no thread"
            )));
        };
        let registers = ptrace::registers(pid).attempt(what)?;
        let arguments = [status as u64, 0, 0, 0, 0, 0];
        let start = self.stub.call_instruction();
        let registers = registers.about_to_call(start, libc::SYS_exit as u64, arguments);
        ptrace::set_registers(pid, &registers).attempt(what)?;
        ptrace::detach(pid, 0).attempt(what)?;
        let start = Instant::now();
        let directory = ProcessDirectory::open(pid)?;
        while !matches!(directory.stat()?.state, 'Z' | 'X') {
            if start.elapsed() > PATIENCE {
                return Err(Error::Failed(what()));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        if let Some(built) = self.processes.get_mut(&process) {
            built.speaker = speaker;
            built.tasks.retain(|(_, outer)| *outer != pid);
        }
        Ok(())
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
}

/// Whether a new process is to be its creator's sibling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sibling {
    /// It has the same parent as its creator.
    Yes,
    /// It is its creator's child.
    No,
}

/// From whom a process is born, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descent {
    /// The process that bears it; 0 is the progenitor.
    pub by: i32,
    /// Whether it is that one's child or its sibling.
    pub sibling: Sibling,
    /// `CLONE_*` for what both share.
    pub flags: u64,
    /// The signal that its parent gets at its end, 0 for none; a sibling has that of the process that bears it.
    pub exit_signal: i32,
}

impl From<i32> for Descent {
    /// A child of `by` that shares nothing, as by fork(2).
    fn from(by: i32) -> Self {
        Self {
            by,
            sibling: Sibling::No,
            flags: 0,
            exit_signal: libc::SIGCHLD,
        }
    }
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
            wait::Status::Stopped {
                event: ptrace::EVENT_STOP,
                ..
            } => return Ok(()),
            wait::Status::Stopped { .. } => {
                ptrace::resume(tid, 0).attempt(|| format!("starting task {tid}"))?
            }
            wait::Status::Continued => {}
            _ => {
                return Err(Error::Failed(format!(
                    "new task {tid} ended before it was built"
                )));
            }
        }
    }
}
