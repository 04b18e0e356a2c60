//! This very program, started once more, as for the processes behind a job's own terminal.
//!
//! A restart that lays files of an image over this machine's (`cryonaut_engine::view`) lays its C library and loader there as well,
//! which may be none that this program runs with. So before it does, a process is started that goes on seeing the machine as it is,
//! and starts from then on what the restart wants started.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use cryonaut_sys::pidfd;
use cryonaut_sys::spawn::message::{Waiting, message_sockets, receive_message, send_message};
use serde::{Deserialize, Serialize};

/// The command of the process that stands by.
const STAND_BY: &str = "__stand-by";
/// The longest order.
const LONGEST: usize = 64 << 10;

/// The connection to the process that stands by.
static STANDING_BY: OnceLock<OwnedFd> = OnceLock::new();

/// A process that was started.
#[derive(Debug)]
pub struct Started {
    /// Its pid.
    pub pid: i32,
    /// A descriptor that refers to it.
    pub pidfd: OwnedFd,
}

/// What is to be started.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    command: String,
    arguments: Vec<String>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// It runs, with this pid.
    Started(i32),
    /// It does not, for this reason (an errno value).
    Failed(i32),
}

/// Starts this program with these words; it has these three standard descriptors, and works in the root directory.
///
/// # Errors
/// Of fork and exec, or when the process that stood by has gone.
pub fn start(command: &str, arguments: &[String], standard: [OwnedFd; 3]) -> io::Result<Started> {
    let order = Order {
        command: command.to_owned(),
        arguments: arguments.to_vec(),
    };
    match STANDING_BY.get() {
        Some(link) => ask(link.as_fd(), &order, &standard),
        None => spawn(&order, standard),
    }
}

/// Has a process stand by that sees the machine as it is now.
///
/// # Errors
/// When it cannot be started.
pub fn stand_by() -> io::Result<()> {
    let (ours, theirs) = message_sockets()?;
    let order = Order {
        command: STAND_BY.into(),
        arguments: Vec::new(),
    };
    let nothing = || Ok::<_, io::Error>(OwnedFd::from(std::fs::File::open("/dev/null")?));
    spawn(&order, [theirs, nothing()?, nothing()?])?;
    // A second one would do no harm, and is not kept.
    let _ = STANDING_BY.set(ours);
    Ok(())
}

/// Starts what is ordered over this socket, until nobody is left who orders.
///
/// # Errors
/// When the socket fails.
pub fn serve(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut room = vec![0; LONGEST];
    loop {
        let (length, descriptors) = receive_message(link, &mut room, Waiting::Block)?;
        if length == 0 {
            return Ok(());
        }
        let outcome = serde_json::from_slice(&room[..length])
            .map_err(io::Error::from)
            .and_then(|order: Order| {
                let standard = descriptors.try_into();
                spawn(&order, standard.map_err(|_| io::ErrorKind::InvalidInput)?)
            });
        let (answer, pidfd): (Answer, Option<OwnedFd>) = match outcome {
            Ok(started) => (Answer::Started(started.pid), Some(started.pidfd)),
            Err(error) => (
                Answer::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
                None,
            ),
        };
        let numbers: Vec<RawFd> = pidfd.iter().map(AsRawFd::as_raw_fd).collect();
        send_message(
            link,
            &serde_json::to_vec(&answer)?,
            &numbers,
            Waiting::Block,
        )?;
    }
}

fn ask(link: BorrowedFd<'_>, order: &Order, standard: &[OwnedFd; 3]) -> io::Result<Started> {
    let numbers = standard.each_ref().map(AsRawFd::as_raw_fd);
    send_message(link, &serde_json::to_vec(order)?, &numbers, Waiting::Block)?;
    let mut room = [0; 256];
    let (length, mut descriptors) = receive_message(link, &mut room, Waiting::Block)?;
    if length == 0 {
        return Err(io::Error::new(
            io::ErrorKind::BrokenPipe,
            "the process that stood by to start it has gone",
        ));
    }
    match (serde_json::from_slice(&room[..length])?, descriptors.pop()) {
        (Answer::Started(pid), Some(pidfd)) => Ok(Started { pid, pidfd }),
        (Answer::Failed(errno), _) => Err(io::Error::from_raw_os_error(errno)),
        (Answer::Started(_), None) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// This very program, whatever has become of its file, with this word first. It works in the root directory.
pub fn program(command: &str) -> Command {
    let mut program = Command::new("/proc/self/exe");
    program.arg(command).current_dir("/");
    program
}

fn spawn(order: &Order, standard: [OwnedFd; 3]) -> io::Result<Started> {
    let [input, output, errors] = standard.map(Stdio::from);
    let child = program(&order.command)
        .args(&order.arguments)
        .stdin(input)
        .stdout(output)
        .stderr(errors)
        .spawn()?;
    let pid = child.id() as i32;
    // It is not waited for before, so it is the one that is meant.
    Ok(Started {
        pid,
        pidfd: pidfd::open(pid)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_started_is_answered_and_the_end_of_the_line_is_the_end() {
        let (ours, theirs) = message_sockets().unwrap();
        let serving = std::thread::spawn(move || serve(theirs.as_fd()));
        let order = Order {
            command: "no\0word".into(),
            arguments: Vec::new(),
        };
        let nothing = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let standard = [nothing(), nothing(), nothing()];
        ask(ours.as_fd(), &order, &standard).unwrap_err();
        send_message(ours.as_fd(), b"{", &[], Waiting::Block).unwrap();
        let mut room = [0; 256];
        let (length, _) = receive_message(ours.as_fd(), &mut room, Waiting::Block).unwrap();
        assert!(room[..length].starts_with(b"{\"Failed\""));
        drop(ours);
        serving.join().unwrap().unwrap();
    }
}
