//! Labels of security modules: the AppArmor profile, SELinux context or Smack label that a task runs under.
//!
//! Shown by /proc/PID/task/TID/attr/current, to the reader in his own namespace of profiles. A restart does not change its own
//! label, since what a module lets a label become is policy: a job that had another one is refused there, so that nobody comes
//! back with more freedom. Labels for what a task is about to create (attr/exec, fscreate, keycreate, sockcreate) are refused.

use std::collections::{BTreeMap, BTreeSet};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::spawn;

use crate::collect::Collection;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::plan::Plan;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Refusals, Result};

/// Labels for what is to be created, as files of attr are called.
const TRANSIENT: [&str; 4] = ["exec", "fscreate", "keycreate", "sockcreate"];

/// The label that a process and all of its tasks run under.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LabelRecord {
    /// The process.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// The label, as the kernel words it.
    #[prost(bytes = "vec", tag = "2")]
    pub label: Vec<u8>,
}

impl Record for LabelRecord {
    const KIND: Kind = Kind {
        name: "security.label",
        version: 1,
    };
}

/// The resource.
pub struct Labels;

impl Resource for Labels {
    fn name(&self) -> &'static str {
        "labels"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[LabelRecord::KIND] }
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
            let (pid, name) = process.label();
            for which in TRANSIENT {
                if read(&process.directory, &format!("attr/{which}")).is_some() {
                    refusals.add(
                        (pid, &name),
                        format!("its security label for {which}"),
                        "it is about to create something under another label, which is not saved",
                        "try again when it has done so",
                    );
                }
            }
        }
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut refusals = Refusals::default();
        for process in frozen.alive() {
            let Some(label) = read(&process.directory, "attr/current") else {
                continue;
            };
            for task in process.tasks.iter().skip(1) {
                let tid = task.stopped.tid();
                let own = read(&process.directory, &format!("task/{tid}/attr/current"));
                if own.is_some_and(|own| own != label) {
                    refusals.add(
                        (process.pid, &process.name()),
                        format!("the security label of thread {tid}"),
                        "it is another than that of the first thread",
                        "try again when it has left its hat or profile (aa_change_hat, setcon)",
                    );
                }
            }
            collection.put(&LabelRecord {
                process: process.inner,
                label,
            })?;
        }
        refusals.into_result()
    }

    fn plan(&self, records: &RecordSet, _: &Host, plan: &mut Plan) -> Result<()> {
        let own = ProcessDirectory::open(spawn::own_pid())
            .ok()
            .and_then(|own| read(&own, "attr/current"));
        let mut differing: BTreeMap<Vec<u8>, BTreeSet<i32>> = BTreeMap::new();
        for record in records.all::<LabelRecord>()? {
            if !is_as_free(&record.label, own.as_deref()) {
                let processes = differing.entry(record.label).or_default();
                processes.insert(record.process);
            }
        }
        for (label, processes) in differing {
            let label = String::from_utf8_lossy(&label).into_owned();
            let first = processes.first().copied().unwrap_or(0);
            let here = own
                .as_deref()
                .map_or("none".into(), String::from_utf8_lossy);
            plan.refusals.add(
                (first, ""),
                format!("its security label {label}"),
                format!("the restart runs under another ({here}), and the job would"),
                format!(
                    "restart it under the same: `aa-exec -p {0} -- cryo restart …` with AppArmor, `runcon {0} cryo restart …` with SELinux",
                    label.split(' ').next().unwrap_or("LABEL")
                ),
            );
        }
        Ok(())
    }
}

/// A file of attr, if it says anything; without a module that labels, reading is an error.
fn read(directory: &ProcessDirectory, name: &str) -> Option<Vec<u8>> {
    let text = directory.read(name).ok()?;
    let text = text.trim_ascii().trim_ascii_end();
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    (!text.is_empty()).then(|| text.to_vec())
}

/// Whether the restart's own label leaves a job no more freedom than it had. Words for "no profile" are those of AppArmor and
/// SELinux.
fn is_as_free(label: &[u8], own: Option<&[u8]>) -> bool {
    own == Some(label) || label == b"unconfined" && own.is_none()
}

const SUPPORT: &[Support] = &[Support {
    what: "Security labels (AppArmor, SELinux, Smack)",
    level: Level::Partly,
    how: "a job that had another than the restart has is refused: restart it under the same (aa-exec, runcon)",
}];

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn the_record_makes_a_round_trip() {
        let record = LabelRecord {
            process: 3,
            label: b"docker-default (enforce)".to_vec(),
        };
        assert_eq!(
            LabelRecord::decode(record.encode_to_vec().as_slice()),
            Ok(record)
        );
    }

    #[test]
    fn no_label_is_lost() {
        assert!(is_as_free(b"a (enforce)", Some(b"a (enforce)")));
        assert!(is_as_free(b"unconfined", None));
        assert!(!is_as_free(b"a (enforce)", Some(b"unconfined")));
        assert!(!is_as_free(b"a (enforce)", None));
        assert!(!is_as_free(b"unconfined", Some(b"a (enforce)")));
    }

    #[test]
    fn jobs_under_another_label_are_refused() {
        let mut records = RecordSet::new();
        let label = b"no-such-profile (enforce)".to_vec();
        let record = LabelRecord { process: 3, label };
        records.push(&record).unwrap();
        let host = Host::look(true, crate::host::Changed::Refuse).unwrap();
        let mut plan = Plan::default();
        Labels.plan(&records, &host, &mut plan).unwrap();
        assert!(plan.refusals.list()[0].remedy.contains("no-such-profile"));
    }
}
