//! What a process and its threads have told this library. A child after fork has told it nothing.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use cryonaut_participant::board::OPENS_SOCKETS;
use cryonaut_participant::{Context, Event, Proceed, Verdict, around};

use crate::errors::{CR_ENOINIT, fail, number, preserved, set};
use crate::request::Requests;
use crate::table::Table;

/// Hooks, by CR_HOOK_*: those for *continue* come first.
pub const HOOKS: usize = 6;

/// CR_HOLD_*.
mod hold {
    pub const READ: i32 = -1;
    pub const NONE: i32 = 0;
    pub const CONTINUE: i32 = 1;
    pub const RESTART: i32 = 2;
    pub const BOTH: i32 = 3;
    pub const USUAL: i32 = 4;
}

/// The classes of threads, in the order of their hooks.
#[derive(Clone, Copy)]
enum Class {
    /// It has called cr_init.
    Signal = 0,
    /// It is this library's.
    Thread = 1,
    /// Neither.
    Stranger = 2,
}

/// What a process has told.
pub struct Process {
    /// Callbacks in thread context.
    pub callbacks: Table,
    has_callbacks: Mutex<bool>,
    hooks: [AtomicUsize; HOOKS],
    hold_initialized: AtomicI32,
    hold_strangers: AtomicI32,
    opens_sockets: AtomicBool,
    /// What it has asked for.
    pub requests: Requests,
}

/// Null in a process that has told nothing.
static PROCESS: AtomicPtr<Process> = AtomicPtr::new(null_mut());
/// Another number in each child.
static EPOCH: AtomicU32 = AtomicU32::new(1);

/// What a thread has told.
struct Client {
    /// Of the process that it was told in.
    epoch: Cell<u32>,
    /// How many times it has called cr_init.
    calls: Cell<c_int>,
    persist: Cell<c_int>,
    hold: AtomicI32,
    callbacks: Cell<*const Table>,
}

thread_local! {
    static CLIENT: Client = const { Client {
        epoch: Cell::new(0),
        calls: Cell::new(0),
        persist: Cell::new(0),
        hold: AtomicI32::new(hold::USUAL),
        callbacks: Cell::new(std::ptr::null()),
    } };
}

extern "C" fn forget_in_child() {
    PROCESS.store(null_mut(), Ordering::Release);
    EPOCH.fetch_add(1, Ordering::AcqRel);
}

/// What this process has told.
pub fn process() -> &'static Process {
    static AT_FORK: Once = Once::new();
    // SAFETY: what is stored there came out of Box::leak below.
    if let Some(process) = unsafe { PROCESS.load(Ordering::Acquire).as_ref() } {
        return process;
    }
    AT_FORK.call_once(|| {
        // SAFETY: the handler only stores numbers; this library is never unloaded, as it has thread-local destructors.
        unsafe { libc::pthread_atfork(None, None, Some(forget_in_child)) };
    });
    let new: *mut Process = Box::leak(Box::new(Process {
        callbacks: Table::default(),
        has_callbacks: Mutex::default(),
        hooks: Default::default(),
        hold_initialized: AtomicI32::new(hold::BOTH),
        hold_strangers: AtomicI32::new(hold::BOTH),
        opens_sockets: AtomicBool::new(false),
        requests: Requests::default(),
    }));
    let placed = PROCESS.compare_exchange(null_mut(), new, Ordering::AcqRel, Ordering::Acquire);
    match placed {
        // SAFETY: it was leaked a moment ago.
        Ok(_) => unsafe { &*new },
        Err(first) => {
            // SAFETY: nobody else has seen `new`; what is stored came out of Box::leak.
            unsafe {
                drop(Box::from_raw(new));
                &*first
            }
        }
    }
}

/// Whether this thread has called cr_init.
pub fn is_initialized() -> bool {
    CLIENT.with(|client| client.epoch.get() == EPOCH.load(Ordering::Acquire))
}

/// Fails unless this thread may call what needs cr_init: it has called that, or is in a callback.
///
/// # Errors
/// CR_ENOINIT.
pub fn require() -> Result<(), c_int> {
    match is_initialized() || around::in_callback() {
        true => Ok(()),
        false => Err(CR_ENOINIT),
    }
}

/// `cr_init` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_init() -> c_int {
    if !is_initialized() {
        // This library's thread needs nothing; no other can be in a callback without having called this.
        if !around::in_callback()
            && let Err(error) = begin()
        {
            return fail(error);
        }
        CLIENT.with(|client| {
            client.calls.set(0);
            client.persist.set(0);
            client.hold.store(hold::USUAL, Ordering::Relaxed);
            client.epoch.set(EPOCH.load(Ordering::Acquire));
        });
    }
    CLIENT.with(|client| {
        client
            .calls
            .replace(client.calls.get().wrapping_add(1) & c_int::MAX)
    })
}

/// Has this thread take part in checkpoints.
fn begin() -> Result<(), c_int> {
    let errno = |error: std::io::Error| number(&error);
    // Also what a handler will look at.
    let known = process();
    around::take_part().map_err(errno)?;
    around::ask_bystanders(move |proceed| {
        let event = proceed(Verdict::Ready);
        known.end(Class::Stranger, event, hold::USUAL);
    })
    .map_err(errno)?;
    let table = Arc::new(Table::default());
    let own = Arc::clone(&table);
    let registered = around::register_around("callbacks", Context::Signal, move |proceed| {
        let outcome = own.run(b"signal callback ", SIGNAL_CONTEXT, proceed);
        let hold = CLIENT.with(|client| client.hold.load(Ordering::Relaxed));
        // As that of those that have not been left out.
        if outcome.result >= 0 {
            known.end(Class::Signal, outcome.event, hold);
        }
    });
    registered.map_err(errno)?;
    // The library keeps it as long as the thread is there.
    let table = Arc::into_raw(table);
    CLIENT.with(|client| client.callbacks.set(table));
    Ok(())
}

