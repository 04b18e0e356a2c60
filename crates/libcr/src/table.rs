//! Callbacks as they are registered, and running them: each around those before it.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryonaut_participant::{Event, Proceed, Verdict, around};

use crate::errors::{CR_ENOTCB, CR_EOMITTED, CR_EPERMFAIL, CR_ERSTRTABRT, CR_ETEMPFAIL};

/// `cr_callback_t` in C.
pub type Function = extern "C" fn(*mut c_void) -> c_int;

/// A registered callback.
#[derive(Clone, Copy)]
pub struct Entry {
    /// None for one that was put out of use.
    pub function: Option<Function>,
    /// What the program gave for it.
    pub argument: *mut c_void,
    /// Its name in the program, if that shows it.
    pub symbol: Option<&'static CStr>,
}

// SAFETY: the argument is never followed here; whoever registers a callback says that it runs in the library's thread (libcr.h).
unsafe impl Send for Entry {}

/// The callbacks of a process, or of a thread, in the order of their registration.
#[derive(Default)]
pub struct Table(Mutex<Vec<Entry>>);

/// The largest number of callbacks (CR_MAX_CALLBACKS).
pub const MOST: usize = 0x01ff_ffff;

impl Table {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a callback; gives its number.
    ///
    /// # Errors
    /// ENOSPC, ENOMEM.
    pub fn add(&self, entry: Entry) -> Result<usize, c_int> {
        let mut entries = self.entries();
        if entries.len() >= MOST {
            return Err(libc::ENOSPC);
        }
        entries.try_reserve(1).map_err(|_| libc::ENOMEM)?;
        entries.push(entry);
        Ok(entries.len() - 1)
    }

    /// Puts another in the place of one.
    ///
    /// # Errors
    /// EINVAL if there is none with this number.
    pub fn replace(&self, index: usize, entry: Entry) -> Result<(), c_int> {
        let mut entries = self.entries();
        *entries.get_mut(index).ok_or(libc::EINVAL)? = entry;
        Ok(())
    }

    fn get(&self, index: usize) -> Option<Entry> {
        self.entries().get(index).copied()
    }

    /// Runs all of them around a checkpoint; gives what they have come to. Beyond what they do themselves this is safe in a signal
    /// handler: the table does not change meanwhile but by the thread that runs it.
    pub fn run(&self, label: &'static [u8], context: c_int, proceed: &mut Proceed<'_>) -> Outcome {
        let count = self.entries().len();
        let run = Run {
            table: self,
            label,
            context,
            next: Cell::new(count),
            proceed: RefCell::new(proceed),
            outcome: Cell::new(None),
            current: Cell::new(None),
            checkpoint: Cell::default(),
            restart: Cell::default(),
        };
        let outer = RUN.replace((&raw const run).cast());
        let result = run.descend();
        RUN.set(outer);
        result
    }
}

/// How a checkpoint ended, for callbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The event.
    pub event: Event,
    /// What cr_checkpoint gives.
    pub result: c_int,
}

/// `struct cr_checkpoint_info` in C.
#[repr(C)]
pub struct CheckpointInfo {
    signal: c_int,
    dest: *const c_char,
    requester: libc::pid_t,
    target: libc::pid_t,
    scope: c_int,
}

impl Default for CheckpointInfo {
    fn default() -> Self {
        Self {
            signal: 0,
            dest: c"".as_ptr(),
            requester: 0,
            target: 0,
            scope: 0,
        }
    }
}

/// `struct cr_restart_info` in C.
#[repr(C)]
pub struct RestartInfo {
    requester: libc::pid_t,
    src: *const c_char,
}

impl Default for RestartInfo {
    fn default() -> Self {
        Self {
            requester: 0,
            src: c"".as_ptr(),
        }
    }
}

const _: () = assert!(size_of::<CheckpointInfo>() == 32 && size_of::<RestartInfo>() == 16);

/// The callback that runs innermost.
#[derive(Clone, Copy)]
struct Current {
    index: usize,
    /// Whether it has called cr_checkpoint.
    has_called: bool,
}

/// A group of callbacks that runs.
struct Run<'a, 'b> {
    table: &'a Table,
    label: &'static [u8],
    context: c_int,
    /// How many are left to be entered.
    next: Cell<usize>,
    proceed: RefCell<&'a mut Proceed<'b>>,
    outcome: Cell<Option<Outcome>>,
    current: Cell<Option<Current>>,
    checkpoint: Cell<CheckpointInfo>,
    restart: Cell<RestartInfo>,
}

thread_local! {
    /// The group that this thread runs.
    static RUN: Cell<*const c_void> = const { Cell::new(null()) };
}

/// The group that this thread runs, from within one of its callbacks.
fn running<'a>() -> Option<&'a Run<'a, 'a>> {
    // SAFETY: it is set by `Table::run` for as long as that is on this thread's stack, and null otherwise; what is called from a
    // callback is done with it when that comes back. All that changes in it is in cells.
    unsafe { RUN.get().cast::<Run<'a, 'a>>().as_ref() }
}

impl Run<'_, '_> {
    /// Enters those that are left, then the barrier.
    fn descend(&self) -> Outcome {
        while self.outcome.get().is_none() && self.next.get() > 0 {
            let index = self.next.get() - 1;
            self.next.set(index);
            if let Some(entry) = self.table.get(index)
                && let Some(function) = entry.function
            {
                self.call(index, function, &entry);
            }
        }
        match self.outcome.get() {
            Some(outcome) => outcome,
            None => self.finish(Verdict::Ready),
        }
    }

