//! Pipes that lead out of the job and are no standard stream: the image states them by name, and a restart is given something
//! to put in their place.
//!
//! A pipe's name is what /proc/PID/fd shows, `pipe:[17]`. What is in flight towards the job is saved, and read before anything
//! that the new source has; what is in flight out of the job is its reader's already. Who holds the other end is looked up while
//! the job runs, for messages only. Not preserved: size and flags of the old pipe, unless there was something in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::descriptor;

use super::facts::{Description, FdFacts, Job, Motion, Peer};
use super::pipe::{End, Queue, queue_of};
use super::{DescriptorKind, holders, set_flags};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::feeder;
use crate::host::{Host, Inherited};
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::memory::printable;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

/// How long the machine's processes are searched for those that hold a pipe.
const LOOKING: Duration = Duration::from_millis(100);

/// An end of a pipe whose other end lies outside the job.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExternalEnd {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags; the access mode tells which end it is.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// The pipe's name: what /proc/PID/fd shows. Ends of one pipe have the same.
    #[prost(bytes = "vec", tag = "3")]
    pub name: Vec<u8>,
    /// What the job had not read yet, at the pipe's first reading end.
    #[prost(message, optional, tag = "4")]
    pub queue: Option<Queue>,
    /// Who outside the job held the pipe, where that was seen, for messages.
    #[prost(string, tag = "5")]
    pub outsider: String,
}

impl Record for ExternalEnd {
    const KIND: Kind = Kind {
        name: "file.external-pipe",
        version: 1,
    };
}

impl ExternalEnd {
    /// Whether it can be read from.
    pub fn reads(&self) -> bool {
        self.end().reads()
    }

    fn end(&self) -> End {
        End {
            object: self.object,
            flags: self.flags,
        }
    }
}

/// What the user should know of the external pipes of an image that was just made: what a restart will ask for.
///
/// # Errors
/// When the records are damaged.
pub fn remarks(records: &RecordSet) -> Result<Vec<String>> {
    let holders = holders(records)?;
    let mut remarks = Vec::new();
    for (name, ends) in by_name(records)? {
        let (process, number) = holders.get(&ends[0].object).copied().unwrap_or_default();
        remarks.push(format!(
            "descriptor {number} of process {process} is an end of {name}, {}: a restart needs --inherit-fd '{name}=FD'",
            other_side(&ends)
        ));
    }
    Ok(remarks)
}

fn by_name(records: &RecordSet) -> Result<BTreeMap<String, Vec<ExternalEnd>>> {
    let mut pipes: BTreeMap<String, Vec<ExternalEnd>> = BTreeMap::new();
    for end in records.all::<ExternalEnd>()? {
        pipes.entry(printable(&end.name)).or_default().push(end);
    }
    Ok(pipes)
}

/// What lay at the other side of an external pipe, in words.
fn other_side(ends: &[ExternalEnd]) -> String {
    let what = if ends[0].reads() { "written" } else { "read" };
    let mut by = ends.iter().map(|end| end.outsider.as_str());
    let by = by.find(|text| !text.is_empty());
    format!("{what} by {}, outside the job", by.unwrap_or("a process"))
}

/// The processes outside the job that hold its pipes, by the pipe's name, as they were seen while it ran.
static OUTSIDERS: Mutex<BTreeMap<Vec<u8>, String>> = Mutex::new(BTreeMap::new());

/// Who outside the job holds a pipe, if somebody was seen.
pub(super) fn outsider(name: &[u8]) -> Option<String> {
    OUTSIDERS.lock().ok()?.get(name).cloned()
}

/// Looks for processes outside a running job that hold its pipes; for a bounded time, and only among those that may be looked at.
pub(super) fn look_for_outsiders(job: &Job<'_>) {
    let pipes = job.descriptions.iter();
    let pipes = pipes.filter(|description| description.facts.is_pipe());
    let wanted: BTreeSet<&[u8]> = pipes.map(|pipe| pipe.facts.link.as_slice()).collect();
    let Ok(mut outsiders) = OUTSIDERS.lock() else {
        return;
    };
    if job.motion == Motion::Frozen || wanted.is_empty() {
        return;
    }
    outsiders.clear();
    let until = Instant::now() + LOOKING;
    let own = std::process::id() as i32;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid: Option<i32> = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| *pid != own && !job.members.contains_key(pid)) else {
            continue;
        };
        if Instant::now() > until {
            return;
        }
        let descriptors = std::fs::read_dir(entry.path().join("fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let Ok(link) = std::fs::read_link(descriptor.path()) else {
                continue;
            };
            let link = link.into_os_string().into_vec();
            if wanted.contains(link.as_slice()) {
                let name = std::fs::read(entry.path().join("comm")).unwrap_or_default();
                let name = printable(name.trim_ascii_end());
                outsiders.insert(link, format!("process {pid} ({name})"));
            }
        }
    }
}

