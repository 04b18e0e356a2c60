//! Copying pages from the frozen job to the image's writer, by several threads.
//!
//! The frozen job never waits for output: threads that read memory hand batches to one writer thread; when that one makes no
//! progress for [`STALL_LIMIT`], the copy is given up, and the caller releases the job while the writer may still hang.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cryonaut_image::{
    ImageError, ImageWriter, PageBatchBuilder, PageBuffer, Preamble, RecordSet, SealedPages,
    Summary,
};
use cryonaut_sys::memory::RemoteAdvice;
use cryonaut_sys::{PAGE_SIZE, RemotePtr, memory, pidfd};

use crate::collect::{Access, Later, PageRange, Space};
use crate::error::Attempt;
use crate::reference::StateOfFile;
use crate::{Error, Result};

/// How long a frozen job waits for output that makes no progress before its checkpoint is given up.
pub const STALL_LIMIT: Duration = Duration::from_secs(5);
/// Pages of one batch: 1 MiB, which stays in the cache between reading, checksum and writing.
const BATCH_PAGES: usize = 256;
/// Ranges that one process_vm_readv takes (`UIO_MAXIOV`).
const MAX_RANGES: usize = 512;
/// Batches on their way to the writer.
const QUEUE: usize = 16;

/// A copy under way, to one writer.
pub struct Copying<W: Write> {
    done: Receiver<std::result::Result<(W, Summary), ImageError>>,
    sender: SyncSender<SealedPages>,
    recycled: Mutex<Receiver<PageBuffer>>,
    written: Arc<AtomicUsize>,
    keeping: Keeping,
}

/// Who waits for the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// A frozen job.
    Job,
    /// Nobody but the user.
    User,
}

impl<W: Write> Copying<W> {
    /// Copies contents that nobody stands still for.
    ///
    /// # Errors
    /// When a file cannot be read or has changed since it was looked at, the output fails, or `stop` is set.
    pub fn copy_later(
        &mut self,
        later: &[Later],
        contents: &BTreeMap<u64, File>,
        stop: &AtomicBool,
    ) -> Result<()> {
        if later.is_empty() {
            return Ok(());
        }
        let spaces: Vec<Space> = later.iter().map(|later| later.space.clone()).collect();
        self.copy(&spaces, contents, Waiting::User, stop)?;
        for later in later {
            let now = contents
                .get(&later.space.id)
                .map(File::metadata)
                .transpose();
            let now = now.attempt(|| format!("looking at {}", later.path))?;
            if now.is_none_or(|now| StateOfFile::of(&now) != later.state) {
                return Err(Error::Failed(format!(
                    "file {} changed while it was being saved; try again, or leave it out with --exclude",
                    later.path
                )));
            }
        }
        Ok(())
    }

    fn copy(
        &mut self,
        spaces: &[Space],
        contents: &BTreeMap<u64, File>,
        waiting: Waiting,
        stop: &AtomicBool,
    ) -> Result<()> {
        let batches = cut_into_batches(spaces);
        let shared = Shared {
            spaces,
            contents,
            batches: &batches,
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
            recycled: &self.recycled,
            written: &self.written,
            waiting,
            keeping: self.keeping,
            stop,
        };
        let readers = crate::workers(batches.len().div_ceil(2));
        if readers <= 1 {
            shared.read_batches(&self.sender);
        } else {
            std::thread::scope(|scope| {
                for _ in 0..readers {
                    let sender = self.sender.clone();
                    let shared = &shared;
                    scope.spawn(move || shared.read_batches(&sender));
                }
            });
        }
        match shared.error.into_inner().expect("no reader panicked") {
            // The reader saw the writer gone: the writer's own error says why.
            Some(Error::Failed(text)) if text.is_empty() => {
                Err(match self.done.recv_timeout(Duration::from_secs(1)) {
                    Ok(Err(error)) => error.into(),
                    _ => Error::Failed("writing the image failed".into()),
                })
            }
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Waits for the writer to finish.
    ///
    /// # Errors
    /// The writer's error; [`Error::Interrupted`] when `stop` is set meanwhile.
    pub fn finish(self, stop: &AtomicBool) -> Result<(W, Summary)> {
        let Self { done, sender, .. } = self;
        drop(sender);
        loop {
            match done.recv_timeout(Duration::from_millis(50)) {
                Ok(result) => return Ok(result?),
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => {
                    return Err(Error::Interrupted);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Failed("writing the image ended unexpectedly".into()));
                }
            }
        }
    }
}

/// One piece of work: a batch's ranges, all of one space.
#[derive(Debug)]
struct Batch {
    space: usize,
    ranges: Vec<PageRange>,
    same: Vec<(u64, u32, u64)>,
}

/// An image that is about to be written: where to, and what comes before the pages.
#[derive(Debug)]
pub struct Beginning<W> {
    /// Takes the image. Only the writer's thread touches it.
    pub sink: W,
    /// What can be read without decoding records.
    pub preamble: Preamble,
    /// All records.
    pub records: RecordSet,
}

/// What becomes of pages that were in swap when they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// They stay in memory.
    InMemory,
    /// They go back at once, where the caller may see to that: the job is suspended.
    GiveBack,
}

