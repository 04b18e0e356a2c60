//! Telling what an area is, and whether it can be saved.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cryonaut_procfs::ProcessDirectory;
use cryonaut_procfs::maps::AreaName;
use cryonaut_procfs::smaps::{SmapsArea, VmFlag};

use crate::reference::{self, Hashing};
use crate::resource::system_v;

use super::record::{AreaRecord, Backing, FileIdentity, attribute};

/// Why an area cannot be saved.
pub struct Unsupported {
    /// What it is.
    pub object: String,
    /// Why not.
    pub reason: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

const FLAGS: [(VmFlag, u64); 15] = [
    (VmFlag::GrowsDown, attribute::GROWS_DOWN),
    (VmFlag::NoReserve, attribute::NO_RESERVE),
    (VmFlag::DontFork, attribute::DONT_FORK),
    (VmFlag::WipeOnFork, attribute::WIPE_ON_FORK),
    (VmFlag::DontDump, attribute::DONT_DUMP),
    (VmFlag::HugePage, attribute::HUGE_PAGE),
    (VmFlag::NoHugePage, attribute::NO_HUGE_PAGE),
    (VmFlag::Mergeable, attribute::MERGEABLE),
    (VmFlag::SequentialRead, attribute::SEQUENTIAL),
    (VmFlag::RandomRead, attribute::RANDOM),
    (VmFlag::Locked, attribute::LOCKED),
    (VmFlag::LockOnFault, attribute::LOCKED_ON_FAULT),
    (VmFlag::Guard, attribute::GUARDED),
    (VmFlag::Droppable, attribute::DROPPABLE),
    (VmFlag::Sealed, attribute::SEALED),
];

/// How much of a path is shown that nobody can use.
const SHOWN: usize = 64;

/// Describes an area; `None` for those that every process has by itself. `files` are looked at once each.
pub fn describe(area: &SmapsArea, files: &mut Files) -> Result<Option<AreaRecord>, Unsupported> {
    let range = || format!("memory at {:#x}-{:#x}", area.area.start, area.area.end);
    let unsupported = |what: String, reason, remedy| {
        Err(Unsupported {
            object: format!("{} ({what})", range()),
            reason,
            remedy,
        })
    };
    let shared = area.area.permissions.shared;
    let mut file = None;
    let backing = match &area.area.name {
        AreaName::Vsyscall | AreaName::Uprobes => return Ok(None),
        AreaName::Vdso => Backing::Vdso,
        AreaName::Vvar => Backing::Vvar,
        AreaName::VvarVclock => Backing::VvarVclock,
        AreaName::Anonymous
        | AreaName::Heap
        | AreaName::Stack
        | AreaName::AnonNamed { shared: false, .. } => Backing::Anonymous,
        AreaName::SharedAnonymous if shared => Backing::SharedObject,
        AreaName::AnonNamed { shared: true, .. } => Backing::SharedObject,
        AreaName::SharedAnonymous => Backing::Anonymous,
        AreaName::File {
            path,
            deleted: false,
        } if path == b"/dev/zero" && !shared => Backing::Anonymous,
        AreaName::File { path, .. } if path.len() >= libc::PATH_MAX as usize => {
            return unsupported(
                lossy(&path[..SHOWN]) + "…",
                "the mapped file lies too deep: its path is longer than 4095 bytes, which the kernel does not take",
                "move it, or a directory above it, further up, or have the program unmap it",
            );
        }
        AreaName::File {
            path,
            deleted: false,
        } => match files.identity(path) {
            Some(found)
                if found.inode == area.area.inode && found.mode & libc::S_IFMT == libc::S_IFREG =>
            {
                file = Some(found);
                if shared {
                    Backing::FileShared
                } else {
                    Backing::FilePrivate
                }
            }
            Some(found) if found.mode & libc::S_IFMT != libc::S_IFREG => {
                return unsupported(
                    lossy(path),
                    "a device is mapped, whose state only its driver knows",
                    "have the program close the device before the checkpoint",
                );
            }
            _ => {
                return unsupported(
                    lossy(path),
                    "the mapped file has been replaced since",
                    "restart the program so that it maps the present file, then checkpoint it",
                );
            }
        },
        AreaName::File {
            path,
            deleted: true,
        } => {
            if path == b"/secretmem" || path.starts_with(b"/dmabuf:") {
                return unsupported(
                    lossy(path),
                    "nobody but the program may read it",
                    "have the program unmap it before the checkpoint",
                );
            }
            let device = area.area.device.number();
            // By another name that it still has, else by content: then `kept` says where that is.
            let inode = area.area.inode;
            file = Some(
                files
                    .other_name(path, (device, inode))
                    .unwrap_or(FileIdentity {
                        path: path.clone(),
                        device,
                        inode,
                        ..FileIdentity::default()
                    }),
            );
            if shared {
                Backing::FileShared
            } else {
                Backing::FilePrivate
            }
        }
        AreaName::SystemV { .. } => Backing::SystemV,
        AreaName::AnonymousHugetlb if shared => {
            // Of no name of its own: it is kept like a memory file.
            file = Some(FileIdentity {
                path: b"/anon_hugepage".to_vec(),
                device: area.area.device.number(),
                inode: area.area.inode,
                ..FileIdentity::default()
            });
            Backing::FileShared
        }
        AreaName::AnonymousHugetlb => Backing::AnonymousHuge,
        AreaName::AioRing => Backing::AioRing,
        other => {
            return unsupported(
                format!("{other:?}"),
                "it is none of the kinds of memory that can be saved",
                "have the program unmap it before the checkpoint",
            );
        }
    };
    if backing != Backing::Vvar && backing != Backing::VvarVclock && backing != Backing::Vdso {
        refuse_flags(area, &range)?;
    }
    let permissions = area.area.permissions;
    let mut protection = 0;
    for (set, bit) in [
        (permissions.read, libc::PROT_READ),
        (permissions.write, libc::PROT_WRITE),
        (permissions.execute, libc::PROT_EXEC),
    ] {
        if set {
            protection |= bit as u32;
        }
    }
    let mut attributes = FLAGS
        .iter()
        .filter(|(flag, _)| area.flags.contains(*flag))
        .fold(0, |bits, (_, attribute)| bits | attribute);
    if matches!(backing, Backing::FileShared | Backing::SystemV)
        && area.flags.contains(VmFlag::MayWrite)
    {
        attributes |= attribute::MAY_WRITE;
    }
    let name = match &area.area.name {
        AreaName::AnonNamed { name, .. } => name.clone(),
        _ => Vec::new(),
    };
    Ok(Some(AreaRecord {
        start: area.area.start,
        end: area.area.end,
        protection,
        backing: backing as i32,
        offset: area.area.offset,
        file,
        object: if backing == Backing::SystemV {
            system_v::attached(area.area.inode)
        } else {
            0
        },
        attributes,
        pages: 0,
        guards: Vec::new(),
        name,
        policy: None,
        kept: 0,
        huge_page: if area.flags.contains(VmFlag::HugeTlb) && !shared {
            area.kernel_page_size * 1024
        } else {
            0
        },
        inherited: 0,
    }))
}

fn refuse_flags(area: &SmapsArea, range: &dyn Fn() -> String) -> Result<(), Unsupported> {
    const REFUSED: [(VmFlag, &str, &str); 8] = [
        (
            VmFlag::UserfaultMissing,
            "userfaultfd serves its page faults, which cannot be handed over",
            "have the program unregister it before the checkpoint",
        ),
        (
            VmFlag::UserfaultWriteProtect,
            "userfaultfd watches its writes, which cannot be handed over",
            "have the program unregister it before the checkpoint",
        ),
        (
            VmFlag::UserfaultMinor,
            "userfaultfd serves its page faults, which cannot be handed over",
            "have the program unregister it before the checkpoint",
        ),
        (
            VmFlag::DeviceMemory,
            "it is device memory",
            "have the program unmap it before the checkpoint",
        ),
        (
            VmFlag::PageFrames,
            "it shows page frames of a device",
            "have the program unmap it before the checkpoint",
        ),
        (
            VmFlag::MixedMap,
            "it shows page frames of a device",
            "have the program unmap it before the checkpoint",
        ),
        (
            VmFlag::SynchronousFault,
            "it is persistent memory mapped with MAP_SYNC, which is not mapped again",
            "have the program map the file without MAP_SYNC",
        ),
        (
            VmFlag::ShadowStack,
            "it is a shadow stack, which the kernel lets nobody rebuild",
            "start the program with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
        ),
    ];
    for (flag, reason, remedy) in REFUSED {
        if area.flags.contains(flag) {
            return Err(Unsupported {
                object: range(),
                reason,
                remedy,
            });
        }
    }
    if area.protection_key.unwrap_or(0) != 0 {
        return Err(Unsupported {
            object: range(),
            reason: "it has a memory protection key, which is not saved",
            remedy: "start the program without protection keys",
        });
    }
    Ok(())
}

/// Files of a process, looked at once each.
pub struct Files<'a> {
    process: &'a ProcessDirectory,
    root: PathBuf,
    hashing: Hashing,
    known: HashMap<Vec<u8>, Option<FileIdentity>>,
    others: HashMap<(u64, u64), Option<FileIdentity>>,
}

