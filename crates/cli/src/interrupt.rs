//! Ctrl-C and its like during work that must be undone in order.

use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use cryonaut_launch::WatchedSignals;
use cryonaut_sys::spawn::signal::{SignalDescriptor, SignalSet};
use cryonaut_sys::terminal::{Readiness, wait_ready};

use crate::exit::{Code, Failure};

/// Does `work` in the calling thread (ptrace ties a tracee to one thread), and sets the flag that it is given when SIGINT,
/// SIGTERM, SIGHUP or SIGQUIT comes. A second one ends `cryo` at once, which leaves the job as safe as any death of `cryo`.
pub fn stoppable<T>(
    _blocked: &WatchedSignals,
    work: impl FnOnce(&AtomicBool) -> T,
) -> Result<T, Failure> {
    let stop = AtomicBool::new(false);
    // Only these: every stop of a tracee comes with a SIGCHLD, which must wake nobody.
    let ending = SignalSet::of(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT]);
    let signals = SignalDescriptor::new(ending).map_err(Failure::system("watch signals"))?;
    let (over, finish) = io::pipe().map_err(Failure::system("open a pipe"))?;
    std::thread::scope(|scope| {
        let watcher = std::thread::Builder::new().name("cryo-signals".into());
        watcher
            .spawn_scoped(scope, || watch(&signals, &over, &stop))
            .map_err(Failure::system("start a thread"))?;
        let outcome = work(&stop);
        // The end of the pipe ends the watcher.
        drop(finish);
        Ok(outcome)
    })
}

fn watch(signals: &SignalDescriptor, over: &PipeReader, stop: &AtomicBool) {
    loop {
        let mut wishes = [
            Readiness::new(signals.as_fd(), libc::POLLIN),
            Readiness::new(over.as_fd(), libc::POLLIN),
        ];
        if wait_ready(&mut wishes, None).is_err() || wishes[1].found != 0 {
            return;
        }
        while let Ok(Some(_)) = signals.next() {
            if stop.swap(true, Ordering::Relaxed) {
                std::process::exit(i32::from(Code::Failed as u8));
            }
        }
    }
}
