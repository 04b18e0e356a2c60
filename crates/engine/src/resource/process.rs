//! The process tree: parents, pids, process groups, sessions, zombies, job-control stops.
//!
//! Shown by /proc/PID/stat and status. Births are planned so that every process gets its ids the only way the kernel gives them:
//! a pid by clone3 with set_tid, a session by setsid or by birth in it, a group by setpgid. Ids whose owner has gone (a
//! session whose leader has ended or lies outside the job) are held by placeholders while they are handed out. Not preserved: the
//! start time, the processor time used so far.

mod family;
mod relatives;
mod session;
mod step;

use std::collections::{BTreeMap, BTreeSet};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_tracee::{BufferId, CallId, CallList};

use crate::collect::Collection;
use crate::freeze::{Frozen, FrozenProcess, job_stop};
use crate::host::Host;
use crate::plan::{Plan, Stage, Token};
use crate::resource::sharing::{Sharing, members_recorded};
use crate::resource::{Level, Resource, Support};
use crate::target::{Target, TargetProcess};
use crate::{Error, Refusals, Result};

use family::Family;
use step::{
    EndLeader, EndProgenitor, EndZombie, LeadSession, StartProgenitor, StartThreads, StopAgain,
};

/// One process of the job.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessRecord {
    /// Its pid, in its own namespace.
    #[prost(int32, tag = "1")]
    pub pid: i32,
    /// Its parent's pid; 0 when that lies outside the job.
    #[prost(int32, tag = "2")]
    pub parent: i32,
    /// Its process group.
    #[prost(int32, tag = "3")]
    pub group: i32,
    /// Its session.
    #[prost(int32, tag = "4")]
    pub session: i32,
    /// Ids of its living tasks, the leader's first; none for a zombie.
    #[prost(int32, repeated, tag = "5")]
    pub tasks: Vec<i32>,
    /// For a zombie its wait status.
    #[prost(int32, optional, tag = "6")]
    pub zombie: Option<i32>,
    /// The signal of a job-control stop that it is in.
    #[prost(int32, optional, tag = "7")]
    pub stopped: Option<i32>,
    /// Its name, for messages.
    #[prost(bytes = "vec", tag = "8")]
    pub name: Vec<u8>,
    /// Whether it is the process that the checkpoint was asked of.
    #[prost(bool, tag = "9")]
    pub named: bool,
    /// Its arguments, for messages: /proc/PID/cmdline.
    #[prost(bytes = "vec", tag = "10")]
    pub command_line: Vec<u8>,
    /// Whether its parent has not taken notice yet of the job-control stop that it is in.
    #[prost(bool, tag = "11")]
    pub stop_untold: bool,
    /// The signal that its parent, if that is in the job, gets at its end; 0 for none (clone(2)).
    #[prost(int32, optional, tag = "12", default = "17")]
    pub exit_signal: Option<i32>,
    /// For a process whose first thread has ended while others live on that one's wait status.
    #[prost(int32, optional, tag = "13")]
    pub leader_ended: Option<i32>,
    /// For a zombie: whether its parent is yet to be told of its end. It was alive, and the job was saved without it.
    #[prost(bool, tag = "14")]
    pub end_is_news: bool,
}

impl Record for ProcessRecord {
    const KIND: Kind = Kind {
        name: "process",
        version: 1,
    };
}

impl ProcessRecord {
    /// Whether it has other tasks than the first.
    fn has_threads(&self) -> bool {
        self.tasks.iter().any(|task| *task != self.pid)
    }
}

/// The resource.
pub struct Processes;

