//! What /proc shows of many descriptors.

use std::fs::File;
use std::io::Read;

use cryonaut_procfs::FdInfo;

use super::facts::Motion;
use super::refused;
use crate::error::Attempt;
use crate::{Error, Result};

/// A slot as /proc shows it: number, link, fdinfo.
pub(super) type Shown = (i32, Vec<u8>, FdInfo);

/// Reads what /proc shows of many slots. The kernel makes two inodes for each, which is what takes time: several threads share
/// the work where there is much.
pub(super) fn read_slots(pid: i32, numbers: &[i32], motion: Motion) -> Result<Vec<Shown>> {
    const WORTH_A_THREAD: usize = 128;
    const MOST_THREADS: usize = 4;
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MOST_THREADS);
    let threads = threads.min(numbers.len() / WORTH_A_THREAD).max(1);
    let read = |numbers: &[i32]| -> Result<Vec<Shown>> {
        let mut buffer = vec![0; 4096];
        let shown = numbers
            .iter()
            .map(|&number| read_slot(pid, number, motion, &mut buffer));
        shown.filter_map(Result::transpose).collect()
    };
    if threads == 1 {
        return read(numbers);
    }
    std::thread::scope(|scope| {
        let mut parts = numbers.chunks(numbers.len().div_ceil(threads));
        let first = parts.next().unwrap_or_default();
        let others: Vec<_> = parts.map(|part| scope.spawn(move || read(part))).collect();
        let mut all = read(first)?;
        for other in others {
            all.extend(
                other
                    .join()
                    .map_err(|_| Error::Failed("reading descriptors failed".into()))??,
            );
        }
        Ok(all)
    })
}

/// Reads one slot by absolute path, the quickest way; the process is traced or, while it runs, only looked at.
fn read_slot(pid: i32, number: i32, motion: Motion, buffer: &mut Vec<u8>) -> Result<Option<Shown>> {
    let mut shown = || -> std::io::Result<(Vec<u8>, FdInfo)> {
        let mut file = File::open(format!("/proc/{pid}/fdinfo/{number}"))?;
        let mut length = 0;
        // All of it comes at once when it fits: less than there is room for is the end.
        loop {
            let count = file.read(&mut buffer[length..])?;
            length += count;
            if length < buffer.len() {
                break;
            }
            buffer.resize(length * 2, 0);
        }
        let info =
            cryonaut_procfs::fdinfo::parse(&buffer[..length]).map_err(std::io::Error::other)?;
        let link = if info.eventfd.is_some() {
            b"anon_inode:[eventfd]".to_vec()
        } else {
            match std::fs::read_link(format!("/proc/{pid}/fd/{number}")) {
                Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => {
                    refused::TOO_DEEP.into()
                }
                link => std::os::unix::ffi::OsStringExt::into_vec(link?.into_os_string()),
            }
        };
        Ok((link, info))
    };
    match shown() {
        Ok((link, info)) => Ok(Some((number, link, info))),
        Err(error) if motion == Motion::Running && error.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) if motion == Motion::Running && error.raw_os_error() == Some(libc::ESRCH) => {
            Ok(None)
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Error::NotPermitted(
                format!("process {pid}: its descriptors may not be read"),
                "only the owner of a process or root may checkpoint it".into(),
            ))
        }
        Err(error) => Err(error).attempt(|| format!("process {pid}: reading descriptor {number}")),
    }
}
