//! Pushing a job's memory out: to swap what has no file, back to its files what is theirs.
//!
//! Three ways, by what the caller may do. Who has CAP_SYS_NICE advises the kernel about the frozen job's memory
//! (process_madvise(2)). Everybody else has each process do it for itself (madvise(2)), while it stands still under ptrace and
//! before it is suspended, since a frozen task runs no call. And a cgroup that holds the job alone is asked to give memory
//! back (`memory.reclaim`), which is the only way out for pages that several processes share since a fork.
//!
//! The kernel pushes out no page by advice that more than one process maps (`folio_maybe_mapped_shared`, mm/madvise.c). Shared
//! memory that several processes of the job map is let go by all but one of them first: it belongs to the object, not to the
//! mapping. Pages that are private to several processes (after a fork) stay, unless the cgroup helps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use cryonaut_procfs::SmapsArea;
use cryonaut_procfs::maps::AreaName;
use cryonaut_procfs::smaps::VmFlag;
use cryonaut_sys::memory::{self, RemoteAdvice};
use cryonaut_sys::{RemotePtr, pidfd};
use cryonaut_tracee::CallList;

use super::copies::{self, Copies};
use super::freezer::Cgroup;
use super::need::{Memory, SharedMemory};
use crate::freeze::Frozen;
use crate::{Error, Result};

/// How much is pushed out by one call: a look at whether the user gave up lies between two.
const CHUNK: u64 = 32 << 20;
/// Calls of one list, which has to fit into the guest's mapping.
const CALLS: usize = 400;

/// One range of one process that is to be pushed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub pid: i32,
    pub start: u64,
    pub end: u64,
    /// Bytes that lie in memory there, and that advice can push out: of an object all, of other memory what nobody else maps.
    pub resident: u64,
    /// Bytes that were in swap before.
    pub swapped: u64,
    /// Thousandths of them that were used of late.
    pub warmth: u64,
}

/// What is to be pushed out, coldest first.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub pieces: Vec<Piece>,
    /// Ranges of shared memory that a process lets go, because another one of the job maps the same.
    pub let_go: Vec<Piece>,
    /// For each of those, by process and start, which piece shows the same.
    same: BTreeMap<(i32, u64), (i32, u64)>,
}

impl Order {
    /// Plans it for a job that holds `held` bytes and may keep `keep`.
    pub fn plan(job: &[Memory], shared: &SharedMemory, (held, keep): (u64, u64)) -> Self {
        let mut order = Self::default();
        let mut objects: BTreeMap<(u32, u32, u64, u64), Vec<Piece>> = BTreeMap::new();
        for Memory { pid, areas } in job {
            let resident = areas.iter().filter(|area| may_go(area) && area.rss > 0);
            for area in resident {
                let mut piece = Piece {
                    pid: *pid,
                    start: area.area.start,
                    end: area.area.end,
                    resident: area.rss * 1024,
                    swapped: area.swap * 1024,
                    warmth: area.referenced * 1000 / area.rss,
                };
                if is_object(area, shared) {
                    let device = area.area.device;
                    let place = (
                        device.major,
                        device.minor,
                        area.area.inode,
                        area.area.offset,
                    );
                    objects.entry(place).or_default().push(piece);
                } else {
                    piece.resident -= (area.shared * 1024).min(piece.resident);
                    order.pieces.push(piece);
                }
            }
        }
        for mappings in objects.into_values() {
            order.leave_one(mappings);
        }
        order
            .pieces
            .sort_by_key(|piece| (piece.warmth, u64::MAX - piece.resident));
        order.keep((held, keep));
        order
    }

