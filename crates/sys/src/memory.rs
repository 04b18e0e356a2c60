//! Memory of other processes: process_vm_readv(2), process_vm_writev(2), PAGEMAP_SCAN, madvise numbers.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{RemotePtr, Result, check};

/// Reads `buffer.len()` bytes of process `pid` from `address`; returns how many came (short at an unreadable page).
///
/// # Errors
/// EFAULT when the first byte cannot be read; EPERM; ESRCH.
pub fn read(pid: i32, address: RemotePtr, buffer: &mut [u8]) -> Result<usize> {
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let remote = libc::iovec {
        iov_base: address.address() as *mut _,
        iov_len: buffer.len(),
    };
    // SAFETY: `local` describes `buffer`, which is writable for the whole call; remote addresses are checked by the kernel.
    check(
        unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) } as i64,
    )
    .map(|n| n as usize)
}

/// Reads several ranges of process `pid`, one after the other, into `buffer`. At most 1024 ranges; returns bytes read.
///
/// # Errors
/// As [`read`]; EINVAL for too many ranges.
pub fn read_ranges(pid: i32, ranges: &[(RemotePtr, usize)], buffer: &mut [u8]) -> Result<usize> {
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let remote: Vec<libc::iovec> = ranges
        .iter()
        .map(|&(address, length)| libc::iovec {
            iov_base: address.address() as *mut _,
            iov_len: length,
        })
        .collect();
    // SAFETY: as in `read`; the kernel never writes more than the local vector's length.
    check(unsafe {
        libc::process_vm_readv(
            pid,
            &raw const local,
            1,
            remote.as_ptr(),
            remote.len() as u64,
            0,
        )
    } as i64)
    .map(|n| n as usize)
}

/// Writes `bytes` to process `pid` at `address`; returns how many went (short at an unwritable page).
///
/// # Errors
/// EFAULT when the first byte cannot be written; EPERM; ESRCH.
pub fn write(pid: i32, address: RemotePtr, bytes: &[u8]) -> Result<usize> {
    write_ranges(pid, &[(address, bytes.len())], bytes)
}

/// Writes `bytes` over several ranges of process `pid`, one after the other. At most 1024 ranges; returns bytes written.
///
/// # Errors
/// As [`write()`]; EINVAL for too many ranges.
pub fn write_ranges(pid: i32, ranges: &[(RemotePtr, usize)], bytes: &[u8]) -> Result<usize> {
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let remote: Vec<libc::iovec> = ranges
        .iter()
        .map(|&(address, length)| libc::iovec {
            iov_base: address.address() as *mut _,
            iov_len: length,
        })
        .collect();
    // SAFETY: the call only reads from `bytes`; remote addresses are checked by the kernel.
    check(unsafe {
        libc::process_vm_writev(
            pid,
            &raw const local,
            1,
            remote.as_ptr(),
            remote.len() as u64,
            0,
        )
    } as i64)
    .map(|n| n as usize)
}

/// What process_madvise(2) may ask for of another process' memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteAdvice {
    /// Push the pages out: `MADV_PAGEOUT` (Linux 5.10 for other processes).
    PageOut,
    /// Read the pages in: `MADV_WILLNEED`.
    WillNeed,
}

/// Gives the kernel advice about `length` bytes from `address` of another process; returns for how many it was taken, which
/// may be fewer. An empty range is checked for permission alone.
///
/// # Errors
/// EPERM without ptrace access or CAP_SYS_NICE in the initial user namespace; EINVAL for locked or hugetlb areas and those of
/// devices, or when this kernel does not know the advice for other processes; ENOMEM where nothing is mapped; ESRCH when the
/// process has ended; ENOSYS before Linux 5.10.
pub fn advise(
    process: BorrowedFd<'_>,
    address: RemotePtr,
    length: u64,
    advice: RemoteAdvice,
) -> Result<u64> {
    let range = libc::iovec {
        iov_base: address.address() as *mut _,
        iov_len: length as usize,
    };
    let advice = match advice {
        RemoteAdvice::PageOut => libc::MADV_PAGEOUT,
        RemoteAdvice::WillNeed => libc::MADV_WILLNEED,
    };
    // SAFETY: the vector holds one range of the other process, whose addresses the kernel checks; neither advice changes content.
    check(unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process.as_raw_fd(),
            &raw const range,
            1_usize,
            advice,
            0,
        )
    })
}

