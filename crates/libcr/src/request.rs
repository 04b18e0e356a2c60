//! Requests: checkpoints and restarts that a program asks for, which `cryo` does for it. A request is known by an eventfd, which can
//! be read from when it is over; `cryo` writes what came of it into a memory file.

mod begin;
mod end;

use std::ffi::{CStr, CString, c_int, c_ulong};
use std::io::{Error, Read, Seek, SeekFrom};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cryonaut_participant::{Context, Event, Verdict, around, keep, reopen};

use crate::errors::number;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Checkpoint,
    Restart,
}

/// Who takes notice of the end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    /// The program, by its handle.
    Program,
    /// Nobody but this library.
    Nobody,
}

/// What came of a request.
#[derive(Clone, Debug)]
struct Answer {
    /// An error number, or 0.
    number: c_int,
    /// What is known besides.
    log: Vec<u8>,
}

/// A request that is not reaped.
pub struct Request {
    purpose: Purpose,
    keeper: Keeper,
    /// The handle.
    event: c_int,
    /// Where `cryo` writes its answer; in a restarted life there is no such descriptor.
    place: c_int,
    /// The program's descriptor, kept open.
    context: Option<c_int>,
    /// The command.
    child: i32,
    /// In which life it was made.
    generation: u64,
    answer: Option<Answer>,
}

/// The requests of a process.
#[derive(Default)]
pub struct Requests {
    all: Mutex<Vec<Request>>,
    /// Their handles again, for a thread that cannot wait: one more than each, 0 for none.
    handles: [AtomicI32; 32],
    rings: Mutex<bool>,
}

fn generation() -> u64 {
    cryonaut_participant::generation().unwrap_or(0)
}

fn system(result: c_int) -> Result<c_int, c_int> {
    match result {
        -1 => Err(number(&Error::last_os_error())),
        result => Ok(result),
    }
}

fn close(descriptor: c_int) {
    // SAFETY: it is this module's own.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
}

fn ring(event: c_int) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: eight bytes of this stack.
    unsafe { libc::write(event, one.as_ptr().cast(), one.len()) };
}