    /// Of all that show the same, the one with the most of it in memory pushes it out, and the others let it go before.
    fn leave_one(&mut self, mut mappings: Vec<Piece>) {
        mappings.sort_by_key(|piece| u64::MAX - piece.resident);
        let warmth = mappings.iter().map(|piece| piece.warmth).max();
        let mut mappings = mappings.into_iter();
        let Some(mut one) = mappings.next() else {
            return;
        };
        // It is in use if any of them uses it.
        one.warmth = warmth.unwrap_or(one.warmth);
        for other in mappings {
            self.same
                .insert((other.pid, other.start), (one.pid, one.start));
            self.let_go.push(other);
        }
        self.pieces.push(one);
    }

    /// Leaves out what may stay: the warmest, and of the piece in between a part.
    fn keep(&mut self, (held, keep): (u64, u64)) {
        if keep == 0 {
            return;
        }
        let mut rest = held.saturating_sub(keep);
        self.pieces.retain_mut(|piece| {
            if rest == 0 {
                return false;
            }
            if piece.resident > rest {
                let share = u128::from(piece.end - piece.start) * u128::from(rest)
                    / u128::from(piece.resident);
                let length = (share as u64).next_multiple_of(cryonaut_sys::PAGE_SIZE);
                piece.end = piece.end.min(piece.start + length);
                piece.resident = rest;
            }
            rest -= piece.resident.min(rest);
            true
        });
        // What stays is let go by nobody; of what goes in part, each lets the same part go.
        let going: BTreeMap<(i32, u64), u64> = self
            .pieces
            .iter()
            .map(|piece| ((piece.pid, piece.start), piece.end - piece.start))
            .collect();
        let same = &self.same;
        self.let_go.retain_mut(|piece| {
            let one = same.get(&(piece.pid, piece.start));
            match one.and_then(|one| going.get(one)) {
                Some(&length) => {
                    piece.end = piece.end.min(piece.start + length);
                    true
                }
                None => false,
            }
        });
    }

    /// How much is to go.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.resident).sum()
    }

    /// What each process was using, most used first: for a resume that brings it back.
    pub fn hot(&self, pid: i32) -> Vec<(u64, u64)> {
        const MOST: usize = 256;
        self.pieces
            .iter()
            .rev()
            .filter(|piece| piece.pid == pid && piece.warmth > 0)
            .map(|piece| (piece.start, piece.end))
            .take(MOST)
            .collect()
    }
}

/// Whether the kernel can push out pages of this area.
fn may_go(area: &SmapsArea) -> bool {
    use VmFlag::{DeviceMemory, HugeTlb, Locked, MixedMap, PageFrames};
    ![Locked, HugeTlb, PageFrames, DeviceMemory, MixedMap]
        .iter()
        .any(|&flag| area.flags.contains(flag))
        && area.area.name != AreaName::Vsyscall
}

/// Whether the area shows an object that keeps its content when the area lets it go.
fn is_object(area: &SmapsArea, shared: &SharedMemory) -> bool {
    use VmFlag::{UserfaultMinor, UserfaultMissing, UserfaultWriteProtect};
    area.area.permissions.shared
        && area.area.inode != 0
        && shared.contains(area.area.device)
        && ![UserfaultMinor, UserfaultMissing, UserfaultWriteProtect]
            .iter()
            .any(|&flag| area.flags.contains(flag))
}

/// Whether the caller may push out memory of another process by advice: tried on nothing.
pub fn may_advise(pid: i32) -> bool {
    pidfd::open(pid).is_ok_and(|process| {
        memory::advise(process.as_fd(), RemotePtr::new(0), 0, RemoteAdvice::PageOut).is_ok()
    })
}

/// Pushes the pieces out, telling how many bytes were gone through.
///
/// # Errors
/// [`Error::Interrupted`] when `stop` is set.
pub(super) fn push_out(
    order: &Order,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut pieces: Vec<&Piece> = order.pieces.iter().collect();
    // Within one warmth, so that each process is opened once.
    pieces.sort_by_key(|piece| (piece.warmth, piece.pid));
    let copies = Copies::before();
    advise(&pieces, Of::Pages, stop, progress)?;
    if copies.can_be_dropped() {
        copies::await_written(stop);
        pieces.retain(|piece| copies::are_fresh(piece));
        advise(&pieces, Of::Copies, stop, &mut |_| {})?;
    }
    Ok(())
}

