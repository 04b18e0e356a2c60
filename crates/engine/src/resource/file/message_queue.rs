//! POSIX message queues (mq_overview(7)) that the job has open: limits, messages, names.
//!
//! A descriptor of a queue is one of a file on the file system mqueue, of which every IPC namespace has its own; its name is what
//! /proc/PID/fd shows. Opened again through /proc, which works without a name as well, it tells its limits, and reading it whether
//! somebody is to be told of messages (mq_notify(3)). The messages can only be taken out and put back (see `keeper`). A restart makes
//! the queues in the IPC namespace that it makes for the job. Not preserved: times; the path by which a queue was opened that was
//! opened as a file.

mod keeper;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{File, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::message_queue::{self, Attributes};
use cryonaut_sys::pidfd;
use cryonaut_tracee::CallList;

use super::facts::{Description, FdFacts, Job};
use super::{DescriptorKind, reopen, set_flags};
use crate::checkpoint::Tracer;
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::resource::memory::{device_number, printable};
use crate::resource::system_v;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

use keeper::Subject;

/// A POSIX message queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PosixQueue {
    /// Its name, without the slash before it.
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// Whether the name has been removed (mq_unlink(3)).
    #[prost(bool, tag = "2")]
    pub unlinked: bool,
    /// Permission bits.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Its owner.
    #[prost(uint32, tag = "4")]
    pub user: u32,
    /// Its group.
    #[prost(uint32, tag = "5")]
    pub group: u32,
    /// How many messages it may hold (`mq_maxmsg`), at most 65536.
    #[prost(uint64, tag = "6")]
    pub capacity: u64,
    /// How long one may be in bytes (`mq_msgsize`), at most 16 MiB.
    #[prost(uint64, tag = "7")]
    pub longest: u64,
    /// What is in it, the next to be received first.
    #[prost(message, repeated, tag = "8")]
    pub messages: Vec<Message>,
    /// The open file descriptions.
    #[prost(message, repeated, tag = "9")]
    pub openings: Vec<Opening>,
}

/// A message of a queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// Its priority, less than 32768.
    #[prost(uint32, tag = "1")]
    pub priority: u32,
    /// Its text.
    #[prost(bytes = "vec", tag = "2")]
    pub text: Vec<u8>,
}

/// An open file description of a queue.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Opening {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
}

impl Record for PosixQueue {
    const KIND: Kind = Kind {
        name: "file.message-queue",
        version: 1,
    };
}

impl PosixQueue {
    fn attributes(&self) -> Attributes {
        Attributes {
            capacity: self.capacity,
            longest: self.longest,
            messages: self.messages.len() as u64,
        }
    }

    /// Whether the kernel would have it.
    fn makes_sense(&self) -> bool {
        let name = &self.name;
        let named = (1..=255).contains(&name.len())
            && !name.iter().any(|byte| [0, b'/'].contains(byte))
            && !matches!(&name[..], b"." | b"..");
        let order = self
            .messages
            .is_sorted_by(|first, second| first.priority >= second.priority);
        let fits = |message: &Message| {
            message.priority < message_queue::PRIORITIES
                && message.text.len() as u64 <= self.longest
        };
        named
            && (1..=message_queue::MOST_MESSAGES).contains(&self.capacity)
            && (1..=message_queue::LONGEST_MESSAGE).contains(&self.longest)
            && self.messages.len() as u64 <= self.capacity
            && order
            && self.messages.iter().all(fits)
    }
}

/// What an IPC namespace must allow for the queues of these records: names of limits below /proc/sys, and values. Those that a fresh
/// one has are left out. Empty, but there, when usual limits do; none when there are no queues.
///
/// # Errors
/// When the records are damaged.
pub(crate) fn demands(records: &RecordSet) -> Result<Option<Vec<(&'static str, u64)>>> {
    let queues = records.all::<PosixQueue>()?;
    if queues.is_empty() {
        return Ok(None);
    }
    let greatest = |of: fn(&PosixQueue) -> u64| queues.iter().map(of).max().unwrap_or(0);
    // `DFLT_QUEUESMAX`, `DFLT_MSGMAX` and `DFLT_MSGSIZEMAX` (include/linux/ipc_namespace.h).
    let wanted = [
        ("fs/mqueue/queues_max", queues.len() as u64, 256),
        ("fs/mqueue/msg_max", greatest(|queue| queue.capacity), 10),
        (
            "fs/mqueue/msgsize_max",
            greatest(|queue| queue.longest),
            8192,
        ),
    ];
    let unusual = wanted.iter().filter(|(_, wanted, usual)| wanted > usual);
    Ok(Some(
        unusual.map(|(name, wanted, _)| (*name, *wanted)).collect(),
    ))
}