impl Requests {
    fn all(&self) -> MutexGuard<'_, Vec<Request>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the handles of all requests be readable in a restarted life.
    fn ring_when_restarted(&'static self) -> Result<(), c_int> {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        if !*rings && !around::in_callback() {
            let registered = around::register_around("requests", Context::Thread, |proceed| {
                if proceed(Verdict::Ready) == Event::Restart {
                    for handle in &self.handles {
                        match handle.load(Ordering::Acquire) {
                            0 => {}
                            event => ring(event - 1),
                        }
                    }
                }
            });
            registered.map_err(|error| number(&error))?;
            *rings = true;
        }
        Ok(())
    }

    fn note_handle(&self, before: c_int, after: c_int) {
        for handle in &self.handles {
            let changed =
                handle.compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed);
            if changed.is_ok() {
                return;
            }
        }
    }

    fn find<T>(
        &self,
        purpose: Purpose,
        handle: c_ulong,
        work: impl FnOnce(&mut Request) -> Result<T, c_int>,
    ) -> Result<T, c_int> {
        let mut all = self.all();
        let found = all
            .iter_mut()
            .find(|request| request.event as c_ulong == handle && request.purpose == purpose);
        work(found.ok_or(libc::EINVAL)?)
    }

    /// Takes away requests that nobody reaps and that are over.
    fn sweep(&self) {
        let mut all = self.all();
        let mut over = Vec::new();
        all.retain_mut(|request| {
            let stays = request.keeper == Keeper::Program || !request.is_over();
            if !stays {
                over.push(request.event);
                request.release();
            }
            stays
        });
        for event in over {
            self.note_handle(event + 1, 0);
        }
    }

    /// Waits until all that was asked for before is over: the descriptors that are written to are to be in no image.
    fn await_earlier(&self) -> Result<(), c_int> {
        const PAUSE: Duration = Duration::from_millis(2);
        loop {
            let mut all = self.all();
            let mut earlier = all
                .iter_mut()
                .filter(|request| request.purpose == Purpose::Checkpoint);
            if earlier.all(Request::is_over) {
                return Ok(());
            }
            drop(all);
            if around::in_section() {
                return Err(libc::EBUSY);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Has the command begin, of which the caller has said all but where it answers.
    fn begin(&'static self, order: Order) -> Result<c_ulong, c_int> {
        self.sweep();
        self.ring_when_restarted()?;
        // SAFETY: calls with numbers and a name.
        let (event, place) = unsafe {
            let event = system(libc::eventfd(0, libc::EFD_CLOEXEC))?;
            let name = c"cryonaut-answer".as_ptr();
            match system(libc::memfd_create(name, libc::MFD_CLOEXEC)) {
                Ok(place) => (event, place),
                Err(error) => {
                    close(event);
                    return Err(error);
                }
            }
        };
        let started = reopen(place)
            .map_err(|error| number(&error))
            .and_then(|()| {
                let mut words = order.words;
                let own = std::process::id();
                words.splice(
                    1..1,
                    [
                        format!("--for-process={own}"),
                        format!("--answer-to={place}"),
                        format!("--ring={event}"),
                        "--quiet".to_owned(),
                    ],
                );
                start(&words, order.standard)
            });
        let child = match started {
            Ok(child) => child,
            Err(error) => {
                // It may not have been marked.
                let _ = keep(place);
                close(place);
                close(event);
                return Err(error);
            }
        };
        self.note_handle(0, event + 1);
        self.all().push(Request {
            purpose: order.purpose,
            keeper: order.keeper,
            event,
            place,
            context: order.context,
            child,
            generation: generation(),
            answer: None,
        });
        Ok(event as c_ulong)
    }
}

/// What is to be begun.
struct Order {
    purpose: Purpose,
    keeper: Keeper,
    words: Vec<String>,
    context: Option<c_int>,
    standard: around::Standard,
}

fn start(words: &[String], standard: around::Standard) -> Result<i32, c_int> {
    let text = |text: &String| CString::new(text.as_str()).map_err(|_| libc::EINVAL);
    let words = words.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let words: Vec<&CStr> = words.iter().map(|word| &**word).collect();
    around::start_command(&words, standard).map_err(|error| number(&error))
}

impl Request {
    fn is_restarted(&self) -> bool {
        self.purpose == Purpose::Checkpoint && generation() != self.generation
    }

    /// Whether it is over; then its answer is known, unless this is a restarted life.
    fn is_over(&mut self) -> bool {
        if self.answer.is_some() || self.is_restarted() {
            return true;
        }
        let mut wish = libc::pollfd {
            fd: self.event,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one of them, on this stack.
        let is_rung = unsafe { libc::poll(&raw mut wish, 1, 0) } > 0;
        let has_ended = match self.purpose {
            // It is about to end, and is not seen any more.
            Purpose::Checkpoint if is_rung => around::await_end(self.child),
            // It stands for the job from now on.
            Purpose::Restart if is_rung => None,
            _ => match around::has_ended(self.child) {
                Some(status) => Some(status),
                None => return false,
            },
        };
        if self.is_restarted() {
            return true;
        }
        self.answer = Some(self.read_answer(has_ended));
        if !is_rung {
            ring(self.event);
        }
        true
    }

    fn read_answer(&self, status: Option<i32>) -> Answer {
        // SAFETY: it is this module's own, and is given back below.
        let mut file = unsafe { std::fs::File::from_raw_fd(self.place) };
        let mut bytes = Vec::new();
        // What cannot be read is no answer.
        let _ = file.seek(SeekFrom::Start(0));
        let _ = file.read_to_end(&mut bytes);
        let _ = file.into_raw_fd();
        let is_missing = status
            .is_some_and(|status| libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 127);
        match bytes.split_first_chunk::<4>() {
            Some((number, log)) => Answer {
                number: c_int::from_ne_bytes(*number),
                log: log.to_vec(),
            },
            None => Answer {
                number: if is_missing { libc::ENOSYS } else { libc::EIO },
                log: Vec::new(),
            },
        }
    }

    /// Closes what it has open. In a restarted life only the handle is there.
    fn release(&self) {
        // It was marked when it was made.
        let _ = keep(self.place);
        close(self.event);
        if !self.is_restarted() {
            close(self.place);
            self.context.into_iter().for_each(close);
        }
    }
}
