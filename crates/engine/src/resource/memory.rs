//! Memory: areas, their pages, and the layout that the kernel shows of a process.
//!
//! Shown by /proc/PID/smaps (areas, flags), pagemap and PAGEMAP_SCAN (pages), auxv, stat (layout); the brk and what of shared
//! objects exists are asked of the process itself. Not preserved: the split of equal neighbouring areas into several, clean
//! pages of files (the file is mapped again), hugeness of pages (the advice is).

mod area;
mod huge;
mod layout;
mod pages;
mod policy;
mod record;
mod vdso;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_procfs::smaps::SmapsArea;
use cryonaut_sys::memory;
use cryonaut_tracee::CallList;

pub(crate) use area::Files;
pub use area::{device_number, identity, other_name, under};
pub use layout::{Change, changes};
pub use policy::{
    MemoryPolicy, Question as PolicyQuestion, arguments as policy_arguments,
    leave_out as leave_out_policies,
};
pub use record::{
    AddressSpace, AreaRecord, Backing, FIRST_OBJECT, FileIdentity, SharedObject, Vdso, attribute,
};

use crate::collect::{Collection, Space};
use crate::copy_in::gaps;
use crate::error::Attempt;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::reference::{self, Hashing};
use crate::resource::kept_file::{KeptFile, KeptIndex, Use};
use crate::resource::process::{self, ProcessRecord};
use crate::resource::sharing::{Shared, Sharing};
use crate::resource::{Level, Resource, Support};
use crate::target::{Inspection, Target, TargetProcess};
use crate::{Error, Refusal, Refusals, Result};

/// The resource.
pub struct Memory;

