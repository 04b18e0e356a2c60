//! Files that travel in the image by content: files that have no name any more but are open or mapped, memory files
//! (memfd_create(2)), and what the job writes that is nowhere but in memory or goes with its mappings.
//!
//! /proc/PID/fd and maps show which files they are; the content is read from a descriptor of its own, opened through
//! /proc/PID/fd, /proc/PID/exe or /proc/PID/map_files, so that nothing of the job moves. Holes stay holes: only what
//! lseek(SEEK_DATA) shows is read, only what is not zero is stored, as the pages of a space that has the file's number. Each file is one
//! record, however many descriptors and mappings of the job refer to it, all by that number.
//!
//! Not preserved: inode number, time of last access, attributes beyond those of extended attributes that may be read. Where a
//! deleted file is only mapped, and the kernel opens it for nobody but root, what was never mapped of it, or changed privately
//! everywhere, is zero.

mod content;
pub(crate) mod find;
mod make;
mod node;
mod place;

pub(crate) use content::{data, fill, fill_unless, open};

use std::collections::{BTreeMap, BTreeSet};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::task;

use crate::collect::Collection;
use crate::freeze::Frozen;
use crate::host::{Changed, Host};
use crate::plan::{Plan, Stage, Token};
use crate::rebuild::Access;
use crate::resource::file::{
    self, Description, FdFacts, Fifo, Job, OpenDirectory, Place, RegularFile,
};
use crate::resource::memory::{AddressSpace, Backing, FileIdentity, attribute, printable};
use crate::resource::process::ProcessRecord;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

/// Kept files, and the spaces with their contents, are numbered from here; below are shared memory objects.
pub const FIRST_KEPT: u64 = 1 << 40;
/// The last number that may be one of a kept file.
const LAST_KEPT: u64 = (1 << 41) - 1;

/// A file whose content is in the image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeptFile {
    /// Its number, by which others refer to it; also that of the space with its content.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What it is.
    #[prost(enumeration = "Standing", tag = "2")]
    pub standing: i32,
    /// Path (without the mark of a deleted file; for a memory file its name), size in bytes, time of last change, mode.
    #[prost(message, optional, tag = "3")]
    pub identity: Option<FileIdentity>,
    /// Its owner.
    #[prost(uint32, tag = "4")]
    pub user: u32,
    /// Its group.
    #[prost(uint32, tag = "5")]
    pub group: u32,
    /// Its extended attributes.
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<ExtendedAttribute>,
    /// Seals (`F_SEAL_*`) of a file that can have some.
    #[prost(uint32, optional, tag = "7")]
    pub seals: Option<u32>,
    /// Bytes of a page where it is on hugetlbfs; otherwise 0.
    #[prost(uint64, tag = "8")]
    pub huge_page: u64,
    /// Whether it never had a name, and may yet be given one (O_TMPFILE).
    #[prost(bool, tag = "9")]
    pub linkable: bool,
    /// Bytes of it that are no holes.
    #[prost(uint64, tag = "10")]
    pub stored: u64,
    /// Whether only those parts of it are known that processes of the job map.
    #[prost(bool, tag = "11")]
    pub partial: bool,
    /// What it leads to where it is a symbolic link.
    #[prost(bytes = "vec", tag = "12")]
    pub target: Vec<u8>,
    /// The number of a device node (major << 32 | minor).
    #[prost(uint64, tag = "13")]
    pub node: u64,
    /// Whether a device node is open, and not only named.
    #[prost(bool, tag = "14")]
    pub opened: bool,
}

/// An extended attribute (xattr(7)).
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExtendedAttribute {
    /// Its name, with that of its class: `user.comment`.
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// Its value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// What a kept file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Standing {
    /// Nothing that is known: damaged.
    Unknown = 0,
    /// It has no name any more, or never had one.
    Nameless = 1,
    /// A memory file (memfd_create(2)).
    Memory = 2,
    /// It has its name; what is found there at a restart gives way to what was saved.
    Named = 3,
}

impl Record for KeptFile {
    const KIND: Kind = Kind {
        name: "kept-file",
        version: 1,
    };
}

impl KeptFile {
    /// The file type bits of its mode.
    fn file_type(&self) -> u32 {
        let identity = self.identity.as_ref();
        identity.map_or(0, |found| found.mode & libc::S_IFMT)
    }

    fn identity(&self) -> Result<&FileIdentity> {
        self.identity.as_ref().ok_or_else(damaged)
    }
}

fn damaged() -> Error {
    Error::Failed("the image is damaged: a kept file makes no sense".into())
}

