//! For programs that take part in their own checkpoints by Cryonaut.
//!
//! A program needs none of this to be checkpointed. One that uses it is told of checkpoints, can put them off or refuse them, can
//! leave memory and descriptors out of the image, and can ask for a checkpoint of itself. Where `cryo` is not installed, or never
//! comes, all of it works just as well, and nothing happens: there is no measurable cost.
//!
//! ```no_run
//! use cryonaut_participant::{Answer, Context, Event, register};
//!
//! register("cache", Context::Thread, |event| {
//!     match event {
//!         Event::Checkpoint => println!("dropping what can be had again"),
//!         Event::Restart => println!("a new life"),
//!         Event::Continue | Event::Abandoned => println!("going on"),
//!     }
//!     Answer::Ready
//! })?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The same for C, and what is promised in detail: docs/libcryo.md. How program and `cryo` talk to each other: [`board`].
//!
//! A child after fork takes part in nothing until it calls any of these functions itself; so does a program after exec.
#![deny(unsafe_code)]

pub mod around;
pub mod board;
mod callback;
mod gate;
mod life;
#[allow(unsafe_code)]
mod raw;
mod threads;

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io::{Error, Result};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use board::{DESCRIPTORS, RANGES};
pub use callback::{Answer, Event, Proceed, Verdict};
use callback::{Callback, Function};

/// Where a callback runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// In a thread of this library: it may do whatever threads may, and any thread may have registered it.
    Thread,
    /// In the thread that registered it, inside of a signal handler: only what signal-safety(7) lists. It runs when all callbacks in
    /// threads have come back, and that thread then waits in the handler until the outcome is known.
    Signal,
}

/// A registered callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration(u32, Context);

impl Registration {
    /// A number for it, as C has it.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0 << 1 | u32::from(self.1 == Context::Signal)
    }

    /// The registration with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        let context = if number & 1 == 0 {
            Context::Thread
        } else {
            Context::Signal
        };
        Self(number >> 1, context)
    }
}

fn fails<T>(error: i32) -> Result<T> {
    Err(Error::from_raw_os_error(error))
}

/// Registers a callback. For [`Event::Checkpoint`] callbacks run in the reverse order of their registration, for all other events
/// in order; those that were not told of a checkpoint are not told of its outcome. `name` is what users are told when it hangs or
/// refuses. It waits while callbacks run.
///
/// # Errors
/// EBUSY in a callback; EAGAIN when no thread can be started or no real-time signal is free; ENOMEM.
pub fn register(
    name: &str,
    context: Context,
    function: impl Fn(Event) -> Answer + Send + Sync + 'static,
) -> Result<Registration> {
    register_function(name, context, Function::Told(Arc::new(function)))
}

fn register_function(name: &str, context: Context, function: Function) -> Result<Registration> {
    if gate::in_callback() {
        return fails(libc::EBUSY);
    }
    let life = raw::life()?;
    life.take_part()?;
    let callback = Callback::new(life.next_id(), name, function);
    let registration = Registration(callback.id, context);
    life.gate.enter();
    match context {
        Context::Thread => life::lock(&life.callbacks).push(callback),
        Context::Signal => life.slots.register(callback),
    }
    life.gate.leave()?;
    Ok(registration)
}

/// Takes a callback away; one in signal context only its own thread can. It waits while callbacks run.
///
/// # Errors
/// EBUSY in a callback; ENOENT when there is none.
pub fn unregister(registration: Registration) -> Result<()> {
    if gate::in_callback() {
        return fails(libc::EBUSY);
    }
    let life = raw::life()?;
    let Registration(id, context) = registration;
    life.gate.enter();
    let found = match context {
        Context::Thread => {
            let mut callbacks = life::lock(&life.callbacks);
            let before = callbacks.len();
            callbacks.retain(|callback| callback.id != id);
            callbacks.len() < before
        }
        Context::Signal => life.slots.unregister(id),
    };
    life.gate.leave()?;
    if found { Ok(()) } else { fails(libc::ENOENT) }
}

/// From within a callback: the reason why it is about to answer [`Answer::Later`] or [`Answer::Never`] with an empty one. Safe in
/// a signal handler.
///
/// # Errors
/// EPERM outside of callbacks.
pub fn give_reason(reason: &[u8]) -> Result<()> {
    match raw::life_so_far() {
        Some(life) if gate::in_callback() => {
            board::write_text(&life.board.reason, reason);
            Ok(())
        }
        _ => fails(libc::EPERM),
    }
}

/// Enters a critical section: no checkpoint begins until this thread has left it. Sections nest. It waits while callbacks run; in a
/// callback it does nothing.
///
/// # Errors
/// When this is the first use of the library in this process, as [`register`].
pub fn enter() -> Result<()> {
    section()?.enter();
    Ok(())
}

/// Enters a critical section unless that would have to wait; tells whether it has.
///
/// # Errors
/// As [`enter`].
pub fn try_enter() -> Result<bool> {
    Ok(section()?.try_enter())
}

