//! fanotify(7): groups with their marks on files, mounts and file systems.
//!
//! fdinfo shows flags and masks of all of them, and inode, mount id or device of what is marked; `watched` and mountinfo lead to
//! the paths. Marks are added last of all. Groups that decide on accesses (permission events) are refused: whoever opens a
//! marked file waits for the answer of a program that stands still, `cryo` included. Events that wait to be read cannot be put
//! back and are refused. Not preserved: which mount a mark was on where several are at the same place.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_procfs::fanotify::{FanotifyLine, FanotifyMark, Marked, parse_line};
use cryonaut_sys::{descriptor, watch};
use cryonaut_tracee::CallList;

use super::facts::{Description, FdFacts, Job};
use super::inotify::waiting;
use super::watched::{Found, Sought, device, seek};
use super::{Count, DescriptorKind, holders, object, path_of, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::memory::printable;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

/// include/uapi/linux/fanotify.h: the group's descriptor closes at exec.
const CLOSE_ON_EXEC: u32 = 1;
/// Opening, reading, executing, and access to content before it is there: each with permission asked of the program.
const PERMISSION: u64 = 0x1_0000 | 0x2_0000 | 0x4_0000 | 0x10_0000;
/// A mark is added rather than taken away.
const ADD: u32 = 1;
/// A symbolic link is not followed.
const DO_NOT_FOLLOW: u32 = 4;
/// The mask is of what is ignored.
const IGNORED: u32 = 0x20;
/// What is ignored stays so when the file changes.
const SURVIVES: u32 = 0x40;
/// The mark does not keep the inode in memory.
const EVICTABLE: u32 = 0x200;
/// As [`IGNORED`], with the flags of the mask in force (Linux 6.0).
const IGNORE: u32 = 0x400;

/// A fanotify group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Group {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags of the group's own descriptor.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// `FAN_*` flags of fanotify_init(2).
    #[prost(uint32, tag = "3")]
    pub group_flags: u32,
    /// `O_*` flags of the descriptors that come with events.
    #[prost(uint32, tag = "4")]
    pub event_flags: u32,
    /// Its marks.
    #[prost(message, repeated, tag = "5")]
    pub marks: Vec<Mark>,
}

/// A mark of a fanotify group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mark {
    /// What is marked.
    #[prost(enumeration = "On", tag = "1")]
    pub on: i32,
    /// `FAN_MARK_*` flags that it keeps.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// `FAN_*` events that are reported.
    #[prost(uint64, tag = "3")]
    pub mask: u64,
    /// `FAN_*` events that are ignored.
    #[prost(uint64, tag = "4")]
    pub ignored: u64,
    /// The file's path, or the mount point; empty for a file that has none.
    #[prost(bytes = "vec", tag = "5")]
    pub path: Vec<u8>,
    /// For a file without a path, an open file description of it.
    #[prost(uint64, tag = "6")]
    pub target: u64,
}

/// What a mark is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub enum On {
    /// A file.
    Inode = 0,
    /// A mount.
    Mount = 1,
    /// A file system.
    FileSystem = 2,
}

impl On {
    /// The flag of fanotify_mark(2).
    fn flag(self) -> u32 {
        match self {
            On::Inode => 0,
            On::Mount => 0x10,
            On::FileSystem => 0x100,
        }
    }
}

impl Record for Group {
    const KIND: Kind = Kind {
        name: "file.fanotify",
        version: 1,
    };
}

/// The kind.
pub(super) struct Groups;

/// What fdinfo tells of a group: flags, flags of events, marks.
type Shown = (u32, u32, Vec<FanotifyMark>);

fn shown(facts: &FdFacts) -> Option<Shown> {
    let mut group = None;
    let mut marks = Vec::new();
    for line in &facts.info.fanotify {
        match parse_line(line)? {
            FanotifyLine::Group { flags, event_flags } => group = Some((flags, event_flags)),
            FanotifyLine::Mark(mark) => marks.push(mark),
        }
    }
    group.map(|(flags, event_flags)| (flags, event_flags, marks))
}

