//! Callbacks in signal context: each runs in the thread that registered it, inside of a signal handler, which holds the thread
//! until the outcome is known.

use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::board::Board;
use crate::callback::{Callback, Event, Verdict};
use crate::{gate, raw};

/// What a thread is asked, and where it has come to.
mod phase {
    /// Nothing.
    pub const IDLE: u32 = 0;
    /// Its handler is to run.
    pub const ASKED: u32 = 1;
    /// Its callbacks for *checkpoint* run.
    pub const RUNNING: u32 = 2;
    /// They have come back; it waits in the handler.
    pub const WAITING: u32 = 3;
    /// The outcome is known.
    pub const GO: u32 = 4;
}

/// A thread with callbacks.
#[derive(Debug, Default)]
pub struct Slot {
    /// 0 if the thread has ended: the slot is free.
    thread: AtomicU32,
    phase: AtomicU32,
    event: AtomicI32,
    verdict: AtomicU32,
    /// Held by the thread itself only: while it registers, when no checkpoint can begin, and while they run.
    callbacks: Mutex<Vec<Callback>>,
    next: OnceLock<&'static Slot>,
}

/// Frees its slot when the thread ends.
struct Own(Cell<Option<&'static Slot>>);

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(slot) = self.0.get() {
            lock(&slot.callbacks).clear();
            slot.phase.store(phase::IDLE, Ordering::Release);
            slot.thread.store(0, Ordering::Release);
            raw::wake_all(&slot.phase);
        }
    }
}

thread_local! {
    static OWN: Own = const { Own(Cell::new(None)) };
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads of this process that have callbacks.
#[derive(Debug, Default)]
pub struct Slots {
    first: OnceLock<&'static Slot>,
}

impl Slots {
    fn iter(&self) -> impl Iterator<Item = &'static Slot> {
        std::iter::successors(self.first.get().copied(), |slot| slot.next.get().copied())
    }

    /// Adds a callback of this thread.
    pub fn register(&self, callback: Callback) {
        gate::touch();
        lock(&self.own().callbacks).push(callback);
    }

    /// Takes away a callback of this thread; tells whether there was one.
    pub fn unregister(&self, id: u32) -> bool {
        let thread = raw::thread_id();
        let own = self
            .iter()
            .find(|slot| slot.thread.load(Ordering::Acquire) == thread);
        own.is_some_and(|slot| {
            let mut callbacks = lock(&slot.callbacks);
            let before = callbacks.len();
            callbacks.retain(|callback| callback.id != id);
            callbacks.len() < before
        })
    }

    fn own(&self) -> &'static Slot {
        let thread = raw::thread_id();
        let known = self
            .iter()
            .find(|slot| slot.thread.load(Ordering::Acquire) == thread);
        let slot = known.unwrap_or_else(|| self.take_slot(thread));
        OWN.with(|own| own.0.set(Some(slot)));
        slot
    }

    fn take_slot(&self, thread: u32) -> &'static Slot {
        let free = self.iter().find(|slot| {
            let taken =
                slot.thread
                    .compare_exchange(0, thread, Ordering::AcqRel, Ordering::Relaxed);
            taken.is_ok()
        });
        free.unwrap_or_else(|| {
            let slot: &'static Slot = Box::leak(Box::default());
            slot.thread.store(thread, Ordering::Release);
            let mut place = &self.first;
            while let Err(taken) = place.set(slot).map_err(|_| place.get()) {
                match taken {
                    Some(taken) => place = &taken.next,
                    None => continue,
                }
            }
            slot
        })
    }

    /// Has all threads run their callbacks for *checkpoint*, at the same time, and waits for them, or until `given_up`.
    pub fn tell(&self, signal: i32, mut given_up: impl FnMut() -> bool) -> Verdict {
        const MOMENT: Duration = Duration::from_millis(500);
        let mut asked = Vec::new();
        for slot in self.iter() {
            let thread = slot.thread.load(Ordering::Acquire);
            if thread == 0 {
                continue;
            }
            slot.verdict.store(0, Ordering::Relaxed);
            slot.phase.store(phase::ASKED, Ordering::Release);
            if raw::signal_thread(thread, signal).is_ok() {
                asked.push(slot);
            } else {
                slot.phase.store(phase::IDLE, Ordering::Release);
            }
        }
        let mut verdict = Verdict::Ready;
        for slot in asked {
            loop {
                let now = slot.phase.load(Ordering::Acquire);
                if !matches!(now, phase::ASKED | phase::RUNNING) {
                    break;
                }
                if given_up() {
                    // One whose handler has not run yet need not run it any more.
                    let _ = slot.phase.compare_exchange(
                        phase::ASKED,
                        phase::IDLE,
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    );
                    break;
                }
                raw::await_change(&slot.phase, now, Some(MOMENT));
            }
            let own = Verdict::from_number(slot.verdict.load(Ordering::Acquire));
            if verdict == Verdict::Ready {
                verdict = own;
            }
        }
        verdict
    }

    /// Tells all threads that wait in their handlers how it ended, and waits for their callbacks.
    pub fn finish(&self, event: Event) {
        // First those that wait already: a callback that still runs may wait for one of these threads.
        for slot in self.iter().filter(|slot| slot.is(phase::WAITING)) {
            slot.go(event);
        }
        for slot in self.iter().filter(|slot| slot.is(phase::RUNNING)) {
            await_phase(slot, phase::RUNNING);
            slot.go(event);
        }
        for slot in self.iter() {
            await_phase(slot, phase::GO);
        }
    }
}

