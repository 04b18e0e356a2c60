//! Filling memory from an image, by several threads.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cryonaut_image::{Contents, Location, PageBuffer, SeekableImage};
use cryonaut_sys::{PAGE_SIZE, RemotePtr, memory, task};
use cryonaut_tracee::{read_exact, write_all};

use crate::{Error, Result};

/// Ranges that one process_vm_writev takes.
const MAX_RANGES: usize = 512;

/// Fills the shared object `space`, mapped at `base` in process `pid`, by threads on `processors`.
///
/// # Errors
/// When the image is damaged or memory is short.
pub fn fill(
    image: &SeekableImage,
    space: u64,
    (pid, base): (i32, u64),
    processors: &[u64],
    stop: &AtomicBool,
) -> Result<Vec<(u64, u64)>> {
    Filling {
        image,
        pid,
        base,
        kept: &[],
        others: &BTreeMap::new(),
        processors,
        stop,
    }
    .all(space)
}

/// Fills the private memory of process `pid`; pages that equal those of another process are copied from it unless they lie in
/// `kept`, where they were inherited. Returns what the image described, by address.
///
/// # Errors
/// When the image is damaged or memory is short.
pub fn fill_process(
    image: &SeekableImage,
    (space, pid): (u64, i32),
    kept: &[(u64, u64)],
    others: &BTreeMap<u64, i32>,
    processors: &[u64],
    stop: &AtomicBool,
) -> Result<Vec<(u64, u64)>> {
    Filling {
        image,
        pid,
        base: 0,
        kept,
        others,
        processors,
        stop,
    }
    .all(space)
}

struct Filling<'a> {
    image: &'a SeekableImage,
    pid: i32,
    base: u64,
    kept: &'a [(u64, u64)],
    others: &'a BTreeMap<u64, i32>,
    processors: &'a [u64],
    stop: &'a AtomicBool,
}

impl Filling<'_> {
    fn all(&self, space: u64) -> Result<Vec<(u64, u64)>> {
        let sections: Vec<&Location> = self
            .image
            .pages_sections()
            .iter()
            .filter(|location| location.space == space)
            .collect();
        let next = AtomicUsize::new(0);
        let outcome: Mutex<Result<Vec<(u64, u64)>>> = Mutex::new(Ok(Vec::new()));
        let work = || {
            let mut buffer = PageBuffer::new();
            let mut described = Vec::new();
            let mut failure = None;
            while let Some(location) = sections.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.stop.load(Ordering::Relaxed) {
                    failure = Some(Error::Interrupted);
                    break;
                }
                if let Err(error) = self.section(location, &mut buffer, &mut described) {
                    failure = Some(error);
                    break;
                }
            }
            let mut outcome = outcome.lock().expect("no filler panicked");
            match failure {
                Some(error) => *outcome = Err(error),
                None => {
                    if let Ok(all) = &mut *outcome {
                        all.append(&mut described);
                    }
                }
            }
        };
        let threads = crate::workers(sections.len().div_ceil(2));
        if threads <= 1 {
            work();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        // The thread that runs lists keeps to one processor; these need not.
                        let _ = task::set_affinity(0, self.processors);
                        work();
                    });
                }
            });
        }
        let mut described = outcome.into_inner().expect("no filler panicked")?;
        described.sort_unstable();
        Ok(described)
    }

    fn section(
        &self,
        location: &Location,
        buffer: &mut PageBuffer,
        described: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        let section = self.image.read_pages(location, buffer)?;
        let mut ranges: Vec<(RemotePtr, usize)> = Vec::new();
        let mut written = 0;
        let mut pending = 0;
        let data = section.data();
        for run in section.runs() {
            let length = run.pages * PAGE_SIZE;
            let end = run.address.checked_add(length).ok_or_else(|| {
                Error::Failed("a run of pages is out of range: the image is damaged".into())
            })?;
            described.push((run.address, end));
            match run.contents {
                Contents::Stored(bytes) => {
                    ranges.push((RemotePtr::new(self.base + run.address), bytes.len()));
                    pending += bytes.len();
                    if ranges.len() == MAX_RANGES {
                        self.write(&ranges, &data[written..written + pending])?;
                        written += pending;
                        pending = 0;
                        ranges.clear();
                    }
                }
                Contents::Zero => self.zero(run.address, length)?,
                Contents::Same(other) => self.same(other, run.address, end)?,
            }
        }
        if !ranges.is_empty() {
            self.write(&ranges, &data[written..written + pending])?;
        }
        Ok(())
    }

    fn write(&self, ranges: &[(RemotePtr, usize)], bytes: &[u8]) -> Result<()> {
        if memory::write_ranges(self.pid, ranges, bytes).is_ok_and(|count| count == bytes.len()) {
            return Ok(());
        }
        // Find out which range it was, and why.
        let mut rest = bytes;
        for &(address, length) in ranges {
            let (now, later) = rest.split_at(length);
            write_all(self.pid, address, now)?;
            rest = later;
        }
        Ok(())
    }

    fn zero(&self, address: u64, length: u64) -> Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let mut done = 0;
        while done < length {
            let count = (length - done).min(ZEROS.len() as u64);
            write_all(
                self.pid,
                RemotePtr::new(self.base + address + done),
                &ZEROS[..count as usize],
            )?;
            done += count;
        }
        Ok(())
    }

    /// What was inherited is there already; the rest is copied.
    fn same(&self, other: u64, start: u64, end: u64) -> Result<()> {
        let mut page = [0_u8; PAGE_SIZE as usize];
        let mut address = start;
        while address < end {
            if let Some(&(_, kept_end)) = self
                .kept
                .iter()
                .find(|(from, to)| (*from..*to).contains(&address))
            {
                address = kept_end.min(end);
                continue;
            }
            let Some(&source) = self.others.get(&other) else {
                return Err(Error::Failed(
                    "a page refers to memory that is not in the image: it is damaged".into(),
                ));
            };
            read_exact(source, RemotePtr::new(address), &mut page)?;
            write_all(self.pid, RemotePtr::new(address), &page)?;
            address += PAGE_SIZE;
        }
        Ok(())
    }
}

/// The parts of `ranges` that `described` (sorted) does not cover.
pub fn gaps(ranges: &[(u64, u64)], described: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for &(start, end) in ranges {
        let mut at = start;
        let first = described.partition_point(|&(_, stop)| stop <= start);
        for &(from, to) in described[first..]
            .iter()
            .take_while(|(from, _)| *from < end)
        {
            if at < from {
                found.push((at, from));
            }
            at = at.max(to);
        }
        if at < end {
            found.push((at, end));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn gaps_are_what_is_not_described() {
        assert_eq!(gaps(&[(0, 10)], &[]), [(0, 10)]);
        assert_eq!(
            gaps(&[(0, 10), (20, 30)], &[(2, 4), (8, 22)]),
            [(0, 2), (4, 8), (22, 30)]
        );
        assert_eq!(gaps(&[(5, 6)], &[(0, 9)]), []);
    }
}
