//! The processes behind a job's own terminal: `cryo __hold-terminal`, which serves its viewers, and `cryo __keep-terminal`, which
//! keeps it open outside of namespaces, so that neither the death of the holder nor that of its viewers hangs it up; and
//! `cryo __stand-by`, which starts both for a restart that sees other files.

use std::io::{Write, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use clap::Args;
use cryonaut_launch::HELD_TERMINAL;
use cryonaut_launch::registry::{ProcessIdentity, Registry};
use cryonaut_launch::terminal::{Holding, hold};
use cryonaut_sys::spawn::{self, OnExec};
use cryonaut_sys::terminal::{Readiness, is_terminal, wait_ready};

use crate::exit::Failure;
use crate::ourselves;
use crate::terminal::step_aside;

/// Which job's terminal is held. Standard input is the connection to whoever wants it held, standard output the master side,
/// standard error the pipe that the root's exit code comes on.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The job's root
    root: i32,
    /// When that was started
    start_time: u64,
    /// The job's name in the list
    name: Option<String>,
}

impl Arguments {
    /// Holds it.
    pub fn run(self) -> Result<u8, Failure> {
        step_aside(c"cryo-holder")?;
        let failed = "hold a terminal";
        let copy =
            |descriptor: std::io::Result<OwnedFd>| descriptor.map_err(Failure::system(failed));
        let first = UnixStream::from(copy(stdin().as_fd().try_clone_to_owned())?);
        let master = copy(stdout().as_fd().try_clone_to_owned())?;
        let status = copy(std::io::stderr().as_fd().try_clone_to_owned())?;
        let null = std::fs::File::open("/dev/null").map_err(Failure::system(failed))?;
        for number in 0..3 {
            spawn::duplicate_onto(null.as_raw_fd(), number, OnExec::Keep)
                .map_err(Failure::system(failed))?;
        }
        let identity = ProcessIdentity {
            pid: self.root,
            start_time: self.start_time,
        };
        let root = identity.open();
        let listener = match &self.name {
            Some(name) => {
                let listener = Registry::open()?.listen(name);
                Some(listener.map_err(Failure::system("wait for viewers"))?)
            }
            None => None,
        };
        let is_pipe = std::fs::metadata(format!("/proc/self/fd/{}", status.as_raw_fd()))
            .is_ok_and(|facts| std::os::unix::fs::FileTypeExt::is_fifo(&facts.file_type()));
        hold(Holding {
            master,
            first,
            listener,
            root,
            status: is_pipe.then_some(status),
        })?;
        Ok(0)
    }
}

/// Keeps the terminal whose master side is standard input open until no process has it open any more; tells on standard output
/// when it does.
pub fn keep() -> Result<u8, Failure> {
    step_aside(c"cryo-keeper")?;
    let input = stdin();
    spawn::duplicate_onto(input.as_fd().as_raw_fd(), HELD_TERMINAL, OnExec::Close)
        .map_err(Failure::system("keep a terminal"))?;
    stdout()
        .write_all(b".")
        .and_then(|()| stdout().flush())
        .map_err(Failure::system("tell that a terminal is kept"))?;
    let null = std::fs::File::open("/dev/null").map_err(Failure::system("keep a terminal"))?;
    spawn::duplicate_onto(null.as_raw_fd(), 1, OnExec::Keep)
        .map_err(Failure::system("keep a terminal"))?;
    loop {
        // Nothing is asked for, so only the hang-up wakes it: what the job prints is for others to read.
        let mut wishes = [Readiness::new(input.as_fd(), 0)];
        wait_ready(&mut wishes, None).map_err(Failure::system("wait for the terminal's end"))?;
        if !is_terminal(input.as_fd()) {
            return Ok(0);
        }
        // A job that closes its terminal for a moment opens it again.
        std::thread::sleep(Duration::from_secs(1));
        let mut wishes = [Readiness::new(input.as_fd(), 0)];
        wait_ready(&mut wishes, Some(Duration::ZERO))
            .map_err(Failure::system("wait for the terminal's end"))?;
        if wishes[0].found != 0 {
            return Ok(0);
        }
    }
}

/// Starts this program for whoever is at the other end of standard input.
pub fn stand_by() -> Result<u8, Failure> {
    step_aside(c"cryo-stand-by")?;
    ourselves::serve(stdin().as_fd()).map_err(Failure::system("hear what is to be started"))?;
    Ok(0)
}
