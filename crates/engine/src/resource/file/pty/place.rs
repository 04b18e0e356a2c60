//! File systems of terminals that are mounted elsewhere than at /dev/pts (Documentation/filesystems/devpts.rst).
//!
//! Each has numbers of its own, so that a job may have several terminals of one number. A restart makes them where they were, in
//! whatever is mounted there then.

use std::path::Path;

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::file::file_system;

use super::super::facts::{Description, Job};
use super::super::path_of;
use super::{Name, PseudoTerminal};
use crate::Result;
use crate::host::Host;
use crate::plan::Plan;
use crate::resource::memory::printable;

/// Where they are usually.
pub(super) const USUAL: &[u8] = b"/dev/pts";

/// DEVPTS_SUPER_MAGIC of linux/magic.h.
const DEVPTS: i64 = 0x1cd1;

/// Where the file system of a pseudo-terminal is mounted, if it is not at /dev/pts.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TerminalPlace {
    /// The number of its master among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// The mount point.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
}

impl Record for TerminalPlace {
    const KIND: Kind = Kind {
        name: "file.terminal-place",
        version: 1,
    };
}

/// Where the file system of a master is mounted for its process, or for us; nothing where it is at neither.
pub(super) fn find(master: &Description, name: Name, job: &Job<'_>) -> Option<Vec<u8>> {
    let instance = name.instance?;
    let owner = job.owner(master.first());
    [owner.pid, std::process::id() as i32]
        .into_iter()
        .find_map(|pid| {
            let mounts = ProcessDirectory::open(pid).ok()?.mountinfo().ok()?;
            let mut points = mounts
                .into_iter()
                .filter(|mount| mount.device.number() == instance && mount.root == b"/")
                .map(|mount| mount.mount_point)
                .peekable();
            let first = points.peek()?.clone();
            Some(points.find(|point| point == USUAL).unwrap_or(first))
        })
}

/// The record that a master needs for it.
pub(super) fn record_of(master: &Description, name: Name, job: &Job<'_>) -> Option<TerminalPlace> {
    let path = find(master, name, job).filter(|path| path != USUAL)?;
    Some(TerminalPlace {
        object: master.object,
        path,
    })
}

/// Where the file system of this terminal is to be, of those that the records name.
///
/// # Errors
/// When the records are damaged.
pub(super) fn planned(records: &RecordSet, terminal: &PseudoTerminal) -> Result<Vec<u8>> {
    let places = records.all::<TerminalPlace>()?;
    let found = places
        .into_iter()
        .find(|place| place.object == terminal.object);
    Ok(found.map_or_else(|| USUAL.to_vec(), |place| place.path))
}

/// Whether such a file system is mounted there, and the number free in it. The job's own terminals will be gone when its processes
/// are.
pub(super) fn check(place: &[u8], number: u32, host: &Host, plan: &mut Plan) {
    let name = format!("{}/{number}", printable(place));
    let is_usual = place == USUAL;
    let path = path_of(place);
    if !is_usual && !is_one(path) {
        plan.refusals.add_for_job(
            format!("the pseudo-terminal {name}"),
            "no file system of terminals is mounted there",
            "mount one at that place: mount -t devpts -o newinstance,ptmxmode=0666 none DIRECTORY",
        );
        return;
    }
    // Fresh namespaces have a /dev/pts of their own, but no others.
    let is_seen = host.shares_pids || !is_usual;
    if is_seen && host.leaving.is_empty() && path.join(number.to_string()).exists() {
        let remedy = match is_usual {
            true => "use --pids namespace, or wait until it is closed",
            false => "wait until it is closed",
        };
        plan.refusals.add_for_job(
            format!("the pseudo-terminal {name}"),
            "there is another terminal of this name, by which programs of the job know theirs",
            remedy,
        );
    }
}

/// Whether a path is the top of a file system of terminals, with the file that makes new ones.
fn is_one(path: &Path) -> bool {
    path.is_absolute()
        && path.join("ptmx").exists()
        && file_system(path).is_ok_and(|found| found.kind == DEVPTS)
}