/// What refers to a kept file, while a job is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// The open file description with this number.
    Description(u64),
    /// The area of a process (its pid as we see it) that starts here.
    Area(i32, u64),
    /// The executable of a process (its pid as we see it).
    Executable(i32),
    /// The working directory of a task (its id as we see it).
    WorkingDirectory(i32),
    /// The root directory of a task (its id as we see it).
    RootDirectory(i32),
}

/// Which files of a job are kept.
#[derive(Debug, Default)]
pub struct KeptIndex {
    uses: BTreeMap<Use, u64>,
    files: BTreeMap<u64, FileIdentity>,
}

impl KeptIndex {
    /// Number and identity of the kept file that is used so.
    pub fn of(&self, how: Use) -> Option<(u64, &FileIdentity)> {
        let id = *self.uses.get(&how)?;
        Some((id, self.files.get(&id)?))
    }
}

/// The resource.
pub struct KeptFiles;

impl Resource for KeptFiles {
    fn name(&self) -> &'static str {
        "files by content"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[KeptFile::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    /// What is in the way of a descriptor's file its own kind says (`inspect`); mappings can always be read.
    fn inspect(&self, _target: &Target, _refusals: &mut Refusals) {}

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let job = Job::frozen(frozen)?;
        for (index, found) in find::find(frozen, &job).into_iter().enumerate() {
            let id = FIRST_KEPT + index as u64;
            let record = content::collect(id, &found, frozen, &job, collection)?;
            let identity = record.identity()?.clone();
            collection.kept.files.insert(id, identity);
            let uses = found.uses.iter().map(|how| (*how, id));
            collection.kept.uses.extend(uses);
            collection.put(&record)?;
        }
        collection.descriptors = Some(job.into_known());
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let files = records.all::<KeptFile>()?;
        if files.is_empty() {
            return Ok(());
        }
        let needs = needs(records)?;
        let mut directories = Vec::new();
        for file in files {
            let known = (FIRST_KEPT..=LAST_KEPT).contains(&file.id);
            if !known || file.identity()?.path.is_empty() || file.identity()?.path.contains(&0) {
                return Err(damaged());
            }
            let needs = needs.get(&file.id).cloned().unwrap_or_default();
            place::check(&file, &needs, host, plan)?;
            let first = if needs.lent.is_empty() && !file.linkable && file.huge_page == 0 {
                Vec::new()
            } else {
                vec![Token::Process(0)]
            };
            let gives = vec![Token::Object(file.id)];
            let make = make::Make::new(file, needs)?;
            if make.is_directory() {
                directories.push(make.clone());
            } else {
                plan.linked_step(Stage::Objects, 0, first, gives, make.clone());
            }
            plan.step(Stage::Tree, 0, make::Settle::of(&make));
            if make.seals() {
                plan.step(Stage::Descriptors, 0, make::Seal::of(&make));
            }
        }
        if !directories.is_empty() {
            let all = make::Directories::of(&directories);
            plan.linked_step(Stage::Objects, 0, Vec::new(), all.tokens(), all);
        }
        if needs.values().any(|needs| !needs.lent.is_empty()) {
            let processes = records.all::<ProcessRecord>()?.into_iter();
            for born in processes.filter(|process| process.zombie.is_none()) {
                let process = born.pid;
                plan.step(Stage::Threads, process, make::Return { process });
            }
        }
        plan.step(Stage::Restrict, 0, make::HoldAsPlaces);
        Ok(())
    }
}

/// What a job needs of a kept file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    /// How it is lent to processes that map or execute it.
    lent: BTreeSet<Access>,
    /// Whether a descriptor is open for writing, or a mapping may be written.
    writers: bool,
    /// Whether it is anybody's executable, or mapped to be executed.
    executed: bool,
    /// Whether a descriptor shows who owns it.
    described: bool,
    /// A process that uses it, for messages.
    process: i32,
}

