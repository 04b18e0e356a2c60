//! The trait that every kernel resource implements, and the registry of all of them.
//!
//! A resource is one file under `resource/`, with both sides in it. A newcomer adds the file and one line in [`REGISTRY`].

pub mod aio;
pub mod attribute;
pub mod credentials;
pub mod descriptor_table;
pub mod embedded;
pub mod file;
pub mod fs_context;
pub mod kept_file;
pub mod label;
pub mod limits;
pub mod memory;
pub mod namespace;
pub mod notice;
pub mod participant;
pub mod process;
pub mod restriction;
pub mod scheduling;
pub mod seccomp;
pub mod sharing;
pub mod signal;
pub mod system_v;
pub mod thread;
pub mod timer;

use cryonaut_image::{Kind, RecordSet};

use crate::collect::Collection;
use crate::freeze::Frozen;
use crate::host::Host;
use crate::plan::Plan;
use crate::target::Target;
use crate::{Refusals, Result};

/// One line of SUPPORT.md.
#[derive(Clone, Copy, Debug)]
pub struct Support {
    /// What a user would call it.
    pub what: &'static str,
    /// How far it is supported.
    pub level: Level,
    /// How it comes back, or why it is refused and what to do.
    pub how: &'static str,
}

/// How far something is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It comes back as it was.
    Restored,
    /// It comes back with the difference that is stated.
    Partly,
    /// A checkpoint is refused, with reason and remedy.
    Refused,
}

/// A kind of kernel state, with everything `cryo` knows about it.
pub trait Resource: Sync {
    /// Its name in messages and documents.
    fn name(&self) -> &'static str;
    /// The kinds of records that it writes and reads.
    fn kinds(&self) -> &'static [Kind];
    /// Its lines in SUPPORT.md.
    fn support(&self) -> &'static [Support];
    /// Finds what cannot be saved, reading only; the job runs on meanwhile.
    fn inspect(&self, target: &Target, refusals: &mut Refusals);
    /// Saves its state from the frozen job.
    ///
    /// # Errors
    /// When the state cannot be read; the checkpoint fails and the job runs on.
    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()>;
    /// Plans the steps that rebuild it; creates nothing.
    ///
    /// # Errors
    /// When its records are damaged. What this host cannot do is a refusal in the plan.
    fn plan(&self, records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()>;
}

/// Every resource, in the order in which they are collected and planned.
pub static REGISTRY: &[&dyn Resource] = &[
    &process::Processes,
    &sharing::Commons,
    &namespace::Namespaces,
    &restriction::Restrictions,
    &label::Labels,
    &seccomp::Seccomp,
    &system_v::SystemV,
    &kept_file::KeptFiles,
    &memory::Memory,
    &aio::AsynchronousIo,
    &file::Files,
    &fs_context::FsContext,
    &signal::Signals,
    // After pending signals: this one comes last.
    &notice::NoticeSignals,
    &participant::Participants,
    &timer::Timers,
    &limits::Limits,
    &credentials::Credentials,
    &thread::Threads,
    &attribute::Attributes,
    &descriptor_table::DescriptorTables,
    // Last: it looks at the files that the records of all others name.
    &embedded::EmbeddedFiles,
];
