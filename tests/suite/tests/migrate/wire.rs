//! A line between the two sides of a move that the test itself carries, message by message.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{Outcome, Running, failed};
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::Side;

/// What the receiving side begins with.
const GREETING: &[u8; 16] = b"\0CRYONAUT-MOVE\r\n";
/// The kind, and the length of the body.
const HEAD: usize = 5;

pub const HELLO: u8 = 1;
pub const OFFER: u8 = 2;
pub const ACCEPTED: u8 = 3;
pub const COMPLETE: u8 = 5;
pub const READY: u8 = 6;
pub const COMMIT: u8 = 7;

/// A message as it is on the line.
#[derive(Debug)]
pub struct Message(Vec<u8>);

/// One direction.
#[derive(Debug)]
struct Way {
    from: File,
    to: File,
    coming: Vec<u8>,
}

/// A move under way, of which nothing arrives that the test does not pass on.
#[derive(Debug)]
pub struct Wire {
    pub near: Running,
    pub far: Running,
    there: Way,
    back: Way,
}

impl Wire {
    /// Begins to move the job.
    pub fn start(here: &Side<'_>, there: &Side<'_>, number: u32) -> Outcome<Wire> {
        let scene = here.scene;
        let place = scene.make_directory(&format!("wire-{number}"))?;
        let fifo = |name: &str| -> Outcome<PathBuf> {
            let path = place.join(name);
            rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o666), 0)
                .map_err(std::io::Error::from)?;
            std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
            Ok(path)
        };
        let [up, down, back, home] = [fifo("up")?, fifo("down")?, fifo("back")?, fifo("home")?];
        let way = |from: &Path, to: &Path| -> Outcome<Way> {
            Ok(Way {
                from: OpenOptions::new()
                    .read(true)
                    .custom_flags(OFlags::NONBLOCK.bits() as i32)
                    .open(from)?,
                // Reading as well, so that it does not wait for the other end.
                to: OpenOptions::new().read(true).write(true).open(to)?,
                coming: Vec::new(),
            })
        };
        let (there_way, back_way) = (way(&up, &down)?, way(&back, &home)?);
        let mut receive = scene.command(Path::new("/bin/sh"));
        receive.arg("-c").arg(format!(
            "exec env {} < {} > {}",
            there.receive(),
            down.display(),
            back.display()
        ));
        let far = scene.spawn(&format!("far.{number}"), receive)?;
        let via = format!(
            "exec 3<&0; cat <&3 > {} & exec 3<&-; exec cat {}",
            up.display(),
            home.display()
        );
        let near = here
            .cryo(&["migrate", "job", "--patience", "4s", "--via", &via])
            .start(&format!("near.{number}"))?;
        Ok(Wire {
            near,
            far,
            there: there_way,
            back: back_way,
        })
    }

    /// Passes on what comes until the image can be sent.
    pub fn until_accepted(&mut self) -> Outcome {
        let hello = self.back.until(HELLO)?;
        self.back.pass(&hello)?;
        let offer = self.there.until(OFFER)?;
        self.there.pass(&offer)?;
        let accepted = self.back.until(ACCEPTED)?;
        self.back.pass(&accepted)
    }

    /// Passes on what comes until all of the image has been sent.
    pub fn until_complete(&mut self) -> Outcome {
        self.until_accepted()?;
        let complete = self.there.until(COMPLETE)?;
        self.there.pass(&complete)
    }

    /// Passes on what comes until the far side says that the job is rebuilt, which is not passed on.
    pub fn until_ready(&mut self) -> Outcome<Message> {
        self.until_complete()?;
        self.back.until(READY)
    }

    /// Passes a word of the far side on.
    pub fn pass_back(&mut self, message: &Message) -> Outcome {
        self.back.pass(message)
    }

    /// Waits until the near side says that the original has ended, which is not passed on.
    pub fn until_commit(&mut self) -> Outcome<Message> {
        self.there.until(COMMIT)
    }

    /// Passes a word of the near side on.
    pub fn pass_there(&mut self, message: &Message) -> Outcome {
        self.there.pass(message)
    }

    /// Ends the line: the near side, and the far side.
    pub fn hang_up(self) -> (Running, Running) {
        let Wire { near, far, .. } = self;
        (near, far)
    }

    /// Whether the far side has said by now that the job is rebuilt.
    pub fn is_ready(&mut self) -> Outcome<bool> {
        self.back.take_in()?;
        let mut at = 0;
        while let Some(length) = length_of(&self.back.coming[at..]) {
            if self.back.coming[at] == READY {
                return Ok(true);
            }
            at += length;
        }
        Ok(false)
    }
}

impl Way {
    /// Passes on what comes, up to a message of this kind.
    fn until(&mut self, kind: u8) -> Outcome<Message> {
        let start = Instant::now();
        loop {
            self.take_in()?;
            let greeting = self
                .coming
                .windows(GREETING.len())
                .position(|piece| piece == GREETING);
            if kind == HELLO && greeting.is_none() && !self.coming.is_empty() {
                // It comes in one piece with what follows, or soon.
            } else if let (HELLO, Some(at)) = (kind, greeting) {
                let before: Vec<u8> = self.coming.drain(..at + GREETING.len()).collect();
                self.to.write_all(&before)?;
                return self.cut(kind, start);
            } else if kind != HELLO {
                return self.cut(kind, start);
            }
            pause(start)?;
        }
    }

    fn cut(&mut self, kind: u8, start: Instant) -> Outcome<Message> {
        loop {
            while let Some(length) = length_of(&self.coming) {
                let message: Vec<u8> = self.coming.drain(..length).collect();
                if message[0] == kind {
                    return Ok(Message(message));
                }
                self.to.write_all(&message)?;
            }
            pause(start)?;
            self.take_in()?;
        }
    }

    fn pass(&mut self, message: &Message) -> Outcome {
        Ok(self.to.write_all(&message.0)?)
    }

    /// Reads what there is. Nobody may have opened the other end yet.
    fn take_in(&mut self) -> Outcome {
        let mut room = vec![0; 64 << 10];
        match self.from.read(&mut room) {
            Ok(count) => self.coming.extend_from_slice(&room[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// How long the first message is, if all of it is there.
fn length_of(bytes: &[u8]) -> Option<usize> {
    let length: [u8; 4] = bytes.get(1..HEAD)?.try_into().ok()?;
    let length = HEAD + u32::from_le_bytes(length) as usize;
    (bytes.len() >= length).then_some(length)
}

fn pause(start: Instant) -> Outcome {
    if start.elapsed() > LIMIT {
        return failed("a message did not come");
    }
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}
