//! The content of kept files: what of it is to be stored, where it is read from, and how it gets back.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use cryonaut_image::{Contents, PageBuffer, SeekableImage, ZeroPages};
use cryonaut_procfs::maps::Area;
use cryonaut_procfs::smaps::VmFlag;
use cryonaut_sys::PAGE_SIZE;
use cryonaut_sys::descriptor;
use cryonaut_sys::file::{self, HUGETLBFS, own_path};

use super::find::Found;
use super::{ExtendedAttribute, KeptFile};
use crate::collect::{Access, Collection, PageRange, Space};
use crate::copy_in::gaps;
use crate::error::Attempt;
use crate::freeze::{Frozen, FrozenProcess};
use crate::resource::file::Job;
use crate::resource::memory::{FileIdentity, device_number, printable};
use crate::{Error, Refusal, Result};

/// F_GET_SEALS (fcntl(2)).
const GET_SEALS: i32 = 1034;
/// Above this size a file whose holes nobody can tell is not read through.
const LARGE: u64 = 1 << 32;

/// Opens what /proc shows for reading, without moving anything of the job's and without waiting for anybody.
///
/// # Errors
/// When it may not be read.
pub(crate) fn open(path: &Path) -> std::io::Result<File> {
    let open = |flags: i32| {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | flags)
            .open(path)
    };
    // The time of last access stays as it is where that may be asked for.
    open(libc::O_NOATIME).or_else(|_| open(0))
}

/// Saves a file: its record, and the spaces with its content.
///
/// # Errors
/// [`Error::Refused`] when nothing gives its content.
pub(super) fn collect(
    id: u64,
    found: &Found,
    frozen: &Frozen,
    job: &Job<'_>,
    collection: &mut Collection,
) -> Result<KeptFile> {
    let metadata = found
        .ways
        .iter()
        .find_map(|way| std::fs::metadata(way).ok().map(|found| (way, found)));
    if let Some((way, metadata)) = metadata
        && !metadata.is_file()
    {
        return Ok(bare(id, found, way, &metadata));
    }
    let opened = found.ways.iter().find_map(|way| open(way).ok());
    if let Some(file) = opened {
        let ranges = data(&file)?;
        return store(id, found, file, ranges, collection);
    }
    // The program's own description has the position that it reads from: it may be read, but not searched for holes.
    let copied = found.readable.iter().find_map(|&(owner, number)| {
        let owner = job.owners.get(owner)?;
        owner.copy(number).ok()
    });
    if let Some(copy) = copied {
        let file = File::from(copy);
        let size = what(found, file.metadata())?.size();
        if size > LARGE {
            return Err(refused(
                found,
                frozen,
                "it has to be saved by content, and only its descriptor may be read, which does not show its holes",
            ));
        }
        let ranges = (size > 0).then(|| range(0, size)).into_iter().collect();
        return store(id, found, file, ranges, collection);
    }
    if found.mapped.is_empty() {
        return Err(refused(
            found,
            frozen,
            "it has to be saved by content, and may not be read",
        ));
    }
    mapped(id, found, frozen, collection)
}

fn refused(found: &Found, frozen: &Frozen, reason: &str) -> Error {
    let process = frozen.alive().next();
    Error::Refused(vec![Refusal {
        pid: process.map_or(0, |process| process.pid),
        process: process.map(FrozenProcess::name).unwrap_or_default(),
        object: printable(&found.path),
        reason: reason.into(),
        remedy: "make it readable for its owner (chmod u+r), or checkpoint as root".into(),
    }])
}

fn what<T>(found: &Found, result: std::io::Result<T>) -> Result<T> {
    result.attempt(|| format!("reading {}", printable(&found.path)))
}

fn range(start: u64, end: u64) -> PageRange {
    let start = start & !(PAGE_SIZE - 1);
    PageRange {
        start,
        end: end.next_multiple_of(PAGE_SIZE),
        recorded: start,
        zero: ZeroPages::Omit,
        access: Access::File,
    }
}

