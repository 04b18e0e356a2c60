//! One task under ptrace, as a state that operations consume.

use std::time::{Duration, Instant};

use cryonaut_sys::arch::{Interrupted, Registers};
use cryonaut_sys::ptrace::{self, EVENT_STOP, Options, UserDispatch};
use cryonaut_sys::{task, wait};

use crate::waiting::{await_stop, has_ended};
use crate::{Error, Result, at};

/// How tasks of a live job are traced: new ones are followed, stops at system calls marked.
pub const JOB_OPTIONS: Options = ptrace::FOLLOW_TASKS | ptrace::MARK_SYSTEM_CALLS;

/// How a task stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Because its tracer asked for it.
    Trap,
    /// Because its whole process was stopped by this signal (job control) when it was caught.
    Group(i32),
}

/// A seized task that is not known to be stopped.
#[derive(Debug)]
pub struct Running {
    tid: i32,
    ours: bool,
}

impl Running {
    /// Attaches to task `tid` without stopping it.
    ///
    /// # Errors
    /// [`Error::Gone`]; EPERM without access or when another tracer has it.
    pub fn seize(tid: i32, options: Options) -> Result<Self> {
        at(tid, "attaching", ptrace::seize(tid, options))?;
        Ok(Self { tid, ours: true })
    }

    /// Takes charge of a task that the kernel attached to us because its creator was traced.
    pub fn attached_by_kernel(tid: i32) -> Self {
        Self { tid, ours: true }
    }

    /// Its task id.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Asks it to stop; [`Stopping`] waits for that.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn interrupt(&self) -> Result<()> {
        at(self.tid, "stopping it", ptrace::interrupt(self.tid))
    }

    /// Waits until it stands still at a stop that [`Running::interrupt`] asked for, letting it pass signals and events on the way.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn stops_within(mut self, limit: Duration) -> Result<Stopping> {
        let tid = self.tid;
        let (stop, births) = match until_event_stop(tid, limit) {
            Ok(reached) => reached,
            Err(error) => {
                self.ours = !matches!(error, Error::Gone(_));
                return Err(error);
            }
        };
        let Some(stop) = stop else {
            return Ok(Stopping::Not(self, births));
        };
        let registers = at(tid, "reading its registers", ptrace::registers(tid))?;
        let mask = at(tid, "reading its signal mask", ptrace::signal_mask(tid))?;
        self.ours = false;
        let stopped = Stopped {
            tid,
            registers,
            mask,
            stop,
            held: Vec::new(),
            filtered: Filtered::No,
            dispatch: UserDispatch::default(),
            ours: true,
        };
        Ok(Stopping::Stopped(stopped, births))
    }
}

/// What became of an attempt to stop a task; with the ids of tasks that it bore meanwhile, which the kernel has attached to us.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once, and the large one is the usual"
)]
pub enum Stopping {
    /// It stands still.
    Stopped(Stopped, Vec<i32>),
    /// It has not stopped in time; it will as soon as it can.
    Not(Running, Vec<i32>),
}

/// Waits for the stop of an interrupt; signals that arrive before are delivered, events passed.
fn until_event_stop(tid: i32, limit: Duration) -> Result<(Option<Stop>, Vec<i32>)> {
    let mut births = Vec::new();
    let start = Instant::now();
    let mut pause = Duration::from_micros(5);
    loop {
        let Some(status) = at(tid, "waiting for it", wait::poll(tid))? else {
            if start.elapsed() > limit {
                return match has_ended(tid) {
                    true => Err(Error::Gone(tid)),
                    false => Ok((None, births)),
                };
            }
            // The first look nearly always finds it stopping: spin shortly before sleeping.
            if start.elapsed() > Duration::from_micros(200) {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(2));
            } else {
                std::thread::yield_now();
            }
            continue;
        };
        match status {
            wait::Status::Stopped {
                event: EVENT_STOP,
                signal: libc::SIGTRAP,
            } => return Ok((Some(Stop::Trap), births)),
            wait::Status::Stopped {
                event: EVENT_STOP,
                signal,
            } => return Ok((Some(Stop::Group(signal)), births)),
            wait::Status::Stopped { event: 0, signal } => pass(tid, "passing a signal", signal)?,
            wait::Status::Stopped {
                event: libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE,
                ..
            } => {
                births.push(at(tid, "learning of a new task", ptrace::event_message(tid))? as i32);
                pass(tid, "passing an event", 0)?;
            }
            wait::Status::Stopped { .. } => pass(tid, "passing an event", 0)?,
            wait::Status::Exited(_) | wait::Status::Killed(..) => return Err(Error::Gone(tid)),
            wait::Status::Continued => {}
        }
    }
}