/// The kind.
pub(super) struct MessageQueues;

impl DescriptorKind for MessageQueues {
    fn kinds(&self) -> &'static [Kind] {
        const { &[PosixQueue::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        facts.queue && !facts.is_place()
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        let mut all = job.descriptions.iter();
        let of_this_file = |other: &&Description| {
            self.claims(&other.facts) && other.facts.file == description.facts.file
        };
        // Once for each queue.
        if all.find(of_this_file).map(|first| first.object) != Some(description.object) {
            return;
        }
        // One that closes meanwhile is no matter any more.
        if job.copy(description).is_err() {
            return;
        }
        if let Some((reason, remedy)) = hindrance(description, job) {
            refusals.add(
                job.owner(description.first()).label(),
                format!("{}, a POSIX message queue", job.name(description)),
                reason,
                remedy,
            );
        }
    }

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        let mut files: BTreeMap<(u64, u64), Vec<&Description>> = BTreeMap::new();
        for &description in descriptions {
            let file = description.facts.file;
            files.entry(file).or_default().push(description);
        }
        let mut records = Vec::new();
        let mut subjects = Vec::new();
        for openings in files.into_values() {
            let what = || format!("reading {}", job.name(openings[0]));
            let sides = Sides::of(openings[0], job).attempt(what)?;
            let (record, subject) = state_of(sides, &openings).attempt(what)?;
            records.push(record);
            subjects.push(subject);
        }
        if subjects
            .iter()
            .any(|subject| subject.attributes.messages > 0)
        {
            // Messages that are out for a moment must not be missed by a job that was let go because its tracer was killed.
            if job.tracer == Tracer::Named {
                return Err(Error::NeedsProcessApart);
            }
            for (record, messages) in records.iter_mut().zip(keeper::look(&subjects)?) {
                record.messages = messages;
            }
        }
        records.iter().try_for_each(|record| collection.put(record))
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let mut names = BTreeSet::new();
        let mut queues = records.all::<PosixQueue>()?;
        // Those without a name have it for a moment.
        queues.sort_by_key(|queue| !queue.unlinked);
        for queue in queues {
            if !queue.makes_sense() || !queue.unlinked && !names.insert(queue.name.clone()) {
                return Err(Error::Failed(
                    "the image is damaged: a POSIX message queue makes no sense".into(),
                ));
            }
            let needs = vec![Token::Process(0), system_v::NAMESPACE];
            plan.linked_step(Stage::Objects, 0, needs, Vec::new(), Make { queue });
        }
        Ok(())
    }
}

/// Descriptions of a queue.
struct Sides {
    /// It can be read by this one.
    reader: OwnedFd,
    /// It can be written to by this one.
    writer: OwnedFd,
}

impl Sides {
    /// Fresh ones, or the job's own where its owner must not open it any more.
    fn of(description: &Description, job: &Job<'_>) -> std::io::Result<Self> {
        let copy = |one: &Description| job.copy(one).map_err(std::io::Error::other);
        let first = copy(description)?;
        let side = |access: i32, may: fn(&FdFacts) -> bool| {
            let fresh = reopen(first.as_fd(), (access | libc::O_NONBLOCK) as u32);
            fresh.or_else(|error| {
                let mut all = job.descriptions.iter();
                let able = all.find(|other| {
                    MessageQueues.claims(&other.facts)
                        && other.facts.file == description.facts.file
                        && may(&other.facts)
                });
                able.map_or(Err(error), copy)
            })
        };
        Ok(Self {
            reader: side(libc::O_RDONLY, FdFacts::reads)?,
            writer: side(libc::O_WRONLY, FdFacts::writes)?,
        })
    }
}