/// The parts of a file that are no holes.
///
/// # Errors
/// When the file cannot tell.
pub(crate) fn data(file: &File) -> Result<Vec<PageRange>> {
    let attempt = || "looking for the holes of a file".into();
    let size = file.metadata().attempt(attempt)?.size();
    let mut ranges: Vec<PageRange> = Vec::new();
    let mut at = 0;
    while at < size {
        let Some((start, end)) = file::next_data(file.as_fd(), at).attempt(attempt)? else {
            break;
        };
        let next = range(start, end.min(size));
        match ranges.last_mut() {
            Some(last) if last.end >= next.start => last.end = last.end.max(next.end),
            _ => ranges.push(next),
        }
        at = end;
    }
    Ok(ranges)
}

/// What has no content of its own: a directory, a FIFO, a symbolic link, a device node.
fn bare(id: u64, found: &Found, way: &Path, metadata: &std::fs::Metadata) -> KeptFile {
    let target = match metadata.mode() & libc::S_IFMT {
        libc::S_IFLNK => file::link_target(way).unwrap_or_default(),
        _ => Vec::new(),
    };
    let attributes = file::extended_attributes(way).unwrap_or_default();
    KeptFile {
        id,
        standing: found.standing as i32,
        identity: Some(identity(found, metadata)),
        user: metadata.uid(),
        group: metadata.gid(),
        attributes: attributes.into_iter().map(attribute).collect(),
        target,
        node: device_number(metadata.rdev()),
        opened: found.opened,
        ..KeptFile::default()
    }
}

fn identity(found: &Found, metadata: &std::fs::Metadata) -> FileIdentity {
    FileIdentity {
        path: found.path.clone(),
        device: found.key.0,
        inode: found.key.1,
        size: metadata.size(),
        modified: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        mode: metadata.mode(),
        ..FileIdentity::default()
    }
}

fn attribute((name, value): (Vec<u8>, Vec<u8>)) -> ExtendedAttribute {
    ExtendedAttribute { name, value }
}

/// A file that could be opened.
fn store(
    id: u64,
    found: &Found,
    file: File,
    ranges: Vec<PageRange>,
    collection: &mut Collection,
) -> Result<KeptFile> {
    let metadata = what(found, file.metadata())?;
    let seals = descriptor::control(file.as_fd(), GET_SEALS, 0);
    let path = own_path(file.as_fd());
    let system = what(found, file::file_system(&path))?;
    let attributes = file::extended_attributes(&path).unwrap_or_default();
    let record = KeptFile {
        id,
        standing: found.standing as i32,
        identity: Some(identity(found, &metadata)),
        user: metadata.uid(),
        group: metadata.gid(),
        attributes: attributes.into_iter().map(attribute).collect(),
        seals: seals.ok().map(|seals| seals as u32),
        huge_page: if system.kind == HUGETLBFS {
            system.block
        } else {
            0
        },
        linkable: found.linkable,
        // Files of huge pages do not show their holes, but how many pages they have.
        stored: if system.kind == HUGETLBFS {
            metadata.blocks() * 512
        } else {
            ranges.iter().map(|range| range.end - range.start).sum()
        },
        ..KeptFile::default()
    };
    collection.contents.insert(id, file);
    collection.spaces.push(Space {
        id,
        pid: 0,
        ranges,
        same: Vec::new(),
    });
    Ok(record)
}