/// Lets a task go on from another stop than the one that is waited for. Any stop makes the kernel forget an interrupt that was
/// asked for before (`ptrace_stop` in kernel/signal.c), so that it must be asked for again.
fn pass(tid: i32, what: &'static str, signal: i32) -> Result<()> {
    at(tid, what, ptrace::interrupt(tid))?;
    at(tid, what, ptrace::resume(tid, signal))
}

impl Drop for Running {
    fn drop(&mut self) {
        // Detaching needs a stop; a task that refuses to stop is let go when this process ends.
        if self.ours
            && ptrace::interrupt(self.tid).is_ok()
            && let Ok((Some(_), _)) = until_event_stop(self.tid, Duration::from_secs(1))
        {
            let _ = ptrace::detach(self.tid, 0);
        }
    }
}

/// A task that stands still under our hands. Dropping it lets it run on.
#[derive(Debug)]
pub struct Stopped {
    tid: i32,
    registers: Registers,
    mask: u64,
    stop: Stop,
    held: Vec<i32>,
    filtered: Filtered,
    dispatch: UserDispatch,
    ours: bool,
}

/// Whether seccomp(2) judges the system calls of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Filtered {
    /// It may make any.
    #[default]
    No,
    /// It is in strict mode or under filters, which must not see calls of ours.
    Yes,
}

impl Stopped {
    /// Says whether seccomp is to be suspended while the task makes calls for us.
    pub fn set_filtered(&mut self, filtered: Filtered) {
        self.filtered = filtered;
    }

    /// Says how its system calls are dispatched to itself, so that this is off while it makes calls for us.
    pub fn set_dispatch(&mut self, dispatch: UserDispatch) {
        self.dispatch = dispatch;
    }

    /// How its system calls are dispatched to itself (mode 0: they are not).
    pub fn dispatch(&self) -> &UserDispatch {
        &self.dispatch
    }

    /// Whether the death of its tracer in the middle of a list would hurt it (see the guest).
    pub fn is_delicate(&self) -> bool {
        self.filtered == Filtered::Yes || self.dispatch.mode != 0
    }

    /// Suspends what judges the system calls of a task, for calls of ours. Only as long as it runs nothing of its own:
    /// `restore_judges` comes before its own registers are used again, and the kernel ends the suspension of filters with the
    /// tracing, however that ends.
    pub(crate) fn suspend_judges(&self) -> Result<()> {
        if self.filtered == Filtered::Yes {
            at(
                self.tid,
                "suspending its seccomp filters (only root may, and not under a filter itself)",
                ptrace::set_options(self.tid, JOB_OPTIONS | ptrace::SUSPEND_SECCOMP),
            )?;
        }
        if self.dispatch.mode != 0 {
            at(
                self.tid,
                "switching its system call user dispatch off",
                ptrace::set_user_dispatch(self.tid, &UserDispatch::default()),
            )?;
        }
        Ok(())
    }

    /// Puts what judges the system calls of a task in force again.
    pub(crate) fn restore_judges(&self) -> Result<()> {
        if self.dispatch.mode != 0 {
            at(
                self.tid,
                "switching its system call user dispatch on again",
                ptrace::set_user_dispatch(self.tid, &self.dispatch),
            )?;
        }
        if self.filtered == Filtered::Yes {
            at(
                self.tid,
                "putting its seccomp filters in force again",
                ptrace::set_options(self.tid, JOB_OPTIONS),
            )?;
        }
        Ok(())
    }

    /// Its task id.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Its general registers as they were when it stopped.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Its mask of blocked signals as it was when it stopped.
    pub fn mask(&self) -> u64 {
        self.mask
    }

    /// How it was stopped.
    pub fn stop(&self) -> Stop {
        self.stop
    }

    /// Remembers a signal that arrived while it worked for us and that cannot stay pending; release sends it again.
    pub(crate) fn hold(&mut self, signal: i32) {
        self.held.push(signal);
    }

    /// Executes single instructions until `arrived` says so of the registers; at most `limit` of them. Signals are delivered.
    ///
    /// # Errors
    /// [`Error::Gone`]; [`Error::Unexpected`] when the limit is reached.
    pub fn step_until(&mut self, limit: usize, arrived: impl Fn(&Registers) -> bool) -> Result<()> {
        if arrived(&self.registers) {
            return Ok(());
        }
        self.suspend_judges()?;
        let outcome = self.steps(limit, arrived);
        self.restore_judges()?;
        if outcome? {
            return Ok(());
        }
        Err(Error::Unexpected(
            self.tid,
            format!("it did not leave its place within {limit} instructions"),
        ))
    }

