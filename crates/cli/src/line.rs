//! The line between `cryo migrate` and `cryo receive`: any stream of bytes in both directions.
//!
//! The receiving side begins with a greeting, which is searched for, since a login shell may print something before it. Then
//! messages go both ways: one byte for the kind, four for the length of the body (little endian), the body. No wait is without
//! end: where nothing moves for the line's patience, or the user gives up, a call comes back with [`Trouble`].

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cryonaut_sys::terminal::{Readiness, wait_ready};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What the receiving side begins with.
const GREETING: &[u8; 16] = b"\0CRYONAUT-MOVE\r\n";
/// How much may come before it.
const MOST_NOISE: usize = 64 << 10;
/// The longest body of a message.
const LONGEST: usize = 1 << 20;
const HEAD: usize = 5;
/// How often a wait looks whether the user has given up.
const LOOK: Duration = Duration::from_millis(50);
/// How many bytes of messages one that is sending hears without reading them.
const MOST_UNREAD: usize = 4 << 20;
/// How often a side that is at work says so.
const BEAT: Duration = Duration::from_millis(200);

/// The kinds of messages, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The receiving side says what it is.
    Hello = 1,
    /// The sending side says what it wants to move.
    Offer = 2,
    /// The receiving side has a place for it.
    Accepted = 3,
    /// A piece of the image.
    Image = 4,
    /// That was all of it.
    Complete = 5,
    /// The job is rebuilt, and stopped; its image is on disk.
    Ready = 6,
    /// The original has ended: let the copy run.
    Commit = 7,
    /// The original runs on: give the copy up, and the image.
    Cancel = 8,
    /// The copy runs.
    Running = 9,
    /// It failed; that is the last message.
    Failed = 10,
    /// Still at work.
    Beat = 11,
}

impl Kind {
    const ALL: [Kind; 11] = [
        Kind::Hello,
        Kind::Offer,
        Kind::Accepted,
        Kind::Image,
        Kind::Complete,
        Kind::Ready,
        Kind::Commit,
        Kind::Cancel,
        Kind::Running,
        Kind::Failed,
        Kind::Beat,
    ];

    fn of(byte: u8) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it means.
    pub kind: Kind,
    /// Bytes of the image, otherwise JSON.
    pub body: Vec<u8>,
}

impl Message {
    /// Its body.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Trouble> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Trouble::Nonsense(format!("a message of kind {:?}: {error}", self.kind))
        })
    }
}

/// Why nothing more comes of a line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Trouble {
    /// The other side, or what lies between, has gone.
    #[error("the connection has ended")]
    Ended,
    /// It is not done after this long.
    #[error("it is still at work after {} s", .0.as_secs())]
    Late(Duration),
    /// Nothing moved for this long.
    #[error("nothing has moved for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The user gave up.
    #[error("interrupted")]
    Stopped,
    /// The other side speaks another language.
    #[error("the other side does not speak as cryo does ({0})")]
    Nonsense(String),
    /// The other side failed, and said why.
    #[error("the other side failed")]
    Told(Box<Message>),
    /// Reading or writing failed.
    #[error("the connection failed: {0}")]
    Failed(Arc<io::Error>),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Trouble::Ended,
            _ => Trouble::Failed(Arc::new(error)),
        }
    }
}

/// One end of the line.
#[derive(Debug)]
pub struct Line {
    from: File,
    to: File,
    coming: Vec<u8>,
    heard: VecDeque<Message>,
    ended: bool,
    /// How long nothing need move.
    pub patience: Duration,
    /// When the other side has to be done at last, and how long that is, if it has to.
    deadline: Option<(Instant, Duration)>,
    /// Set when the user gives up.
    pub stop: Arc<AtomicBool>,
}

impl Line {
    /// A line over these descriptors.
    pub fn new(from: File, to: File, patience: Duration) -> Line {
        Line {
            from,
            to,
            coming: Vec::new(),
            heard: VecDeque::new(),
            ended: false,
            patience,
            deadline: None,
            stop: Arc::default(),
        }
    }

    /// Begins, as the receiving side.
    pub fn greet(&mut self, hello: &impl Serialize) -> Result<(), Trouble> {
        self.write(GREETING)?;
        self.send(Kind::Hello, hello)
    }

