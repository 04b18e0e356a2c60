//! Process descriptors (pidfd_open(2)): of processes and threads of the job, zombies included, and of processes that are gone.
//!
//! fdinfo shows the pid, -1 once the process is gone; the inode number tells processes apart that are gone, and
//! PIDFD_GET_INFO (Linux 6.15) how they ended. A descriptor of a process of the job is opened anew when that process is born
//! again, one of a thread when the thread is. For a process that is gone, one is started that ends at once in the same way. Not
//! preserved: whether a process that is gone left a core dump, extended attributes of the descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::AsFd;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::pidfd;

use super::facts::{Description, FdFacts, Job};
use super::{Count, DescriptorKind, DescriptorTable, SlotRecord, give_late};
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

/// The flags that pidfd_open(2) takes: PIDFD_NONBLOCK, PIDFD_THREAD (include/uapi/linux/pidfd.h).
const OPENING: u32 = (libc::O_NONBLOCK | libc::O_EXCL) as u32;

/// A process descriptor.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ProcessDescriptor {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags; `O_EXCL` stands for PIDFD_THREAD.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// The process (its pid in its own namespace); 0 for one that is gone.
    #[prost(int32, tag = "3")]
    pub process: i32,
    /// The task (its id in its own namespace), which differs from the process for a thread other than the first.
    #[prost(int32, tag = "4")]
    pub task: i32,
    /// For a process that is gone, a number that all its descriptors have in common.
    #[prost(uint64, tag = "5")]
    pub gone: u64,
    /// For a process that is gone, its wait status where the kernel tells it.
    #[prost(int32, optional, tag = "6")]
    pub status: Option<i32>,
}

impl Record for ProcessDescriptor {
    const KIND: Kind = Kind {
        name: "file.process",
        version: 1,
    };
}

impl ProcessDescriptor {
    /// Whether it is of a thread that is born later than descriptors are given out.
    fn is_late(&self) -> bool {
        self.process != 0 && self.task != self.process
    }
}

/// The objects that are there only once threads are born; they are given out then.
///
/// # Errors
/// When the records are damaged.
pub(super) fn late(records: &RecordSet) -> Result<BTreeSet<u64>> {
    let descriptors = records.all::<ProcessDescriptor>()?;
    Ok(descriptors
        .iter()
        .filter(|descriptor| descriptor.is_late())
        .map(|descriptor| descriptor.object)
        .collect())
}

/// The kind.
pub(super) struct ProcessDescriptors;

/// Whom a process descriptor is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    /// A task of the job: (process, task), by their ids in their own namespace.
    Inside(i32, i32),
    /// A process that has ended and been waited for.
    Gone,
    /// A process outside the job; 0 where it lies in a pid namespace that is not ours.
    Outside(i32),
}

fn whom(description: &Description, job: &Job<'_>) -> Whom {
    let info = &description.facts.info;
    let pid = info.pid.unwrap_or(0);
    if pid == -1 {
        return Whom::Gone;
    }
    if let Some(&inner) = job.members.get(&pid) {
        return Whom::Inside(inner, inner);
    }
    let of_thread = |owner: &&super::Owner<'_>| owner.threads.contains(&pid);
    match job.owners.iter().find(of_thread) {
        Some(owner) => Whom::Inside(
            owner.inner,
            info.namespace_pids.last().copied().unwrap_or(pid),
        ),
        None => Whom::Outside(pid),
    }
}

impl DescriptorKind for ProcessDescriptors {
    fn kinds(&self) -> &'static [Kind] {
        const { &[ProcessDescriptor::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        // Since Linux 6.9 these files have a file system of their own; its links were `pidfd:[17]` for a while.
        facts.is_anonymous("pidfd") || facts.link.starts_with(b"pidfd:")
    }

    fn inspect(&self, description: &Description, job: &Job<'_>, refusals: &mut Refusals) {
        let Whom::Outside(pid) = whom(description, job) else {
            return;
        };
        let whose = match pid {
            0 => "of a process in another pid namespace".to_owned(),
            pid => match crate::target::TargetProcess::read(pid) {
                Ok(process) => format!("of process {pid} ({})", process.name()),
                Err(_) => format!("of process {pid}"),
            },
        };
        refusals.add(
            job.owner(description.first()).label(),
            format!("{}, a process descriptor", job.name(description)),
            format!("it is {whose}, which is not in the job"),
            "take that process into the job as well, or close the descriptor before the checkpoint",
        );
    }

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        for description in descriptions {
            let mut record = ProcessDescriptor {
                object: description.object,
                flags: description.facts.flags(),
                ..ProcessDescriptor::default()
            };
            match whom(description, job) {
                Whom::Inside(process, task) => (record.process, record.task) = (process, task),
                Whom::Gone => {
                    record.gone = description.facts.info.inode.unwrap_or(0);
                    record.status = pidfd::exit_status(job.copy(description)?.as_fd());
                }
                Whom::Outside(pid) => {
                    return Err(Error::Failed(format!(
                        "{}: process {pid} is not in the job any more",
                        job.name(description)
                    )));
                }
            }
            collection.put(&record)?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let descriptors = records.all::<ProcessDescriptor>()?;
        if descriptors.is_empty() {
            return Ok(());
        }
        let mut gone: BTreeMap<u64, Vec<ProcessDescriptor>> = BTreeMap::new();
        let mut slots: BTreeMap<u64, Vec<(i32, SlotRecord)>> = BTreeMap::new();
        for table in records.all::<DescriptorTable>()? {
            for slot in table.slots {
                let of_object = slots.entry(slot.object).or_default();
                of_object.push((table.process, slot));
            }
        }
        for descriptor in descriptors {
            if !descriptor.status.is_none_or(ends) {
                return Err(Error::Failed(
                    "the image is damaged: it has an impossible wait status".into(),
                ));
            }
            if descriptor.process == 0 {
                gone.entry(descriptor.gone).or_default().push(descriptor);
            } else if descriptor.is_late() {
                let slots = slots.remove(&descriptor.object).unwrap_or_default();
                plan.step(Stage::Task, 0, OpenThread { descriptor, slots });
            } else {
                // Processes are born by now, and slots are filled after this: it was added before.
                plan.step(Stage::Descriptors, 0, Open { descriptor });
            }
        }
        for descriptors in gone.into_values() {
            let needs = vec![Token::Process(0)];
            plan.linked_step(Stage::Objects, 0, needs, vec![], EndAgain { descriptors });
        }
        Ok(())
    }
}

/// Whether a wait status is one of a process that has ended.
fn ends(status: i32) -> bool {
    let others = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGURG,
        libc::SIGWINCH,
    ];
    let signal = status & 0x7f;
    (0..=64).contains(&signal) && !others.contains(&signal)
}

