//! Ctrl-C and its like during work that must be undone in order.

use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use cryonaut_launch::WatchedSignals;
use cryonaut_sys::spawn::signal::{ArrivedSignal, SignalDescriptor, SignalSet};
use cryonaut_sys::terminal::{Readiness, wait_ready};

use crate::exit::{Code, Failure};

/// What a second signal does, when the first has not ended the work yet.
#[derive(Clone, Copy, Debug)]
pub enum Second<'a> {
    /// It ends `cryo` at once, which leaves the job as safe as any death of `cryo`.
    EndsAtOnce,
    /// The same with this status, until the work is committed.
    EndsUncommitted(u8, &'a AtomicBool),
    /// Nothing: what was done has to be undone, or the job would be left between two states. That takes a bounded time.
    Waits,
}

/// Does `work` in the calling thread (ptrace ties a tracee to one thread), and sets the flag that it is given when SIGINT,
/// SIGTERM, SIGHUP or SIGQUIT comes.
pub fn stoppable<T>(
    _blocked: &WatchedSignals,
    second: Second<'_>,
    work: impl FnOnce(&AtomicBool) -> T,
) -> Result<T, Failure> {
    let stop = AtomicBool::new(false);
    watched((&stop, second), || work(&stop)).map(|(outcome, _)| outcome)
}

/// Work that is committed at some point: what was to be stopped until then is to be told from then on.
#[derive(Debug, Default)]
pub struct Seam {
    stop: AtomicBool,
    committed: AtomicBool,
}

impl Seam {
    /// Set when the work is to stop.
    pub fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// Commits: no signal ends `cryo` any more.
    ///
    /// # Errors
    /// When a signal has come that is to stop it.
    pub fn commit(&self) -> Result<(), Failure> {
        self.committed.store(true, Ordering::SeqCst);
        match self.stop.load(Ordering::SeqCst) {
            false => Ok(()),
            true => {
                self.committed.store(false, Ordering::SeqCst);
                Err(cryonaut_engine::Error::Interrupted.into())
            }
        }
    }
}

/// As [`stoppable`], with the last signal that came: whoever goes on after the work must not miss it, even if the work has not. A
/// second signal ends `cryo` with this status, unless the work is committed.
pub fn stoppable_telling<T>(
    _blocked: &WatchedSignals,
    status: u8,
    work: impl FnOnce(&Seam) -> Result<T, Failure>,
) -> Result<(T, Option<ArrivedSignal>), Failure> {
    let seam = Seam::default();
    let second = Second::EndsUncommitted(status, &seam.committed);
    let (outcome, came) = watched((&seam.stop, second), || work(&seam))?;
    Ok((outcome?, came))
}

/// What came of the work, and the last signal that came during it.
fn watched<T>(
    (stop, second): (&AtomicBool, Second<'_>),
    work: impl FnOnce() -> T,
) -> Result<(T, Option<ArrivedSignal>), Failure> {
    let signals = SignalDescriptor::new(ending()).map_err(Failure::system("watch signals"))?;
    let (over, finish) = io::pipe().map_err(Failure::system("open a pipe"))?;
    std::thread::scope(|scope| {
        let watcher = std::thread::Builder::new().name("cryo-signals".into());
        let watching = watcher
            .spawn_scoped(scope, || watch(&signals, &over, (stop, second)))
            .map_err(Failure::system("start a thread"))?;
        let outcome = work();
        // The end of the pipe ends the watcher.
        drop(finish);
        // All of it, with what the scope does not wait for: whoever forks next, or leaves a namespace, wants one thread.
        let came = watching.join().unwrap_or_default();
        Ok((outcome, came))
    })
}

/// As [`stoppable`], with a flag of the caller's own, of work that a second signal does not end.
pub fn stoppable_by<T>(
    _blocked: &WatchedSignals,
    stop: &AtomicBool,
    work: impl FnOnce() -> T,
) -> Result<T, Failure> {
    watched((stop, Second::Waits), work).map(|(outcome, _)| outcome)
}

/// Tells whenever it is asked whether a signal has come that is to stop the work: for work that wants no other thread.
pub fn told_to_stop(_blocked: &WatchedSignals) -> Result<impl Fn() -> bool, Failure> {
    let signals = SignalDescriptor::new(ending()).map_err(Failure::system("watch signals"))?;
    Ok(move || matches!(signals.next(), Ok(Some(_))))
}

/// The signals that stop work. Only these are looked at: every stop of a tracee comes with a SIGCHLD, which must wake nobody.
fn ending() -> SignalSet {
    SignalSet::of(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT])
}

/// Keeps signals away until `work` has told what it did: one that comes too late to stop it must not end `cryo` before that, nor
/// between two parts of it.
pub fn to_the_end<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let signals = WatchedSignals::block()?;
    let outcome = work();
    while let Ok(Some(_)) = signals.next() {}
    outcome
}

fn watch(
    signals: &SignalDescriptor,
    over: &PipeReader,
    (stop, second): (&AtomicBool, Second<'_>),
) -> Option<ArrivedSignal> {
    let mut came = None;
    loop {
        let mut wishes = [
            Readiness::new(signals.as_fd(), libc::POLLIN),
            Readiness::new(over.as_fd(), libc::POLLIN),
        ];
        if wait_ready(&mut wishes, None).is_err() || wishes[1].found != 0 {
            return came;
        }
        while let Ok(Some(signal)) = signals.next() {
            came = Some(signal);
            if !stop.swap(true, Ordering::SeqCst) {
                continue;
            }
            let status = match second {
                Second::EndsAtOnce => Code::Failed as u8,
                Second::EndsUncommitted(status, committed) if !committed.load(Ordering::SeqCst) => {
                    status
                }
                _ => continue,
            };
            std::process::exit(i32::from(status));
        }
    }
}