/// Leaves a critical section.
///
/// # Errors
/// EPERM for a thread that is in none.
pub fn leave() -> Result<()> {
    match raw::life_so_far() {
        Some(life) => life.gate.leave(),
        None => gate::leave_inherited(),
    }
}

fn section() -> Result<&'static gate::Gate> {
    let life = raw::life()?;
    if life.board.wishes.load(Ordering::Relaxed) & board::WANTS_NOTICE == 0 {
        life.take_part()?;
    }
    Ok(&life.gate)
}

/// Leaves a range of memory out of images: its content is zero in a restarted life. It is meant for private memory (heap, anonymous
/// mappings); of mappings of files, and of memory that is shared, the mark means nothing. Only whole pages inside of the range are
/// left out.
///
/// # Errors
/// EINVAL when no whole page is inside; ENOSPC when there are 256 ranges already; ENOMEM.
pub fn exclude(address: usize, length: usize) -> Result<()> {
    let (start, length) = whole_pages(address, length)?;
    let life = raw::life()?;
    let _held = life::lock(&life.tables);
    let ranges = &life.board.ranges[..RANGES];
    if ranges.iter().any(|range| is(range, start, length)) {
        return Ok(());
    }
    let free = ranges
        .iter()
        .find(|range| range[1].load(Ordering::Relaxed) == 0);
    let Some([first, bytes]) = free else {
        return fails(libc::ENOSPC);
    };
    first.store(start, Ordering::Relaxed);
    bytes.store(length, Ordering::Release);
    Ok(())
}

/// Takes back what [`exclude`] said, given the same range. Do so before memory goes to somebody else (free, munmap).
///
/// # Errors
/// EINVAL when no whole page is inside; ENOENT when there is no such range.
pub fn include(address: usize, length: usize) -> Result<()> {
    let (start, length) = whole_pages(address, length)?;
    let life = raw::life()?;
    let _held = life::lock(&life.tables);
    let mut ranges = life.board.ranges.iter();
    match ranges.find(|range| is(range, start, length)) {
        Some([_, bytes]) => {
            bytes.store(0, Ordering::Release);
            Ok(())
        }
        None => fails(libc::ENOENT),
    }
}

fn is([first, bytes]: &[AtomicU64; 2], start: u64, length: u64) -> bool {
    first.load(Ordering::Relaxed) == start && bytes.load(Ordering::Relaxed) == length
}

fn whole_pages(address: usize, length: usize) -> Result<(u64, u64)> {
    const PAGE: usize = 4096;
    let start = address.checked_next_multiple_of(PAGE);
    let end = address.checked_add(length).map(|end| end / PAGE * PAGE);
    match (start, end) {
        (Some(start), Some(end)) if start < end => Ok((start as u64, (end - start) as u64)),
        _ => fails(libc::EINVAL),
    }
}

/// Says that this program opens a descriptor again itself in a restarted life: the image is made without it, whatever it leads to,
/// and the restarted life finds the number closed. Copies of it, in this process or others, are saved unless they are marked too.
///
/// # Errors
/// EBADF for a negative number; ENOSPC when there are 1024 already; ENOMEM.
pub fn reopen(descriptor: RawFd) -> Result<()> {
    let mark = mark(descriptor)?;
    let life = raw::life()?;
    let _held = life::lock(&life.tables);
    let marks = &life.board.descriptors[..DESCRIPTORS];
    if marks
        .iter()
        .any(|known| known.load(Ordering::Relaxed) == mark)
    {
        return Ok(());
    }
    let free = marks
        .iter()
        .find(|known| known.load(Ordering::Relaxed) == 0);
    match free {
        Some(free) => {
            free.store(mark, Ordering::Release);
            Ok(())
        }
        None => fails(libc::ENOSPC),
    }
}

/// Takes back what [`reopen`] said.
///
/// # Errors
/// EBADF for a negative number; ENOENT when it is not marked.
pub fn keep(descriptor: RawFd) -> Result<()> {
    let mark = mark(descriptor)?;
    let life = raw::life()?;
    let _held = life::lock(&life.tables);
    let marks = life.board.descriptors.iter();
    let mut known = marks.filter(|known| known.load(Ordering::Relaxed) == mark);
    match known.next() {
        Some(known) => {
            known.store(0, Ordering::Release);
            Ok(())
        }
        None => fails(libc::ENOENT),
    }
}

fn mark(descriptor: RawFd) -> Result<u32> {
    match u32::try_from(descriptor) {
        Ok(number) => Ok(number + 1),
        Err(_) => fails(libc::EBADF),
    }
}

/// How many times this program was restarted from an image: 0 in its first life. Counted from when the program first used this
/// library.
///
/// # Errors
/// ENOMEM.
pub fn generation() -> Result<u64> {
    Ok(raw::life()?.board.generation.load(Ordering::Acquire))
}