/// What a job needs of each kept file.
fn needs(records: &RecordSet) -> Result<BTreeMap<u64, Needs>> {
    let mut all: BTreeMap<u64, Needs> = BTreeMap::new();
    for space in records.all::<AddressSpace>()? {
        for area in space.areas.iter().filter(|area| area.kept != 0) {
            let needs = all.entry(area.kept).or_default();
            let writable =
                area.protection & libc::PROT_WRITE as u32 != 0 || area.has(attribute::MAY_WRITE);
            let writes = area.backing() == Backing::FileShared && writable;
            needs.lent.insert(if writes {
                Access::Writing
            } else {
                Access::Reading
            });
            needs.writers |= writes;
            needs.executed |= area.protection & libc::PROT_EXEC as u32 != 0;
            needs.process = space.process;
        }
        if space.kept_executable != 0 {
            let needs = all.entry(space.kept_executable).or_default();
            needs.lent.insert(Access::Reading);
            needs.executed = true;
            needs.process = space.process;
        }
    }
    let holders = file::holders(records)?;
    for file in records.all::<RegularFile>()? {
        if file.kept != 0 {
            let needs = all.entry(file.kept).or_default();
            needs.writers |= file.writes();
            needs.described = true;
            needs.process = holders.get(&file.object).map_or(0, |holder| holder.0);
        }
    }
    let directories = records.all::<OpenDirectory>()?.into_iter();
    let directories = directories.map(|directory| (directory.kept, directory.object));
    let fifos = records.all::<Fifo>()?.into_iter();
    let fifos = fifos.flat_map(|fifo| {
        fifo.ends
            .into_iter()
            .map(move |end| (fifo.kept, end.object))
    });
    for (kept, object) in directories.chain(fifos).filter(|(kept, _)| *kept != 0) {
        let needs = all.entry(kept).or_default();
        needs.described = true;
        needs.process = holders.get(&object).map_or(0, |holder| holder.0);
    }
    Ok(all)
}

/// How many descriptors processes are lent.
///
/// # Errors
/// When the records are damaged.
pub(crate) fn lent_count(records: &RecordSet) -> Result<usize> {
    Ok(needs(records)?.values().map(|needs| needs.lent.len()).sum())
}

/// How a description of a kept file comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// It is the one that the file was made with.
    First,
    /// The file is opened again.
    Another,
}

/// Finds for each memory file the description that it was made with: one that, unlike all that are opened later, does not stand in
/// the way of executing it (`alloc_file` takes no write access).
pub(crate) struct First {
    memory: BTreeSet<u64>,
}

impl First {
    /// The memory files among `records`.
    ///
    /// # Errors
    /// When the records are damaged.
    pub(crate) fn of(records: &RecordSet) -> Result<Self> {
        let files = records.all::<KeptFile>()?;
        let memory = files
            .iter()
            .filter(|file| file.standing() == Standing::Memory)
            .map(|file| file.id)
            .collect();
        Ok(Self { memory })
    }

    /// How this description of a kept file comes to be: the first for reading and writing is the one it was made with.
    pub(crate) fn opening(&mut self, file: &RegularFile) -> Opening {
        let both = file.flags as i32 & cryonaut_sys::uapi::O_ACCMODE == libc::O_RDWR;
        if both && self.memory.remove(&file.kept) {
            Opening::First
        } else {
            Opening::Another
        }
    }
}

/// Whether the file of a description is kept because it has no name.
pub(crate) fn is_kept(facts: &FdFacts) -> bool {
    find::standing(facts).is_some()
}

/// Refuses a description whose file has to be kept where its content cannot be had.
pub(crate) fn inspect(description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
    let facts = &description.facts;
    if !is_kept(facts) {
        return;
    }
    let owner = job.owner(description.first());
    if facts.file_type() == libc::S_IFSOCK && job.listing().is_bound_to(facts.file.1) {
        refusals.add(
            owner.label(),
            job.name(description),
            "it names the deleted file of a socket that is in use, to which nobody could connect through it any more",
            "close it, or give the file a name again, before the checkpoint",
        );
    }
    if facts.file_type() != libc::S_IFREG {
        return;
    }
    let mut refuse = |reason: &str, remedy: &str| {
        refusals.add(owner.label(), job.name(description), reason, remedy)
    };
    if facts.place == Place::Deleted && facts.names > 0 && facts.writes() {
        return refuse(
            "it was deleted and is being written, and another name of it (a hard link) is somewhere unknown",
            "delete its other names, put one into the directory where it was, or have the program open one",
        );
    }
    let readable = facts.reads() && !facts.is_place();
    if !readable && content::open(&owner.descriptor_path(description.first().number)).is_err() {
        let others = || job.descriptions.iter().map(|other| &other.facts);
        if !others().any(|other| other.file == facts.file && other.reads() && !other.is_place()) {
            refuse(
                "it has to be saved by content, and may not be read",
                "make it readable for its owner (chmod u+r), or checkpoint as root",
            );
        }
    }
}

/// Whether a host may give files to their former owners.
fn may_own(host: &Host, file: &KeptFile) -> bool {
    (file.user == host.user && file.group == task::effective_ids().1)
        || host.changed == Changed::Allow
        // CAP_CHOWN
        || cryonaut_sys::spawn::effective_capabilities().is_ok_and(|all| all & 1 != 0)
}