/// The kind.
pub(super) struct ExternalPipes;

impl DescriptorKind for ExternalPipes {
    fn kinds(&self) -> &'static [Kind] {
        const { &[ExternalEnd::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.is_pipe() && !facts.is_place() && facts.peer == Peer::Outside
    }

    fn inspect(&self, _description: &Description, _job: &Job<'_>, _refusals: &mut Refusals) {}

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for (name, ends) in Job::by_link(descriptions) {
            let mut queue = in_flight(&ends, job)?;
            for end in ends {
                collection.put(&ExternalEnd {
                    object: end.object,
                    flags: end.facts.flags(),
                    name: name.to_vec(),
                    queue: if end.facts.reads() {
                        queue.take()
                    } else {
                        None
                    },
                    outsider: outsider(name).unwrap_or_default(),
                })?;
            }
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let pipes = by_name(records)?;
        let holders = holders(records)?;
        let given = host.inherited.clone();
        for (name, ends) in &pipes {
            let Some(given) = &given else {
                continue;
            };
            let (process, number) = holders.get(&ends[0].object).copied().unwrap_or_default();
            let object = format!("descriptor {number}, an end of {name}");
            match given.get(name) {
                None => plan.refusals.add(
                    (process, ""),
                    object,
                    format!("it was {}, and nothing is given for it", other_side(ends)),
                    format!("say what takes its place: --inherit-fd '{name}=FD', or a file, '{name}=FILE'"),
                ),
                Some(given) => {
                    if let Err(reason) = given.check(ends[0].reads()) {
                        let remedy = "give something else";
                        plan.refusals.add((process, ""), object, reason, remedy);
                    }
                }
            }
        }
        let given = given.unwrap_or_default();
        for name in given.keys().filter(|name| !pipes.contains_key(*name)) {
            plan.refusals.add_for_job(
                format!("--inherit-fd for {name}"),
                "the image has no external pipe of this name",
                "`cryo show` names those that it has",
            );
        }
        for (name, ends) in pipes {
            let given = given.clone();
            plan.step(Stage::Objects, 0, Take { name, ends, given });
        }
        Ok(())
    }
}

/// What is in flight towards the job in a pipe with these ends; none where there is nothing.
pub(super) fn in_flight(ends: &[&Description], job: &Job<'_>) -> Result<Option<Queue>> {
    if !ends.iter().any(|end| end.facts.reads()) {
        return Ok(None);
    }
    let queue = queue_of(ends, job)?;
    Ok((queue.length() > 0).then_some(queue))
}

/// Opens what is given by its path now, while all paths are the caller's, as the pipe in whose place it comes is used. What
/// cannot be opened is refused by the plan.
///
/// # Errors
/// When the records are damaged.
pub fn open_given(
    records: &RecordSet,
    given: BTreeMap<String, Inherited>,
) -> Result<BTreeMap<String, Inherited>> {
    let pipes = by_name(records)?;
    let opened = given.into_iter().map(|(name, source)| {
        let source = match (&source, pipes.get(&name)) {
            (Inherited::Path(path), Some(ends)) => match source.open(ends[0].reads()) {
                Ok(file) => Inherited::Descriptor(file.into()),
                Err(error) => {
                    let path = printable(path.as_os_str().as_bytes());
                    Inherited::Unusable(format!("{path}: {error}"))
                }
            },
            _ => source,
        };
        (name, source)
    });
    Ok(opened.collect())
}

impl Inherited {
    /// Whether it can take the place of an end that is read from, or of one that is written to.
    fn check(&self, reads: bool) -> std::result::Result<(), String> {
        match self {
            Inherited::Descriptor(file) => {
                let flags = descriptor::control(file.as_fd(), libc::F_GETFL, 0)
                    .map_err(|error| format!("what is given for it cannot be used: {error}"))?;
                let unfit = if reads {
                    libc::O_WRONLY
                } else {
                    libc::O_RDONLY
                };
                if flags as i32 & cryonaut_sys::uapi::O_ACCMODE == unfit {
                    let wanted = if reads { "read from" } else { "written to" };
                    return Err(format!("what is given for it cannot be {wanted}"));
                }
                Ok(())
            }
            Inherited::Unusable(reason) => Err(reason.clone()),
            Inherited::Path(path) => {
                // A file that is written to is made where there is none.
                let looked_at = match path.parent() {
                    Some(parent) if !reads && !path.exists() && parent != OsStr::new("") => parent,
                    _ if !reads && !path.exists() => return Ok(()),
                    _ => path,
                };
                std::fs::metadata(looked_at)
                    .map(drop)
                    .map_err(|error| format!("{}: {error}", printable(path.as_os_str().as_bytes())))
            }
        }
    }

    fn open(&self, reads: bool) -> std::io::Result<OwnedFd> {
        match self {
            Inherited::Descriptor(file) => file.as_fd().try_clone_to_owned(),
            Inherited::Unusable(reason) => Err(std::io::Error::other(reason.clone())),
            Inherited::Path(path) => {
                let mut options = File::options();
                // A FIFO must not keep the restart waiting.
                options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
                let file = if reads {
                    options.read(true).open(path)?
                } else {
                    options.append(true).create(true).open(path)?
                };
                let appends = if reads { 0 } else { libc::O_APPEND };
                set_flags(file.as_fd(), appends as u32)?;
                Ok(file.into())
            }
        }
    }
}

struct Take {
    name: String,
    ends: Vec<ExternalEnd>,
    given: Arc<BTreeMap<String, Inherited>>,
}

impl fmt::Display for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "take what is given for {}", self.name)?;
        let queue = self.ends.iter().find_map(|end| end.queue.as_ref());
        queue.map_or(Ok(()), |queue| write!(f, ", after {queue}"))
    }
}

