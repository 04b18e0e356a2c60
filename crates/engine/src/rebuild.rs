//! Rebuilding: the state of a restart under way, and the few operations that actions are made of.
//!
//! Every process begins as a stub: a program of a few bytes that runs the system calls we list. Stubs carry
//! PTRACE_O_EXITKILL: until the commit in `release`, the end of this process, and dropping [`Rebuild`], kill all that was built.

mod channel;
mod last_call;
mod lent;
mod life;
mod memory;
mod places;
mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;

use cryonaut_image::{RecordSet, SeekableImage};
use cryonaut_launch::{Child, Nursery};
use cryonaut_sys::spawn::message;
use cryonaut_sys::{RemotePtr, descriptor, pidfd, ptrace, task, wait};
use cryonaut_tracee::{Argument, CallList, Outcomes, Stub};

use crate::error::Attempt;
use crate::guardian::Guardian;
use crate::resource::file::SpareNumbers;
use crate::resource::memory::AreaRecord;
use crate::{Error, Result};

pub use channel::CloseOnExec;
pub use lent::Access;
pub use life::{Descent, Sibling, USUAL_SLACK};
pub use memory::Executable;
pub use places::Places;
pub use queue::{Queue, write_memory};

use places::OneProcessor;

/// Bytes of list memory in a stub.
const STUB_DATA: u64 = 256 * 1024;
/// The same in the program that a stub is loaded as.
const LOADER_DATA: u64 = 64 * 1024;
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
    /// The task, as we see it, that works for the whole process: its leader as long as that lives.
    pub speaker: i32,
    /// Its living tasks: id in the image, id as we see it; the leader first.
    pub tasks: Vec<(i32, i32)>,
    areas: Vec<AreaRecord>,
    /// The process whose memory it shares.
    memory: Option<i32>,
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
    /// Files that were kept by content, by their number in the image. They stay until the rebuild ends.
    pub kept: BTreeMap<u64, OwnedFd>,
    /// Namespaces that the job had made itself, by their number in the image.
    pub namespaces: BTreeMap<u64, OwnedFd>,
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
    /// Descriptor numbers that no process of the job uses.
    pub numbers: SpareNumbers,
    progenitor: Option<(Child, i32)>,
    processes: BTreeMap<i32, Built>,
    /// Threads that do not share all with their process, and that process.
    apart: BTreeMap<i32, i32>,
    /// Processes that have entered a user namespace of the job's making: they may not choose ids any more.
    confined: BTreeSet<i32>,
    /// The timer slack that tasks are born with, in ns, where it is not the usual.
    slacks: BTreeMap<i32, u64>,
    lent: BTreeMap<(u64, Access), i32>,
    shared: BTreeMap<u64, u64>,
    arena_used: u64,
    /// System V segments by their number in the image: id and length.
    segments: BTreeMap<u64, (i32, u64)>,
    shared_content: BTreeMap<u64, Vec<(u64, u64)>>,
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
        let Ok(numbers) = SpareNumbers::find(records)? else {
            return Err(Error::Failed(
                "there are too few descriptor numbers (ulimit -Hn)".into(),
            ));
        };
        let places = Places::find(records)?;
        let stub = Stub::at(places.stub, STUB_DATA);
        let loader = Stub::at(places.loader, LOADER_DATA);
        let program =
            descriptor::memory_file(c"cryo-stub").attempt(|| "making the stub program".into())?;
        let mut file = std::fs::File::from(program);
        file.write_all(&loader.executable())
            .attempt(|| "writing the stub program".into())?;
        file.rewind()
            .attempt(|| "writing the stub program".into())?;
        let channel =
            message::message_sockets().attempt(|| "making a channel to the job".into())?;
        Ok(Self {
            image,
            records,
            nursery,
            objects: BTreeMap::new(),
            kept: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            standard,
            terminal: None,
            after_commit: Vec::new(),
            stop,
            stub,
            loader,
            places,
            program: file.into(),
            channel,
            numbers,
            progenitor: None,
            processes: BTreeMap::new(),
            apart: BTreeMap::new(),
            confined: BTreeSet::new(),
            slacks: BTreeMap::new(),
            lent: BTreeMap::new(),
            shared: BTreeMap::new(),
            arena_used: 0,
            segments: BTreeMap::new(),
            shared_content: BTreeMap::new(),
            processor: OneProcessor::stay(),
            committed: false,
        })
    }

    /// The process that the image calls `process`; 0 is the progenitor.
    ///
    /// # Errors
    /// When it has not been built: the plan is wrong.
    pub fn built(&self, process: i32) -> Result<&Built> {
        self.processes
            .get(&process)
            .ok_or_else(|| Error::Failed(format!("process {process} is not there yet")))
    }

    /// All processes built so far, without the progenitor.
    pub fn all(&self) -> impl Iterator<Item = (i32, &Built)> {
        self.processes
            .iter()
            .filter(|(process, _)| **process != 0)
            .map(|(process, built)| (*process, built))
    }

    /// Makes the calls of a list in the leader of a process, or in a thread with tables of its own.
    ///
    /// # Errors
    /// When the process stumbles; the calls' own errors are in the outcomes.
    pub fn run(&self, process: i32, list: &CallList) -> Result<Outcomes> {
        let (pid, tid) = self.whereabouts(process)?;
        Ok(self.stub.run(pid, tid, list)?)
    }

    /// Two tasks as we see them of what the image calls `process`, a process or a thread with tables of its own: the one that
    /// works for the whole process, and the one that has these tables.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn whereabouts(&self, process: i32) -> Result<(i32, i32)> {
        match self.apart.get(&process) {
            Some(&home) => Ok((self.built(home)?.speaker, self.task(home, process)?)),
            None => self
                .built(process)
                .map(|built| (built.speaker, built.speaker)),
        }
    }

    /// Makes the calls of a list in one task of a process.
    ///
    /// # Errors
    /// As [`Rebuild::run`].
    pub fn run_in_task(&self, process: i32, task: i32, list: &CallList) -> Result<Outcomes> {
        let (pid, tid) = (self.built(process)?.speaker, self.task(process, task)?);
        Ok(self.stub.run(pid, tid, list)?)
    }

    /// Makes one call, which must succeed; `what` says what it is for.
    ///
    /// # Errors
    /// The call's error.
    pub fn call(
        &self,
        process: i32,
        what: &str,
        number: i64,
        arguments: &[Argument],
    ) -> Result<u64> {
        let mut list = CallList::new();
        let call = list.call(number, arguments);
        self.run(process, &list)?
            .result(call)
            .attempt(|| format!("process {process}: {what}"))
    }

    /// The task as we see it that the image calls `task`.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn task(&self, process: i32, task: i32) -> Result<i32> {
        let built = self.built(process)?;
        let found = built.tasks.iter().find(|(inner, _)| *inner == task);
        found
            .map(|(_, outer)| *outer)
            // A leader that has ended is spoken for.
            .or_else(|| (task == process).then_some(built.speaker))
            .ok_or_else(|| Error::Failed(format!("task {task} is not there yet")))
    }

    /// Puts a task back into a sleep that has `remaining` ns left: the call is begun with that time and interrupted at once, so
    /// that the kernel has its own restart block and goes on with it when the task's registers show the interrupted call.
    ///
    /// # Errors
    /// When the task stumbles.
    pub fn resume_sleep(
        &self,
        process: i32,
        task: i32,
        registers: &cryonaut_sys::arch::Registers,
        remaining: u64,
    ) -> Result<()> {
        let (pid, tid) = (self.built(process)?.speaker, self.task(process, task)?);
        let what = || format!("task {task}: resuming its sleep");
        let start = self.stub.call_instruction();
        let time = self.stub.data();
        let mut bytes = [0_u8; 16];
        bytes[..8].copy_from_slice(&(remaining / 1_000_000_000).to_le_bytes());
        bytes[8..].copy_from_slice(&(remaining % 1_000_000_000).to_le_bytes());
        cryonaut_tracee::write_all(pid, RemotePtr::new(time), &bytes)?;
        let number = registers
            .system_call()
            .unwrap_or(libc::SYS_nanosleep as u64);
        let mut arguments = registers.arguments();
        let request = if number == libc::SYS_clock_nanosleep as u64 {
            2
        } else {
            0
        };
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
        let (pid, tid) = (self.built(process)?.speaker, self.task(process, task)?);
        let what = || format!("process {process}: {what}");
        cryonaut_tracee::write_all(pid, RemotePtr::new(self.stub.data()), data)?;
        let registers = ptrace::registers(tid).attempt(what)?;
        let arguments = arguments(self.stub.data());
        let registers =
            registers.about_to_call(self.stub.call_instruction(), number as u64, arguments);
        ptrace::set_registers(tid, &registers).attempt(what)?;
        // Two stops that count: the call's entry and its exit.
        for expected in [1, 2] {
            loop {
                ptrace::resume_to_system_call(tid, 0).attempt(what)?;
                match wait::wait_for(tid).attempt(what)? {
                    wait::Status::Stopped { event: 0, signal }
                        if signal == libc::SIGTRAP | 0x80 =>
                    {
                        break;
                    }
                    wait::Status::Stopped { .. } | wait::Status::Continued => {}
                    _ => {
                        return Err(Error::Failed(format!(
                            "{}: it ended (stop {expected})",
                            what()
                        )));
                    }
                }
            }
        }
        let result = ptrace::registers(tid).attempt(what)?.rax;
        match -(result as i64) {
            error @ 1..=4095 => Err(std::io::Error::from_raw_os_error(error as i32)).attempt(what),
            _ => Ok(result),
        }
    }

    /// Everything is built. What is done from now on may be done on any processor.
    pub fn stand_ready(&mut self) {
        self.processor = None;
    }

    /// Commits and lets the job run: from here on nothing kills it. Gives what the user should know of what was planned for after
    /// the commit and failed; calls `late` before that, if anything was.
    ///
    /// # Errors
    /// When it cannot be committed; then all is killed.
    pub fn release(mut self, late: impl FnOnce()) -> Result<Vec<String>> {
        // In namespaces their init ends with us until it is told otherwise, and all with it. Elsewhere a guardian does that.
        let nested = self.nursery.namespaces().is_some();
        let mut descriptors = Vec::new();
        for built in self.processes.values().filter(|_| !nested) {
            descriptors
                .push(pidfd::open(built.pid).attempt(|| format!("opening process {}", built.pid))?);
        }
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let guardian = if nested {
            None
        } else {
            Some(Guardian::watch(&borrowed)?)
        };
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
        let mut remarks = Vec::new();
        let after = std::mem::take(&mut self.after_commit);
        if !after.is_empty() {
            late();
        }
        for action in after {
            if let Err(error) = action() {
                remarks.push(error.to_string());
            }
        }
        for built in self.processes.values() {
            for &(_, tid) in &built.tasks {
                // One that was killed meanwhile needs no letting go.
                let _ = ptrace::detach(tid, 0);
            }
        }
        Ok(remarks)
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
                while matches!(
                    wait::wait_for(tid),
                    Ok(wait::Status::Stopped { .. } | wait::Status::Continued)
                ) {
                    let _ = ptrace::resume(tid, 0);
                }
            }
            if built.speaker != built.pid {
                // Its leader is no tracee any more; where it is our child it is to be waited for all the same.
                let _ = wait::wait_for(built.pid);
            }
        }
    }
}
