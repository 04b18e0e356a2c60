//! Remote system calls in a process that is being rebuilt: it runs nothing but our code and dies with us.

use cryonaut_sys::arch::{self, Registers};
use cryonaut_sys::{PAGE_SIZE, RemotePtr, ptrace, wait};

use crate::{CallList, Error, Outcomes, Result, at, read_exact, write_all};

/// Where the stub program lies in the processes of a job that is being rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stub {
    base: u64,
    data: u64,
}

impl Stub {
    /// A stub program at `base` with `data` bytes of memory for lists.
    pub fn at(base: u64, data: u64) -> Self {
        Self { base, data }
    }

    /// Bytes from its first to its last mapped address.
    pub fn length(&self) -> u64 {
        PAGE_SIZE + self.data
    }

    /// Its first mapped address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Address of its memory for lists.
    pub fn data(&self) -> u64 {
        self.base + PAGE_SIZE
    }

    /// Bytes that one list may take.
    pub fn capacity(&self) -> usize {
        self.data as usize
    }

    /// The program as an ELF executable.
    pub fn executable(&self) -> Vec<u8> {
        arch::stub_executable(self.base, self.data)
    }

    /// Address of its code.
    pub fn code(&self) -> u64 {
        self.base + arch::STUB_CODE_OFFSET
    }

    /// Address of the call instruction that lists use.
    pub fn call_instruction(&self) -> u64 {
        self.base + arch::STUB_CODE_OFFSET + arch::stub_call()
    }

    /// Runs a list in the stopped task `tid` of process `pid`.
    ///
    /// # Errors
    /// [`Error::Gone`]; a list that does not fit is [`Error::Unexpected`].
    pub fn run(&self, pid: i32, tid: i32, list: &CallList) -> Result<Outcomes> {
        self.run_births(pid, tid, list)
            .map(|(outcomes, _)| outcomes)
    }

    /// Runs a list that forks; gives also the pids of the new processes as we see them, in order of birth.
    ///
    /// # Errors
    /// As [`Stub::run`].
    pub fn run_births(&self, pid: i32, tid: i32, list: &CallList) -> Result<(Outcomes, Vec<i32>)> {
        let data = self.base + PAGE_SIZE;
        let mut bytes = list.encode(data);
        if bytes.len() as u64 > self.data {
            return Err(Error::Unexpected(
                tid,
                format!("a list of {} bytes is too long", bytes.len()),
            ));
        }
        write_all(pid, RemotePtr::new(data), &bytes)?;
        let start = self.base + arch::STUB_CODE_OFFSET + arch::stub_run();
        let registers = Registers {
            rip: start,
            ..at(tid, "reading registers", ptrace::registers(tid))?
        };
        let registers = registers.about_to_run(start, data, list.len() as u64);
        at(
            tid,
            "setting registers",
            ptrace::set_registers(tid, &registers),
        )?;
        let births = self.until_breakpoint(tid)?;
        read_exact(pid, RemotePtr::new(data), &mut bytes)?;
        Ok((list.outcomes(bytes), births))
    }

    fn until_breakpoint(&self, tid: i32) -> Result<Vec<i32>> {
        let mut births = Vec::new();
        loop {
            at(tid, "letting it run a list", ptrace::resume(tid, 0))?;
            match at(tid, "waiting for its list", wait::wait_for(tid))? {
                wait::Status::Stopped {
                    event: 0,
                    signal: libc::SIGTRAP,
                } => return Ok(births),
                wait::Status::Stopped {
                    event: 0,
                    signal: signal @ (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL),
                } => {
                    return Err(Error::Unexpected(
                        tid,
                        format!("it stumbled with signal {signal} while it was rebuilt"),
                    ));
                }
                wait::Status::Stopped {
                    event: libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_CLONE,
                    ..
                } => {
                    births.push(
                        at(tid, "learning of a new process", ptrace::event_message(tid))? as i32,
                    );
                }
                wait::Status::Stopped { .. } => {}
                _ => return Err(Error::Gone(tid)),
            }
        }
    }
}