/// The name of the job that this program was started in by `cryo run`; none if it was started otherwise.
#[must_use]
pub fn job() -> Option<OsString> {
    std::env::var_os("CRYO_JOB").filter(|name| !name.is_empty())
}

/// In which life a call of [`checkpoint`] has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// In the one that asked: the image is complete.
    Original,
    /// In a restarted one, of this generation.
    Restarted(u64),
}

/// Has `cryo` make a checkpoint of this process and all its descendants into a file, and waits for it, callbacks included. It comes
/// back in the original life, and again in each restarted one. The command is `cryo`, or what CRYO_COMMAND names.
///
/// # Errors
/// EBUSY in a callback; EDEADLK in a critical section; ENOENT without `cryo`; ECANCELED when the checkpoint was refused (`cryo` has
/// said why on standard error); EPERM when it is not permitted; EINVAL for a bad path; EIO when it failed.
pub fn checkpoint(path: &Path) -> Result<Return> {
    if gate::in_callback() {
        return fails(libc::EBUSY);
    }
    if gate::in_section() {
        return fails(libc::EDEADLK);
    }
    let text =
        |text: &OsStr| CString::new(text.as_bytes().to_vec()).or_else(|_| fails(libc::EINVAL));
    if path.as_os_str().is_empty() {
        return fails(libc::EINVAL);
    }
    // "-" would be standard output, and what begins with it an option.
    let path = if path.is_relative() {
        Path::new(".").join(path)
    } else {
        path.to_owned()
    };
    let path = text(path.as_os_str())?;
    let command = command()?;
    let process = CString::new(raw::process_id().to_string())?;
    let life = raw::life()?;
    let before = life.board.generation.load(Ordering::Acquire);
    let arguments: [&CStr; 5] = [c"cryo", c"checkpoint", &process, c"-o", &path];
    let child = raw::start_quietly(&command, &arguments, raw::Standard::Nowhere)?;
    let status = raw::await_end(child);
    let after = life.board.generation.load(Ordering::Acquire);
    raw::allow_nobody();
    // Callbacks may still run.
    life.gate.enter();
    life.gate.leave()?;
    if after != before {
        return Ok(Return::Restarted(after));
    }
    match status.map(|status| (libc::WIFEXITED(status), libc::WEXITSTATUS(status))) {
        Some((true, 0)) => Ok(Return::Original),
        Some((true, 2)) => fails(libc::EINVAL),
        Some((true, 3)) => fails(libc::ECANCELED),
        Some((true, 6)) => fails(libc::EPERM),
        Some((true, 127)) => fails(libc::ENOENT),
        _ => fails(libc::EIO),
    }
}

/// What is started to make a checkpoint.
fn command() -> Result<CString> {
    let command = std::env::var_os("CRYO_COMMAND").filter(|command| !command.is_empty());
    let command = command.unwrap_or_else(|| OsString::from("cryo"));
    CString::new(command.into_vec()).or_else(|_| fails(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_whole_pages() {
        assert_eq!(whole_pages(4096, 4096).unwrap(), (4096, 4096));
        assert_eq!(whole_pages(4097, 12288).unwrap(), (8192, 8192));
        for (address, length) in [(4097, 4096), (0, 0), (usize::MAX, 5), (8, usize::MAX)] {
            let error = whole_pages(address, length).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
    }

    #[test]
    fn registrations_have_numbers() {
        for registration in [
            Registration(1, Context::Thread),
            Registration(7, Context::Signal),
        ] {
            let number = registration.number();
            assert_eq!(Registration::from_number(number), registration);
        }
    }

    #[test]
    fn misuse_has_its_errors() {
        let code = |result: Result<()>| result.unwrap_err().raw_os_error();
        assert_eq!(code(give_reason(b"none")), Some(libc::EPERM));
        assert_eq!(code(reopen(-1)), Some(libc::EBADF));
        assert_eq!(code(keep(900)), Some(libc::ENOENT));
        assert_eq!(code(include(1 << 20, 4096)), Some(libc::ENOENT));
        assert_eq!(
            code(unregister(Registration(99, Context::Thread))),
            Some(libc::ENOENT)
        );
        assert_eq!(
            code(checkpoint(Path::new("")).map(drop)),
            Some(libc::EINVAL)
        );
        enter().unwrap();
        assert_eq!(
            code(checkpoint(Path::new("image")).map(drop)),
            Some(libc::EDEADLK)
        );
        leave().unwrap();
    }

    #[test]
    fn tables_have_an_end() {
        let memory = vec![0_u8; (RANGES + 2) * 4096];
        let start = memory.as_ptr() as usize;
        let mut full = None;
        for index in 0..=RANGES {
            if let Err(error) = exclude(start + index * 4096, 4096 * 2) {
                full = Some((index, error.raw_os_error()));
                break;
            }
        }
        assert_eq!(full.unwrap().1, Some(libc::ENOSPC));
        for index in 0..full.unwrap().0 {
            include(start + index * 4096, 4096 * 2).unwrap();
        }
    }
}
