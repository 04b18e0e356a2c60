//! What is said to programs that take part beside that a checkpoint is made, and what they say beside that they are ready: all
//! that one checkpoint has of it. Most programs ask for none of this; those written for BLCR do.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use cryonaut_participant::board::Details;

pub use crate::participants::{are_in, await_finished, scope_of};
use crate::target::Scope;

/// Errors of BLCR that have no number elsewhere, as its callers know them.
pub mod code {
    /// A program puts the checkpoint off.
    pub const LATER: u32 = 2354;
    /// A program cannot be checkpointed.
    pub const NEVER: u32 = 2355;
}

/// By whose customs a checkpoint is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Customs {
    /// Cryonaut's own.
    #[default]
    Own,
    /// Those of BLCR: programs that open their sockets again themselves find them closed in a restarted life; one that takes part
    /// in another checkpoint is refused at once; where a program says that it can never be checkpointed, all of the job is killed.
    Blcr,
}

/// One checkpoint's dialogue with those who take part.
#[derive(Debug, Default)]
pub struct Dialogue {
    /// What they are told of it.
    pub details: Details,
    /// By whose customs it goes.
    pub customs: Customs,
    /// The file that the image is written to, where the job itself may have it open: device and number. No process has it in the
    /// image.
    pub destination: Option<(u64, u64)>,
    code: AtomicU32,
    ends: AtomicBool,
    taken_in: Mutex<Vec<(i32, Scope)>>,
}

impl Dialogue {
    /// A checkpoint of which this is told, by these customs, with its destination where the job may have that open.
    #[must_use]
    pub fn new(details: Details, customs: Customs, destination: Option<(u64, u64)>) -> Self {
        Self {
            details,
            customs,
            destination,
            ..Self::default()
        }
    }

    /// The error number that a participant's refusal is to be reported as, 0 if none has refused.
    #[must_use]
    pub fn code(&self) -> u32 {
        self.code.load(Ordering::Acquire)
    }

    /// Notes such a number; the first one stays.
    pub(crate) fn note(&self, code: u32) {
        let _ = self
            .code
            .compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Somebody has said that the job can never be checkpointed.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::Release);
    }

    /// Whether all of the job is to be killed for that.
    pub(crate) fn ends(&self) -> bool {
        self.customs == Customs::Blcr && self.ends.load(Ordering::Acquire)
    }

    /// Processes that participants have had taken in, with the scope around each.
    pub(crate) fn taken_in(&self) -> MutexGuard<'_, Vec<(i32, Scope)>> {
        self.taken_in.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