    fn call(&self, index: usize, function: Function, entry: &Entry) {
        let outer = self.current.replace(Some(Current {
            index,
            has_called: false,
        }));
        let mut name = Name::default();
        name.add(entry.symbol.map_or(b"".as_slice(), CStr::to_bytes));
        name.add(if entry.symbol.is_some() { b", " } else { b"" });
        name.add(self.label);
        name.add_number(index);
        around::call_it(name.bytes());
        let returned = function(entry.argument);
        let has_called = self.current.get().is_some_and(|current| current.has_called);
        self.current.set(outer);
        match self.outcome.get() {
            None if returned != 0 => {
                // It has failed before it was ready.
                around::report_as(CR_EPERMFAIL as u32);
                let _ = cryonaut_participant::give_reason(b"its callback has failed");
                self.finish(Verdict::Never);
            }
            None if !has_called => {
                self.descend();
            }
            Some(Outcome { event, .. }) if returned != 0 => match event {
                Event::Restart => around::report_as(CR_ERSTRTABRT as u32),
                Event::Continue => around::report_as(CR_EPERMFAIL as u32),
                _ => {}
            },
            _ => {}
        }
    }

    /// The barrier.
    fn finish(&self, verdict: Verdict) -> Outcome {
        let event = (self.proceed.borrow_mut())(verdict);
        let result = match event {
            // Whatever becomes of the others.
            _ if around::was_left_out() => -CR_EOMITTED,
            Event::Restart => (around::details().0[0] as c_int).max(1),
            Event::Continue | Event::Checkpoint => 0,
            Event::Abandoned => match around::cause() {
                0 => -CR_ETEMPFAIL,
                cause => -(cause as c_int),
            },
        };
        let outcome = Outcome { event, result };
        self.outcome.set(Some(outcome));
        outcome
    }
}

/// A text that is put together without allocating.
#[derive(Default)]
struct Name {
    bytes: Bytes,
    length: usize,
}

struct Bytes([u8; 128]);

impl Default for Bytes {
    fn default() -> Self {
        Self([0; 128])
    }
}

impl Name {
    fn add(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.0.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn add_number(&mut self, number: usize) {
        if number > 9 {
            self.add_number(number / 10);
        }
        self.add(&[b'0' + (number % 10) as u8]);
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes.0[..self.length]
    }
}

/// Whether this thread runs a callback that has not called cr_checkpoint.
pub fn is_before() -> bool {
    let current = running().and_then(|run| run.current.get());
    current.is_some_and(|current| !current.has_called)
}

/// `cr_checkpoint` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_checkpoint(flags: c_int) -> c_int {
    let Some(run) = running() else {
        return -CR_ENOTCB;
    };
    match run.current.get() {
        Some(Current {
            index,
            has_called: false,
        }) => run.current.set(Some(Current {
            index,
            has_called: true,
        })),
        _ => return -CR_ENOTCB,
    }
    if let Some(outcome) = run.outcome.get() {
        return outcome.result;
    }
    let code = (flags >> 16) & 0xffff;
    let (verdict, usual, reason): (_, _, &[u8]) = match flags {
        flags if flags & 2 != 0 => (Verdict::Never, CR_EPERMFAIL, b"it says so"),
        flags if flags & 1 != 0 => (Verdict::Later, CR_ETEMPFAIL, b"it asks to try again later"),
        flags if flags & 4 != 0 => (Verdict::LeaveOut, 0, b""),
        _ => return run.descend().result,
    };
    if verdict != Verdict::LeaveOut {
        around::report_as(if code == 0 { usual } else { code } as u32);
        let _ = cryonaut_participant::give_reason(reason);
    }
    run.finish(verdict).result
}

/// Puts another in the place of the callback that runs.
///
/// # Errors
/// CR_ENOTCB outside of callbacks, EINVAL for another context.
pub fn replace_current(entry: Entry, context: c_int) -> Result<(), c_int> {
    let run = running().ok_or(CR_ENOTCB)?;
    let current = run.current.get().ok_or(CR_ENOTCB)?;
    if context != run.context {
        return Err(libc::EINVAL);
    }
    run.table.replace(current.index, entry)
}

/// `cr_get_checkpoint_info` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_get_checkpoint_info() -> *const CheckpointInfo {
    let Some(run) = running() else {
        return std::ptr::null();
    };
    if run.outcome.get().is_none() {
        let ([requester, scope, target, signal], place) = around::details();
        run.checkpoint.set(CheckpointInfo {
            signal: signal as c_int,
            dest: place.as_ptr().cast(),
            requester: requester as libc::pid_t,
            target: target as libc::pid_t,
            scope: scope as c_int,
        });
        return run.checkpoint.as_ptr();
    }
    std::ptr::null()
}

/// `cr_get_restart_info` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_get_restart_info() -> *const RestartInfo {
    let Some(run) = running() else {
        return std::ptr::null();
    };
    let is_restarted = run
        .outcome
        .get()
        .is_some_and(|outcome| outcome.event == Event::Restart);
    if !is_restarted {
        return std::ptr::null();
    }
    let ([requester, ..], place) = around::details();
    run.restart.set(RestartInfo {
        requester: requester as libc::pid_t,
        src: place.as_ptr().cast(),
    });
    run.restart.as_ptr()
}