/// Where what is marked is: a path, as the process sees it, or an open file description.
fn find(marks: &[FanotifyMark], description: &Description, job: &Job<'_>) -> Vec<Option<Found>> {
    let files: Vec<Sought> = marks
        .iter()
        .filter_map(|mark| match &mark.object {
            Marked::Inode {
                inode,
                device,
                handle,
            } => Some(Sought {
                inode: *inode,
                device: *device,
                handle: handle.clone(),
            }),
            _ => None,
        })
        .collect();
    let mut files = seek(&files, description, job).into_iter();
    let mounts = job.owner(description.first()).directory().mountinfo();
    let mounts = mounts.unwrap_or_default();
    let place = |mark: &FanotifyMark| match mark.object {
        Marked::Inode { .. } => files.next().flatten(),
        Marked::Mount(id) => mounts
            .iter()
            .find(|mount| mount.id == id)
            .map(|mount| Found::Path(mount.mount_point.clone())),
        Marked::FileSystem(of) => mounts
            .iter()
            .find(|mount| libc::makedev(mount.device.major, mount.device.minor) == device(of))
            .map(|mount| Found::Path(mount.mount_point.clone())),
        Marked::Other => None,
    };
    marks.iter().map(place).collect()
}

fn name_of(mark: &FanotifyMark) -> String {
    let split = |device: u64| format!("{}:{}", device >> 20, device & 0xf_ffff);
    match &mark.object {
        Marked::Inode { inode, device, .. } => {
            format!("inode {inode} on device {}", split(*device))
        }
        Marked::Mount(id) => format!("mount {id}"),
        Marked::FileSystem(device) => format!("the file system on device {}", split(*device)),
        Marked::Other => "something this version does not know".into(),
    }
}

