//! Records of address spaces.

use cryonaut_image::{Kind, Record};
use cryonaut_procfs::AreaName;

use super::policy::MemoryPolicy;

/// One process' address space.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AddressSpace {
    /// The process (its pid in its own namespace). Its private pages are those of the space with this number.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Its areas, by address.
    #[prost(message, repeated, tag = "2")]
    pub areas: Vec<AreaRecord>,
    /// start_code, end_code, start_data, end_data, start_brk, brk, start_stack, arg_start, arg_end, env_start, env_end.
    #[prost(fixed64, repeated, tag = "3")]
    pub layout: Vec<u64>,
    /// The auxiliary vector as in /proc/PID/auxv.
    #[prost(bytes = "vec", tag = "4")]
    pub auxiliary: Vec<u8>,
    /// The executable (/proc/PID/exe).
    #[prost(message, optional, tag = "5")]
    pub executable: Option<FileIdentity>,
    /// What becomes of new mappings, `MCL_*` of mlockall(2): 0, MCL_FUTURE, or that with MCL_ONFAULT.
    #[prost(uint32, tag = "16")]
    pub future_lock: u32,
    /// The kept file that the executable is, by its number; 0 where it is found by its path.
    #[prost(uint64, tag = "20")]
    pub kept_executable: u64,
}

/// One area of an address space.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AreaRecord {
    /// First address.
    #[prost(fixed64, tag = "1")]
    pub start: u64,
    /// First address after it.
    #[prost(fixed64, tag = "2")]
    pub end: u64,
    /// `PROT_*` bits.
    #[prost(uint32, tag = "3")]
    pub protection: u32,
    /// What backs it.
    #[prost(enumeration = "Backing", tag = "4")]
    pub backing: i32,
    /// Offset in the file or object.
    #[prost(uint64, tag = "5")]
    pub offset: u64,
    /// The file behind it.
    #[prost(message, optional, tag = "6")]
    pub file: Option<FileIdentity>,
    /// The shared memory object or System V segment behind it: number of its space.
    #[prost(uint64, tag = "7")]
    pub object: u64,
    /// Bits of [`attribute`].
    #[prost(uint64, tag = "8")]
    pub attributes: u64,
    /// Pages saved at most (before zero pages are left out).
    #[prost(uint64, tag = "9")]
    pub pages: u64,
    /// Ranges of guard pages: first address, first address after, and so on.
    #[prost(fixed64, repeated, tag = "10")]
    pub guards: Vec<u64>,
    /// Its name, if the program gave it one (PR_SET_VMA_ANON_NAME), without a terminating zero.
    #[prost(bytes = "vec", tag = "16")]
    pub name: Vec<u8>,
    /// Its memory policy, if it has one of its own (mbind(2)).
    #[prost(message, optional, tag = "17")]
    pub policy: Option<MemoryPolicy>,
    /// The kept file behind it, by its number; 0 where the file is found by its path.
    #[prost(uint64, tag = "20")]
    pub kept: u64,
    /// Bytes of one of its pages where they are of the kernel's pool of huge pages (hugetlb) and private; otherwise 0.
    #[prost(uint64, tag = "21")]
    pub huge_page: u64,
    /// Of huge pages: how many of `pages` are those of the process' parent.
    #[prost(uint64, tag = "22")]
    pub inherited: u64,
}

/// What backs an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Backing {
    /// Nothing that is known: damaged.
    Unknown = 0,
    /// Private anonymous memory.
    Anonymous = 1,
    /// A file, privately.
    FilePrivate = 2,
    /// A file, shared.
    FileShared = 3,
    /// An anonymous shared memory object.
    SharedObject = 4,
    /// The vDSO.
    Vdso = 5,
    /// `[vvar]`.
    Vvar = 6,
    /// `[vvar_vclock]`.
    VvarVclock = 7,
    /// The ring of a context of io_setup(2), which is made with the context.
    AioRing = 16,
    /// Private anonymous memory of huge pages (MAP_HUGETLB).
    AnonymousHuge = 17,
    /// A System V shared memory segment.
    SystemV = 18,
}

/// Attributes of an area.
pub mod attribute {
    /// Grows down when touched below (MAP_GROWSDOWN).
    pub const GROWS_DOWN: u64 = 1;
    /// MAP_NORESERVE.
    pub const NO_RESERVE: u64 = 1 << 1;
    /// MADV_DONTFORK.
    pub const DONT_FORK: u64 = 1 << 2;
    /// MADV_WIPEONFORK.
    pub const WIPE_ON_FORK: u64 = 1 << 3;
    /// MADV_DONTDUMP.
    pub const DONT_DUMP: u64 = 1 << 4;
    /// MADV_HUGEPAGE.
    pub const HUGE_PAGE: u64 = 1 << 5;
    /// MADV_NOHUGEPAGE.
    pub const NO_HUGE_PAGE: u64 = 1 << 6;
    /// MADV_MERGEABLE.
    pub const MERGEABLE: u64 = 1 << 7;
    /// MADV_SEQUENTIAL.
    pub const SEQUENTIAL: u64 = 1 << 8;
    /// MADV_RANDOM.
    pub const RANDOM: u64 = 1 << 9;
    /// mlock(2).
    pub const LOCKED: u64 = 1 << 10;
    /// mlock2(2) with MLOCK_ONFAULT.
    pub const LOCKED_ON_FAULT: u64 = 1 << 11;
    /// Has guard pages (MADV_GUARD_INSTALL), or once had.
    pub const GUARDED: u64 = 1 << 12;
    /// MAP_DROPPABLE.
    pub const DROPPABLE: u64 = 1 << 16;
    /// mseal(2).
    pub const SEALED: u64 = 1 << 17;
    /// A shared mapping of a file, or a segment, that is or may be made writable: the file was open for writing.
    pub const MAY_WRITE: u64 = 1 << 18;
}

