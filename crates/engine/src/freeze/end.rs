//! The end of a job that was killed.

use std::time::{Duration, Instant};

use cryonaut_sys::wait::{self, Status};

/// How long killed tasks are waited for. The kernel ends them in any case, but may take its time to free their memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until tasks in our hands, which were killed, have ended. Their parents are told only once we have taken notice.
pub(super) fn await_ends(mut tasks: Vec<i32>) {
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        tasks.retain(|&task| !has_ended(task));
        if tasks.is_empty() {
            return;
        }
        if start.elapsed() > PATIENCE {
            tracing::warn!(tasks = tasks.len(), "killed, but not ended yet");
            return;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

fn has_ended(task: i32) -> bool {
    loop {
        match wait::poll(task) {
            // A first thread ends last of all.
            Ok(None) => return false,
            Ok(Some(Status::Stopped { .. } | Status::Continued)) => {}
            Ok(Some(Status::Exited(_) | Status::Killed(..))) | Err(_) => return true,
        }
    }
}