/// The name of a queue, as its link shows it.
fn name_of(facts: &FdFacts) -> &[u8] {
    let link = match facts.names {
        0 => facts.deleted_path().unwrap_or(&facts.link),
        _ => &facts.link,
    };
    link.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Everything but the messages.
fn state_of(sides: Sides, openings: &[&Description]) -> std::io::Result<(PosixQueue, Subject)> {
    let attributes = message_queue::attributes(sides.reader.as_fd())?;
    let file = File::from(sides.reader);
    let metadata = file.metadata()?;
    let record = PosixQueue {
        name: name_of(&openings[0].facts).to_vec(),
        unlinked: metadata.nlink() == 0,
        mode: metadata.mode() & 0o7777,
        user: metadata.uid(),
        group: metadata.gid(),
        capacity: attributes.capacity,
        longest: attributes.longest,
        messages: Vec::new(),
        openings: openings
            .iter()
            .map(|opening| Opening {
                object: opening.object,
                flags: opening.facts.flags(),
            })
            .collect(),
    };
    let subject = Subject {
        reader: file.into(),
        writer: sides.writer,
        attributes,
    };
    Ok((record, subject))
}

/// Why a queue cannot be saved, and what to do.
fn hindrance(description: &Description, job: &Job<'_>) -> Option<(String, &'static str)> {
    let queue = match Sides::of(description, job) {
        Ok(sides) => File::from(sides.reader),
        Err(error) => {
            return Some((
                format!("its messages cannot be looked at: {error}"),
                "give its owner permission to read and write it, or checkpoint as root",
            ));
        }
    };
    if is_to_tell(&queue) {
        return Some((
            "a process is to be told of the next message (mq_notify), and the kernel shows nobody what else it is to be told"
                .into(),
            "withdraw that before the checkpoint (mq_notify with NULL), or have the program wait with poll or mq_receive",
        ));
    }
    let (pid, name) = outsider(description, job)?;
    Some((
        format!(
            "process {pid} ({name}), outside of the job, has it open too, and could miss or reorder messages"
        ),
        "checkpoint both together, or have the other close it",
    ))
}

/// Whether somebody asked to be told of messages (mq_overview(7): QSIZE, NOTIFY, SIGNO, NOTIFY_PID).
fn is_to_tell(queue: &File) -> bool {
    let mut text = [0; 128];
    let length = queue.read_at(&mut text, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..length]);
    let mut fields = text
        .split_whitespace()
        .filter_map(|field| field.split_once(':'));
    // All are 0 where nobody did.
    length == 0 || fields.any(|(name, value)| name != "QSIZE" && value != "0")
}

/// A process outside the job that has the queue open, among those that may be looked at.
fn outsider(description: &Description, job: &Job<'_>) -> Option<(i32, String)> {
    let name = name_of(&description.facts);
    let own = std::process::id() as i32;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name();
        let pid: Option<i32> = pid.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| *pid != own && !job.members.contains_key(pid)) else {
            continue;
        };
        let descriptors = std::fs::read_dir(entry.path().join("fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            // What cannot be the queue is known by its link alone.
            let link = std::fs::read_link(descriptor.path()).unwrap_or_default();
            let link = link.as_os_str().as_bytes();
            if !link.starts_with(b"/") || !link.windows(name.len()).any(|part| part == name) {
                continue;
            }
            let file = std::fs::metadata(descriptor.path());
            let is_it = |file: std::fs::Metadata| {
                (device_number(file.dev()), file.ino()) == description.facts.file
            };
            if file.is_ok_and(is_it) {
                let name = std::fs::read(entry.path().join("comm")).unwrap_or_default();
                return Some((pid, printable(name.trim_ascii_end())));
            }
        }
    }
    None
}

/// Makes a queue, opens it as often as the job had, and puts its messages into it.
struct Make {
    queue: PosixQueue,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "make the message queue /{} with {} messages",
            printable(&self.queue.name),
            self.queue.messages.len()
        )
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let queue = &self.queue;
        let what = || format!("making the message queue /{}", printable(&queue.name));
        let mut opened = self.open(rebuild)?.into_iter();
        let Some(own) = opened.next().map(File::from) else {
            return Ok(());
        };
        for message in &queue.messages {
            message_queue::send(own.as_fd(), &message.text, message.priority).attempt(what)?;
        }
        for (opening, opened) in queue.openings.iter().zip(opened) {
            set_flags(opened.as_fd(), opening.flags).attempt(what)?;
            rebuild.objects.insert(opening.object, opened);
        }
        let made = own.metadata().attempt(what)?;
        if (made.uid(), made.gid()) != (queue.user, queue.group) {
            // An owner that this user cannot give it is left out: it is theirs then.
            let _ = std::os::unix::fs::fchown(&own, Some(queue.user), Some(queue.group));
        }
        own.set_permissions(Permissions::from_mode(queue.mode & 0o7777))
            .attempt(what)
    }
}

