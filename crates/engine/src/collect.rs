//! Collecting: every resource puts its records in a [`Collection`], and names the memory whose pages are to be copied.

use std::collections::BTreeMap;
use std::fs::File;

use cryonaut_image::{Record, RecordSet, ZeroPages};

use crate::Result;
use crate::freeze::Frozen;
use crate::reference::StateOfFile;
use crate::resource::file::{KeptConnections, Known};
use crate::resource::kept_file::KeptIndex;
use crate::resource::system_v::Visitor;

/// A range of a space whose pages are to be saved.
#[derive(Clone, Copy, Debug)]
pub struct PageRange {
    /// First address in the process that it is read from.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What the image calls `start`.
    pub recorded: u64,
    /// What becomes of zero pages.
    pub zero: ZeroPages,
    /// How it is read.
    pub access: Access,
}

/// How memory of a process is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By process_vm_readv, which is fastest. It pins pages, and so gives a process a copy of its own of every page that it shares
    /// after fork (`gup_must_unshare` in mm/internal.h): right only for pages that nobody shares.
    Pinned,
    /// Through /proc/PID/mem, which neither pins nor minds protection.
    File,
}

/// Memory to be saved: an address space, or a shared memory object.
#[derive(Clone, Debug)]
pub struct Space {
    /// What records call it.
    pub id: u64,
    /// The process (as we see it) that it is read from; of no matter where [`Collection::contents`] has the space's file.
    pub pid: i32,
    /// Its pages.
    pub ranges: Vec<PageRange>,
    /// Pages that equal those of another space at the same address: (address, pages, other space).
    pub same: Vec<(u64, u32, u64)>,
}

/// The content of a file that is copied last.
#[derive(Clone, Debug)]
pub struct Later {
    /// What is to be copied, from the file that [`Collection::contents`] has for it.
    pub space: Space,
    /// The file's state when its record was made.
    pub(crate) state: StateOfFile,
    /// Its path, for messages.
    pub path: String,
}

/// What a checkpoint has collected.
#[derive(Debug, Default)]
pub struct Collection {
    /// All records.
    pub records: RecordSet,
    /// All memory whose pages follow.
    pub spaces: Vec<Space>,
    /// What a machine must have to restart the image: name and value.
    pub needs: BTreeMap<String, String>,
    /// The files that spaces are read from whose pages are the content of a file, by the space's number.
    pub contents: BTreeMap<u64, File>,
    /// Which files are kept by content, for whatever refers to them.
    pub kept: KeptIndex,
    /// Contents that may be copied when the job runs on: files that it does not write, each with the state that it was in.
    pub later: Vec<Later>,
    /// The descriptors of the frozen job, once they have been looked at.
    pub descriptors: Option<Known>,
    /// Connections within the job that end without a trace when it is killed: process as we see it, and descriptor.
    pub connections: Vec<(i32, i32)>,
    /// Connections to outside that go on without the job.
    pub(crate) kept_connections: Option<KeptConnections>,
    /// Processes of ours that spaces are read from.
    pub visitors: Vec<Visitor>,
}

impl Collection {
    /// Adds a record.
    ///
    /// # Errors
    /// When it is too large for an image.
    pub fn put<R: Record>(&mut self, record: &R) -> Result<()> {
        Ok(self.records.push(record)?)
    }
}

/// Has every resource collect its part.
///
/// # Errors
/// The first error of any resource; the job is unharmed.
pub fn collect(frozen: &mut Frozen) -> Result<Collection> {
    let mut collection = Collection::default();
    for resource in crate::resource::REGISTRY {
        let start = std::time::Instant::now();
        resource.collect(frozen, &mut collection)?;
        tracing::debug!(resource = resource.name(), elapsed = ?start.elapsed(), "collected");
    }
    Ok(collection)
}
