//! What becomes of an image on its way out: smaller, sealed, or as text. All of that is done once the job runs on, from a temporary
//! file, so that a job never stands still for it; only one that is to be killed waits.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::atomic::{AtomicBool, Ordering};

use cryonaut_image::{CompressedPages, ImageError, ImageWriter, PageBuffer, SeekableImage};
use cryonaut_sys::descriptor;

use super::Progress;
use crate::error::Attempt;
use crate::{Error, Result};

/// What an image travels in.
pub trait Envelope: std::fmt::Debug + Send {
    /// Begins an envelope; what is written to it comes out at `sink` sealed.
    ///
    /// # Errors
    /// Of writing to the sink.
    fn open<'a>(&self, sink: &'a mut dyn Write) -> io::Result<Box<dyn Seal + 'a>>;
}

/// An envelope that is being filled.
pub trait Seal: Write {
    /// Writes its end.
    ///
    /// # Errors
    /// Of writing to the sink.
    fn seal(self: Box<Self>) -> io::Result<()>;
}

/// How an image is packed.
#[derive(Debug, Default)]
pub struct Packing {
    /// The level of compression, if it is to be compressed ([`cryonaut_image::LEVELS`]).
    pub compress: Option<i32>,
    /// What it is put into.
    pub envelope: Option<Box<dyn Envelope>>,
}

impl Packing {
    /// Whether the image stays as it is.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.compress.is_none() && self.envelope.is_none()
    }

    /// Packs the image in `spool` into `sink`; gives how many bytes that makes.
    ///
    /// # Errors
    /// When the sink fails, or `stop` is set.
    pub fn pack(&self, mut spool: File, sink: &mut dyn Write, stop: &AtomicBool) -> Result<u64> {
        let mut sink = Counting {
            sink,
            count: 0,
            stop,
        };
        let packed = match &self.envelope {
            None => self.copy(&mut spool, &mut sink, stop),
            Some(envelope) => {
                let failed = || "writing the packed image".into();
                let mut seal = envelope.open(&mut sink).attempt(failed)?;
                self.copy(&mut spool, &mut seal, stop)
                    .and_then(|()| seal.seal().attempt(failed))
            }
        };
        match packed {
            Err(_) if stop.load(Ordering::Relaxed) => Err(Error::Interrupted),
            packed => packed.map(|()| sink.count),
        }
    }

    fn copy(&self, spool: &mut File, sink: &mut dyn Write, stop: &AtomicBool) -> Result<()> {
        spool.rewind().attempt(|| "reading the image back".into())?;
        match self.compress {
            Some(level) => {
                let copy = spool
                    .try_clone()
                    .attempt(|| "reading the image back".into())?;
                compress(&SeekableImage::open(copy)?, level, sink, stop)
            }
            None => {
                let mut buffer = vec![0_u8; 1 << 20];
                loop {
                    let count = spool
                        .read(&mut buffer)
                        .attempt(|| "reading the image back".into())?;
                    if count == 0 {
                        return Ok(());
                    }
                    sink.write_all(&buffer[..count]).map_err(not_taken)?;
                }
            }
        }
    }
}

/// Writes the same image with compressed pages: some sections at a time, each by a thread of its own.
fn compress(
    image: &SeekableImage,
    level: i32,
    sink: &mut dyn Write,
    stop: &AtomicBool,
) -> Result<()> {
    let mut writer = ImageWriter::begin_compressed(sink, image.preamble())?;
    writer.records(&image.records()?)?;
    let sections = image.pages_sections();
    let mut buffers: Vec<PageBuffer> = Vec::new();
    buffers.resize_with(crate::workers(sections.len()).max(1), PageBuffer::new);
    for several in sections.chunks(buffers.len()) {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let packed: Vec<std::result::Result<CompressedPages, ImageError>> =
            std::thread::scope(|scope| {
                let working: Vec<_> = several
                    .iter()
                    .zip(&mut buffers)
                    .map(|(section, buffer)| {
                        scope.spawn(move || {
                            CompressedPages::pack(&image.read_pages(section, buffer)?, level)
                        })
                    })
                    .collect();
                working
                    .into_iter()
                    .map(|thread| thread.join().expect("packing does not panic"))
                    .collect()
            });
        for pages in packed {
            writer.compressed(&pages?)?;
        }
    }
    writer.finish()?;
    Ok(())
}

fn not_taken(error: io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::BrokenPipe => "its reader has gone".to_owned(),
        _ => error.to_string(),
    };
    Error::Failed(format!("passing the image on: {why}; the job is unharmed"))
}

/// Counts what goes through, and lets nothing through once the user has given up.
struct Counting<'a> {
    sink: &'a mut dyn Write,
    count: u64,
    stop: &'a AtomicBool,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let count = self.sink.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Passes an image on at the reader's pace. A pipe is asked before each write, which then does not block: so that a reader that
/// stalls cannot keep the user from giving up.
pub(super) struct Patient<'a> {
    stream: &'a mut File,
    is_pipe: bool,
    sent: u64,
    stop: &'a AtomicBool,
    progress: &'a mut dyn FnMut(Progress),
}

impl<'a> Patient<'a> {
    pub(super) fn new(
        stream: &'a mut File,
        stop: &'a AtomicBool,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let is_pipe = stream
            .metadata()
            .is_ok_and(|metadata| metadata.file_type().is_fifo());
        Self {
            stream,
            is_pipe,
            sent: 0,
            stop,
            progress,
        }
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let given_up = || self.stop.load(Ordering::Relaxed);
        while self.is_pipe
            && descriptor::poll_for(self.stream.as_fd(), libc::POLLOUT, 50).unwrap_or(libc::POLLOUT)
                == 0
        {
            if given_up() {
                return Err(io::Error::other("interrupted"));
            }
        }
        let most = if self.is_pipe {
            libc::PIPE_BUF
        } else {
            1 << 20
        };
        let count = self.stream.write(&bytes[..bytes.len().min(most)])?;
        self.sent += count as u64;
        (self.progress)(Progress::Sent(self.sent));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