impl Make {
    /// Makes it in the progenitor, whose IPC namespace is the job's, and opens it there: once for us, and as the job had it.
    fn open(&self, rebuild: &Rebuild<'_>) -> Result<Vec<OwnedFd>> {
        let queue = &self.queue;
        let what = || {
            format!(
                "making the message queue /{} (fs.mqueue.*, ulimit -q)",
                printable(&queue.name)
            )
        };
        let mut list = CallList::new();
        let name = list.path(&queue.name);
        let limits = list.bytes(&queue.attributes().to_bytes());
        let common = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let flags = common | libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let arguments = [name.into(), flags.into(), 0o600.into(), limits.into()];
        let mut calls = vec![list.call(libc::SYS_mq_open, &arguments)];
        for opening in &queue.openings {
            let access = opening.flags as i32 & cryonaut_sys::uapi::O_ACCMODE;
            let arguments = [name.into(), (common | access).into(), 0.into(), 0.into()];
            calls.push(list.call(libc::SYS_mq_open, &arguments));
        }
        if queue.unlinked {
            calls.push(list.call(libc::SYS_mq_unlink, &[name.into()]));
        }
        let outcomes = rebuild.run(0, &list)?;
        let mut numbers = Vec::new();
        for call in calls {
            numbers.push(outcomes.result(call).attempt(what)?);
        }
        numbers.truncate(1 + queue.openings.len());
        let progenitor = pidfd::open(rebuild.built(0)?.pid).attempt(what)?;
        let mut closing = CallList::new();
        let mut opened = Vec::new();
        for number in numbers {
            opened.push(pidfd::get_descriptor(progenitor.as_fd(), number as i32).attempt(what)?);
            closing.call(libc::SYS_close, &[number.into()]);
        }
        rebuild.run(0, &closing)?;
        Ok(opened)
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "POSIX message queues that the job has open, also without a name (mq_unlink)",
        level: Level::Restored,
        how: "with names, limits, modes and messages in their order, in an IPC namespace of the job's own; waiting calls go on. One \
              that a process outside has open too is a refusal, and so is one of which a process is to be told (mq_notify): the \
              kernel does not show the value that it is to be told",
    },
    Support {
        what: "POSIX message queues that nobody has open",
        level: Level::Refused,
        how: "in an IPC namespace of the job's own, where they are its; in one that it shares with others they stay behind where the \
              job was. Keep a queue open that is to be kept",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> PosixQueue {
        let message = |priority| Message {
            priority,
            text: vec![priority as u8; 3],
        };
        PosixQueue {
            name: b"queue".to_vec(),
            unlinked: false,
            mode: 0o640,
            user: 1000,
            group: 100,
            capacity: 3,
            longest: 8193,
            messages: vec![message(32767), message(2), message(2)],
            openings: vec![Opening {
                object: 7,
                flags: 0o4002,
            }],
        }
    }

    /// What others plan.
    struct Begin;

    impl fmt::Display for Begin {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "begin")
        }
    }

    impl Action for Begin {
        fn perform(&self, _rebuild: &mut Rebuild<'_>) -> Result<()> {
            Ok(())
        }
    }

    fn planned(queues: &[PosixQueue]) -> Result<String> {
        let mut records = RecordSet::new();
        for queue in queues {
            records.push(queue).unwrap();
        }
        let mut plan = Plan::default();
        let gives = vec![Token::Process(0), system_v::NAMESPACE];
        plan.linked_step(Stage::Objects, 0, Vec::new(), gives, Begin);
        MessageQueues.plan(&records, &super::super::tests::host(), &mut plan)?;
        let steps = plan.ordered()?;
        Ok(steps.iter().map(|step| format!("{step}\n")).collect())
    }

    #[test]
    fn a_queue_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        assert_eq!(demands(&records).unwrap(), None);
        records.push(&queue()).unwrap();
        assert_eq!(records.all::<PosixQueue>().unwrap(), [queue()]);
        let demands = demands(&records).unwrap().unwrap();
        assert_eq!(demands, [("fs/mqueue/msgsize_max", 8193)]);
    }

    #[test]
    fn those_without_a_name_are_made_first() {
        let unlinked = PosixQueue {
            unlinked: true,
            messages: Vec::new(),
            ..queue()
        };
        let plan = planned(&[queue(), unlinked.clone(), unlinked]).unwrap();
        let with: Vec<bool> = plan
            .lines()
            .skip(1)
            .map(|line| line.contains("3 messages"))
            .collect();
        assert_eq!(with, [false, false, true]);
    }

    #[test]
    fn queues_that_the_kernel_would_not_have_are_damage() {
        type Damage = fn(&mut PosixQueue);
        let damages: [Damage; 11] = [
            |queue| queue.name.clear(),
            |queue| queue.name = b"..".to_vec(),
            |queue| queue.name = b"../../etc/passwd".to_vec(),
            |queue| queue.name = b"a\0b".to_vec(),
            |queue| queue.name = vec![b'a'; 256],
            |queue| queue.capacity = 2,
            |queue| queue.capacity = u64::MAX,
            |queue| queue.longest = 2,
            |queue| queue.longest = u64::MAX,
            |queue| queue.messages[0].priority = 32768,
            |queue| queue.messages.reverse(),
        ];
        assert!(planned(&[queue()]).is_ok());
        assert!(planned(&[queue(), queue()]).is_err());
        for (number, damage) in damages.iter().enumerate() {
            let mut damaged = queue();
            damage(&mut damaged);
            assert!(planned(&[damaged]).is_err(), "damage {number}");
        }
    }
}