/// A file that nobody can open any more, but processes map: what they map of it.
fn mapped(
    id: u64,
    found: &Found,
    frozen: &Frozen,
    collection: &mut Collection,
) -> Result<KeptFile> {
    let mut huge_page = 0;
    let (mut size, mut stored, mut mode) = (0, 0, libc::S_IFREG | 0o600);
    let mut known: Vec<(u64, u64)> = Vec::new();
    // Shared mappings first: they show all.
    let mut places = found.mapped.clone();
    places.sort_by_key(|&(process, area)| {
        !frozen.processes[process].areas[area]
            .area
            .permissions
            .shared
    });
    for (process, area) in places {
        let process = &frozen.processes[process];
        let is_huge = process.areas[area].flags.contains(VmFlag::HugeTlb);
        if is_huge {
            huge_page = process.areas[area].kernel_page_size * 1024;
        }
        let area = &process.areas[area].area;
        let private = !area.permissions.shared;
        let end = if is_huge && private {
            area.end
        } else {
            end_of_file(process, (area.start, area.end))?
        };
        size = size.max(area.offset + (end - area.start));
        if area.permissions.execute {
            mode |= 0o111;
        }
        if is_huge && private {
            refuse_unseen(found, frozen, process, area, &known)?;
        }
        let parts = unchanged(process, (area.start, end), area.permissions.shared)?;
        let mut ranges = Vec::new();
        for (start, end) in parts {
            let place = |address: u64| area.offset + (address - area.start);
            let new = gaps(&[(place(start), place(end))], &known);
            for &(from, to) in &new {
                ranges.push(PageRange {
                    start: area.start + (from - area.offset),
                    end: area.start + (to - area.offset),
                    recorded: from,
                    zero: ZeroPages::Omit,
                    access: Access::File,
                });
                stored += to - from;
            }
            known.extend(new);
            known.sort_unstable();
        }
        collection.spaces.push(Space {
            id,
            pid: process.pid,
            ranges,
            same: Vec::new(),
        });
    }
    let (user, group) = cryonaut_sys::task::effective_ids();
    Ok(KeptFile {
        id,
        standing: found.standing as i32,
        identity: Some(FileIdentity {
            path: found.path.clone(),
            device: found.key.0,
            inode: found.key.1,
            size,
            mode,
            ..FileIdentity::default()
        }),
        user,
        group,
        stored,
        huge_page,
        partial: true,
        ..KeptFile::default()
    })
}

/// Refuses a private mapping of huge pages with parts of the file that the process has not looked at yet: looking at them here
/// would have the kernel give it pages.
fn refuse_unseen(
    found: &Found,
    frozen: &Frozen,
    process: &FrozenProcess,
    area: &Area,
    known: &[(u64, u64)],
) -> Result<()> {
    let entries = process.directory.pagemap(area.start, area.end)?;
    let unseen = entries.iter().enumerate().any(|(index, entry)| {
        let offset = area.offset + index as u64 * PAGE_SIZE;
        let is_known = known.iter().any(|part| (part.0..part.1).contains(&offset));
        !entry.present() && !is_known
    });
    if unseen {
        return Err(refused(
            found,
            frozen,
            "it is a deleted file of huge pages, and what of it the program has not used is shown to root only",
        ));
    }
    Ok(())
}