impl Slot {
    fn is(&self, phase: u32) -> bool {
        self.phase.load(Ordering::Acquire) == phase
    }

    /// Lets a thread that waits in its handler go on with what it is told.
    fn go(&self, event: Event) {
        self.event.store(event as i32, Ordering::Relaxed);
        self.phase.store(phase::GO, Ordering::Release);
        raw::wake_all(&self.phase);
    }
}

/// Waits as long as the thread is in this phase.
fn await_phase(slot: &Slot, phase: u32) {
    while slot.phase.load(Ordering::Acquire) == phase {
        raw::await_change(&slot.phase, phase, None);
    }
}

/// In the signal handler: runs this thread's callbacks if it was asked to, and waits until the outcome is known.
pub fn asked() {
    let Some(life) = raw::life_so_far() else {
        return;
    };
    let thread = raw::thread_id();
    let own = life
        .slots
        .iter()
        .find(|slot| slot.thread.load(Ordering::Acquire) == thread);
    let Some(slot) = own else {
        return;
    };
    let begun = slot.phase.compare_exchange(
        phase::ASKED,
        phase::RUNNING,
        Ordering::AcqRel,
        Ordering::Relaxed,
    );
    if begun.is_ok() {
        run(slot, life.board);
    }
}

fn run(slot: &Slot, board: &Board) {
    let Ok(callbacks) = slot.callbacks.try_lock() else {
        // Cannot be: while this thread registers nothing asks it.
        slot.phase.store(phase::IDLE, Ordering::Release);
        raw::wake_all(&slot.phase);
        return;
    };
    let mut told = callbacks.len();
    for (index, callback) in callbacks.iter().enumerate().rev() {
        told = index;
        let verdict = callback.run(Event::Checkpoint, board);
        if verdict != Verdict::Ready {
            slot.verdict.store(verdict as u32, Ordering::Release);
            break;
        }
    }
    slot.phase.store(phase::WAITING, Ordering::Release);
    raw::wake_all(&slot.phase);
    await_phase(slot, phase::WAITING);
    let event = match slot.event.load(Ordering::Acquire) {
        2 => Event::Continue,
        3 => Event::Restart,
        _ => Event::Abandoned,
    };
    for callback in &callbacks[told..] {
        callback.run(event, board);
    }
    slot.phase.store(phase::IDLE, Ordering::Release);
    raw::wake_all(&slot.phase);
}