    /// Lets it go on with its own program, for moments, until `arrived` says so of the registers; tells whether that came about
    /// within `moments`. It makes no system call but where it has not arrived. Signals are delivered.
    ///
    /// Whenever its tracer is killed, it just runs on. Single steps would not do: the kernel lets a task whose tracer has gone
    /// trap once more, which ends it (`__ptrace_unlink` in kernel/ptrace.c leaves the trap flag alone). A task whose system calls
    /// are judged stays where it is, since a call that it is about to make cannot be taken back unseen.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn go_on_until(
        &mut self,
        moments: usize,
        arrived: impl Fn(&Registers) -> bool,
    ) -> Result<bool> {
        /// The first moments are short, so that it does not run far.
        const MOMENT: Duration = Duration::from_micros(20);
        const LONGEST: Duration = Duration::from_micros(500);
        let mut moment = MOMENT;
        for _ in 0..moments {
            if arrived(&self.registers) || self.is_delicate() {
                break;
            }
            self.run_for(moment, &arrived)?;
            moment = (moment * 11 / 10).min(LONGEST);
        }
        Ok(arrived(&self.registers))
    }

    /// Lets it run on for a moment, or to its next system call, which it has not made then unless it is where it has not arrived.
    fn run_for(&mut self, moment: Duration, arrived: &impl Fn(&Registers) -> bool) -> Result<()> {
        const CALL: i32 = libc::SIGTRAP | 0x80;
        let tid = self.tid;
        at(
            tid,
            "letting it go on",
            ptrace::resume_to_system_call(tid, 0),
        )?;
        std::thread::sleep(moment);
        at(tid, "stopping it", ptrace::interrupt(tid))?;
        let signal = match await_stop(tid)? {
            wait::Status::Stopped {
                event: EVENT_STOP,
                signal,
            } => {
                if signal != libc::SIGTRAP {
                    self.stop = Stop::Group(signal);
                }
                return self.look();
            }
            wait::Status::Stopped {
                event: 0,
                signal: CALL,
            } => {
                let registers = at(tid, "reading its registers", ptrace::registers(tid))?;
                if arrived(&registers) {
                    let before = registers.before_the_call();
                    let taken_back = ptrace::set_registers(tid, &before);
                    at(tid, "taking its call back", taken_back)?;
                }
                0
            }
            wait::Status::Stopped { event: 0, signal } => signal,
            wait::Status::Stopped { .. } => 0,
            _ => return Err(Error::Gone(tid)),
        };
        // With the interrupt asked for anew it runs nothing of its own before it stops, but may begin to handle the signal.
        pass(tid, "stopping it again", signal)?;
        match until_event_stop(tid, Duration::from_secs(10))? {
            (Some(stop), _) => {
                if stop != Stop::Trap {
                    self.stop = stop;
                }
                self.look()
            }
            (None, _) => Err(Error::Unexpected(tid, "it does not stop again".to_owned())),
        }
    }

    /// Reads what its program has changed.
    fn look(&mut self) -> Result<()> {
        let tid = self.tid;
        self.registers = at(tid, "reading its registers", ptrace::registers(tid))?;
        self.mask = at(tid, "reading its signal mask", ptrace::signal_mask(tid))?;
        Ok(())
    }

    fn steps(&mut self, limit: usize, arrived: impl Fn(&Registers) -> bool) -> Result<bool> {
        let mut signal = 0;
        let mut left = limit;
        while left > 0 && (signal != 0 || !arrived(&self.registers)) {
            left -= 1;
            at(self.tid, "stepping", ptrace::single_step(self.tid, signal))?;
            signal = match await_stop(self.tid)? {
                wait::Status::Stopped { event: 0, signal } if signal != libc::SIGTRAP => signal,
                wait::Status::Stopped { .. } => 0,
                _ => return Err(Error::Gone(self.tid)),
            };
            self.registers = at(
                self.tid,
                "reading its registers",
                ptrace::registers(self.tid),
            )?;
        }
        if signal != 0 {
            self.hold(signal);
        }
        self.look()?;
        Ok(arrived(&self.registers))
    }

    /// Makes it continue at `address`, with its other registers unchanged.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn move_to(&mut self, address: u64) -> Result<()> {
        let registers = Registers {
            rip: address,
            ..self.registers
        };
        at(
            self.tid,
            "setting registers",
            ptrace::set_registers(self.tid, &registers),
        )?;
        self.registers = registers;
        Ok(())
    }

    /// Lets it run on, untraced, exactly where it was.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn release(mut self) -> Result<()> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<()> {
        if !self.ours {
            return Ok(());
        }
        self.ours = false;
        if self.registers.interrupted() == Interrupted::NeverRestarted {
            at(
                self.tid,
                "rewinding its call",
                ptrace::set_registers(self.tid, &self.registers.restarted_by_kernel()),
            )?;
        }
        for signal in self.held.drain(..) {
            let _ = task::kill(self.tid, signal);
        }
        at(self.tid, "letting it go", ptrace::detach(self.tid, 0))
    }

    /// Forgets the task without letting it go: it is about to be killed, or its tracing passes elsewhere.
    pub fn forget(mut self) {
        self.ours = false;
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.let_go();
    }
}
