//! A progress bar on a terminal, for work that takes longer than a second.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::console::{Console, Form};

/// Work shorter than this shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two looks at how far the work is.
const INTERVAL: Duration = Duration::from_millis(100);

/// What `cryo` itself does with the bytes, as /proc/self/io counts them.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    /// It reads an image.
    Read,
    /// It writes an image.
    Written,
    /// Something else does; how far that is, is told ([`Progress::reached`]).
    Told,
}

impl Count {
    /// Bytes so far, by all threads; nothing where the kernel does not count.
    fn now(self) -> u64 {
        let name = match self {
            Count::Read => "rchar: ",
            Count::Written => "wchar: ",
            Count::Told => return 0,
        };
        let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let number = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.parse().ok());
        number.unwrap_or(0)
    }
}

/// How long the end of a command waits for the bar to leave the terminal. One that takes no more (Ctrl-S) holds up nobody.
const LEAVING: Duration = Duration::from_millis(500);

/// The progress bar of one command. Dropping it takes the bar off the terminal.
///
/// A thread of its own draws it, and nobody else waits for the terminal: a job may stand still meanwhile.
#[derive(Debug)]
pub struct Progress {
    told: Arc<Told>,
    drawer: Option<(Sender<()>, JoinHandle<()>)>,
}

/// What is to be drawn.
#[derive(Debug)]
struct Told {
    message: Mutex<String>,
    reached: AtomicU64,
    /// 0 where it is not known.
    expected: AtomicU64,
}

impl Progress {
    /// A bar that shows itself after a second, if standard error is a terminal.
    pub fn new(console: Console, count: Count, message: &str) -> Progress {
        let told = Arc::new(Told {
            message: Mutex::new(message.to_owned()),
            reached: AtomicU64::new(0),
            expected: AtomicU64::new(0),
        });
        if console.form == Form::Json || !std::io::stderr().is_terminal() {
            return Progress { told, drawer: None };
        }
        let (end, ended) = channel();
        let drawn = Arc::clone(&told);
        let drawing = std::thread::Builder::new()
            .name("cryo-progress".into())
            .spawn(move || draw(&drawn, count, &ended));
        Progress {
            told,
            drawer: drawing.ok().map(|thread| (end, thread)),
        }
    }

    /// Says what is being done.
    pub fn now(&self, message: &str) {
        *self.told.message() = message.to_owned();
    }

    /// Says how far it is, of what is told.
    pub fn reached(&self, bytes: u64) {
        self.told.reached.store(bytes, Ordering::Relaxed);
    }

    /// Says how many bytes there are to go through.
    pub fn expect(&self, bytes: u64) {
        self.told.expected.store(bytes, Ordering::Relaxed);
    }
}

impl Told {
    /// Nobody draws while holding it.
    fn message(&self) -> MutexGuard<'_, String> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Draws until the end is told.
fn draw(told: &Told, count: Count, ended: &Receiver<()>) {
    let before = count.now();
    if ended.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    let bar =
        ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_elapsed(PATIENCE);
    let style = ProgressStyle::with_template(
        "{spinner} {msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {elapsed}",
    );
    // The template is our own, and good.
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    loop {
        let message = told.message().clone();
        bar.set_message(message);
        match told.expected.load(Ordering::Relaxed) {
            0 => {}
            expected => bar.set_length(expected),
        }
        bar.set_position(match count {
            Count::Told => told.reached.load(Ordering::Relaxed),
            _ => count.now().saturating_sub(before),
        });
        bar.tick();
        if ended.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    bar.finish_and_clear();
}

impl Drop for Progress {
    fn drop(&mut self) {
        let Some((end, thread)) = self.drawer.take() else {
            return;
        };
        drop(end);
        let start = Instant::now();
        while !thread.is_finished() {
            if start.elapsed() > LEAVING {
                // It goes with this process.
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = thread.join();
    }
}