/// Opens a descriptor of a process of the job.
struct Open {
    descriptor: ProcessDescriptor,
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "open a descriptor of process {}",
            self.descriptor.process
        )
    }
}

impl Action for Open {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let opened = open(rebuild, &self.descriptor)?;
        rebuild.objects.insert(self.descriptor.object, opened);
        Ok(())
    }
}

fn open(rebuild: &Rebuild<'_>, descriptor: &ProcessDescriptor) -> Result<std::os::fd::OwnedFd> {
    let pid = if descriptor.is_late() {
        rebuild.task(descriptor.process, descriptor.task)?
    } else {
        rebuild.built(descriptor.process)?.pid
    };
    pidfd::open_with(pid, descriptor.flags & OPENING)
        .attempt(|| format!("opening a descriptor of task {}", descriptor.task))
}

/// Opens a descriptor of a thread and puts it into its slots: the others were filled before there were threads.
struct OpenThread {
    descriptor: ProcessDescriptor,
    slots: Vec<(i32, SlotRecord)>,
}

impl fmt::Display for OpenThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = Count(self.slots.len(), "slot");
        write!(
            f,
            "open a descriptor of thread {} for {count}",
            self.descriptor.task
        )
    }
}

impl Action for OpenThread {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let opened = open(rebuild, &self.descriptor)?;
        give_late(rebuild, self.descriptor.object, opened, &self.slots)
    }
}

/// Starts a process that ends at once, as another ended before the checkpoint.
struct EndAgain {
    /// All descriptors of it.
    descriptors: Vec<ProcessDescriptor>,
}

impl fmt::Display for EndAgain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = Count(self.descriptors.len(), "descriptor");
        write!(f, "make {count} of a process that is gone")
    }
}

impl Action for EndAgain {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let what = || "making a descriptor of a process that is gone".into();
        let status = self.descriptors.iter().find_map(|found| found.status);
        // In the job's own pid namespace: whoever signals it from there is told that it has gone.
        let opened: Vec<_> = rebuild.short_life(status.unwrap_or(0), |pid| {
            let opened = self.descriptors.iter().map(|descriptor| {
                let opened = pidfd::open_with(pid, descriptor.flags & OPENING).attempt(what)?;
                Ok((descriptor.object, opened))
            });
            opened.collect::<Result<_>>()
        })?;
        rebuild.objects.extend(opened);
        Ok(())
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Process descriptors (pidfd) of processes and threads of the job, of zombies, of processes that are gone",
        level: Level::Restored,
        how: "the exit status of a process that is gone from Linux 6.15 on; whether it left a core dump is not preserved",
    },
    Support {
        what: "Process descriptors of processes outside the job",
        level: Level::Refused,
        how: "take the process into the job, or close the descriptor",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::file::tests::host;

    #[test]
    fn a_descriptor_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let descriptor = ProcessDescriptor {
            object: 3,
            flags: 0o2,
            gone: 17,
            status: Some(0x300),
            ..ProcessDescriptor::default()
        };
        records.push(&descriptor).unwrap();
        assert_eq!(records.all::<ProcessDescriptor>().unwrap(), [descriptor]);
    }

    #[test]
    fn those_of_threads_are_given_late() {
        let mut records = RecordSet::new();
        let mut descriptor = |object, process, task, gone| {
            let descriptor = ProcessDescriptor {
                object,
                process,
                task,
                gone,
                ..ProcessDescriptor::default()
            };
            records.push(&descriptor).unwrap();
        };
        descriptor(1, 7, 7, 0);
        descriptor(2, 7, 8, 0);
        descriptor(3, 0, 0, 99);
        descriptor(4, 0, 0, 99);
        assert_eq!(late(&records).unwrap(), BTreeSet::from([2]));
        let mut plan = Plan::default();
        // Stands for the progenitor, which is planned with the processes.
        let slots = Vec::new();
        let descriptor = ProcessDescriptor::default();
        let progenitor = OpenThread { descriptor, slots };
        plan.linked_step(
            Stage::Objects,
            0,
            vec![],
            vec![Token::Process(0)],
            progenitor,
        );
        ProcessDescriptors
            .plan(&records, &host(), &mut plan)
            .unwrap();
        let steps: Vec<String> = plan
            .ordered()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        let wanted = [
            "Objects open a descriptor of thread 0 for 0 slots | gives process 0",
            "Objects make 2 descriptors of a process that is gone | needs process 0",
            "Descriptors open a descriptor of process 7",
            "Task open a descriptor of thread 8 for 0 slots",
        ];
        assert_eq!(steps, wanted);
    }
}