/// Copies all pages of `spaces`, those of files from `contents`; returns once the job's memory is no longer needed.
///
/// # Errors
/// When memory cannot be read, the output fails or stalls, or `stop` is set. The caller then releases the job.
pub fn copy_out<W: Write + Send + 'static>(
    spaces: &[Space],
    contents: &BTreeMap<u64, File>,
    beginning: Beginning<W>,
    (keeping, stop): (Keeping, &AtomicBool),
) -> Result<Copying<W>> {
    let (sender, receiver) = sync_channel::<SealedPages>(QUEUE);
    let (recycle, recycled) = sync_channel::<PageBuffer>(QUEUE + 8);
    let (finished, done) = sync_channel(1);
    let bytes = Arc::new(AtomicUsize::new(0));
    let written = Arc::clone(&bytes);
    std::thread::Builder::new()
        .name("image-writer".into())
        .spawn(move || {
            let _ = finished.send(write_all(beginning, &receiver, &recycle, &written));
        })
        .attempt(|| "starting the writer".into())?;
    let mut copying = Copying {
        done,
        sender,
        recycled: Mutex::new(recycled),
        written: bytes,
        keeping,
    };
    copying.copy(spaces, contents, Waiting::Job, stop)?;
    Ok(copying)
}

fn write_all<W: Write>(
    beginning: Beginning<W>,
    batches: &Receiver<SealedPages>,
    recycle: &SyncSender<PageBuffer>,
    written: &AtomicUsize,
) -> std::result::Result<(W, Summary), ImageError> {
    let mut writer = ImageWriter::begin(beginning.sink, &beginning.preamble)?;
    writer.records(&beginning.records)?;
    for mut batch in batches.iter() {
        let length = batch.bytes().len();
        writer.pages(&mut batch)?;
        written.fetch_add(length, Ordering::Relaxed);
        let _ = recycle.try_send(batch.into_buffer());
    }
    writer.finish()
}

struct Shared<'a> {
    spaces: &'a [Space],
    contents: &'a BTreeMap<u64, File>,
    batches: &'a [Batch],
    next: AtomicUsize,
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
    recycled: &'a Mutex<Receiver<PageBuffer>>,
    written: &'a AtomicUsize,
    waiting: Waiting,
    keeping: Keeping,
    stop: &'a AtomicBool,
}

impl Shared<'_> {
    fn read_batches(&self, sender: &SyncSender<SealedPages>) {
        loop {
            if self.failed.load(Ordering::Relaxed) {
                return;
            }
            let Some(batch) = self.batches.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            if let Err(error) = self
                .read(batch)
                .and_then(|sealed| self.send(sender, sealed))
            {
                self.failed.store(true, Ordering::Relaxed);
                self.error
                    .lock()
                    .expect("no reader panicked")
                    .get_or_insert(error);
                return;
            }
        }
    }

    fn send(&self, sender: &SyncSender<SealedPages>, mut sealed: SealedPages) -> Result<()> {
        let mut last = (self.written.load(Ordering::Relaxed), Instant::now());
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            sealed = match sender.try_send(sealed) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(Error::Failed(String::new())),
                Err(TrySendError::Full(sealed)) => sealed,
            };
            let now = self.written.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            } else if self.waiting == Waiting::Job && last.1.elapsed() > STALL_LIMIT {
                return Err(Error::Failed(format!(
                    "the output took no data for {} seconds while the job stood still; the job runs on, nothing was saved. \
                     Write to a faster place",
                    STALL_LIMIT.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn read(&self, batch: &Batch) -> Result<SealedPages> {
        let space = &self.spaces[batch.space];
        let buffer = self
            .recycled
            .lock()
            .expect("no reader panicked")
            .try_recv()
            .unwrap_or_default();
        let mut builder = PageBatchBuilder::with_buffer(space.id, BATCH_PAGES, buffer);
        let mut index = 0;
        while index < batch.ranges.len() {
            // Ranges alike are read by one call.
            let first = batch.ranges[index];
            let mut alike = index + 1;
            while alike < batch.ranges.len()
                && batch.ranges[alike].zero == first.zero
                && batch.ranges[alike].access == first.access
            {
                alike += 1;
            }
            let ranges = &batch.ranges[index..alike];
            match self.contents.get(&space.id) {
                Some(file) => read_content(file, ranges, &mut builder)?,
                None => read_ranges(space.pid, ranges, &mut builder)?,
            }
            if self.keeping == Keeping::GiveBack && !self.contents.contains_key(&space.id) {
                give_back(space.pid, ranges);
            }
            index = alike;
        }
        for &(address, pages, other) in &batch.same {
            builder.same(address, pages, other)?;
        }
        Ok(builder.seal())
    }
}

/// Reads the content of a file; what lies beyond its end, in its last page, is zero.
fn read_content(file: &File, ranges: &[PageRange], builder: &mut PageBatchBuilder) -> Result<()> {
    for range in ranges {
        let pages = ((range.end - range.start) / PAGE_SIZE) as usize;
        let buffer = builder.stored_ranges(&[(range.recorded, pages)], range.zero)?;
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], range.start + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).attempt(|| "reading a file of the job".into()),
            }
        }
        buffer[done..].fill(0);
    }
    Ok(())
}