/// What is pushed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// Pages that are mapped.
    Pages,
    /// The copies that are left of those that are written.
    Copies,
}

fn advise(
    pieces: &[&Piece],
    of: Of,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut open: Option<(i32, std::os::fd::OwnedFd)> = None;
    let mut done = 0;
    for piece in pieces {
        if open.as_ref().is_none_or(|(pid, _)| *pid != piece.pid) {
            open = pidfd::open(piece.pid)
                .ok()
                .map(|process| (piece.pid, process));
        }
        let Some((_, process)) = &open else {
            // It was killed meanwhile, and its memory went with it.
            continue;
        };
        let mut from = piece.start;
        while from < piece.end {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let length = CHUNK.min(piece.end - from);
            if of == Of::Copies {
                copies::map(piece.pid, from, from + length);
            }
            // An area that does not let its pages go keeps them: the report says so.
            let _ = memory::advise(
                process.as_fd(),
                RemotePtr::new(from),
                length,
                RemoteAdvice::PageOut,
            );
            from += length;
        }
        done += piece.resident;
        progress(done);
    }
    Ok(())
}

/// What processes are to do themselves while they stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inject {
    /// Let shared memory go that another process of the job maps too, and nothing else.
    LetGo,
    /// That, and push out all of the order.
    All,
}

/// Has the processes of a job that stands still under ptrace do what they have to do themselves. Those that the freezer holds can
/// make no call, whatever is noted of them: they are left out. Gives their number.
///
/// # Errors
/// When a call cannot be made in one of them; [`Error::Interrupted`].
pub(super) fn inject(
    frozen: &mut Frozen,
    order: &Order,
    what: Inject,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<usize> {
    let is_frozen = |pid| Cgroup::of(pid).is_some_and(|cgroup| cgroup.holds_its_tasks());
    let pieces = match what {
        Inject::LetGo => &[][..],
        Inject::All => &order.pieces[..],
    };
    let wanted: BTreeSet<i32> = order
        .let_go
        .iter()
        .chain(pieces)
        .map(|piece| piece.pid)
        .collect();
    let left_out: BTreeSet<i32> = wanted.into_iter().filter(|&pid| is_frozen(pid)).collect();
    let mut work = Injection {
        frozen,
        left_out,
        stop,
    };
    work.run(&order.let_go, libc::MADV_DONTNEED, Of::Pages, &mut |_| {})?;
    let copies = Copies::before();
    work.run(pieces, libc::MADV_PAGEOUT, Of::Pages, progress)?;
    if !pieces.is_empty() && copies.can_be_dropped() {
        copies::await_written(stop);
        let fresh: Vec<Piece> = pieces
            .iter()
            .filter(|piece| copies::are_fresh(piece))
            .copied()
            .collect();
        work.run(&fresh, libc::MADV_PAGEOUT, Of::Copies, &mut |_| {})?;
    }
    Ok(work.left_out.len())
}

/// Calls of madvise(2) in the processes of a job.
struct Injection<'a> {
    frozen: &'a mut Frozen,
    /// Those that can make none.
    left_out: BTreeSet<i32>,
    stop: &'a AtomicBool,
}

impl Injection<'_> {
    fn run(
        &mut self,
        pieces: &[Piece],
        advice: i32,
        of: Of,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        // Copies are mapped again for each list: they must not be many at a time.
        let calls = match of {
            Of::Pages => CALLS,
            Of::Copies => 1,
        };
        let mut done = 0;
        let able = self
            .frozen
            .alive_mut()
            .filter(|process| !self.left_out.contains(&process.pid));
        for process in able {
            let own: Vec<(u64, u64)> = pieces
                .iter()
                .filter(|piece| piece.pid == process.pid)
                .flat_map(|piece| chunks(piece, advice))
                .collect();
            for some in own.chunks(calls) {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                let mut list = CallList::new();
                for &(start, length) in some {
                    if of == Of::Copies {
                        copies::map(process.pid, start, start + length);
                    }
                    list.call(
                        libc::SYS_madvise,
                        &[start.into(), length.into(), advice.into()],
                    );
                }
                process.run(0, &list)?;
                done += some.iter().map(|(_, length)| length).sum::<u64>();
                progress(done);
            }
        }
        Ok(())
    }
}