impl DescriptorKind for Groups {
    fn kinds(&self) -> &'static [Kind] {
        const { &[Group::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.is_anonymous("fanotify") && shown(facts).is_some()
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        let mut refuse = |reason: String, remedy: &'static str| {
            let object = format!("{}, a fanotify group", job.name(description));
            let label = job.owner(description.first()).label();
            refusals.add(label, object, reason, remedy);
        };
        let (_, _, marks) = shown(&description.facts).unwrap_or_default();
        if marks.iter().any(|mark| mark.mask & PERMISSION != 0) {
            refuse(
                "it decides on accesses (permission events), and whoever opens a file would wait for it while it stands still"
                    .into(),
                "have the program remove these marks before the checkpoint",
            );
            return;
        }
        let waiting = waiting(description, job);
        if waiting > 0 {
            refuse(
                format!(
                    "{waiting} bytes of events wait to be read, which the kernel gives no way to put back"
                ),
                "try again once the program has read them",
            );
        }
        for (mark, found) in marks.iter().zip(find(&marks, description, job)) {
            if found.is_none() {
                refuse(
                    format!(
                        "a mark is on {}, for which no path was found",
                        name_of(mark)
                    ),
                    "have the program remove the mark before the checkpoint",
                );
            }
        }
    }

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            let (flags, event_flags, shown) = shown(&description.facts).unwrap_or_default();
            let mut marks = Vec::with_capacity(shown.len());
            for (mark, found) in shown.iter().zip(find(&shown, description, job)) {
                let (path, target) = match found {
                    Some(Found::Path(path)) => (path, 0),
                    Some(Found::Object(object)) => (Vec::new(), object),
                    None => {
                        let (group, what) = (job.name(description), name_of(mark));
                        return Err(Error::Failed(format!("{group}: {what} was not found")));
                    }
                };
                let on = match mark.object {
                    Marked::Mount(_) => On::Mount,
                    Marked::FileSystem(_) => On::FileSystem,
                    _ => On::Inode,
                };
                marks.push(Mark {
                    on: on.into(),
                    flags: mark.flags,
                    mask: mark.mask,
                    ignored: mark.ignored,
                    path,
                    target,
                });
            }
            collection.put(&Group {
                object: description.object,
                flags: description.facts.flags(),
                group_flags: flags,
                event_flags,
                marks,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let groups = records.all::<Group>()?;
        if groups.is_empty() {
            return Ok(());
        }
        let holders = holders(records)?;
        let own = ProcessDirectory::open(std::process::id() as i32)?;
        let mounts: Vec<Vec<u8>> = own
            .mountinfo()?
            .into_iter()
            .map(|mount| mount.mount_point)
            .collect();
        for group in groups {
            if group.marks.iter().any(|mark| mark.mask & PERMISSION != 0) {
                return Err(Error::Failed(
                    "the image is damaged: it has a fanotify mark that decides on accesses".into(),
                ));
            }
            let (process, number) = holders.get(&group.object).copied().unwrap_or_default();
            if let Err((reason, remedy)) = check(&group, &mounts) {
                let object = format!("descriptor {number}, a fanotify group");
                plan.refusals.add((process, ""), object, reason, remedy);
            }
            let (files, others) =
                (group.marks.iter().cloned()).partition(|mark| mark.on() == On::Inode);
            let (object, at) = (group.object, (process, number));
            plan.step(Stage::Objects, 0, Make { group });
            let add = |marks, at| AddMarks { object, marks, at };
            plan.step(Stage::Attach, process, add(others, Some(at)));
            plan.step(Stage::Restrict, process, add(files, None));
        }
        Ok(())
    }
}

/// Whether a group like this can be had here; a trial group, without marks, goes at once. Reason and remedy where not.
fn check(group: &Group, mounts: &[Vec<u8>]) -> std::result::Result<(), (String, &'static str)> {
    watch::fanotify(group.group_flags | CLOSE_ON_EXEC, group.event_flags)
        .map_err(|error| (format!("none can be made: {error}"), "restart as root"))?;
    let kernel_wide = |mark: &&Mark| mark.on() != On::Inode;
    let privileged = cryonaut_sys::spawn::effective_capabilities().unwrap_or(0) & 1 << 21 != 0;
    if !privileged && group.marks.iter().any(|mark| kernel_wide(&mark)) {
        let reason = "marks on mounts and file systems need CAP_SYS_ADMIN".into();
        return Err((reason, "restart as root"));
    }
    for mark in group.marks.iter().filter(|mark| !mark.path.is_empty()) {
        let path = printable(&mark.path);
        if std::fs::symlink_metadata(path_of(&mark.path)).is_err() {
            return Err((
                format!("{path}, which is marked, is not there"),
                "put it back in its place",
            ));
        }
        if mark.on() != On::Inode && !mounts.contains(&mark.path) {
            let reason = format!("a mount at {path} is marked, and nothing is mounted there");
            return Err((reason, "mount it again"));
        }
    }
    Ok(())
}

struct Make {
    group: Group,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make a fanotify group")
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let what = || "making a fanotify group".into();
        // Exactly these flags, which fdinfo shows for ever; that it closes at exec here is no flag of the group.
        let (flags, event_flags) = (self.group.group_flags, self.group.event_flags);
        let made = watch::fanotify(flags, event_flags).attempt(what)?;
        let close = libc::FD_CLOEXEC.into();
        descriptor::control(made.as_fd(), libc::F_SETFD, close).attempt(what)?;
        set_flags(made.as_fd(), self.group.flags).attempt(what)?;
        rebuild.objects.insert(self.group.object, made);
        Ok(())
    }
}

/// Adds marks.
struct AddMarks {
    /// The group.
    object: u64,
    marks: Vec<Mark>,
    /// The process that is to do it, and the descriptor's number there: mounts are those that the job sees. Files are marked from
    /// here, when nothing of the rebuild touches them any more.
    at: Option<(i32, i32)>,
}

