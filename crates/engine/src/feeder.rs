//! A process that carries bytes from where a job's input comes from now into a pipe that still holds what came before.
//!
//! What was in flight in a pipe that leads out of the job comes first at a restart, then what the new source has. No file can be
//! put together of the two, so somebody must carry: a process of its own, which lives as long as there is a source and a reader.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use cryonaut_sys::descriptor;
use cryonaut_sys::spawn;
use cryonaut_sys::spawn::signal::{SignalSet, set_signal_mask};

use crate::Result;
use crate::error::Attempt;

/// Starts the process. It ends at the end of the source, or once nobody can read from the pipe any more.
///
/// # Errors
/// When no process can be started.
pub fn start(source: &OwnedFd, sink: &OwnedFd) -> Result<()> {
    spawn::fork_child(|| {
        // Keys on the terminal are for the job; this ends with its pipe.
        let _ = set_signal_mask(SignalSet::FULL);
        let _ = spawn::new_session();
        let _ = spawn::set_thread_name(c"cryo-feeder");
        if keep_only(source, sink).is_ok() {
            let _ = carry(source, sink);
        }
        0
    })
    .map(drop)
    .attempt(|| "starting the process that feeds a pipe".into())
}

/// Closes every descriptor but these two: the ends of pipes among them would keep those open.
fn keep_only(source: &OwnedFd, sink: &OwnedFd) -> std::io::Result<()> {
    let mut kept = [source.as_raw_fd() as u32, sink.as_raw_fd() as u32];
    kept.sort_unstable();
    let [first, second] = kept;
    if first > 0 {
        spawn::close_range(0, first - 1)?;
    }
    spawn::close_range(first + 1, second - 1)?;
    spawn::close_range(second + 1, u32::MAX)
}

/// Carries bytes until either side is done.
fn carry(source: &OwnedFd, sink: &OwnedFd) -> std::io::Result<()> {
    let mut reader = std::fs::File::from(source.try_clone()?);
    let mut writer = std::fs::File::from(sink.try_clone()?);
    let mut buffer = [0; 65_536];
    loop {
        // Both are watched: a source that says nothing must not keep this process after the job has ended.
        descriptor::poll_pair((source.as_fd(), libc::POLLIN), (sink.as_fd(), 0))?;
        if descriptor::poll_now(sink.as_fd(), 0)? & libc::POLLERR != 0 {
            return Ok(());
        }
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => writer.write_all(&buffer[..count])?,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_comes_first() {
        let (source, feed) = descriptor::pipe(0).unwrap();
        let (reader, sink) = descriptor::pipe(0).unwrap();
        std::fs::File::from(sink.try_clone().unwrap())
            .write_all(b"before, ")
            .unwrap();
        start(&source, &sink).unwrap();
        drop((source, sink));
        std::fs::File::from(feed).write_all(b"after").unwrap();
        let mut text = String::new();
        std::fs::File::from(reader)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "before, after");
    }
}
