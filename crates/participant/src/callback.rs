//! Callbacks: what they are told, and what they answer.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::board::{Board, NAME, State, write_text};
use crate::gate;

/// What a callback is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Event {
    /// A checkpoint is about to be made: get ready.
    Checkpoint = 1,
    /// The checkpoint was made, and the same life goes on.
    Continue = 2,
    /// This is a new life, which begins where the checkpoint was made.
    Restart = 3,
    /// There is no checkpoint: it was refused, it failed, or `cryo` was killed. The same life goes on.
    Abandoned = 4,
}

/// What a callback answers to [`Event::Checkpoint`]; to all other events an answer means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It may be made.
    Ready,
    /// Not now, with the reason for the user.
    Later(String),
    /// Never, with the reason for the user.
    Never(String),
    /// Make it without this process.
    LeaveOut,
}

/// What an answer is, without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// [`Answer::Ready`].
    Ready = 0,
    /// [`Answer::Later`].
    Later = 1,
    /// [`Answer::Never`].
    Never = 2,
    /// [`Answer::LeaveOut`].
    LeaveOut = 3,
}

impl Verdict {
    /// The verdict with this number.
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Ready,
            1 => Self::Later,
            3 => Self::LeaveOut,
            _ => Self::Never,
        }
    }

    /// What the board shows for it.
    pub fn state(self) -> State {
        match self {
            Self::Ready => State::Ready,
            Self::Later => State::Later,
            Self::Never => State::Never,
            Self::LeaveOut => State::LeftOut,
        }
    }
}

/// Called with what is to be done between the two halves of a callback: given its answer, it comes back when the outcome is known.
pub type Proceed<'a> = dyn FnMut(Verdict) -> Event + 'a;

/// What is called.
#[derive(Clone)]
pub enum Function {
    /// Once for each event.
    Told(Arc<dyn Fn(Event) -> Answer + Send + Sync>),
    /// Once for each checkpoint: it is on the stack until that is over.
    Around(Arc<dyn Fn(&mut Proceed<'_>) + Send + Sync>),
}

/// A registered callback.
#[derive(Clone)]
pub struct Callback {
    pub id: u32,
    name: Arc<[u8]>,
    function: Function,
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "callback {}", self.id)
    }
}

impl Callback {
    pub fn new(id: u32, name: &str, function: Function) -> Self {
        let mut name = name.as_bytes();
        name = &name[..name.len().min(NAME - 1)];
        Self {
            id,
            name: name.into(),
            function,
        }
    }

    /// Tells it. Its name is on the board meanwhile, and its reason afterwards if it refuses. Beyond what the function itself does
    /// this is safe in a signal handler.
    fn tell(&self, function: &dyn Fn(Event) -> Answer, event: Event, board: &Board) -> Verdict {
        self.show(event, board);
        let answer = catch_unwind(AssertUnwindSafe(|| {
            gate::within_callback(|| function(event))
        }));
        match answer {
            Ok(Answer::Ready) => Verdict::Ready,
            Ok(Answer::LeaveOut) => Verdict::LeaveOut,
            Ok(Answer::Later(reason)) => refuse(board, Verdict::Later, &reason),
            Ok(Answer::Never(reason)) => refuse(board, Verdict::Never, &reason),
            Err(_) => refuse(board, Verdict::Never, PANICKED),
        }
    }

    fn show(&self, event: Event, board: &Board) {
        write_text(&board.name, &self.name);
        if event == Event::Checkpoint {
            board
                .state
                .store(State::InCallback as u32, Ordering::Release);
        }
    }
}

const PANICKED: &str = "it panicked";

/// Where a checkpoint is waited for.
pub struct Barrier<'a> {
    /// Where it is shown what runs.
    pub board: &'a Board,
    /// Whether there is nothing more to get ready for.
    pub is_over: &'a mut dyn FnMut() -> bool,
    /// Called once all are ready, or one is not: comes back when the outcome is known.
    pub wait: &'a mut Proceed<'a>,
}

/// Runs callbacks, the last one first and each around those before it, with the barrier in the middle. One that is not ready keeps
/// those before it from being told.
pub fn run_all(callbacks: &[Callback], barrier: &mut Barrier<'_>) -> Event {
    let Some((callback, rest)) = callbacks.split_last() else {
        return (barrier.wait)(Verdict::Ready);
    };
    let proceed = |verdict: Verdict, barrier: &mut Barrier<'_>| {
        if verdict == Verdict::Ready && !(barrier.is_over)() {
            run_all(rest, barrier)
        } else {
            (barrier.wait)(verdict)
        }
    };
    let board = barrier.board;
    match &callback.function {
        Function::Told(function) => {
            let verdict = callback.tell(&**function, Event::Checkpoint, board);
            let event = proceed(verdict, barrier);
            callback.tell(&**function, event, board);
            event
        }
        Function::Around(function) => {
            callback.show(Event::Checkpoint, board);
            let mut outcome = None;
            let mut once =
                |verdict| *outcome.get_or_insert_with(|| proceed(verdict, &mut *barrier));
            let run = AssertUnwindSafe(|| gate::within_callback(|| function(&mut once)));
            let verdict = match catch_unwind(run) {
                Ok(()) => Verdict::Ready,
                Err(_) => refuse(board, Verdict::Never, PANICKED),
            };
            outcome.unwrap_or_else(|| proceed(verdict, barrier))
        }
    }
}

/// Puts the reason on the board; an empty one was put there by the callback itself.
fn refuse(board: &Board, verdict: Verdict, reason: &str) -> Verdict {
    if !reason.is_empty() {
        write_text(&board.reason, reason.as_bytes());
    }
    verdict
}
