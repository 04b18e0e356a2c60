//! Callbacks in signal context: each runs in the thread that registered it, inside of a signal handler, which holds the thread
//! until the outcome is known.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::callback::{Barrier, Callback, Event, Proceed, Verdict, run_all};
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
    /// Its callbacks have come back; it waits for those of all others.
    pub const STAYING: u32 = 5;
}

/// What a thread without callbacks does meanwhile.
pub type Bystander = dyn Fn(&mut Proceed<'_>) + Send + Sync;

/// A thread with callbacks.
#[derive(Debug, Default)]
pub struct Slot {
    /// 0 if the thread has ended: the slot is free.
    thread: AtomicU32,
    phase: AtomicU32,
    event: AtomicI32,
    verdict: AtomicU32,
    /// Whether it waits for the callbacks of all others when its own have come back.
    stays: AtomicBool,
    /// Whether the thread has no callbacks, and has the slot for one checkpoint only.
    is_bystander: AtomicBool,
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
#[derive(Default)]
pub struct Slots {
    first: OnceLock<&'static Slot>,
    /// Where it is set, threads without callbacks are asked too.
    bystander: OnceLock<Box<Bystander>>,
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
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

    /// Has all other threads be asked as well.
    pub fn ask_bystanders(&self, function: Box<Bystander>) {
        // The first one stays: there is one library that asks for it.
        let _ = self.bystander.set(function);
    }

    /// From a callback of this thread: it waits, before it goes on, until the callbacks of all others have come back.
    pub fn stay(&self) {
        let thread = raw::thread_id();
        if let Some(slot) = self.of_thread(thread) {
            slot.stays.store(true, Ordering::Relaxed);
        }
    }

    fn of_thread(&self, thread: u32) -> Option<&'static Slot> {
        self.iter()
            .find(|slot| slot.thread.load(Ordering::Acquire) == thread)
    }

    /// Takes away a callback of this thread; tells whether there was one.
    pub fn unregister(&self, id: u32) -> bool {
        self.of_thread(raw::thread_id()).is_some_and(|slot| {
            let mut callbacks = lock(&slot.callbacks);
            let before = callbacks.len();
            callbacks.retain(|callback| callback.id != id);
            callbacks.len() < before
        })
    }

    fn own(&self) -> &'static Slot {
        let thread = raw::thread_id();
        let known = self.of_thread(thread);
        let slot = known.unwrap_or_else(|| self.take_slot(thread));
        // Where the thread is about to end, its slot is found free when it has.
        let _ = OWN.try_with(|own| own.0.set(Some(slot)));
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
        let bystanders = match self.bystander.get() {
            Some(_) => self.bystanders(signal),
            None => Vec::new(),
        };
        let own = self
            .iter()
            .filter(|slot| !slot.is_bystander.load(Ordering::Relaxed));
        let mut asked = Vec::new();
        for slot in own.chain(bystanders.iter().copied()) {
            let thread = slot.thread.load(Ordering::Acquire);
            if thread == 0 {
                continue;
            }
            slot.verdict.store(0, Ordering::Relaxed);
            slot.stays.store(false, Ordering::Relaxed);
            slot.phase.store(phase::ASKED, Ordering::Release);
            if raw::signal_thread(thread, signal).is_ok() {
                asked.push(slot);
            } else {
                slot.need_not();
            }
        }
        let mut verdict = Verdict::Ready;
        for slot in asked {
            slot.await_ready(&mut given_up);
            let own = Verdict::from_number(slot.verdict.load(Ordering::Acquire));
            if verdict == Verdict::Ready {
                verdict = own;
            }
        }
        verdict
    }

    /// Slots for the threads of this process that have none, and do not block the signal. Not for the thread that calls.
    fn bystanders(&self, signal: i32) -> Vec<&'static Slot> {
        let waiter = raw::thread_id();
        let others = raw::threads_accepting(signal).into_iter();
        let others = others.filter(|thread| *thread != waiter && self.of_thread(*thread).is_none());
        let slots = others.map(|thread| {
            let slot = self.take_slot(thread);
            slot.is_bystander.store(true, Ordering::Relaxed);
            slot
        });
        slots.collect()
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

    /// Lets those go on that have waited for all others.
    pub fn let_go(&self) {
        for slot in self.iter().filter(|slot| slot.is(phase::STAYING)) {
            slot.enter(phase::IDLE);
        }
    }
}

impl Slot {
    fn is(&self, phase: u32) -> bool {
        self.phase.load(Ordering::Acquire) == phase
    }

    fn enter(&self, phase: u32) {
        self.phase.store(phase, Ordering::Release);
        raw::wake_all(&self.phase);
    }

    /// Lets a thread that waits in its handler go on with what it is told.
    fn go(&self, event: Event) {
        self.event.store(event as i32, Ordering::Relaxed);
        self.enter(phase::GO);
    }

    /// One whose handler has not run yet need not run it any more; whoever has the slot for that only gives it back.
    fn need_not(&self) {
        let asked = self.phase.compare_exchange(
            phase::ASKED,
            phase::IDLE,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if asked.is_ok() && self.is_bystander.swap(false, Ordering::Relaxed) {
            self.thread.store(0, Ordering::Release);
        }
    }

    /// Waits until its callbacks have come back, or until `given_up`. A thread without any is not waited for long: it may be where no
    /// signal reaches it.
    fn await_ready(&self, given_up: &mut dyn FnMut() -> bool) {
        const MOMENT: Duration = Duration::from_millis(500);
        let is_bystander = self.is_bystander.load(Ordering::Relaxed);
        let start = Instant::now();
        loop {
            let now = self.phase.load(Ordering::Acquire);
            if !matches!(now, phase::ASKED | phase::RUNNING) {
                return;
            }
            if given_up() || is_bystander && now == phase::ASKED && start.elapsed() > MOMENT {
                self.need_not();
                // Unless it has begun just now.
                if !is_bystander || !self.is(phase::RUNNING) {
                    return;
                }
            }
            raw::await_change(&self.phase, now, Some(MOMENT));
        }
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
    let Some(slot) = life.slots.of_thread(raw::thread_id()) else {
        return;
    };
    let begun = slot.phase.compare_exchange(
        phase::ASKED,
        phase::RUNNING,
        Ordering::AcqRel,
        Ordering::Relaxed,
    );
    if begun.is_err() {
        return;
    }
    let mut wait = |verdict| slot.await_outcome(verdict);
    if slot.is_bystander.load(Ordering::Relaxed) {
        if let Some(bystander) = life.slots.bystander.get() {
            bystander(&mut wait);
        }
    } else if let Ok(callbacks) = slot.callbacks.try_lock() {
        // It can be had: while this thread registers, nothing asks it.
        run_all(
            &callbacks,
            &mut Barrier {
                board: life.board,
                is_over: &mut || false,
                wait: &mut wait,
            },
        );
    }
    if slot.stays.load(Ordering::Relaxed) {
        slot.enter(phase::STAYING);
        await_phase(slot, phase::STAYING);
    }
    if slot.is_bystander.swap(false, Ordering::Relaxed) {
        slot.thread.store(0, Ordering::Release);
    }
    slot.enter(phase::IDLE);
}

impl Slot {
    /// In the handler, when its callbacks for *checkpoint* have come back.
    fn await_outcome(&self, verdict: Verdict) -> Event {
        self.verdict.store(verdict as u32, Ordering::Release);
        self.enter(phase::WAITING);
        await_phase(self, phase::WAITING);
        match self.event.load(Ordering::Acquire) {
            2 => Event::Continue,
            3 => Event::Restart,
            _ => Event::Abandoned,
        }
    }
}