/// A kept file in messages.
fn text(file: &KeptFile) -> String {
    let Some(identity) = &file.identity else {
        return String::new();
    };
    let path = printable(&identity.path);
    match (file.standing(), file.file_type()) {
        (_, libc::S_IFDIR) => return format!("removed directory {path}"),
        (_, libc::S_IFIFO) => return format!("deleted named pipe {path}"),
        (_, libc::S_IFLNK) => return format!("deleted symbolic link {path}"),
        (_, libc::S_IFCHR | libc::S_IFBLK) => {
            let (major, minor) = node::number(file.node);
            return format!("deleted node {path} of device {major}:{minor}");
        }
        (_, libc::S_IFSOCK) => return format!("deleted socket file {path}"),
        _ => {}
    }
    match file.standing() {
        Standing::Memory => format!("memory file {path}"),
        Standing::Named => format!("file {path}"),
        Standing::Nameless | Standing::Unknown => format!("deleted file {path}"),
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Deleted files that are open, mapped or executed; files without a name (O_TMPFILE)",
        level: Level::Restored,
        how: "by content, holes as holes; made again in the old directory, or else in TMPDIR, and deleted again. One whose other name (hard link) is in the directory where it was, or open or mapped in any process that may be looked at, is found by that; otherwise writing to it is a refusal",
    },
    Support {
        what: "Huge pages (hugetlb): memory files, files on hugetlbfs, shared memory (MAP_HUGETLB)",
        level: Level::Restored,
        how: "by content, with pages of the same size; where there are too few of them a restart is refused.",
    },
    Support {
        what: "Removed directories that are open, or somebody's working or root directory; deleted named pipes that are open",
        level: Level::Restored,
        how: "made again where they were, or else in TMPDIR, and removed again",
    },
    Support {
        what: "Deleted device nodes that are open (of /dev/null and its like) or named by O_PATH, deleted socket files named by O_PATH",
        level: Level::Restored,
        how: "made again and removed again; device nodes by root, otherwise the device is opened by its node in /dev",
    },
    Support {
        what: "Files replaced since they were mapped, such as upgraded libraries, as an ordinary user",
        level: Level::Partly,
        how: "what is mapped of them is kept; the kernel shows the rest to root only. Pages changed privately everywhere are zero if the program throws its copy away (MADV_DONTNEED)",
    },
    Support {
        what: "Memory files (memfd_create): name, content, seals, shared mappings",
        level: Level::Restored,
        how: "by content",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_file_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let file = KeptFile {
            id: FIRST_KEPT,
            standing: Standing::Memory as i32,
            identity: Some(FileIdentity::default()),
            user: 1,
            group: 2,
            attributes: vec![ExtendedAttribute {
                name: b"user.a".to_vec(),
                value: b"\0".to_vec(),
            }],
            seals: Some(0),
            huge_page: 1 << 21,
            linkable: true,
            stored: 4096,
            partial: true,
            target: b"/".to_vec(),
            node: 1 << 32 | 3,
            opened: true,
        };
        records.push(&file).unwrap();
        assert_eq!(records.all::<KeptFile>().unwrap(), [file]);
    }

    #[test]
    fn needs_are_gathered_from_all_that_refers_to_a_file() {
        let mut records = RecordSet::new();
        let area = crate::resource::memory::AreaRecord {
            backing: Backing::FileShared as i32,
            kept: FIRST_KEPT,
            attributes: attribute::MAY_WRITE,
            ..Default::default()
        };
        let private = crate::resource::memory::AreaRecord {
            backing: Backing::FilePrivate as i32,
            protection: (libc::PROT_WRITE | libc::PROT_EXEC) as u32,
            kept: FIRST_KEPT + 1,
            ..Default::default()
        };
        let space = AddressSpace {
            process: 3,
            areas: vec![area, private],
            ..Default::default()
        };
        records.push(&space).unwrap();
        let needs = needs(&records).unwrap();
        let (first, second) = (&needs[&FIRST_KEPT], &needs[&(FIRST_KEPT + 1)]);
        assert!(first.writers && first.lent.contains(&Access::Writing) && !first.executed);
        assert!(!second.writers && second.lent.contains(&Access::Reading) && second.executed);
    }

    #[test]
    fn damaged_records_are_found() {
        let mut records = RecordSet::new();
        let file = KeptFile {
            id: 7,
            standing: Standing::Nameless as i32,
            identity: Some(FileIdentity {
                path: b"/tmp/a".to_vec(),
                ..FileIdentity::default()
            }),
            ..Default::default()
        };
        records.push(&file).unwrap();
        let host = Host::look(false, Changed::Refuse).unwrap();
        let mut plan = Plan::default();
        assert!(KeptFiles.plan(&records, &host, &mut plan).is_err());
    }
}
