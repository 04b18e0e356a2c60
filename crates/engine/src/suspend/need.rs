//! How much memory a job holds, of which kinds, and whether swap has room for it.

use std::collections::BTreeSet;

use cryonaut_procfs::maps::Device;
use cryonaut_procfs::smaps::VmFlag;
use cryonaut_procfs::{ProcessDirectory, SmapsArea, system};
use cryonaut_sys::descriptor;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use crate::Refusals;
use crate::target::TargetProcess;

const KIB: u64 = 1024;

/// What one area holds, in bytes; of pages that several processes map, this process' share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Pages that only swap can take: anonymous ones, shared memory, tmpfs.
    pub swappable: u64,
    /// Pages of files, which can be dropped or written back.
    pub file: u64,
    /// Locked pages.
    pub locked: u64,
    /// hugetlb pages.
    pub hugetlb: u64,
}

impl Held {
    /// All of it.
    pub fn total(self) -> u64 {
        self.swappable + self.file + self.locked + self.hugetlb
    }

    fn add(&mut self, other: Held) {
        self.swappable += other.swappable;
        self.file += other.file;
        self.locked += other.locked;
        self.hugetlb += other.hugetlb;
    }
}

/// What a process holds.
#[derive(Debug)]
pub(super) struct Memory {
    /// The process.
    pub pid: i32,
    /// Its areas.
    pub areas: Vec<SmapsArea>,
}

/// The file systems whose pages live in swap.
#[derive(Debug)]
pub(super) struct SharedMemory {
    devices: BTreeSet<(u32, u32)>,
}

impl SharedMemory {
    /// Finds them: what is mounted as tmpfs, and the kernel's own for shared memory without a name.
    pub fn find() -> Self {
        let mut devices = BTreeSet::new();
        let mounts = ProcessDirectory::open(std::process::id() as i32)
            .and_then(|directory| directory.mountinfo())
            .unwrap_or_default();
        for mount in mounts {
            if mount.file_system == b"tmpfs" {
                devices.insert((mount.device.major, mount.device.minor));
            }
        }
        if let Ok(file) = descriptor::memory_file(c"cryonaut")
            && let Ok(copy) = file.as_fd().try_clone_to_owned()
            && let Ok(metadata) = std::fs::File::from(copy).metadata()
        {
            devices.insert((libc::major(metadata.dev()), libc::minor(metadata.dev())));
        }
        Self { devices }
    }

    /// Whether pages of an area on this device live in swap.
    pub fn contains(&self, device: Device) -> bool {
        self.devices.contains(&(device.major, device.minor))
    }

    /// Their devices, by major and minor number.
    #[cfg(test)]
    pub fn devices(&self) -> impl Iterator<Item = (u32, u32)> {
        self.devices.iter().copied()
    }

    /// What an area holds.
    pub fn held(&self, area: &SmapsArea) -> Held {
        let mut held = Held {
            hugetlb: (area.private_hugetlb + area.shared_hugetlb) * KIB,
            ..Held::default()
        };
        let proportional = area.proportional * KIB;
        if area.flags.contains(VmFlag::Locked) {
            held.locked = proportional;
        } else if area.area.inode != 0 && self.contains(area.area.device) {
            held.swappable = proportional;
        } else {
            // The shares of anonymous and file pages are not told apart.
            let anonymous = proportional * area.anonymous.min(area.rss);
            held.swappable = anonymous.checked_div(area.rss).unwrap_or(0);
            held.file = proportional - held.swappable;
        }
        held
    }

    /// What a job holds.
    pub fn sum(&self, job: &[Memory]) -> Held {
        let mut sum = Held::default();
        for area in job.iter().flat_map(|memory| &memory.areas) {
            sum.add(self.held(area));
        }
        sum
    }
}

