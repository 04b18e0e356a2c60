//! inotify(7): instances and their watches, with their numbers.
//!
//! fdinfo shows number, mask and inode of each watch; `watched` finds the path. Watches are added last of all, so that they
//! report nothing that the rebuild itself does. Events that wait to be read cannot be looked at without taking them, and nothing
//! puts them back: an instance with such events is refused. Not preserved: the number that the next new watch gets, which
//! follows the highest one; before Linux 5.19, IN_ONESHOT and IN_EXCL_UNLINK, which fdinfo does not show.

use std::ffi::CString;
use std::fmt;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::InotifyWatch;
use cryonaut_sys::{descriptor, watch};

use super::facts::{Description, FdFacts, Job, Motion};
use super::watched::{Found, Sought, seek};
use super::{Count, DescriptorKind, holders, object, path_of, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::memory::printable;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

/// How long a running program is given to read its events.
const PATIENCE: Duration = Duration::from_millis(200);
/// The bits of a mask that a watch keeps.
const KEPT: u32 = libc::IN_ALL_EVENTS | libc::IN_EXCL_UNLINK | libc::IN_ONESHOT;
/// As many watches are added and removed, at most, to reach a number on a kernel that takes no wish.
const MOST_STEPS: i32 = 100_000;

/// An inotify instance.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Instance {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// Its watches, by number.
    #[prost(message, repeated, tag = "3")]
    pub watches: Vec<Watch>,
}

/// One watch of an inotify instance.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Watch {
    /// Its number (the watch descriptor), at least 1.
    #[prost(int32, tag = "1")]
    pub number: i32,
    /// `IN_*` bits.
    #[prost(uint32, tag = "2")]
    pub mask: u32,
    /// The path of what is watched, as the process sees it; empty for what has none.
    #[prost(bytes = "vec", tag = "3")]
    pub path: Vec<u8>,
    /// For what has no path, an open file description of it.
    #[prost(uint64, tag = "4")]
    pub target: u64,
    /// The file type bits of its mode; 0 where that is not known.
    #[prost(uint32, tag = "5")]
    pub file_type: u32,
}

impl Record for Instance {
    const KIND: Kind = Kind {
        name: "file.inotify",
        version: 1,
    };
}

/// The kind.
pub(super) struct Instances;