/// A list runs to its end, whoever asks it to stop: what takes long goes in many.
fn chunks(piece: &Piece, advice: i32) -> Vec<(u64, u64)> {
    let size = match advice {
        libc::MADV_PAGEOUT => CHUNK,
        _ => u64::MAX,
    };
    let mut chunks = Vec::new();
    let mut from = piece.start;
    while from < piece.end {
        let length = size.min(piece.end - from);
        chunks.push((from, length));
        from += length;
    }
    chunks
}

/// Writes back what the job has changed in mapped files, so that these pages can be dropped.
pub(super) fn write_back(job: &[Memory], shared: &SharedMemory) {
    let mut seen = BTreeSet::new();
    for Memory { areas, .. } in job {
        for area in areas {
            let AreaName::File {
                path,
                deleted: false,
            } = &area.area.name
            else {
                continue;
            };
            if !area.area.permissions.shared
                || shared.contains(area.area.device)
                || !seen.insert((
                    area.area.device.major,
                    area.area.device.minor,
                    area.area.inode,
                ))
            {
                continue;
            }
            use std::os::unix::ffi::OsStrExt;
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
            // Another file of that name, or one that may not be opened, is written back by the kernel in its own time.
            if let Ok(file) = File::open(&path)
                && file
                    .metadata()
                    .is_ok_and(|found| found.ino() == area.area.inode)
            {
                let _ = file.sync_data();
            }
        }
    }
}

/// Asks the cgroups that hold nothing but the job to give back this much, from its memory rather than from the page cache; gives
/// how much they say that they did.
pub(super) fn reclaim_cgroups(cgroups: &[PathBuf], bytes: u64, stop: &AtomicBool) -> u64 {
    let mut rest = bytes;
    for cgroup in accountable(cgroups) {
        let file = cgroup.path().join("memory.reclaim");
        while rest > 0 && !stop.load(Ordering::Relaxed) {
            let some = rest.min(CHUNK);
            // Linux 6.9 takes a wish for what is to go; before that, and where it is out of range, the amount alone.
            let wish = fs::write(&file, format!("{some} swappiness=200"));
            let done = match wish {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    fs::write(&file, some.to_string())
                }
                outcome => outcome,
            };
            // EAGAIN says that it could not give as much: there is no more to be had.
            if done.is_err() {
                break;
            }
            rest -= some;
        }
    }
    bytes - rest
}