impl<'a> Files<'a> {
    /// Files as a process' maps name them: relative to our root, or to that of its own mount namespace.
    pub fn of(directory: &'a ProcessDirectory, hashing: Hashing) -> Self {
        let root = directory.link("root").unwrap_or_default();
        let base = crate::resource::fs_context::base(directory, &root)
            .ok()
            .flatten();
        Self {
            process: directory,
            root: base.unwrap_or_else(|| directory.path().join("root")),
            hashing,
            known: HashMap::new(),
            others: HashMap::new(),
        }
    }

    /// The path as seen from here of a file that the process' maps show as `path`.
    pub fn reach(&self, path: &[u8]) -> PathBuf {
        under(&self.root, path)
    }

    /// A deleted file of which another name was found.
    pub fn other_name(&mut self, path: &[u8], file: (u64, u64)) -> Option<FileIdentity> {
        let mut marked = path.to_vec();
        marked.extend_from_slice(b" (deleted)");
        // A name may end like the mark of a deleted file.
        let named = self.identity(&marked);
        if let Some(found) = named.filter(|found| (found.device, found.inode) == file) {
            return Some(found);
        }
        if let Some(known) = self.others.get(&file) {
            return known.clone();
        }
        let found = other_name(self.process, &self.root, path, file)
            .and_then(|other| identity(&other, &self.root));
        self.others.insert(file, found.clone());
        found
    }