/// Where in an area its file ends: what lies behind cannot be read.
fn end_of_file(process: &FrozenProcess, (start, end): (u64, u64)) -> Result<u64> {
    let exists = |page: u64| process.read(start + page * PAGE_SIZE, &mut [0]).is_ok();
    let (mut low, mut high) = (0, (end - start) / PAGE_SIZE);
    if exists(high - 1) {
        return Ok(end);
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if exists(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(start + low * PAGE_SIZE)
}

/// The parts of an area in which a process sees what is in the file: not where it has a copy of its own.
fn unchanged(
    process: &FrozenProcess,
    (start, end): (u64, u64),
    shared: bool,
) -> Result<Vec<(u64, u64)>> {
    const PIECE: u64 = 64 << 20;
    if shared {
        return Ok((start < end).then_some((start, end)).into_iter().collect());
    }
    let mut parts: Vec<(u64, u64)> = Vec::new();
    let mut from = start;
    while from < end {
        let to = (from + PIECE).min(end);
        let entries = process.directory.pagemap(from, to)?;
        for (index, entry) in entries.into_iter().enumerate() {
            let own = entry.swapped() || (entry.present() && !entry.file_or_shared());
            let address = from + index as u64 * PAGE_SIZE;
            match parts.last_mut() {
                _ if own => {}
                Some(last) if last.1 == address => last.1 += PAGE_SIZE,
                _ => parts.push((address, address + PAGE_SIZE)),
            }
        }
        from = to;
    }
    Ok(parts)
}

/// Calls `found(offset, bytes)` for all that the image stores of a file of `size` bytes.
///
/// # Errors
/// When the image is damaged, or `found` fails.
pub(super) fn stored(
    image: &SeekableImage,
    (space, size): (u64, u64),
    mut found: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = PageBuffer::new();
    for location in image.pages_sections_of(space) {
        let section = image.read_pages(location, &mut buffer)?;
        for run in section.runs() {
            let length = (run.pages * PAGE_SIZE).min(size.saturating_sub(run.address)) as usize;
            match run.contents {
                Contents::Stored(bytes) if length > 0 => found(run.address, &bytes[..length])?,
                Contents::Stored(_) | Contents::Zero => {}
                Contents::Same(_) => return Err(super::damaged()),
            }
        }
    }
    Ok(())
}

/// Writes what the image stores of a file into an empty one.
///
/// # Errors
/// When the image is damaged, or there is no room.
pub(crate) fn fill(
    image: &SeekableImage,
    (space, size): (u64, u64),
    file: &File,
    text: &str,
) -> Result<()> {
    fill_unless(image, (space, size), file, text, &|| false)
}

/// As [`fill`], unless it is told to stop.
///
/// # Errors
/// As [`fill`], and [`Error::Interrupted`].
pub(crate) fn fill_unless(
    image: &SeekableImage,
    (space, size): (u64, u64),
    file: &File,
    text: &str,
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    file.set_len(size)
        .attempt(|| format!("{text}: giving it {size} bytes"))?;
    stored(image, (space, size), |offset, bytes| {
        if stop() {
            return Err(Error::Interrupted);
        }
        file.write_all_at(bytes, offset)
            .attempt(|| format!("{text}: writing its content"))
    })
}

/// Whether a file begins with what the image says of one of `size` bytes.
///
/// # Errors
/// When the image is damaged or the file cannot be read.
pub(super) fn begins_with(
    image: &SeekableImage,
    (space, size): (u64, u64),
    file: &File,
) -> Result<bool> {
    let reading = || "reading what is there now".to_owned();
    if file.metadata().attempt(reading)?.len() < size {
        return Ok(false);
    }
    let (mut equal, mut known) = (true, Vec::new());
    let mut now = Vec::new();
    stored(image, (space, size), |offset, bytes| {
        known.push((offset, offset + bytes.len() as u64));
        if equal {
            now.resize(bytes.len(), 0);
            file.read_exact_at(&mut now, offset).attempt(reading)?;
            equal = now == bytes;
        }
        Ok(())
    })?;
    known.sort_unstable();
    // What the image does not have is zero.
    for (start, end) in gaps(&[(0, size)], &known) {
        equal = equal && is_zero(file, start, end).attempt(reading)?;
    }
    Ok(equal)
}

fn is_zero(file: &File, start: u64, end: u64) -> std::io::Result<bool> {
    let mut buffer = vec![0; 1 << 16];
    let mut at = start;
    while at < end {
        let Some((from, to)) = file::next_data(file.as_fd(), at)? else {
            break;
        };
        let mut from = from.max(start);
        let to = to.min(end);
        while from < to {
            let count = (to - from).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..count], from)?;
            if buffer[..count].iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            from += count as u64;
        }
        at = to.max(at + 1);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryonaut_sys::file::make_memory_file;

    #[test]
    fn only_data_is_to_be_stored() {
        let file = File::from(make_memory_file(c"test", 0).unwrap());
        file.set_len(1 << 40).unwrap();
        file.write_all_at(b"x", 5).unwrap();
        file.write_all_at(b"y", (1 << 40) - 1).unwrap();
        let ranges = data(&file).unwrap();
        let pages: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        assert!(pages <= 4 << 20, "{ranges:?}");
        assert_eq!(ranges.last().unwrap().end, 1 << 40);
        assert!(is_zero(&file, 4096, 1 << 39).unwrap());
        assert!(!is_zero(&file, 0, 4096).unwrap());
        assert!(!is_zero(&file, 1 << 39, 1 << 40).unwrap());
    }
}
