//! A progress bar on a terminal, for work that takes longer than a second.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

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

/// The progress bar of one command. Dropping it takes the bar off the terminal.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    drawer: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// A bar that shows itself after a second, if standard error is a terminal.
    pub fn new(console: Console, count: Count, message: &str) -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if console.form == Form::Json || !std::io::stderr().is_terminal() {
            return Progress { bar, drawer: None };
        }
        let style = ProgressStyle::with_template(
            "{spinner} {msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {elapsed}",
        );
        // The template is our own, and good.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(message.to_owned());
        let (end, ended) = channel();
        let (drawn, before) = (bar.clone(), count.now());
        let drawing = std::thread::Builder::new()
            .name("cryo-progress".into())
            .spawn(move || {
                let mut wait = PATIENCE;
                while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                    if wait == PATIENCE {
                        drawn.set_draw_target(ProgressDrawTarget::stderr());
                        wait = INTERVAL;
                    }
                    if !matches!(count, Count::Told) {
                        drawn.set_position(count.now().saturating_sub(before));
                    }
                    drawn.tick();
                }
            });
        Progress {
            bar,
            drawer: drawing.ok().map(|thread| (end, thread)),
        }
    }

    /// Says what is being done.
    pub fn now(&self, message: &str) {
        self.bar.set_message(message.to_owned());
    }

    /// Says how far it is, of what is told.
    pub fn reached(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Says how many bytes there are to go through.
    pub fn expect(&self, bytes: u64) {
        self.bar.set_length(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.drawer.take() {
            drop(end);
            let _ = thread.join();
        }
        self.bar.finish_and_clear();
    }
}