impl DescriptorKind for Instances {
    fn kinds(&self) -> &'static [Kind] {
        const { &[Instance::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.is_anonymous("inotify")
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        let label = job.owner(description.first()).label();
        let waiting = waiting(description, job);
        if waiting > 0 {
            refusals.add(
                label,
                format!("{}, an inotify instance", job.name(description)),
                format!("{waiting} bytes of events wait to be read, which the kernel gives no way to put back"),
                "try again once the program has read them",
            );
        }
        let watches = &description.facts.info.inotify_watches;
        let found = seek(&sought(watches), description, job);
        for (watch, found) in watches.iter().zip(found) {
            if found.is_none() {
                refusals.add(
                    label,
                    format!("{}, an inotify instance", job.name(description)),
                    format!(
                        "watch {} is of inode {} on device {}:{}, for which no path was found",
                        watch.descriptor,
                        watch.inode,
                        watch.device >> 20,
                        watch.device & 0xf_ffff
                    ),
                    "checkpoint as root, who may ask most file systems for it; or move the file near those that the program has \
                     open; or have the program remove the watch, if the file is deleted",
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
            let shown = &description.facts.info.inotify_watches;
            let mut watches = Vec::with_capacity(shown.len());
            for (watch, found) in shown.iter().zip(seek(&sought(shown), description, job)) {
                watches.push(record(watch, found, description, job)?);
            }
            watches.sort_unstable_by_key(|watch| watch.number);
            collection.put(&Instance {
                object: description.object,
                flags: description.facts.flags(),
                watches,
            })?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let instances = records.all::<Instance>()?;
        if instances.is_empty() {
            return Ok(());
        }
        let holders = holders(records)?;
        let objects = instances.iter();
        let objects = objects.map(|instance| (instance.object, instance.flags));
        let objects = objects.collect();
        plan.step(Stage::Objects, 0, Make { objects });
        for instance in instances {
            let mut last = 0;
            for watch in &instance.watches {
                if watch.number <= last || watch.mask & libc::IN_ALL_EVENTS == 0 {
                    return Err(Error::Failed(
                        "the image is damaged: it has an impossible inotify watch".into(),
                    ));
                }
                last = watch.number;
            }
            let (process, number) = holders.get(&instance.object).copied().unwrap_or_default();
            if let Err((reason, remedy)) = try_here(&instance) {
                let object = format!("descriptor {number}, an inotify instance");
                plan.refusals.add((process, ""), object, reason, remedy);
            }
            if !instance.watches.is_empty() {
                plan.step(Stage::Restrict, process, Add { instance });
            }
        }
        Ok(())
    }
}

/// Bytes of events that wait to be read. A running program is given some time to read them.
pub(super) fn waiting(description: &Description, job: &Job<'_>) -> usize {
    // What has been closed meanwhile has no events any more.
    let Ok(copy) = job.copy(description) else {
        return 0;
    };
    let start = Instant::now();
    loop {
        let waiting = descriptor::readable_bytes(copy.as_fd()).unwrap_or(0);
        if waiting == 0 || job.motion == Motion::Frozen || start.elapsed() > PATIENCE {
            return waiting;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn sought(watches: &[InotifyWatch]) -> Vec<Sought> {
    let sought = |watch: &InotifyWatch| Sought {
        inode: watch.inode,
        device: watch.device,
        handle: watch.handle_type.map(|kind| (kind, watch.handle.clone())),
    };
    watches.iter().map(sought).collect()
}

fn record(
    watch: &InotifyWatch,
    found: Option<Found>,
    description: &Description,
    job: &Job<'_>,
) -> Result<Watch> {
    let mut record = Watch {
        number: watch.descriptor,
        mask: watch.mask & KEPT,
        ..Watch::default()
    };
    match found {
        Some(Found::Path(path)) => {
            let reached = job.owner(description.first()).reach(&path);
            let metadata = std::fs::symlink_metadata(reached);
            record.file_type = metadata.map_or(0, |file| file.mode() & libc::S_IFMT);
            record.path = path;
        }
        Some(Found::Object(object)) => record.target = object,
        None => {
            return Err(Error::Failed(format!(
                "{}: what watch {} is of could not be found",
                job.name(description),
                watch.descriptor
            )));
        }
    }
    Ok(record)
}

/// Tries the watches of an instance that have paths in an instance of its own, which goes at once; gives reason and remedy where
/// they cannot be had here.
fn try_here(instance: &Instance) -> std::result::Result<(), (String, &'static str)> {
    let too_many = "close other programs that watch files, or raise fs.inotify.max_user_instances and max_user_watches";
    let trial =
        watch::inotify().map_err(|error| (format!("none can be made: {error}"), too_many))?;
    let highest = instance.watches.last().map_or(0, |watch| watch.number);
    if highest > MOST_STEPS && watch::set_next_watch(trial.as_fd(), highest).is_err() {
        return Err((
            format!("this kernel does not let a watch have the number {highest}"),
            "restart on a kernel with CONFIG_CHECKPOINT_RESTORE",
        ));
    }
    for wanted in instance
        .watches
        .iter()
        .filter(|watch| !watch.path.is_empty())
    {
        let path = printable(&wanted.path);
        let there = std::fs::symlink_metadata(path_of(&wanted.path));
        match there {
            Err(error) => {
                let reason = format!("{path}, which it watches, is not there: {error}");
                return Err((reason, "put it back in its place"));
            }
            Ok(there)
                if wanted.file_type != 0 && there.mode() & libc::S_IFMT != wanted.file_type =>
            {
                let reason = format!("{path}, which it watches, is of another type now");
                return Err((reason, "put it back in its place"));
            }
            Ok(_) => {}
        }
        add(trial.as_fd(), wanted).map_err(|error| {
            let remedy = match error.raw_os_error() {
                Some(libc::ENOSPC) => too_many,
                _ => "restart as a user who may read it",
            };
            (format!("{path} cannot be watched: {error}"), remedy)
        })?;
    }
    Ok(())
}

/// Adds a watch of a path; gives the number that it got.
fn add(instance: BorrowedFd<'_>, wanted: &Watch) -> std::io::Result<i32> {
    let path = CString::new(wanted.path.clone())?;
    watch::add_watch(instance, &path, wanted.mask | libc::IN_DONT_FOLLOW)
}

struct Make {
    objects: Vec<(u64, u32)>,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make {}", Count(self.objects.len(), "inotify instance"))
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        for &(object, flags) in &self.objects {
            let what = || "making an inotify instance".into();
            let made = watch::inotify().attempt(what)?;
            set_flags(made.as_fd(), flags).attempt(what)?;
            rebuild.objects.insert(object, made);
        }
        Ok(())
    }
}

/// Adds watches, when nothing of the rebuild touches files any more.
struct Add {
    instance: Instance,
}

impl fmt::Display for Add {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = Count(self.instance.watches.len(), "file");
        write!(f, "watch {count} by inotify")
    }
}

impl Action for Add {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let instance = object(rebuild, self.instance.object)?;
        let mut stepped = false;
        for wanted in &self.instance.watches {
            let what = || {
                let path = printable(&wanted.path);
                format!("watching {path} by inotify, number {}", wanted.number)
            };
            let link;
            let (path, mask) = if wanted.path.is_empty() {
                link = format!(
                    "/proc/self/fd/{}",
                    object(rebuild, wanted.target)?.as_raw_fd()
                );
                (link.as_bytes(), wanted.mask)
            } else {
                (wanted.path.as_slice(), wanted.mask | libc::IN_DONT_FOLLOW)
            };
            let path = CString::new(path)
                .map_err(std::io::Error::from)
                .attempt(what)?;
            let wished = watch::set_next_watch(instance, wanted.number).is_ok();
            let mut steps = 0;
            loop {
                let number = watch::add_watch(instance, &path, mask).attempt(what)?;
                if number == wanted.number {
                    break;
                }
                // A kernel that takes no wish counts up.
                watch::remove_watch(instance, number).attempt(what)?;
                stepped = true;
                steps += 1;
                if wished || number > wanted.number || steps > MOST_STEPS {
                    let text = format!("{}: it became number {number}", what());
                    return Err(Error::Failed(text));
                }
            }
        }
        if stepped {
            drain(instance).attempt(|| "emptying an inotify instance".into())?;
        }
        Ok(())
    }
}

/// Takes the reports of watches that were removed on the way.
fn drain(instance: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut file = std::fs::File::from(instance.try_clone_to_owned()?);
    let mut buffer = [0; 65_536];
    while descriptor::readable_bytes(instance)? > 0 {
        if file.read(&mut buffer)? == 0 {
            break;
        }
    }
    Ok(())
}

const SUPPORT: &[Support] = &[
    Support {
        what: "inotify: watches with their numbers and masks, also of files that were renamed",
        level: Level::Restored,
        how: "by the path that the file has at the checkpoint; IN_ONESHOT and IN_EXCL_UNLINK from Linux 5.19 on",
    },
    Support {
        what: "inotify: events that wait to be read",
        level: Level::Refused,
        how: "they cannot be put back; try again once the program has read them",
    },
    Support {
        what: "inotify: watches of files whose path cannot be found (deleted, or far from what the job works with)",
        level: Level::Refused,
        how: "root may ask the file system; others search for two seconds, and do not list directories that the job would hear of",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn watch_of(number: i32, path: &str) -> Watch {
        Watch {
            number,
            mask: libc::IN_CREATE,
            path: path.as_bytes().to_vec(),
            target: 0,
            file_type: libc::S_IFDIR,
        }
    }

    #[test]
    fn an_instance_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let instance = Instance {
            object: 3,
            flags: libc::O_NONBLOCK as u32,
            watches: vec![watch_of(7, "/tmp")],
        };
        records.push(&instance).unwrap();
        assert_eq!(records.all::<Instance>().unwrap(), [instance]);
    }

    #[test]
    fn what_cannot_be_watched_here_is_told() {
        let instance = |watches| Instance {
            object: 3,
            flags: 0,
            watches,
        };
        assert_eq!(try_here(&instance(vec![watch_of(7, "/proc")])), Ok(()));
        let gone = try_here(&instance(vec![watch_of(7, "/nonexistent")]));
        assert!(gone.unwrap_err().0.contains("is not there"));
        let other = try_here(&instance(vec![watch_of(7, "/proc/version")]));
        assert!(other.unwrap_err().0.contains("another type"));
    }

    #[test]
    fn numbers_only_grow() {
        let mut records = RecordSet::new();
        records
            .push(&Instance {
                object: 3,
                flags: 0,
                watches: vec![watch_of(7, "/proc"), watch_of(7, "/")],
            })
            .unwrap();
        let host = crate::resource::file::tests::host();
        let planned = Instances.plan(&records, &host, &mut Plan::default());
        assert!(planned.is_err());
    }
}
