//! Work in a process apart, for which this one waits.
//!
//! A task under seccomp has its filters suspended while it makes calls for `cryo`, and in force again at the instant its tracer
//! dies (see `cryonaut_tracee::guest`): a filter may then end the job for the rest of these calls. So the tracer is no process that
//! anybody knows by its number: should `cryo` be killed, the process apart is told, finishes the list that is running, and lets
//! the job go in order.

use std::io::Write;
use std::os::fd::AsFd;

use cryonaut_launch::WatchedSignals;
use cryonaut_sys::pidfd;
use cryonaut_sys::spawn::{self, WaitFor, WaitStatus};
use cryonaut_sys::terminal::{Readiness, wait_ready};

use crate::exit::{Code, Failure};

/// Signals that end `cryo` in order; they are passed on.
const PASSED_ON: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Does `work` in a process apart, and gives its exit status. Only for callers with a single thread.
pub fn apart(work: impl FnOnce() -> u8) -> Result<u8, Failure> {
    let signals = WatchedSignals::block()?;
    let own = spawn::own_pid();
    let started = spawn::fork_child(|| {
        // Keys on the terminal reach it by way of its parent, once.
        let _ = spawn::new_session();
        let _ = spawn::set_thread_name(c"cryo-apart");
        let _ = spawn::set_parent_death_signal(libc::SIGTERM);
        if spawn::parent_pid() != own {
            return Code::Failed as i32;
        }
        cryonaut_engine::target::leave_out(own);
        let status = work();
        let _ = std::io::stdout().flush();
        i32::from(status)
    })
    .map_err(Failure::system("start a process"))?;
    loop {
        let mut wishes = [
            Readiness::new(signals.descriptor(), libc::POLLIN),
            Readiness::new(started.pidfd.as_fd(), libc::POLLIN),
        ];
        wait_ready(&mut wishes, None).map_err(Failure::system("wait for a process"))?;
        while let Some(signal) = signals.next()? {
            if PASSED_ON.contains(&signal.number) {
                let _ = pidfd::send_signal(started.pidfd.as_fd(), signal.number);
            }
        }
        if wishes[1].found != 0 {
            break;
        }
    }
    match spawn::wait_for(WaitFor::Pid(started.pid), libc::WEXITED) {
        Ok((_, WaitStatus::Exited(status))) => {
            Ok(u8::try_from(status).unwrap_or(Code::Unexpected as u8))
        }
        Ok((_, ended)) => Err(Failure::new(
            Code::Failed,
            format!("the process that did the work was ended from outside ({ended:?})"),
        )),
        Err(error) => Err(Failure::system("wait for a process")(error)),
    }
}