impl Resource for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[AddressSpace::KIND, SharedObject::KIND, Vdso::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        for process in target
            .processes
            .iter()
            .filter(|process| !process.is_zombie())
        {
            let Ok(areas) = areas_to_inspect(process, target.inspection) else {
                continue;
            };
            let mut files = area::Files::of(&process.directory, target.hashing);
            for area in &areas {
                if let Err(found) = area::describe(area, &mut files) {
                    let (pid, name) = process.label();
                    refusals.add((pid, &name), found.object, found.reason, found.remedy);
                }
            }
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut objects = Objects::new();
        let mut spaces: Vec<AddressSpace> = Vec::new();
        let mut vdso = None;
        let has_keys = whole::has_protection_keys()?;
        for index in 0..frozen.processes.len() {
            let process = &frozen.processes[index];
            // Memory that several processes share is that of the first of them.
            if process.is_zombie() || !frozen.sharing.holds(Shared::Memory, process.pid) {
                continue;
            }
            let mut areas =
                describe_all(&frozen.processes[index], frozen.hashing, &collection.kept)?;
            shared_objects(
                &mut frozen.processes[index],
                &mut areas,
                &mut objects,
                collection,
            )?;
            policy::read_all(&mut frozen.processes[index], &mut areas)?;
            if has_keys {
                whole::refuse_protection_keys(&mut frozen.processes[index])?;
            }
            let process = &frozen.processes[index];
            let mut ranges = pages::private_pages(process, &mut areas)?;
            pages::guard_pages(process, &mut areas, &mut ranges)?;
            pages::leave_out(&areas, &omitted(frozen, process), &mut ranges);
            let mut space = Space {
                id: process.inner as u64,
                pid: process.reached_by(),
                ranges: Vec::new(),
                same: Vec::new(),
            };
            let parent = frozen.sharing.of_process(Shared::Memory, process.stat.ppid);
            let parent = frozen
                .processes
                .iter()
                .find(|other| other.pid == parent && !other.is_zombie());
            if let Some(parent) = parent
                && let Some(parent_space) =
                    spaces.iter().find(|space| space.process == parent.inner)
            {
                // What the parent leaves out the child has of its own.
                let own = pages::take_within(&omitted(frozen, parent), &mut ranges);
                let same = pages::same_pages(
                    (process, &areas),
                    (parent, &parent_space.areas),
                    &mut ranges,
                )?;
                pages::put_back(own, &mut ranges);
                let known = collection
                    .spaces
                    .iter()
                    .find(|space| space.id == parent.inner as u64);
                space.same = resolve_same(&same, parent.inner as u64, known);
                huge::note_inherited(&mut areas, &same);
            }
            space.ranges = ranges;
            collection.spaces.push(space);
            if vdso.is_none() {
                vdso = pages::vdso(process, &areas)?;
            }
            let layout = layout_of(&mut frozen.processes[index])?;
            let hashing = frozen.hashing;
            spaces.push(address_space(
                &frozen.processes[index],
                areas,
                layout,
                (hashing, &collection.kept),
            )?);
        }
        for (object, _) in objects.values() {
            collection.put(object)?;
        }
        for space in &spaces {
            collection.put(space)?;
        }
        if let Some(content) = vdso {
            collection.put(&Vdso { content })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let mut spaces = records.all::<AddressSpace>()?;
        check_abilities(&mut spaces, plan);
        vdso::adapt(&mut spaces, records, host, plan)?;
        for object in records.all::<SharedObject>()? {
            plan.linked_step(
                Stage::Objects,
                0,
                vec![Token::Process(0)],
                vec![Token::Object(object.id)],
                MakeSharedObject { object },
            );
        }
        reference::check_mapped_files(&spaces, host, plan);
        let bearers = Bearers::of(records, host)?;
        let mut huge = huge::Demand::default();
        for space in &spaces {
            let process = space.process;
            let parent = bearers.parent(process);
            let parent = spaces.iter().find(|space| Some(space.process) == parent);
            let alike = parent.is_some_and(|parent| inherits(space, parent));
            // One that another process bears finds that one's memory, not that of its parent.
            let descent = match parent {
                Some(parent) if !bearers.is_child(process) => {
                    if alike {
                        plan.requires(Token::Memory(process), Token::Memory(parent.process));
                    }
                    layout::Descent::Unrelated
                }
                Some(parent) if alike => {
                    plan.requires(Token::Process(process), Token::Memory(parent.process));
                    layout::Descent::Inherits(parent.process)
                }
                Some(parent) => {
                    plan.requires(Token::Memory(parent.process), Token::Process(process));
                    layout::Descent::Alone
                }
                None => layout::Descent::Alone,
            };
            let bearer = parent.filter(|_| matches!(descent, layout::Descent::Inherits(_)));
            huge.add(space, bearer)?;
            plan.linked_step(
                Stage::Tree,
                process,
                vec![Token::Process(process)],
                vec![Token::Memory(process)],
                layout::BuildMemory {
                    space: space.clone(),
                    descent,
                },
            );
            plan.step(
                Stage::Process,
                process,
                layout::FinishMemory {
                    space: space.clone(),
                },
            );
        }
        let kept = records.all::<KeptFile>()?;
        kept.iter().for_each(|file| huge.add_file(file));
        // A job that is about to be killed still has what it needs.
        if host.leaving.is_empty() {
            huge.check(huge::free_bytes, plan);
        }
        Ok(())
    }
}

/// The areas of a process that runs. Before a freeze the flags of very many or large ones, for which the kernel walks the page
/// tables, are left until the job stands still.
fn areas_to_inspect(
    process: &TargetProcess,
    inspection: Inspection,
) -> std::result::Result<Vec<SmapsArea>, cryonaut_procfs::ProcError> {
    const FEW: usize = 2000;
    const SMALL: u64 = 64 << 10;
    if inspection == Inspection::Complete {
        return process.directory.smaps();
    }
    let plain = process.directory.maps()?;
    if plain.len() <= FEW && process.status.vm_resident.unwrap_or(0) <= SMALL {
        return process.directory.smaps();
    }
    Ok(plain.into_iter().map(SmapsArea::without_details).collect())
}

/// The memory that a process leaves out.
fn omitted(frozen: &Frozen, process: &FrozenProcess) -> Vec<(u64, u64)> {
    let boards = frozen.boards.get(&process.pid).into_iter().flatten();
    boards.flat_map(|board| &board.ranges).copied().collect()
}

/// Whose memory processes find at their birth.
struct Bearers {
    sharing: Sharing,
    parents: BTreeMap<i32, i32>,
    unrelated: BTreeSet<i32>,
}

impl Bearers {
    fn of(records: &RecordSet, host: &Host) -> Result<Self> {
        let sharing = Sharing::of(records)?;
        let processes = records.all::<ProcessRecord>()?;
        let parents = processes.iter();
        let parents = parents.map(|process| (process.pid, process.parent));
        Ok(Self {
            parents: parents.collect(),
            unrelated: process::unrelated(records, &sharing, host)?,
            sharing,
        })
    }

    /// Who has the memory of the parent of a process.
    fn parent(&self, process: i32) -> Option<i32> {
        let parent = self.parents.get(&process)?;
        Some(self.sharing.of_process(Shared::Memory, *parent))
    }

    /// Whether a process is born with the memory of its parent.
    fn is_child(&self, process: i32) -> bool {
        !self.unrelated.contains(&process)
    }
}

/// Whether a child is forked after its parent's memory is filled, to share it.
fn inherits(child: &AddressSpace, parent: &AddressSpace) -> bool {
    child.areas.iter().any(|area| {
        area.is_private()
            && area.pages > 0
            && parent.areas.iter().any(|ancestor| {
                ancestor.start < area.end
                    && area.start < ancestor.end
                    && ancestor.pages > 0
                    && area.continues(ancestor)
            })
    })
}

fn describe_all(
    process: &FrozenProcess,
    hashing: Hashing,
    kept: &KeptIndex,
) -> Result<Vec<AreaRecord>> {
    let mut files = area::Files::of(&process.directory, hashing);
    let mut areas = Vec::with_capacity(process.areas.len());
    for area in &process.areas {
        match area::describe(area, &mut files) {
            Ok(Some(mut area)) => {
                refer(process, &mut area, kept)?;
                areas.push(area);
            }
            Ok(None) => {}
            Err(found) => {
                return Err(Error::Refused(vec![Refusal {
                    pid: process.pid,
                    process: process.name(),
                    object: found.object,
                    reason: found.reason.into(),
                    remedy: found.remedy.into(),
                }]));
            }
        }
    }
    files.add_build_ids(&mut areas);
    Ok(areas)
}

/// Refers an area to the kept file behind it, if there is one.
fn refer(process: &FrozenProcess, area: &mut AreaRecord, kept: &KeptIndex) -> Result<()> {
    if let Some((id, identity)) = kept.of(Use::Area(process.pid, area.start)) {
        area.kept = id;
        area.file = Some(identity.clone());
        // What was taken for memory without a file.
        match area.backing() {
            Backing::SharedObject => area.set_backing(Backing::FileShared),
            Backing::Anonymous => area.set_backing(Backing::FilePrivate),
            _ => {}
        }
    } else if let Some(file) = &area.file
        && file.mode == 0
    {
        return Err(Error::Failed(format!(
            "process {}: the deleted file {} was not found",
            process.pid,
            printable(&file.path)
        )));
    }
    Ok(())
}

/// The shared objects found so far, by device and inode, each with the parts whose pages are saved already.
type Objects = BTreeMap<(u32, u32, u64), (SharedObject, Vec<(u64, u64)>)>;

/// Gives each shared object its number, and has its pages saved once.
fn shared_objects(
    process: &mut FrozenProcess,
    areas: &mut [AreaRecord],
    objects: &mut Objects,
    collection: &mut Collection,
) -> Result<()> {
    for area in areas
        .iter_mut()
        .filter(|area| area.backing() == Backing::SharedObject)
    {
        let source: SmapsArea = process
            .areas
            .iter()
            .find(|candidate| candidate.area.start == area.start)
            .cloned()
            .ok_or_else(|| Error::Failed(format!("process {}: an area vanished", process.pid)))?;
        let key = (
            source.area.device.major,
            source.area.device.minor,
            source.area.inode,
        );
        let next = FIRST_OBJECT + objects.len() as u64;
        let (object, saved) = objects
            .entry(key)
            .or_insert((SharedObject { id: next, size: 0 }, Vec::new()));
        area.object = object.id;
        let mapped = (area.offset, area.offset + area.length());
        object.size = object.size.max(mapped.1);
        let unsaved = gaps(&[mapped], saved);
        if unsaved.is_empty() {
            continue;
        }
        let ranges = pages::shared_pages(process, area, &source, &unsaved)?;
        saved.push(mapped);
        saved.sort_unstable();
        collection.spaces.push(Space {
            id: area.object,
            pid: process.reached_by(),
            ranges,
            same: Vec::new(),
        });
    }
    Ok(())
}

/// Pages that the parent itself shares with its own parent refer to the space that stores them.
fn resolve_same(
    same: &[(u64, u64)],
    parent: u64,
    parent_space: Option<&Space>,
) -> Vec<(u64, u32, u64)> {
    let page = cryonaut_sys::PAGE_SIZE;
    let mut resolved: Vec<(u64, u32, u64)> = Vec::new();
    for &(start, pages) in same {
        let mut address = start;
        let end = start + pages * page;
        while address < end {
            let inherited = parent_space.and_then(|space| {
                space.same.iter().find(|(at, count, _)| {
                    *at <= address && address < at + u64::from(*count) * page
                })
            });
            let (stop, other) = match inherited {
                Some((at, count, other)) => ((at + u64::from(*count) * page).min(end), *other),
                None => {
                    let next = parent_space
                        .into_iter()
                        .flat_map(|space| space.same.iter().map(|run| run.0))
                        .filter(|&at| at > address)
                        .min();
                    (next.unwrap_or(end).min(end), parent)
                }
            };
            resolved.push((address, ((stop - address) / page) as u32, other));
            address = stop;
        }
    }
    resolved
}

fn layout_of(process: &mut FrozenProcess) -> Result<Vec<u64>> {
    let mut list = CallList::new();
    let call = list.call(libc::SYS_brk, &[0.into()]);
    let brk = process
        .run(0, &list)?
        .result(call)
        .attempt(|| "asking for the brk".into())?;
    let stat = &process.stat;
    Ok(vec![
        stat.start_code,
        stat.end_code,
        stat.start_data,
        stat.end_data,
        stat.start_brk,
        brk,
        stat.start_stack,
        stat.arg_start,
        stat.arg_end,
        stat.env_start,
        stat.env_end,
    ])
}

fn address_space(
    process: &FrozenProcess,
    areas: Vec<AreaRecord>,
    layout: Vec<u64>,
    (hashing, kept): (Hashing, &KeptIndex),
) -> Result<AddressSpace> {
    let (kept_executable, executable) = match kept.of(Use::Executable(process.pid)) {
        Some((id, identity)) => (id, Some(identity.clone())),
        None => (0, executable_of(&process.directory, hashing)?),
    };
    let auxiliary = process.directory.read("auxv")?;
    Ok(AddressSpace {
        process: process.inner,
        areas,
        layout,
        auxiliary,
        executable,
        kept_executable,
        future_lock: whole::future_lock(process)?,
    })
}

/// The executable of a process, by its path or by another name that it still has.
fn executable_of(directory: &ProcessDirectory, hashing: Hashing) -> Result<Option<FileIdentity>> {
    let mut files = area::Files::of(directory, hashing);
    let link = directory.link("exe")?;
    let mut named = files.identity(&link);
    if let Some(identity) = &mut named {
        identity.build_id = files.build_id(&link);
        return Ok(named);
    }
    let there = std::fs::metadata(directory.path().join("exe")).ok();
    let path = link.strip_suffix(b" (deleted)");
    Ok(path.zip(there).and_then(|(path, there)| {
        use std::os::unix::fs::MetadataExt;
        files.other_name(path, (device_number(there.dev()), there.ino()))
    }))
}

/// Refuses what this kernel and this user cannot give memory, and leaves out what means nothing here.
fn check_abilities(spaces: &mut [AddressSpace], plan: &mut Plan) {
    let (mut sealed, mut named, mut droppable) = (false, false, false);
    for space in spaces.iter_mut() {
        let mut locked = 0_u64;
        for area in &mut space.areas {
            sealed |= area.has(attribute::SEALED);
            named |= !area.name.is_empty();
            droppable |= area.has(attribute::DROPPABLE);
            if area.has(attribute::LOCKED) {
                locked = locked.saturating_add(area.end.saturating_sub(area.start));
            }
        }
        policy::leave_out(space.areas.iter_mut().map(|area| &mut area.policy), plan);
        check_locked(space, locked, plan);
    }
    if sealed && !memory::can_seal() {
        plan.refusals.add_for_job(
            "sealed memory",
            "this kernel has no mseal(2)",
            "restart under Linux 6.10 or later",
        );
    }
    if named && !memory::can_name() {
        plan.remarks.push(
            "this kernel does not name anonymous memory: names that the job gave are lost".into(),
        );
        let areas = spaces.iter_mut().flat_map(|space| &mut space.areas);
        areas.for_each(|area| area.name.clear());
    }
    if droppable && !memory::can_drop() {
        plan.remarks.push(
            "this kernel has no droppable memory (MAP_DROPPABLE): what was so is kept always"
                .into(),
        );
        let areas = spaces.iter_mut().flat_map(|space| &mut space.areas);
        areas.for_each(|area| area.attributes &= !attribute::DROPPABLE);
    }
}

/// Refuses locked memory above what this user may lock (mlock(2)).
fn check_locked(space: &AddressSpace, locked: u64, plan: &mut Plan) {
    const LOCK_ANY: u64 = 1 << 14;
    if (locked == 0 && space.future_lock == 0)
        || cryonaut_sys::spawn::effective_capabilities().unwrap_or(0) & LOCK_ANY != 0
    {
        return;
    }
    let limit = cryonaut_sys::task::limit(0, cryonaut_sys::uapi::RLIMIT_MEMLOCK)
        .map_or(0, |limit| limit.soft);
    if locked > limit || limit == 0 {
        plan.refusals.add(
            (space.process, ""),
            format!("{} KiB of locked memory", locked / 1024),
            format!("you may lock {} KiB here", limit / 1024),
            "have the limit raised (`ulimit -l`)",
        );
    }
}

/// Makes a shared memory object where every process of the job inherits it.
struct MakeSharedObject {
    object: SharedObject,
}

impl fmt::Display for MakeSharedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "make shared memory {} of {} bytes and fill it",
            self.object.id, self.object.size
        )
    }
}