    /// What the file is like now.
    pub fn identity(&mut self, path: &[u8]) -> Option<FileIdentity> {
        if let Some(known) = self.known.get(path) {
            return known.clone();
        }
        let mut found = identity(path, &self.root);
        if let Some(found) = &mut found
            && found.mode & libc::S_IFMT == libc::S_IFREG
        {
            let place = under(&self.root, path);
            found.add_hash(&place, self.hashing);
        }
        self.known.insert(path.to_vec(), found.clone());
        found
    }

    /// Adds the build ids of files that are mapped to be executed.
    pub fn add_build_ids(&self, areas: &mut [AreaRecord]) {
        let mut ids = HashMap::new();
        for area in areas.iter() {
            if area.protection & libc::PROT_EXEC as u32 != 0
                && let Some(file) = &area.file
            {
                ids.entry(file.path.clone())
                    .or_insert_with(|| self.build_id(&file.path));
            }
        }
        for file in areas.iter_mut().filter_map(|area| area.file.as_mut()) {
            file.build_id = ids.get(&file.path).cloned().flatten();
        }
    }

    /// The build id of an executable file.
    pub fn build_id(&self, path: &[u8]) -> Option<Vec<u8>> {
        reference::build_id(&under(&self.root, path))
    }
}

/// What the file at `path` under `root` is like now.
pub fn identity(path: &[u8], root: &Path) -> Option<FileIdentity> {
    let metadata = std::fs::symlink_metadata(under(root, path)).ok()?;
    Some(FileIdentity {
        path: path.to_vec(),
        device: device_number(metadata.dev()),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        mode: metadata.mode(),
        build_id: None,
        content_hash: None,
    })
}