fn read_ranges(pid: i32, ranges: &[PageRange], builder: &mut PageBatchBuilder) -> Result<()> {
    let pages = |range: &PageRange| ((range.end - range.start) / PAGE_SIZE) as usize;
    let recorded: Vec<(u64, usize)> = ranges
        .iter()
        .map(|range| (range.recorded, pages(range)))
        .collect();
    let buffer = builder.stored_ranges(&recorded, ranges[0].zero)?;
    let remote: Vec<(RemotePtr, usize)> = ranges
        .iter()
        .map(|range| {
            (
                RemotePtr::new(range.start),
                (range.end - range.start) as usize,
            )
        })
        .collect();
    if ranges[0].access == Access::Pinned
        && memory::read_ranges(pid, &remote, buffer).is_ok_and(|count| count == buffer.len())
    {
        return Ok(());
    }
    let path = format!("/proc/{pid}/mem");
    let file = File::open(&path).attempt(|| format!("opening {path}"))?;
    let mut rest = &mut buffer[..];
    for (address, length) in remote {
        let (now, later) = rest.split_at_mut(length);
        file.read_exact_at(now, address.address())
            .attempt(|| format!("process {pid}: reading memory at {address}"))?;
        rest = later;
    }
    Ok(())
}

/// What cannot be given back this way stays until the job is let go.
fn give_back(pid: i32, ranges: &[PageRange]) {
    let Ok(process) = pidfd::open(pid) else {
        return;
    };
    for range in ranges {
        let (start, length) = (RemotePtr::new(range.start), range.end - range.start);
        let _ = memory::advise(process.as_fd(), start, length, RemoteAdvice::PageOut);
    }
}

fn cut_into_batches(spaces: &[Space]) -> Vec<Batch> {
    let mut batches = Vec::new();
    for (space, content) in spaces.iter().enumerate() {
        let mut current = Batch {
            space,
            ranges: Vec::new(),
            same: Vec::new(),
        };
        let mut room = BATCH_PAGES;
        for range in &content.ranges {
            let mut rest = *range;
            while rest.start < rest.end {
                if room == 0 || current.ranges.len() == MAX_RANGES {
                    batches.push(std::mem::replace(
                        &mut current,
                        Batch {
                            space,
                            ranges: Vec::new(),
                            same: Vec::new(),
                        },
                    ));
                    room = BATCH_PAGES;
                }
                let pages = (((rest.end - rest.start) / PAGE_SIZE) as usize).min(room);
                let length = pages as u64 * PAGE_SIZE;
                current.ranges.push(PageRange {
                    end: rest.start + length,
                    ..rest
                });
                rest.start += length;
                rest.recorded += length;
                room -= pages;
            }
        }
        for same in content.same.chunks(MAX_RANGES) {
            current.same = same.to_vec();
            batches.push(std::mem::replace(
                &mut current,
                Batch {
                    space,
                    ranges: Vec::new(),
                    same: Vec::new(),
                },
            ));
        }
        if !current.ranges.is_empty() {
            batches.push(current);
        }
    }
    batches
}
