//! What a process knows of its taking part, and the thread that waits for `cryo`.

use std::cell::RefCell;
use std::io::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::board::{Board, Outcome, State, WANTS_NOTICE, write_text};
use crate::callback::{Barrier, Callback, Event, Verdict, run_all};
use crate::gate::Gate;
use crate::raw;
use crate::threads::Slots;

/// What a process knows of its taking part.
#[derive(Debug)]
pub struct Life {
    /// Where it and `cryo` write to each other.
    pub board: &'static Board,
    /// Critical sections.
    pub gate: Gate,
    /// Threads with callbacks in signal context.
    pub slots: Slots,
    /// Callbacks in thread context, in the order of their registration.
    pub callbacks: Mutex<Vec<Callback>>,
    /// Held while the board's tables change.
    pub tables: Mutex<()>,
    /// Whether this process has left itself out of the last checkpoint.
    pub left_out: AtomicBool,
    /// Held while `cryo` is asked to take in other processes.
    pub forwards: Mutex<()>,
    /// Whether the waiter was started.
    started: Mutex<bool>,
    signal: AtomicI32,
    last_id: AtomicU32,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

/// A lock that a panic does not close.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Life {
    /// Of a process that knows nothing yet.
    pub fn new(board: &'static Board) -> Self {
        Self {
            board,
            gate: Gate::default(),
            slots: Slots::default(),
            callbacks: Mutex::default(),
            tables: Mutex::default(),
            left_out: AtomicBool::new(false),
            forwards: Mutex::default(),
            started: Mutex::default(),
            signal: AtomicI32::new(0),
            last_id: AtomicU32::new(0),
        }
    }

    /// A number for a callback.
    pub fn next_id(&self) -> u32 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Starts the waiter, if it is not there: from now on this process is told of checkpoints.
    ///
    /// # Errors
    /// EAGAIN when no thread can be started, or no real-time signal is free.
    pub fn take_part(&'static self) -> Result<()> {
        let mut started = lock(&self.started);
        if *started {
            return Ok(());
        }
        let signal = raw::free_signal().ok_or_else(|| Error::from_raw_os_error(libc::EAGAIN))?;
        raw::handle_signal(signal)?;
        self.signal.store(signal, Ordering::Relaxed);
        let builder = std::thread::Builder::new()
            .name("cryonaut".into())
            .stack_size(8 << 20);
        raw::with_signals_blocked(|| builder.spawn(move || self.wait_for_requests(signal)))?;
        // From the moment that this is back, `cryo` finds it.
        let wishes = &self.board.wishes;
        loop {
            let now = wishes.load(Ordering::Acquire);
            if now & WANTS_NOTICE != 0 {
                break;
            }
            raw::await_change(wishes, now, None);
        }
        *started = true;
        Ok(())
    }

    /// The waiter: woken by `cryo`, it answers the request that is on the board.
    fn wait_for_requests(&self, signal: i32) {
        let board = self.board;
        board.signal.store(signal as u32, Ordering::Relaxed);
        board.waiter.store(raw::thread_id(), Ordering::Relaxed);
        board.wishes.fetch_or(WANTS_NOTICE, Ordering::Release);
        raw::wake_all(&board.wishes);
        loop {
            raw::await_signal(signal, None);
            let request = board.request.load(Ordering::Acquire);
            if request != 0 && request != board.answered.load(Ordering::Relaxed) {
                self.answer(request, signal);
            }
        }
    }

    fn show(&self, state: State) {
        self.board.state.store(state as u32, Ordering::Release);
    }

    fn answer(&self, request: u32, signal: i32) {
        let mut patience = Patience::new(self.board);
        write_text(&self.board.name, b"");
        write_text(&self.board.reason, b"");
        self.board.code.store(0, Ordering::Relaxed);
        self.show(State::Entering);
        self.board.answered.store(request, Ordering::Release);
        // A section may be left just when it was waited for long enough: then nobody is told anything.
        if !self.gate.close(|| patience.is_over()) || patience.is_over() {
            self.gate.open();
            self.show(State::Idle);
            return;
        }
        let callbacks = lock(&self.callbacks).clone();
        let patience = RefCell::new(patience);
        let mut is_over = || patience.borrow_mut().is_over();
        let mut wait = |verdict| self.await_outcome(verdict, signal, &patience);
        run_all(
            &callbacks,
            &mut Barrier {
                board: self.board,
                is_over: &mut is_over,
                wait: &mut wait,
            },
        );
        self.slots.let_go();
        self.show(State::Idle);
        self.gate.open();
    }

    /// The barrier: has the threads with callbacks run theirs, and waits for the outcome of the checkpoint.
    fn await_outcome(
        &self,
        mut verdict: Verdict,
        signal: i32,
        patience: &RefCell<Patience<'_>>,
    ) -> Event {
        let is_over = || patience.borrow_mut().is_over();
        if verdict == Verdict::Ready && !is_over() {
            verdict = self.slots.tell(signal, is_over);
        }
        let is_out = verdict == Verdict::LeaveOut;
        self.left_out.store(is_out, Ordering::Release);
        self.show(verdict.state());
        while !is_over() {
            raw::await_signal(signal, Some(MOMENT));
        }
        let outcome = self.board.outcome.load(Ordering::Acquire);
        let event = match Outcome::from_number(outcome) {
            Some(Outcome::Continued) => Event::Continue,
            Some(Outcome::Restarted) => Event::Restart,
            Some(Outcome::Failed) | None => Event::Abandoned,
            Some(Outcome::Pending) => {
                // Whoever freezes this process now sees that it is not ready any more.
                self.show(State::GaveUp);
                Event::Abandoned
            }
        };
        if event != Event::Abandoned || outcome != Outcome::Pending as u32 {
            self.show(State::Finishing);
        }
        self.slots.finish(event);
        event
    }
}

/// How often the waiter looks whether `cryo` is still there.
const MOMENT: Duration = Duration::from_millis(500);
/// After so many moments in which nothing was heard of `cryo` it is taken for dead. Time during which this process stood still
/// counts as one moment.
const MOMENTS: u32 = 120;

/// Waiting for the outcome.
struct Patience<'a> {
    board: &'a Board,
    lease: u32,
    since: std::time::Instant,
    moments: u32,
}

impl<'a> Patience<'a> {
    fn new(board: &'a Board) -> Self {
        Self {
            board,
            lease: board.lease.load(Ordering::Relaxed),
            since: std::time::Instant::now(),
            moments: 0,
        }
    }

    /// Whether there is an outcome, or `cryo` has gone without a word.
    fn is_over(&mut self) -> bool {
        if self.board.outcome.load(Ordering::Acquire) != Outcome::Pending as u32 {
            return true;
        }
        let lease = self.board.lease.load(Ordering::Relaxed);
        if lease != self.lease {
            self.lease = lease;
            self.moments = 0;
            self.since = std::time::Instant::now();
        } else if self.since.elapsed() >= MOMENT {
            self.moments += 1;
            self.since = std::time::Instant::now();
        }
        self.moments >= MOMENTS
    }
}
