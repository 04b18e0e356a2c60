//! What libraries need that offer callbacks of another form over this one, as BLCR's: callbacks that stay on the stack while a
//! checkpoint is made, what `cryo` says of it beside, and what other processes it is to take in.

use std::ffi::CStr;
use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::board::{Outcome, State, WANTS_OUT, write_text};
use crate::callback::{Function, Proceed};
use crate::life::lock;
use crate::{Context, Event, Registration, fails, gate, raw, register_function};

/// Registers a callback that is called once for each checkpoint. In its middle it calls what it is given, with its verdict: that
/// has the other callbacks run, and comes back when the outcome is known. A verdict other than ready keeps those that were
/// registered before from being told. If it does not call it at all, it is ready, and is told of no outcome.
///
/// # Errors
/// As [`crate::register`].
pub fn register_around(
    name: &str,
    context: Context,
    function: impl Fn(&mut Proceed<'_>) + Send + Sync + 'static,
) -> Result<Registration> {
    register_function(name, context, Function::Around(Arc::new(function)))
}

/// Has all threads of this process that have no callback in signal context, and do not block the library's signal, run this in a
/// signal handler during each checkpoint. Of a process it can be said once.
///
/// # Errors
/// As [`crate::register`].
pub fn ask_bystanders(function: impl Fn(&mut Proceed<'_>) + Send + Sync + 'static) -> Result<()> {
    let life = raw::life()?;
    life.slots.ask_bystanders(Box::new(function));
    life.take_part()
}

/// From a callback in signal context: its thread waits, before it goes on, until the callbacks of all others have come back.
pub fn stay() {
    if let Some(life) = raw::life_so_far() {
        life.slots.stay();
    }
}

/// Begins to take part, if this process does not: critical sections count from now on.
///
/// # Errors
/// As [`crate::register`].
pub fn take_part() -> Result<()> {
    raw::life()?.take_part()
}

/// Says of this process what [`crate::board::Board::wishes`] has bits for, or takes it back.
///
/// # Errors
/// ENOMEM.
pub fn wish(bit: u32, wanted: Wanted) -> Result<()> {
    let wishes = &raw::life()?.board.wishes;
    match wanted {
        Wanted::Yes => wishes.fetch_or(bit, Ordering::Release),
        Wanted::No => wishes.fetch_and(!bit, Ordering::Release),
    };
    Ok(())
}

/// Whether something is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It is.
    Yes,
    /// It is not, any more.
    No,
}

/// Leaves this process out of all checkpoints, without a thread of its own.
///
/// # Errors
/// ENOMEM.
pub fn leave_out() -> Result<()> {
    wish(WANTS_OUT, Wanted::Yes)
}

/// Whether this thread runs a callback.
#[must_use]
pub fn in_callback() -> bool {
    gate::in_callback()
}

/// Runs something that is part of a callback on another way into it, so that it counts as one.
pub fn within_callback<T>(work: impl FnOnce() -> T) -> T {
    gate::within_callback(work)
}

/// Whether this thread is in a critical section.
#[must_use]
pub fn in_section() -> bool {
    gate::in_section()
}

/// From a callback: what users are told if it hangs or refuses. Safe in a signal handler.
pub fn call_it(name: &[u8]) {
    if let Some(life) = raw::life_so_far() {
        write_text(&life.board.name, name);
    }
}

/// From a callback: the error number that a refusal is to be reported as. Safe in a signal handler.
pub fn report_as(code: u32) {
    if let Some(life) = raw::life_so_far() {
        life.board.code.store(code, Ordering::Release);
    }
}

/// From a callback that was told of a failure: the error number that was its cause, 0 if none is known.
#[must_use]
pub fn cause() -> u32 {
    let Some(life) = raw::life_so_far() else {
        return 0;
    };
    let own = life.board.code.load(Ordering::Acquire);
    // That of others counts only for who was told in order.
    match life.board.outcome.load(Ordering::Acquire) == Outcome::Failed as u32 {
        true if own == 0 => life.board.verdict.load(Ordering::Acquire),
        _ => own,
    }
}

/// From a callback whose outcome is known: whether this process has left itself out of the checkpoint.
#[must_use]
pub fn was_left_out() -> bool {
    raw::life_so_far().is_some_and(|life| life.left_out.load(Ordering::Acquire))
}

/// From a callback: what `cryo` says of the checkpoint, or of the restart once there was one, in the order of
/// [`crate::board::Details`], and its place. Safe in a signal handler.
#[must_use]
pub fn details() -> ([u32; 4], &'static [AtomicU8]) {
    match raw::life_so_far() {
        Some(life) => {
            let details = &life.board.details;
            let number = |index: usize| details[index].load(Ordering::Relaxed);
            ([0, 1, 2, 3].map(number), &life.board.place)
        }
        None => ([0; 4], &[]),
    }
}

/// Whether `cryo` has asked for something that is not over yet.
#[must_use]
pub fn is_asked() -> bool {
    raw::life_so_far().is_some_and(|life| {
        let board = life.board;
        let answered = board.answered.load(Ordering::Acquire);
        let waits = board.outcome.load(Ordering::Acquire) == Outcome::Pending as u32
            && board.request.load(Ordering::Acquire) != answered;
        waits || board.state.load(Ordering::Acquire) != State::Idle as u32
    })
}

/// The number of the last request, another for each; 0 if there was none.
#[must_use]
pub fn last_request() -> u32 {
    raw::life_so_far().map_or(0, |life| life.board.request.load(Ordering::Acquire))
}

/// How the last request has ended, nothing while it has not.
#[must_use]
pub fn last_outcome() -> Option<Event> {
    let board = raw::life_so_far()?.board;
    match Outcome::from_number(board.outcome.load(Ordering::Acquire))? {
        Outcome::Pending => None,
        Outcome::Continued => Some(Event::Continue),
        Outcome::Restarted => Some(Event::Restart),
        Outcome::Failed => Some(Event::Abandoned),
    }
}

/// Waits until nothing is asked any more: not in a critical section. Safe in a signal handler.
pub fn await_quiet() {
    const PAUSE: Duration = Duration::from_micros(500);
    while is_asked() && !gate::in_callback() && !gate::in_section() {
        if let Some(life) = raw::life_so_far() {
            life.gate.enter();
            // It was entered.
            let _ = life.gate.leave();
        }
        if is_asked() {
            // Asked and not begun, or just over.
            std::thread::sleep(PAUSE);
        }
    }
}

/// From a callback before it is ready: has `cryo` save other processes too, in the same image: those of this scope (as
/// [`crate::board::Details`] counts them) around this process, group or session.
///
/// # Errors
/// EPERM outside of callbacks, otherwise what `cryo` says; EIO if it is gone.
pub fn forward(scope: u32, named: i32) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(2);
    let Some(life) = raw::life_so_far().filter(|_| gate::in_callback()) else {
        return fails(libc::EPERM);
    };
    // One at a time; a callback in a handler that has interrupted another's forwarding cannot be, as its thread would hold this.
    let _held = lock(&life.forwards);
    let board = life.board;
    board.forward[0].store(scope, Ordering::Relaxed);
    board.forward[1].store(named as u32, Ordering::Relaxed);
    let number = board.forwarded.load(Ordering::Acquire).wrapping_add(1);
    board.forwards.store(number, Ordering::Release);
    while board.forwarded.load(Ordering::Acquire) != number {
        if board.outcome.load(Ordering::Acquire) != Outcome::Pending as u32 {
            return fails(libc::EIO);
        }
        std::thread::sleep(PAUSE);
    }
    match board.forward_error.load(Ordering::Acquire) {
        0 => Ok(()),
        error => fails(error as i32),
    }
}

pub use crate::raw::Standard;

/// Starts `cryo` (or what CRYO_COMMAND names), found on PATH, with these words, of which the first is the name that it goes by: a child
/// of which no SIGCHLD and no ordinary wait tells, and which may look into this process.
///
/// # Errors
/// As clone(2). Where there is no such program the child ends with 127.
pub fn start_command(words: &[&CStr], standard: Standard) -> Result<i32> {
    raw::start_quietly(&crate::command()?, words, standard)
}

/// Waits for the end of such a child; its wait status, nothing if there is no such child.
#[must_use]
pub fn await_end(child: i32) -> Option<i32> {
    raw::await_end(child)
}

/// The wait status of such a child if it has ended.
#[must_use]
pub fn has_ended(child: i32) -> Option<i32> {
    raw::has_ended(child)
}