impl Action for Take {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let what = || format!("taking what is given for {}", self.name);
        let given = self.given.get(&self.name);
        let given =
            given.ok_or_else(|| Error::Failed(format!("nothing is given for {}", self.name)))?;
        let taken = given.open(self.ends[0].reads()).attempt(what)?;
        let queue = self.ends.iter().find_map(|end| end.queue.as_ref());
        let taken = match queue {
            Some(queue) => fed(rebuild, taken, queue, self.ends[0].flags)?,
            None => taken,
        };
        for end in &self.ends {
            let copy = taken.try_clone().attempt(what)?;
            rebuild.objects.insert(end.object, copy);
        }
        Ok(())
    }
}

/// A pipe of the job's own with what was in flight, and after that what comes from `source`.
pub(super) fn fed(
    rebuild: &mut Rebuild<'_>,
    source: OwnedFd,
    queue: &Queue,
    flags: u32,
) -> Result<OwnedFd> {
    let what = || "making a pipe".into();
    let (reader, writer) = descriptor::pipe(libc::O_NONBLOCK).attempt(what)?;
    queue.fill(&writer)?;
    set_flags(writer.as_fd(), 0).attempt(what)?;
    set_flags(reader.as_fd(), flags).attempt(what)?;
    // Not before the commit: a restart that fails must not have taken anything from the source.
    rebuild
        .after_commit
        .push(Box::new(move || feeder::start(&source, &writer)));
    Ok(reader)
}

const SUPPORT: &[Support] = &[Support {
    what: "Pipes to processes outside the job",
    level: Level::Partly,
    how: "the image names them; a restart puts in their place what --inherit-fd gives, after what was in flight to the job",
}];

#[cfg(test)]
mod tests {
    use super::*;

    fn end(reads: bool) -> ExternalEnd {
        ExternalEnd {
            object: 3,
            flags: u32::from(!reads),
            name: b"pipe:[17]".to_vec(),
            queue: None,
            outsider: "process 5 (cat)".into(),
        }
    }

    #[test]
    fn an_end_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        records.push(&end(true)).unwrap();
        assert_eq!(records.all::<ExternalEnd>().unwrap(), [end(true)]);
    }

    #[test]
    fn what_is_missing_unfit_or_unknown_is_refused_at_once() {
        let mut records = RecordSet::new();
        records.push(&end(true)).unwrap();
        let mut host = crate::resource::file::tests::host();
        let refusals = |host: &Host| {
            let mut plan = Plan::default();
            ExternalPipes.plan(&records, host, &mut plan).unwrap();
            plan.refusals.list().to_vec()
        };
        let missing = refusals(&host);
        assert_eq!(missing.len(), 1);
        assert!(missing[0].reason.contains("written by process 5 (cat)"));
        assert!(missing[0].remedy.contains("--inherit-fd 'pipe:[17]=FD'"));
        let (reader, writer) = descriptor::pipe(0).unwrap();
        let mut give = |name: &str, fd: OwnedFd| {
            let given = Inherited::Descriptor(fd.into());
            host.inherited = Some(Arc::new(BTreeMap::from([(name.to_owned(), given)])));
            refusals(&host)
        };
        let unfit = give("pipe:[17]", writer.try_clone().unwrap());
        assert!(unfit[0].reason.contains("cannot be read from"));
        assert_eq!(give("pipe:[18]", writer).len(), 2);
        assert_eq!(give("pipe:[17]", reader), []);
        host.inherited = None;
        assert_eq!(refusals(&host), []);
    }
}