impl fmt::Display for AddMarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = Count(self.marks.len(), "mark");
        write!(f, "add {count} to a fanotify group")
    }
}

impl Action for AddMarks {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        for mark in &self.marks {
            let what = || format!("marking {} by fanotify", printable(&mark.path));
            let link;
            let (path, follow) = if mark.path.is_empty() {
                let target = object(rebuild, mark.target)?.as_raw_fd();
                link = format!("/proc/self/fd/{target}");
                (link.as_bytes(), 0)
            } else {
                (mark.path.as_slice(), DO_NOT_FOLLOW)
            };
            let path = CString::new(path)
                .map_err(std::io::Error::from)
                .attempt(what)?;
            for (flags, mask) in calls(mark) {
                let flags = flags | mark.on().flag() | follow;
                let Some((process, number)) = self.at else {
                    let group = object(rebuild, self.object)?;
                    watch::fanotify_mark(group, flags, mask, &path).attempt(what)?;
                    continue;
                };
                let mut list = CallList::new();
                let path = list.bytes(path.as_bytes_with_nul());
                let arguments = [
                    number.into(),
                    u64::from(flags).into(),
                    mask.into(),
                    libc::AT_FDCWD.into(),
                    path.into(),
                ];
                let call = list.call(libc::SYS_fanotify_mark, &arguments);
                rebuild.run(process, &list)?.result(call).attempt(what)?;
            }
        }
        Ok(())
    }
}

/// The calls that make a mark: flags and mask of each.
fn calls(mark: &Mark) -> Vec<(u32, u64)> {
    let mut calls = Vec::new();
    if mark.mask != 0 {
        calls.push((ADD | mark.flags & EVICTABLE, mark.mask));
    }
    if mark.ignored != 0 {
        let kind = if mark.flags & IGNORE != 0 {
            IGNORE
        } else {
            IGNORED
        };
        let kept = mark.flags & (SURVIVES | EVICTABLE);
        calls.push((ADD | kind | kept, mark.ignored));
    }
    calls
}

const SUPPORT: &[Support] = &[
    Support {
        what: "fanotify: groups with marks on files, mounts and file systems, ignored events",
        level: Level::Restored,
        how: "what the kernel permits: most groups only as root; mounts by their mount points",
    },
    Support {
        what: "fanotify: permission events, events that wait to be read",
        level: Level::Refused,
        how: "who opens a file would wait for a program that stands still; events cannot be put back",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let mark = Mark {
            on: On::Mount.into(),
            flags: SURVIVES,
            mask: 0x20,
            ignored: 2,
            path: b"/".to_vec(),
            target: 0,
        };
        let group = Group {
            object: 3,
            flags: 2,
            group_flags: 0x10,
            event_flags: 0,
            marks: vec![mark],
        };
        records.push(&group).unwrap();
        assert_eq!(records.all::<Group>().unwrap(), [group]);
    }

    #[test]
    fn events_and_ignored_events_are_two_calls() {
        let mark = |flags, mask, ignored| Mark {
            flags,
            mask,
            ignored,
            ..Mark::default()
        };
        assert_eq!(calls(&mark(0, 0x20, 0)), [(ADD, 0x20)]);
        assert_eq!(
            calls(&mark(SURVIVES, 0, 2)),
            [(ADD | IGNORED | SURVIVES, 2)]
        );
        assert_eq!(
            calls(&mark(SURVIVES | IGNORE, 0x20, 2)),
            [(ADD, 0x20), (ADD | IGNORE | SURVIVES, 2)]
        );
    }

    #[test]
    fn a_mount_that_is_not_there_is_told() {
        let mark = Mark {
            on: On::Mount.into(),
            mask: 0x20,
            path: b"/proc".to_vec(),
            ..Mark::default()
        };
        let group = Group {
            marks: vec![mark],
            // FAN_REPORT_FID: anybody may have such a group.
            group_flags: 0x200,
            ..Group::default()
        };
        assert!(check(&group, &[]).is_err());
    }
}
