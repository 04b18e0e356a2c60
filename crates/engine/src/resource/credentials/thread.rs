//! Threads whose credentials are not those of their process.

use cryonaut_image::{Kind, Record};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_tracee::CallList;

use super::{CapabilitySets, CredentialsRecord};
use crate::error::Attempt;
use crate::freeze::{FrozenProcess, FrozenTask};
use crate::{Error, Refusals, Result};

/// Who a thread is, where that is not who its process is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ThreadCredentials {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// The thread.
    #[prost(int32, tag = "2")]
    pub task: i32,
    /// What it has for itself: users, groups, supplementary groups, capabilities, secure bits, no_new_privs, personality.
    #[prost(message, required, tag = "3")]
    pub own: CredentialsRecord,
}

impl Record for ThreadCredentials {
    const KIND: Kind = Kind {
        name: "credentials.thread",
        version: 1,
    };
}

impl ThreadCredentials {
    /// What the thread is to become.
    ///
    /// # Errors
    /// When the record is damaged.
    pub(super) fn credentials(&self) -> Result<CredentialsRecord> {
        let own = &self.own;
        if own.users.len() != 4 || own.groups.len() != 4 || own.process != self.process {
            return Err(Error::Failed(format!(
                "the image is damaged: credentials of thread {}",
                self.task
            )));
        }
        Ok(own.clone())
    }
}

/// Lines of a status file that tell who a thread is.
const OWN_LINES: [&str; 9] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
];

/// Lines of a status file that must be the same in all threads of a process: what is refused when the leader has it.
const SHARED_LINES: [&str; 1] = ["x86_Thread_features"];

/// What a status file says of one thing; nothing where this kernel does not tell.
fn line<'a>(status: &'a [u8], key: &str) -> Option<&'a [u8]> {
    status
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b":"))
}

/// A thread that is not like the first one of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unlike {
    /// The thread, as we see it.
    pub(super) tid: i32,
    /// The first line of its status file that cannot differ.
    pub(super) restriction: Option<&'static str>,
}

/// How a thread's status file differs from that of its leader, if it does.
fn difference(tid: i32, leader: &[u8], thread: &[u8]) -> Option<Unlike> {
    let differs = |key: &&str| line(leader, key) != line(thread, key);
    let restriction = SHARED_LINES.into_iter().find(differs);
    (restriction.is_some() || OWN_LINES.iter().any(differs)).then_some(Unlike { tid, restriction })
}

/// The threads that are not like their leader.
///
/// # Errors
/// When their files cannot be read.
pub(super) fn unlike_leader(
    directory: &ProcessDirectory,
    threads: impl Iterator<Item = i32>,
) -> Result<Vec<Unlike>> {
    let mut leader = Vec::new();
    let mut status = Vec::new();
    let mut found = Vec::new();
    for tid in threads {
        if leader.is_empty() {
            directory.read_into("status", &mut leader)?;
        }
        // One file by its path is cheaper than a directory for each of thousands of threads.
        match directory.read_into(&format!("task/{tid}/status"), &mut status) {
            Ok(()) => {}
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error.into()),
        }
        found.extend(difference(tid, &leader, &status));
    }
    Ok(found)
}

/// The threads of a frozen process that are not like its leader.
///
/// # Errors
/// When the leader's file cannot be read.
pub(super) fn unlike_first(process: &FrozenProcess) -> Result<Vec<Unlike>> {
    let Some((_, others)) = process
        .tasks
        .split_first()
        .filter(|(_, others)| !others.is_empty())
    else {
        return Ok(Vec::new());
    };
    let leader = process.directory.read("status")?;
    let unlike = |task: &FrozenTask| difference(task.stopped.tid(), &leader, &task.status);
    Ok(others.iter().filter_map(unlike).collect())
}

/// Refuses a thread with restrictions of its own.
pub(super) fn refuse_thread(process: (i32, &str), unlike: &Unlike, refusals: &mut Refusals) {
    if let Some(line) = unlike.restriction {
        refusals.add(
            process,
            format!("its thread {}", unlike.tid),
            format!("it has other restrictions than the first thread ({line} in /proc/PID/task/TID/status)"),
            "have all threads of the program carry the same ones",
        );
    }
}

impl Unlike {
    /// Reads who the thread is.
    pub(super) fn record(&self, process: &mut FrozenProcess) -> Result<ThreadCredentials> {
        let tid = self.tid;
        let mut tasks = process.tasks.iter();
        let index = tasks
            .position(|task| task.stopped.tid() == tid)
            .ok_or_else(|| Error::Failed(format!("thread {tid} has vanished")))?;
        let mut list = CallList::new();
        let secure_bits = list.call(libc::SYS_prctl, &[libc::PR_GET_SECUREBITS.into()]);
        let secure_bits = process
            .run(index, &list)?
            .result(secure_bits)
            .attempt(|| format!("thread {tid}: reading its secure bits"))?;
        let directory = process.directory.task(tid)?;
        let status = directory.status()?;
        let mut supplementary = status.groups.clone();
        supplementary.sort_unstable();
        Ok(ThreadCredentials {
            process: process.inner,
            task: process.tasks[index].inner,
            own: CredentialsRecord {
                process: process.inner,
                users: status.uid.to_vec(),
                groups: status.gid.to_vec(),
                supplementary,
                capabilities: CapabilitySets::of(&status),
                secure_bits: secure_bits as u32,
                no_new_privileges: status.no_new_privileges.unwrap_or(false),
                personality: directory.personality()?,
                ..CredentialsRecord::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use cryonaut_image::RecordSet;

    use super::*;

    #[test]
    fn threads_are_compared_with_their_leader() {
        let leader =
            b"Name:\tx\nUid:\t0\t0\t0\t0\nCapEff:\t0000000000000000\nSigBlk:\t0\nNoNewPrivs:\t0\n";
        let thread =
            b"Name:\ty\nUid:\t0\t0\t0\t0\nCapEff:\t0000000000000000\nSigBlk:\t8\nNoNewPrivs:\t0\n";
        let other =
            b"Name:\tx\nUid:\t0\t0\t0\t0\nCapEff:\t0000000000000001\nSigBlk:\t0\nNoNewPrivs:\t0\n";
        let restricted = b"Name:\tx\nUid:\t0\t0\t0\t0\nx86_Thread_features:\tshstk\n";
        assert_eq!(difference(8, leader, thread), None);
        let unlike = |restriction| {
            Some(Unlike {
                tid: 8,
                restriction,
            })
        };
        assert_eq!(difference(8, leader, other), unlike(None));
        assert_eq!(
            difference(8, leader, restricted),
            unlike(Some("x86_Thread_features"))
        );
    }

    #[test]
    fn the_record_survives_an_image() {
        let record = ThreadCredentials {
            process: 7,
            task: 8,
            own: CredentialsRecord {
                process: 7,
                users: vec![1, 2, 3, 4],
                groups: vec![5; 4],
                ..CredentialsRecord::default()
            },
        };
        let mut records = RecordSet::new();
        records.push(&record).unwrap();
        assert_eq!(records.one::<ThreadCredentials>().unwrap(), record);
        assert_eq!(record.credentials().unwrap(), record.own);
        let damaged = ThreadCredentials {
            process: 9,
            ..record
        };
        assert!(damaged.credentials().is_err());
    }
}