impl Resource for Processes {
    fn name(&self) -> &'static str {
        "processes"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[ProcessRecord::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, target: &Target, refusals: &mut Refusals) {
        for process in &target.processes {
            refuse_exit_signal(process, target, refusals);
        }
        relatives::inspect(target, refusals);
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut refusals = Refusals::default();
        for process in frozen.alive() {
            refuse_stopped_without_leader(process, &mut refusals);
        }
        refusals.into_result()?;
        let untold = untold_stops(frozen)?;
        let inner: BTreeMap<i32, i32> = frozen
            .processes
            .iter()
            .map(|process| (process.pid, process.inner))
            .collect();
        let record = |process: &FrozenProcess| {
            let last = |ids: &[i32], outer: i32| ids.last().copied().unwrap_or(outer);
            ProcessRecord {
                pid: process.inner,
                parent: inner.get(&process.stat.ppid).copied().unwrap_or(0),
                group: last(&process.status.namespace_pgid, process.stat.pgrp),
                session: last(&process.status.namespace_sid, process.stat.session),
                tasks: process.tasks.iter().map(|task| task.inner).collect(),
                zombie: process.is_zombie().then_some(process.stat.exit_code),
                // Who stopped itself to say that it was ready for this runs on in its new life.
                stopped: job_stop(process).filter(|_| !frozen.told.contains(&process.pid)),
                name: process.stat.comm.clone(),
                named: frozen.named == process.pid,
                command_line: process.directory.read("cmdline").unwrap_or_default(),
                stop_untold: untold.contains(&process.inner),
                exit_signal: Some(process.stat.exit_signal)
                    .filter(|signal| *signal != libc::SIGCHLD)
                    .filter(|_| inner.contains_key(&process.stat.ppid)),
                leader_ended: process.has_lost_leader().then_some(process.stat.exit_code),
                end_is_news: false,
            }
        };
        let of_job = frozen.processes.iter();
        let known: BTreeMap<i32, _> = of_job.map(|one| (one.pid, record(one))).collect();
        for process in &frozen.processes {
            collection.put(&known[&process.pid])?;
        }
        for ended in relatives::collect(frozen, &known)? {
            collection.put(&ended)?;
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
        let processes = records.all::<ProcessRecord>()?;
        let sharing = Sharing::of(records)?;
        let members = members_recorded(&processes);
        let family = Family::new(&processes, &sharing, &members, host)?;
        family.check(host, plan);
        let (holder, session) = family.progenitor(host);
        plan.linked_step(
            Stage::Objects,
            0,
            vec![],
            vec![Token::Process(0)],
            StartProgenitor {
                pid: holder,
                session,
            },
        );
        for process in &processes {
            family.plan_birth(process, plan);
            if process.session == process.pid {
                let children = family.born_before_session(process.pid);
                let mut needs = vec![Token::Process(process.pid)];
                needs.extend(children.into_iter().map(Token::Process));
                plan.linked_step(
                    Stage::Tree,
                    process.pid,
                    needs,
                    vec![Token::SessionOf(process.pid)],
                    LeadSession {
                        process: process.pid,
                    },
                );
            }
        }
        family.plan_groups(plan);
        for process in &processes {
            if let Some(status) = process.zombie {
                plan.step(
                    Stage::Attach,
                    process.pid,
                    EndZombie {
                        process: process.pid,
                        parent: process.parent,
                        status,
                        // What is news to its parent is not taken back.
                        exit_signal: match process.end_is_news {
                            true => 0,
                            false => process.exit_signal(),
                        },
                    },
                );
            } else if let Some(signal) = process.stopped {
                let told = if process.stop_untold {
                    None
                } else {
                    Some(process.parent).filter(|&parent| parent != 0)
                };
                plan.step(
                    Stage::Process,
                    process.pid,
                    StopAgain {
                        process: process.pid,
                        signal,
                        told,
                    },
                );
            }
            if let Some(status) = process.leader_ended {
                let end = EndLeader {
                    process: process.pid,
                    name: process.name.clone(),
                    status,
                };
                plan.step(Stage::Finish, process.pid, end);
            }
            if process.has_threads() {
                let births =
                    sharing
                        .thread_births(process.pid, &process.tasks)
                        .map_err(|found| {
                            Error::Failed(format!(
                                "the image is damaged: thread {} shares with {}, which cannot be",
                                found.task, found.with
                            ))
                        })?;
                plan.step(
                    Stage::Threads,
                    process.pid,
                    StartThreads {
                        process: process.pid,
                        births,
                    },
                );
            }
        }
        family.plan_placeholders(plan);
        plan.step(Stage::Descriptors, 0, EndProgenitor);
        Ok(())
    }
}

/// The processes of an image that do not find their parent's memory at their birth.
///
/// # Errors
/// When the records are damaged.
pub fn unrelated(records: &RecordSet, sharing: &Sharing, host: &Host) -> Result<BTreeSet<i32>> {
    let processes = records.all::<ProcessRecord>()?;
    let members = members_recorded(&processes);
    Ok(Family::new(&processes, sharing, &members, host)?.unrelated(sharing))
}

/// The stopped processes whose parents have not taken notice yet: asked of the parents, without taking notice for them.
fn untold_stops(frozen: &mut Frozen) -> Result<BTreeSet<i32>> {
    let mut untold = BTreeSet::new();
    let stopped: Vec<(i32, i32)> = frozen
        .alive()
        .filter(|p| job_stop(p).is_some())
        .map(|p| (p.inner, p.stat.ppid))
        .collect();
    for (child, parent) in stopped {
        let Some(parent) = frozen.alive_mut().find(|process| process.pid == parent) else {
            continue;
        };
        let mut list = CallList::new();
        let siginfo = list.space(128);
        let call = wait_call(&mut list, child, siginfo, libc::WNOWAIT);
        let outcomes = parent.run(0, &list)?;
        // si_pid, after three ints and a gap; it stays 0 when there is nothing to tell.
        let told = outcomes.buffer(siginfo)[16..20] == [0; 4];
        if outcomes.result(call).is_ok() && !told {
            untold.insert(child);
        }
    }
    Ok(untold)
}

/// waitid(2) for a stop of `child`, not waiting.
fn wait_call(list: &mut CallList, child: i32, siginfo: BufferId, flags: i32) -> CallId {
    // Also children whose end is not told by SIGCHLD.
    let options = libc::WSTOPPED | libc::WNOHANG | libc::__WALL | flags;
    list.call(
        libc::SYS_waitid,
        &[
            (libc::P_PID as i32).into(),
            child.into(),
            siginfo.into(),
            options.into(),
            0.into(),
        ],
    )
}

/// A first thread can end a second time only while its process is not stopped.
fn refuse_stopped_without_leader(process: &FrozenProcess, refusals: &mut Refusals) {
    if process.has_lost_leader() && job_stop(process).is_some() {
        refusals.add(
            (process.pid, &process.name()),
            "its first thread",
            "it has ended, and the process is stopped by job control: it could not end a second time",
            "let the process go on (SIGCONT) first",
        );
    }
}

/// Refuses ways of telling a parent of the end of its child that no new birth leads to.
fn refuse_exit_signal(process: &TargetProcess, target: &Target, refusals: &mut Refusals) {
    let signal = process.stat.exit_signal;
    let parent = target
        .processes
        .iter()
        .find(|parent| parent.pid == process.stat.ppid);
    let (Some(parent), false) = (parent, signal == libc::SIGCHLD) else {
        return;
    };
    let place = |stat: &cryonaut_procfs::Stat| (stat.start_stack, stat.start_code);
    if process.is_zombie() && matches!(signal, libc::SIGTRAP | libc::SIGSTOP) {
        refusals.add(
            (process.pid, &process.name()),
            "its exit signal",
            format!("it has ended, told by signal {signal}, which would disturb its parent while that is rebuilt"),
            "have its parent wait for it",
        );
    } else if !process.is_zombie() && place(&process.stat) != place(&parent.stat) {
        // Then the kernel tells by SIGCHLD after all (do_notify_parent in kernel/signal.c).
        refusals.add(
            (process.pid, &process.name()),
            "its exit signal",
            format!(
                "its end was to be told by signal {signal}, but its parent has called exec since"
            ),
            "start it by fork rather than by clone with another signal",
        );
    }
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Process trees: parents, pids, process groups, sessions, also those whose leader has gone, orphans",
        level: Level::Restored,
        how: "with their numbers: as root where these are free, otherwise in a fresh pid namespace",
    },
    Support {
        what: "Processes that several relatives have adopted from one session whose leader has gone",
        level: Level::Refused,
        how: "none of these was ever in that session, so that none can bear them there; checkpoint before the program that started them has ended",
    },
    Support {
        what: "Children outside of the scope that was asked for (--process, --group, --session)",
        level: Level::Restored,
        how: "refused, unless --cut says how they look to their parents afterwards: as if killed, or as if never born",
    },
    Support {
        what: "Zombies",
        level: Level::Restored,
        how: "with their exit status or signal; that memory was dumped is not told again",
    },
    Support {
        what: "Stopped processes (Ctrl-Z, SIGSTOP)",
        level: Level::Restored,
        how: "stopped again; the parent learns of it only if it had not before",
    },
    Support {
        what: "Threads",
        level: Level::Restored,
        how: "thousands, with their ids",
    },
    Support {
        what: "The signal that tells a parent of its child's end (clone with another than SIGCHLD, or none)",
        level: Level::Restored,
        how: "refused where the parent has called exec since: the kernel then tells by SIGCHLD",
    },
    Support {
        what: "A process whose first thread has ended while others run on",
        level: Level::Restored,
        how: "its first thread ends again; looking at its descriptors takes Linux 6.9; refused while it is stopped by job control",
    },
    Support {
        what: "A vfork in progress",
        level: Level::Partly,
        how: "its parent cannot be stopped: it is waited for, with the job running, and refused after 5 s",
    },
    Support {
        what: "Start times and processor time used",
        level: Level::Partly,
        how: "start afresh: the kernel keeps them",
    },
];