    /// Waits for the greeting of the receiving side, and for what it says it is. What was printed before it comes back where it
    /// never comes.
    pub fn await_greeting(&mut self) -> Result<Message, (Trouble, String)> {
        let start = Instant::now();
        loop {
            let found = self
                .coming
                .windows(GREETING.len())
                .position(|piece| piece == GREETING);
            if let Some(at) = found {
                self.coming.drain(..at + GREETING.len());
                return self.next().map_err(|trouble| (trouble, String::new()));
            }
            let trouble = if self.ended {
                Some(Trouble::Ended)
            } else if self.coming.len() > MOST_NOISE {
                Some(Trouble::Nonsense("no greeting".into()))
            } else if start.elapsed() > self.patience {
                Some(Trouble::Stalled(self.patience))
            } else {
                self.wait_for_more(LOOK).err()
            };
            if let Some(trouble) = trouble {
                let noise = String::from_utf8_lossy(&self.coming).trim().to_owned();
                return Err((trouble, noise));
            }
        }
    }

    /// Sends a message with this body.
    pub fn send(&mut self, kind: Kind, body: &impl Serialize) -> Result<(), Trouble> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Trouble::Failed(Arc::new(io::Error::other(error))))?;
        self.send_bytes(kind, &body)
    }

    /// Sends a message with these bytes.
    pub fn send_bytes(&mut self, kind: Kind, body: &[u8]) -> Result<(), Trouble> {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
        let head = [kind as u8, length[0], length[1], length[2], length[3]];
        self.write(&head)?;
        self.write(body)
    }

    /// Gives the other side this long for all that comes, whether it says that it is at work or not.
    pub fn limit(&mut self, limit: Duration) {
        self.deadline = Instant::now().checked_add(limit).map(|end| (end, limit));
    }

    fn expect_in_time(&self) -> Result<(), Trouble> {
        match self.deadline {
            Some((end, limit)) if Instant::now() > end => Err(Trouble::Late(limit)),
            _ => Ok(()),
        }
    }

    /// That the other side has said nothing yet, but that it is at work: for one whose next word is an answer.
    pub fn expect_silence(&mut self) -> Result<(), Trouble> {
        self.cut()?;
        let mut said = self.heard.iter().map(|message| message.kind);
        match said.find(|kind| *kind != Kind::Beat) {
            Some(kind) => Err(Trouble::Nonsense(format!("{kind:?} before it was asked"))),
            None => Ok(()),
        }
    }

    /// The next message; one that says that the other side failed is trouble.
    pub fn next(&mut self) -> Result<Message, Trouble> {
        let mut moved = Instant::now();
        loop {
            self.cut()?;
            while let Some(message) = self.heard.pop_front() {
                match message.kind {
                    Kind::Beat => moved = Instant::now(),
                    Kind::Failed => return Err(Trouble::Told(Box::new(message))),
                    _ => return Ok(message),
                }
            }
            if self.ended {
                return Err(Trouble::Ended);
            }
            self.expect_in_time()?;
            if self.wait_for_more(LOOK)? {
                moved = Instant::now();
            } else if moved.elapsed() > self.patience {
                return Err(Trouble::Stalled(self.patience));
            }
        }
    }

    /// The next message, which is to be of this kind.
    pub fn expect(&mut self, kind: Kind) -> Result<Message, Trouble> {
        match self.next()? {
            message if message.kind == kind => Ok(message),
            other => Err(Trouble::Nonsense(format!(
                "{:?} instead of {kind:?}",
                other.kind
            ))),
        }
    }

    /// Cuts what has come into messages.
    fn cut(&mut self) -> Result<(), Trouble> {
        let mut at = 0;
        while let Some([kind, length @ ..]) = self.coming.get(at..at + HEAD) {
            let length: [u8; 4] = length.try_into().expect("a head has five bytes");
            let length = u32::from_le_bytes(length) as usize;
            let Some(kind) = Kind::of(*kind).filter(|_| length <= LONGEST) else {
                return Err(Trouble::Nonsense("an unknown message".into()));
            };
            let Some(body) = self.coming.get(at + HEAD..at + HEAD + length) else {
                break;
            };
            let body = body.to_vec();
            self.heard.push_back(Message { kind, body });
            at += HEAD + length;
        }
        self.coming.drain(..at);
        Ok(())
    }

    /// Waits a moment for more to come; whether it has.
    fn wait_for_more(&mut self, moment: Duration) -> Result<bool, Trouble> {
        let mut wish = [Readiness::new(self.from.as_fd(), libc::POLLIN)];
        wait_ready(&mut wish, Some(moment))?;
        if self.stop.load(Ordering::Relaxed) {
            return Err(Trouble::Stopped);
        }
        if wish[0].found == 0 {
            return Ok(false);
        }
        self.take_in()?;
        Ok(true)
    }

    fn take_in(&mut self) -> Result<(), Trouble> {
        let mut room = vec![0; 64 << 10];
        match self.from.read(&mut room) {
            Ok(0) => self.ended = true,
            Ok(count) => self.coming.extend_from_slice(&room[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.ended = true,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Writes all of it, at the pace of the other side. It listens meanwhile: who fails says so, and reads no more.
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Trouble> {
        let mut moved = Instant::now();
        while !bytes.is_empty() {
            let mut wishes = [
                Readiness::new(self.to.as_fd(), libc::POLLOUT),
                Readiness::new(self.from.as_fd(), libc::POLLIN),
            ];
            let watched = if self.ended { 1 } else { 2 };
            wait_ready(&mut wishes[..watched], Some(LOOK))?;
            let (writable, readable) = (wishes[0].found != 0, watched == 2 && wishes[1].found != 0);
            if self.stop.load(Ordering::Relaxed) {
                return Err(Trouble::Stopped);
            }
            if readable {
                self.take_in()?;
                self.cut()?;
                let failed = self
                    .heard
                    .iter()
                    .position(|message| message.kind == Kind::Failed);
                if let Some(message) = failed.and_then(|at| self.heard.remove(at)) {
                    return Err(Trouble::Told(Box::new(message)));
                }
                if self.ended {
                    return Err(Trouble::Ended);
                }
                self.heard.retain(|message| message.kind != Kind::Beat);
                let unread = self.heard.iter().map(|message| HEAD + message.body.len());
                if unread.sum::<usize>() > MOST_UNREAD {
                    return Err(Trouble::Nonsense("it says more than it hears".into()));
                }
            }
            if writable {
                // So much a pipe takes at once when it says that it is ready.
                let count = match self.to.write(&bytes[..bytes.len().min(libc::PIPE_BUF)]) {
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                        ) =>
                    {
                        0
                    }
                    written => written?,
                };
                bytes = &bytes[count..];
                if count > 0 {
                    moved = Instant::now();
                }
            } else if moved.elapsed() > self.patience {
                return Err(Trouble::Stalled(self.patience));
            }
        }
        Ok(())
    }

    /// Says again and again that this side is at work, until the result is dropped.
    pub fn beat(&self) -> io::Result<Beating> {
        let mut to = self.to.try_clone()?;
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = std::thread::Builder::new()
            .name("cryo-beat".into())
            .spawn(move || {
                let head = [Kind::Beat as u8, 0, 0, 0, 0];
                while !seen.load(Ordering::Relaxed) {
                    std::thread::park_timeout(BEAT);
                    let mut wish = [Readiness::new(to.as_fd(), libc::POLLOUT)];
                    let ready = wait_ready(&mut wish, Some(Duration::ZERO)).unwrap_or(0);
                    if ready == 0 || seen.load(Ordering::Relaxed) {
                        continue;
                    }
                    if to.write_all(&head).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Beating {
            over,
            thread: Some(thread),
        })
    }
}

/// That this side says that it is at work.
#[derive(Debug)]
pub struct Beating {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(patience: Duration) -> (Line, Line) {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = |stream: &std::os::unix::net::UnixStream| {
            File::from(std::os::fd::OwnedFd::from(stream.try_clone().unwrap()))
        };
        let line = |stream| Line::new(file(&stream), file(&stream), patience);
        (line(one), line(other))
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn messages_arrive_after_noise_and_in_order() {
        let (mut near, mut far) = pair(LONG);
        far.write(b"Welcome to this machine!\r\n").unwrap();
        far.greet(&"hello").unwrap();
        far.send(Kind::Beat, &()).unwrap();
        far.send_bytes(Kind::Image, &[7; 300]).unwrap();
        let hello = near.await_greeting().unwrap();
        assert_eq!(hello.read::<String>().unwrap(), "hello");
        assert_eq!(near.expect(Kind::Image).unwrap().body, [7; 300]);
        far.send(Kind::Failed, &"no").unwrap();
        assert!(matches!(near.next(), Err(Trouble::Told(_))));
        drop(far);
        assert!(matches!(near.next(), Err(Trouble::Ended)));
    }

    #[test]
    fn who_is_no_cryo_is_known() {
        let (mut near, mut far) = pair(LONG);
        far.write(b"sh: cryo: not found\n").unwrap();
        drop(far);
        let (trouble, noise) = near.await_greeting().unwrap_err();
        assert!(matches!(trouble, Trouble::Ended));
        assert_eq!(noise, "sh: cryo: not found");
        for wrong in [&[99_u8, 0, 0, 0, 0][..], &[4, 255, 255, 255, 255]] {
            let (mut near, mut far) = pair(LONG);
            far.write(wrong).unwrap();
            assert!(matches!(near.next(), Err(Trouble::Nonsense(_))));
        }
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut near, _far) = pair(Duration::from_millis(100));
        assert!(matches!(near.next(), Err(Trouble::Stalled(_))));
        let filled = near.send_bytes(Kind::Image, &vec![0; LONGEST]);
        let again = near.send_bytes(Kind::Image, &vec![0; LONGEST]);
        assert!(matches!(filled.and(again), Err(Trouble::Stalled(_))));
        near.stop.store(true, Ordering::Relaxed);
        assert!(matches!(near.next(), Err(Trouble::Stopped)));
    }

    #[test]
    fn who_sends_hears_that_the_other_failed() {
        let (mut near, mut far) = pair(LONG);
        far.send(Kind::Failed, &"full").unwrap();
        let trouble = near.send_bytes(Kind::Image, &[0; 10]).unwrap_err();
        assert!(
            matches!(trouble, Trouble::Told(message) if message.read::<String>().unwrap() == "full")
        );
    }

    #[test]
    fn work_has_an_end() {
        let (mut near, far) = pair(LONG);
        let beating = far.beat().unwrap();
        near.limit(Duration::from_millis(1500));
        assert!(matches!(near.next(), Err(Trouble::Late(_))));
        drop(beating);
    }

    #[test]
    fn nobody_answers_before_the_question_or_says_more_than_it_hears() {
        let (mut near, mut far) = pair(LONG);
        far.send(Kind::Beat, &()).unwrap();
        far.send(Kind::Accepted, &()).unwrap();
        near.expect(Kind::Accepted).unwrap();
        near.expect_silence().unwrap();
        far.send(Kind::Accepted, &()).unwrap();
        far.send(Kind::Ready, &()).unwrap();
        near.expect(Kind::Accepted).unwrap();
        assert!(matches!(near.expect_silence(), Err(Trouble::Nonsense(_))));
        let (mut near, far) = pair(LONG);
        // It does not hear: who listens may be the first to have heard too much.
        let talking = std::thread::spawn(move || {
            let mut talk = vec![Kind::Accepted as u8];
            talk.extend((LONGEST as u32).to_le_bytes());
            talk.resize(HEAD + LONGEST, 0);
            let mut to = far.to;
            while io::Write::write_all(&mut to, &talk).is_ok() {}
        });
        let outcome = loop {
            if let Err(trouble) = near.send_bytes(Kind::Offer, &[0; 1000]) {
                break trouble;
            }
        };
        assert!(matches!(outcome, Trouble::Nonsense(_)), "{outcome}");
        drop(near);
        talking.join().unwrap();
    }

    #[test]
    fn work_is_no_stall() {
        let (mut near, mut far) = pair(Duration::from_millis(2500));
        let beating = far.beat().unwrap();
        let working = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(4));
            drop(beating);
            far.send(Kind::Ready, &()).unwrap();
        });
        assert_eq!(near.next().unwrap().kind, Kind::Ready);
        working.join().unwrap();
    }
}
