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

type Function = dyn Fn(Event) -> Answer + Send + Sync;

/// A registered callback.
#[derive(Clone)]
pub struct Callback {
    pub id: u32,
    name: Arc<[u8]>,
    function: Arc<Function>,
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "callback {}", self.id)
    }
}

impl Callback {
    pub fn new(id: u32, name: &str, function: Arc<Function>) -> Self {
        let mut name = name.as_bytes();
        name = &name[..name.len().min(NAME - 1)];
        Self {
            id,
            name: name.into(),
            function,
        }
    }

    /// Runs it. Its name is on the board meanwhile, and its reason afterwards if it refuses. Beyond what the function itself does
    /// this is safe in a signal handler.
    pub fn run(&self, event: Event, board: &Board) -> Verdict {
        write_text(&board.name, &self.name);
        if event == Event::Checkpoint {
            board
                .state
                .store(State::InCallback as u32, Ordering::Release);
        }
        let function = AssertUnwindSafe(|| gate::within_callback(|| (self.function)(event)));
        let answer = catch_unwind(function);
        if answer.is_err() {
            // It was left in the middle.
            gate::within_callback(|| ());
        }
        match answer {
            Ok(Answer::Ready) => Verdict::Ready,
            Ok(Answer::LeaveOut) => Verdict::LeaveOut,
            Ok(Answer::Later(reason)) => refuse(board, Verdict::Later, &reason),
            Ok(Answer::Never(reason)) => refuse(board, Verdict::Never, &reason),
            Err(_) => refuse(board, Verdict::Never, "it panicked"),
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