/// Reads the memory of these processes; those that have ended are left out.
pub(super) fn read(pids: &[i32]) -> Vec<Memory> {
    let read = |&pid: &i32| {
        let areas = TargetProcess::read(pid).ok()?.directory.smaps().ok()?;
        Some(Memory { pid, areas })
    };
    pids.iter().filter_map(read).collect()
}

/// What is free in all swap areas, in bytes, and whether any of them is compressed memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// Bytes of all areas.
    pub total: u64,
    /// Bytes not in use.
    pub free: u64,
    /// Some of it is memory (zram): what goes there is compressed, not gone.
    pub compressed: bool,
}

impl Swap {
    /// Looks.
    pub fn now() -> Self {
        let areas = system::swaps().unwrap_or_default();
        Self {
            total: areas.iter().map(|area| area.size * KIB).sum(),
            free: areas.iter().map(|area| area.free() * KIB).sum(),
            compressed: areas
                .iter()
                .any(cryonaut_procfs::SwapArea::is_compressed_memory),
        }
    }

    /// Refuses a job that needs more than is free.
    pub(super) fn refuse_if_short(self, need: u64, refusals: &mut Refusals) {
        if need <= self.free {
            return;
        }
        let more = (need - self.free).div_ceil(1 << 30).max(1);
        refusals.add_for_job(
            "swap space",
            match self.total {
                0 => format!("giving its memory back needs {}, and there is none", mebibytes(need)),
                total => format!(
                    "giving its memory back needs {}, and {} of {} is free",
                    mebibytes(need),
                    mebibytes(self.free),
                    mebibytes(total)
                ),
            },
            format!(
                "add swap (as root: fallocate -l {more}G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile; \
                 or zram: modprobe zram && zramctl -f -s {more}G, then mkswap and swapon of the device it names), \
                 or give back what fits with --partial, or nothing with --no-reclaim, \
                 or checkpoint it and kill it with --to-image FILE"
            ),
        );
    }
}

/// A size for people.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryonaut_procfs::smaps;

    fn area(text: &str) -> SmapsArea {
        smaps::parse(text.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn kinds_of_memory_are_told_apart() {
        let shared = SharedMemory {
            devices: BTreeSet::from([(0, 1)]),
        };
        let private = area(
            "1000-9000 rw-p 00000000 00:00 0\nRss: 32 kB\nPss: 16 kB\nAnonymous: 32 kB\nVmFlags: rd wr\n",
        );
        assert_eq!(shared.held(&private).swappable, 16 * KIB);
        let file = area(
            "1000-9000 rw-p 00000000 08:01 5 /lib/x\nRss: 32 kB\nPss: 32 kB\nAnonymous: 8 kB\nVmFlags: rd wr\n",
        );
        let held = shared.held(&file);
        assert_eq!((held.swappable, held.file), (8 * KIB, 24 * KIB));
        let memfd = area(
            "1000-9000 rw-s 00000000 00:01 5 /memfd:x (deleted)\nRss: 32 kB\nPss: 32 kB\nVmFlags: rd wr sh\n",
        );
        assert_eq!(shared.held(&memfd).swappable, 32 * KIB);
        let locked = area(
            "1000-9000 rw-p 00000000 00:00 0\nRss: 32 kB\nPss: 32 kB\nAnonymous: 32 kB\nVmFlags: rd wr lo\n",
        );
        assert_eq!(shared.held(&locked).locked, 32 * KIB);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let swap = Swap {
            total: 256 << 20,
            free: 100 << 20,
            compressed: false,
        };
        let mut refusals = Refusals::default();
        swap.refuse_if_short(100 << 20, &mut refusals);
        assert!(refusals.list().is_empty());
        swap.refuse_if_short(300 << 20, &mut refusals);
        let told = refusals.list()[0].to_string();
        assert!(
            told.contains("300.0 MiB") && told.contains("100.0 MiB of 256.0 MiB"),
            "{told}"
        );
        assert!(
            told.contains("swapon") && told.contains("--to-image"),
            "{told}"
        );
    }
}