/// Categories of a page, as PAGEMAP_SCAN names them (include/uapi/linux/fs.h).
pub mod page {
    /// Written to since write protection was armed, or not tracked at all.
    pub const WRITTEN: u64 = 1 << 1;
    /// Backed by a file or shared memory.
    pub const FILE: u64 = 1 << 2;
    /// In memory.
    pub const PRESENT: u64 = 1 << 3;
    /// In swap (or another non-present entry that holds content).
    pub const SWAPPED: u64 = 1 << 4;
    /// The shared zero page.
    pub const ZERO: u64 = 1 << 5;
}

/// A run of pages with the same categories.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRegion {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// Bits of [`page`].
    pub categories: u64,
}

#[repr(C)]
#[derive(Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<ScanArguments>() == 96);
const _: () = assert!(size_of::<PageRegion>() == 24);
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;

/// Finds pages of a process between `start` and `end` that have any of the categories `any`; calls `found` for each run.
/// `pagemap` is its open /proc/PID/pagemap.
///
/// # Errors
/// ENOTTY on kernels before 6.7; EFAULT; whatever the process' end makes of it.
pub fn scan(
    pagemap: BorrowedFd<'_>,
    (start, end): (u64, u64),
    any: u64,
    report: u64,
    mut found: impl FnMut(PageRegion),
) -> Result<()> {
    let mut regions = [PageRegion::default(); 512];
    let mut from = start;
    while from < end {
        let mut arguments = ScanArguments {
            size: size_of::<ScanArguments>() as u64,
            start: from,
            end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            category_anyof_mask: any,
            return_mask: report,
            ..ScanArguments::default()
        };
        // SAFETY: `arguments` and the vector that it names outlive the call; the vector's length is right.
        let count = check(i64::from(unsafe {
            libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arguments)
        }))?;
        regions[..count as usize]
            .iter()
            .copied()
            .for_each(&mut found);
        if arguments.walk_end <= from {
            break;
        }
        from = arguments.walk_end;
    }
    Ok(())
}

/// The number of mseal(2), the same on all architectures.
pub const SYS_MSEAL: i64 = 462;
/// `MAP_DROPPABLE` (include/uapi/linux/mman.h).
const MAP_DROPPABLE: libc::c_int = 8;
/// `PR_SET_VMA` (include/uapi/linux/prctl.h).
const PR_SET_VMA: libc::c_int = 0x53_56_4d_41;

/// Whether the kernel seals memory: mseal(2), Linux 6.10.
pub fn can_seal() -> bool {
    // SAFETY: an empty range is sealed, which changes nothing.
    check(unsafe { libc::syscall(SYS_MSEAL, 0, 0, 0) }).is_ok()
}

/// Whether the kernel names anonymous memory: prctl(2), PR_SET_VMA_ANON_NAME, Linux 5.17 with CONFIG_ANON_VMA_NAME.
pub fn can_name() -> bool {
    // SAFETY: an empty range is named, which changes nothing; no name is read from a null pointer.
    check(i64::from(unsafe {
        libc::prctl(PR_SET_VMA, 0_u64, 0_u64, 0_u64, 0_u64)
    }))
    .is_ok()
}

/// Whether the kernel maps droppable memory: mmap(2), MAP_DROPPABLE, Linux 6.11.
pub fn can_drop() -> bool {
    let flags = MAP_DROPPABLE | libc::MAP_ANONYMOUS;
    let length = crate::PAGE_SIZE as usize;
    // SAFETY: the kernel chooses a place where nothing is mapped; nobody uses it before it is unmapped again.
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0);
        page != libc::MAP_FAILED && libc::munmap(page, length) == 0
    }
}