impl Action for MakeSharedObject {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        rebuild.make_shared_object(self.object.id, self.object.size)
    }
}

/// The path of a file as text.
pub fn printable(path: &[u8]) -> String {
    Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path))
        .display()
        .to_string()
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Private memory, heap, stacks, brk, PROT_NONE, guard pages, madvise and mlock flags, mlockall, seals (mseal), names",
        level: Level::Restored,
        how: "by content; untouched memory is neither stored nor allocated",
    },
    Support {
        what: "Droppable memory (MAP_DROPPABLE)",
        level: Level::Restored,
        how: "droppable, and dropped: two lives of a job must not share the random numbers whose state lies there",
    },
    Support {
        what: "Memory policies of areas (mbind)",
        level: Level::Partly,
        how: "with their mode flags; home nodes (set_mempolicy_home_node) are not shown by the kernel and are lost; of shared \
              memory the policy at the start of each mapping counts",
    },
    Support {
        what: "Private mappings of huge pages (MAP_HUGETLB, files on hugetlbfs, huge memory files), also copy-on-write after fork",
        level: Level::Restored,
        how: "by content, with pages of the same size, and only those that were there; where there are too few of them a restart is refused",
    },
    Support {
        what: "Copy-on-write memory after fork",
        level: Level::Restored,
        how: "equal pages are stored once and shared again",
    },
    Support {
        what: "Shared anonymous memory",
        level: Level::Restored,
        how: "stored once, shared again between all processes that map it; what exists of it, also in swap, is found at once by root and \
              by a cryo that has CAP_CHECKPOINT_RESTORE; for others each page is looked for, present or not, while the job stands \
              still: some 15 s for 1 TiB reserved, and a refusal where a part is in swap and reading all would fill the memory",
    },
    Support {
        what: "Mapped files",
        level: Level::Restored,
        how: "by reference; pages that the program changed privately by content. A file that changed since is a refusal at restart",
    },
    Support {
        what: "vDSO",
        level: Level::Restored,
        how: "moved to its old address",
    },
    Support {
        what: "vDSO under another kernel build than the one that the job was saved on",
        level: Level::Partly,
        how: "the old one stays where it was, and its functions lead to those of the new one. A call of time(2) or of a coarse clock \
              that a signal handler had interrupted within the vDSO at the checkpoint gives 0, once; other clocks are right. \
              A task that was inside the vDSO under seccomp filters is a refusal at restart",
    },
    Support {
        what: "memfd_secret, mapped devices",
        level: Level::Refused,
        how: "their content is nowhere but in the kernel; unmap them before the checkpoint",
    },
    Support {
        what: "Protection keys (pkey_alloc)",
        level: Level::Refused,
        how: "this version does not save which keys a program has; start it without them",
    },
    Support {
        what: "userfaultfd, shadow-stack memory, MAP_SYNC",
        level: Level::Refused,
        how: "the kernel has no way to hand them over; see the text of the refusal",
    },
];