/// CR_SIGNAL_CONTEXT.
pub const SIGNAL_CONTEXT: c_int = 0x0200_0000;
/// CR_THREAD_CONTEXT.
pub const THREAD_CONTEXT: c_int = 0x0400_0000;

/// The callbacks in signal context of this thread.
///
/// # Errors
/// CR_ENOINIT.
pub fn own_callbacks() -> Result<&'static Table, c_int> {
    let table = CLIENT.with(|client| client.callbacks.get());
    match is_initialized() {
        // SAFETY: it came out of Arc::into_raw in `begin`, and is never taken back.
        true => unsafe { table.as_ref() }.ok_or(CR_ENOINIT),
        false => Err(CR_ENOINIT),
    }
}

impl Process {
    /// Has this library's thread run callbacks.
    ///
    /// # Errors
    /// As cr_register_callback.
    pub fn use_thread(&'static self) -> Result<(), c_int> {
        let mut has_callbacks = self
            .has_callbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !*has_callbacks {
            let registered =
                around::register_around("callbacks", Context::Thread, |proceed| self.run(proceed));
            registered.map_err(|error| number(&error))?;
            *has_callbacks = true;
        }
        Ok(())
    }

    /// That somebody has a callback, and so opens its sockets again itself.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn has_callback(&self) -> Result<(), c_int> {
        if self.opens_sockets.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        around::wish(OPENS_SOCKETS, around::Wanted::Yes).map_err(|error| number(&error))
    }

    fn run(&self, proceed: &mut Proceed<'_>) {
        let outcome = self
            .callbacks
            .run(b"thread callback ", THREAD_CONTEXT, proceed);
        if outcome.result >= 0 {
            self.hook(Class::Thread, outcome.event);
        }
    }

    /// What a thread does when its callbacks have come back.
    fn end(&self, class: Class, event: Event, hold: i32) {
        self.hook(class, event);
        let usual = match class {
            Class::Stranger => &self.hold_strangers,
            _ => &self.hold_initialized,
        };
        let hold = match hold {
            hold::USUAL => usual.load(Ordering::Relaxed),
            hold => hold,
        };
        let branch = match event {
            Event::Continue => hold::CONTINUE,
            Event::Restart => hold::RESTART,
            _ => hold::NONE,
        };
        if hold & branch != 0 {
            around::stay();
        }
    }

    fn hook(&self, class: Class, event: Event) {
        let first = match event {
            Event::Continue => 0,
            Event::Restart => 3,
            _ => return,
        };
        let index = first + class as usize;
        let hook = self.hooks[index].load(Ordering::Acquire);
        if hook != 0 {
            // SAFETY: what is stored came from cr_register_hook as such a function, and is not null.
            let hook: Hook = unsafe { std::mem::transmute::<usize, Hook>(hook) };
            hook(index as c_int);
        }
    }
}

type Hook = extern "C" fn(c_int);

/// `cr_register_hook` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_register_hook(event: c_int, function: Option<Hook>) -> *mut c_void {
    /// CR_HOOK_FN_ERROR.
    const FAILED: *mut c_void = std::ptr::without_provenance_mut(usize::MAX);
    let index = usize::try_from(event).ok().filter(|index| *index < HOOKS);
    let error = match (require(), index) {
        (Err(error), _) => error,
        (_, None) => libc::EINVAL,
        (Ok(()), Some(index)) => {
            let function = function.map_or(0, |function| function as usize);
            let before = process().hooks[index].swap(function, Ordering::AcqRel);
            return std::ptr::with_exposed_provenance_mut(before);
        }
    };
    set(error);
    FAILED
}

/// `cr_hold_ctrl` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_hold_ctrl(scope: c_int, flags: c_int) -> c_int {
    if let Err(error) = require() {
        return fail(error);
    }
    let is_known = (hold::READ..=hold::BOTH).contains(&flags) || flags == hold::USUAL && scope == 0;
    if !is_known || !(0..=2).contains(&scope) {
        return fail(libc::EINVAL);
    }
    let change = |place: &AtomicI32| match flags {
        hold::READ => place.load(Ordering::Relaxed),
        flags => place.swap(flags, Ordering::Relaxed),
    };
    preserved(|| match scope {
        0 => CLIENT.with(|client| change(&client.hold)),
        1 => change(&process().hold_initialized),
        _ => change(&process().hold_strangers),
    })
}

fn persist(change: c_int) -> c_int {
    if let Err(error) = require() {
        return fail(error);
    }
    CLIENT.with(|client| {
        let before = client.persist.get();
        match before.checked_add(change).filter(|after| *after >= 0) {
            Some(after) => {
                client.persist.set(after);
                before
            }
            None => fail(libc::ERANGE),
        }
    })
}

/// `cr_inc_persist` in C. What a thread has told stays until the thread is gone in any case; the count is kept for who asks.
#[unsafe(no_mangle)]
pub extern "C" fn cr_inc_persist() -> c_int {
    persist(1)
}

/// `cr_dec_persist` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_dec_persist() -> c_int {
    persist(-1)
}