/// What a file was like when it was saved by reference.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileIdentity {
    /// Its path, as the process sees it.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Device number (major << 32 | minor).
    #[prost(uint64, tag = "2")]
    pub device: u64,
    /// Inode number.
    #[prost(uint64, tag = "3")]
    pub inode: u64,
    /// Size in bytes.
    #[prost(uint64, tag = "4")]
    pub size: u64,
    /// Time of last modification, in ns since 1970.
    #[prost(int64, tag = "5")]
    pub modified: i64,
    /// `st_mode`.
    #[prost(uint32, tag = "6")]
    pub mode: u32,
    /// The build id, of a mapped program or library that has one.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub build_id: Option<Vec<u8>>,
    /// The BLAKE3 hash of the content, 32 bytes, where it was asked for.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub content_hash: Option<Vec<u8>>,
}

/// A shared memory object that no file names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SharedObject {
    /// Number of its space.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Bytes of it that are mapped anywhere in the job, from its start.
    #[prost(uint64, tag = "2")]
    pub size: u64,
}

/// The vDSO that the job was using.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Vdso {
    /// Its image.
    #[prost(bytes = "vec", tag = "1")]
    pub content: Vec<u8>,
}

impl Record for AddressSpace {
    const KIND: Kind = Kind {
        name: "memory.address-space",
        version: 1,
    };
}
impl Record for SharedObject {
    const KIND: Kind = Kind {
        name: "memory.shared-object",
        version: 1,
    };
}
impl Record for Vdso {
    const KIND: Kind = Kind {
        name: "memory.vdso",
        version: 1,
    };
}

/// Spaces of shared objects are numbered from here; below are pids.
pub const FIRST_OBJECT: u64 = 1 << 32;

impl AreaRecord {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.end - self.start
    }

    /// Whether the attribute is set.
    pub fn has(&self, attribute: u64) -> bool {
        self.attributes & attribute != 0
    }

    /// Whether its pages belong to its process alone.
    pub fn is_private(&self) -> bool {
        matches!(
            self.backing(),
            Backing::Anonymous | Backing::FilePrivate | Backing::AnonymousHuge
        )
    }

    /// What the kernel made at exec, as this area of a process is; `None` where it is anything else.
    pub fn provided(area: &cryonaut_procfs::maps::Area) -> Option<Self> {
        let backing = match area.name {
            AreaName::Vdso => Backing::Vdso,
            AreaName::Vvar => Backing::Vvar,
            AreaName::VvarVclock => Backing::VvarVclock,
            _ => return None,
        };
        Some(Self {
            start: area.start,
            end: area.end,
            backing: backing as i32,
            ..Self::default()
        })
    }

    /// Whether the kernel made it at exec.
    pub fn is_kernel_provided(&self) -> bool {
        matches!(
            self.backing(),
            Backing::Vdso | Backing::Vvar | Backing::VvarVclock
        )
    }

    /// Whether it is mapped, or inherited, when memory is built: what the kernel made at exec is moved instead, and rings of
    /// asynchronous I/O come with their contexts.
    pub fn is_built(&self) -> bool {
        !self.is_kernel_provided() && self.backing() != Backing::AioRing
    }

    /// Whether a child forked from a process with `parent` finds the same memory where both lie.
    pub fn continues(&self, parent: &AreaRecord) -> bool {
        if !parent.is_private()
            || self.backing != parent.backing
            || self.huge_page != parent.huge_page
            || parent.has(attribute::DONT_FORK | attribute::WIPE_ON_FORK)
        {
            return false;
        }
        let same_file = match (&self.file, &parent.file) {
            (Some(a), Some(b)) => a.path == b.path && a.inode == b.inode && a.device == b.device,
            (None, None) => true,
            _ => false,
        };
        let same_place = self.file.is_none()
            || self.offset.wrapping_sub(self.start) == parent.offset.wrapping_sub(parent.start);
        let shape = attribute::GROWS_DOWN | attribute::NO_RESERVE | attribute::DROPPABLE;
        same_file && same_place && self.attributes & shape == parent.attributes & shape
    }
}