impl FileIdentity {
    /// Adds the hash of the content of the file at `place`, where that is wanted.
    pub fn add_hash(&mut self, place: &Path, hashing: Hashing) {
        if hashing == Hashing::Content {
            self.content_hash = reference::content_hash(place).map(|hash| hash.to_vec());
        }
    }
}

/// A device number of stat(2) as records have it: major << 32 | minor.
pub fn device_number(device: u64) -> u64 {
    u64::from(libc::major(device)) << 32 | u64::from(libc::minor(device))
}

/// Another name of a file that was deleted at `path` but has names left: one by which the process itself has it open or mapped,
/// one in the directory where it was, or one by which any other process that may be looked at has it. The file is given as
/// (device, inode).
pub fn other_name(
    process: &ProcessDirectory,
    root: &Path,
    path: &[u8],
    file: (u64, u64),
) -> Option<Vec<u8>> {
    let with_others = || {
        let others = cryonaut_procfs::system::all_pids().unwrap_or_default();
        let others = others.into_iter().filter(|&pid| pid != process.pid());
        let mut others = others.filter_map(|pid| ProcessDirectory::open(pid).ok());
        others.find_map(|other| name_in_use(&other, root, file))
    };
    name_in_use(process, root, file)
        .or_else(|| name_in_directory(root, path, file))
        .or_else(with_others)
}

/// A path by which a process has a file open or mapped, and which leads to it. No path is looked at but of files with that number:
/// others may be where nothing answers.
fn name_in_use(
    process: &ProcessDirectory,
    root: &Path,
    (device, inode): (u64, u64),
) -> Option<Vec<u8>> {
    let leads = |path: &Vec<u8>| {
        path.starts_with(b"/")
            && std::fs::symlink_metadata(under(root, path))
                .is_ok_and(|found| found.ino() == inode && device_number(found.dev()) == device)
    };
    let descriptors = process.descriptors().unwrap_or_default();
    let opened = descriptors.into_iter().filter_map(|descriptor| {
        let shown = process.fdinfo(descriptor).ok()?;
        // Kernels before 5.14 do not tell.
        let is_it = shown.inode.is_none_or(|found| found == inode);
        is_it.then(|| process.descriptor_link(descriptor).ok())?
    });
    let mapped = process.maps().unwrap_or_default();
    let mapped = mapped.into_iter().filter_map(|area| match area.name {
        AreaName::File {
            path,
            deleted: false,
        } if area.inode == inode => Some(path),
        _ => None,
    });
    opened.chain(mapped).find(leads)
}

fn name_in_directory(root: &Path, path: &[u8], (device, inode): (u64, u64)) -> Option<Vec<u8>> {
    use std::os::unix::fs::DirEntryExt;
    let cut = path.iter().rposition(|&byte| byte == b'/')?;
    let directory = &path[..cut];
    let entries = std::fs::read_dir(under(root, &path[..=cut])).ok()?;
    let entry = entries.flatten().find(|entry| {
        entry.ino() == inode
            && entry
                .metadata()
                .is_ok_and(|found| found.ino() == inode && device_number(found.dev()) == device)
    })?;
    let mut found = directory.to_vec();
    found.push(b'/');
    found.extend_from_slice(entry.file_name().as_bytes());
    Some(found)
}

/// The path as seen from here when a process whose root is at `root` names it `path`.
pub fn under(root: &Path, path: &[u8]) -> PathBuf {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