/// The cgroups that the memory of a job in these is accounted to, if nobody else's is. Pages stay with the cgroup that they were
/// allocated in (Documentation/admin-guide/cgroup-v2.rst, "Memory Ownership"): for a job that was moved into a child for its
/// suspension that is the one above.
fn accountable(cgroups: &[PathBuf]) -> BTreeSet<Cgroup> {
    let own = |cgroup: &Cgroup| cgroups.iter().any(|path| path == cgroup.path());
    let mut found = BTreeSet::new();
    for cgroup in cgroups.iter().map(Cgroup::at) {
        if cgroup.is_of_suspend() {
            let origin = cgroup.parent();
            let others = origin.children().into_iter().filter(|child| !own(child));
            if origin.members_by_thread().is_empty()
                && others.into_iter().all(|child| !child.is_populated())
            {
                found.insert(origin);
            }
        }
        found.insert(cgroup);
    }
    found.retain(|cgroup| cgroup.path().join("memory.reclaim").exists());
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryonaut_procfs::smaps;

    fn job(text: &str) -> Vec<Memory> {
        let areas = smaps::parse(text.as_bytes()).unwrap();
        vec![Memory { pid: 7, areas }]
    }

    const THREE: &str = "10000-20000 rw-p 00000000 00:00 0\nRss: 64 kB\nReferenced: 64 kB\nVmFlags: rd wr\n\
        30000-70000 rw-p 00000000 00:00 0\nRss: 256 kB\nReferenced: 0 kB\nVmFlags: rd wr\n\
        80000-90000 rw-p 00000000 00:00 0\nRss: 64 kB\nReferenced: 32 kB\nVmFlags: rd wr\n\
        a0000-b0000 rw-p 00000000 00:00 0\nRss: 64 kB\nReferenced: 32 kB\nVmFlags: rd wr lo\n";

    #[test]
    fn the_coldest_goes_first_and_locked_memory_stays() {
        let order = Order::plan(&job(THREE), &SharedMemory::find(), (448 << 10, 0));
        let starts: Vec<_> = order.pieces.iter().map(|piece| piece.start).collect();
        assert_eq!(starts, [0x30000, 0x80000, 0x10000]);
        assert_eq!(order.bytes(), 384 << 10);
        assert_eq!(order.hot(7), [(0x10000, 0x20000), (0x80000, 0x90000)]);
    }

    #[test]
    fn what_may_stay_is_the_warmest() {
        let order = Order::plan(&job(THREE), &SharedMemory::find(), (384 << 10, 96 << 10));
        assert_eq!(order.bytes(), 288 << 10);
        let last = order.pieces.last().unwrap();
        assert_eq!((last.start, last.end), (0x80000, 0x88000));
    }

    /// Two processes that map the same object of 64 KiB, and have 128 KiB each since their fork.
    fn family(shared: &SharedMemory) -> Vec<Memory> {
        let (major, minor) = shared.devices().next().unwrap();
        let process = |pid, used| {
            let text = format!(
                "10000-20000 rw-s 00000000 {major:02x}:{minor:02x} 5 /dev/zero (deleted)\nRss: 64 kB\nPss: 32 kB\nShared_Dirty: 64 kB\n\
                 Referenced: {used} kB\nVmFlags: rd wr sh\n\
                 30000-50000 rw-p 00000000 00:00 0\nRss: 128 kB\nPss: 64 kB\nShared_Dirty: 128 kB\nAnonymous: 128 kB\n\
                 Referenced: 0 kB\nVmFlags: rd wr\n"
            );
            let areas = smaps::parse(text.as_bytes()).unwrap();
            Memory { pid, areas }
        };
        vec![process(7, 0), process(8, 64)]
    }

    #[test]
    fn what_several_map_is_let_go_as_far_as_it_goes() {
        let shared = SharedMemory::find();
        let held = 192 << 10;
        let order = |keep| Order::plan(&family(&shared), &shared, (held, keep));
        let goes = |order: &Order| {
            order
                .let_go
                .iter()
                .map(|piece| (piece.pid, piece.start, piece.end))
                .collect::<Vec<_>>()
        };
        assert_eq!(goes(&order(0)), [(8, 0x10000, 0x20000)]);
        // What is shared since the fork does not go, so that the object has to.
        assert_eq!(order(0).bytes(), 64 << 10);
        assert_eq!(goes(&order(1 << 10)), [(8, 0x10000, 0x20000)]);
        assert_eq!(goes(&order(176 << 10)), [(8, 0x10000, 0x14000)]);
        assert_eq!(order(176 << 10).bytes(), 16 << 10);
        assert!(order(192 << 10).let_go.is_empty());
        // One of them uses it.
        let warm = order(0);
        let object = warm.pieces.iter().find(|piece| piece.start == 0x10000);
        assert_eq!(
            object.map(|piece| (piece.pid, piece.warmth)),
            Some((7, 1000))
        );
    }
}
