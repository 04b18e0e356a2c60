//! Where things lie, and where threads run, while a job is rebuilt.

use cryonaut_image::RecordSet;
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::task;

use super::{LOADER_DATA, STUB_DATA};
use crate::resource::memory::{AddressSpace, SharedObject};
use crate::resource::system_v::SharedSegment;
use crate::{Error, Result};

/// Room for moving the vDSO and its data by way of.
const SPARE: u64 = 64 * 1024;
/// Where the search for room begins: above what executables use, below where libraries and stacks are.
const SEARCH_FROM: u64 = 0x1000_0000_0000;
const SEARCH_TO: u64 = 0x7000_0000_0000;

/// Where job-wide memory lies while a job is rebuilt: free in every process.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub(super) stub: u64,
    pub(super) spare: u64,
    pub(super) loader: u64,
    pub(super) arena: u64,
    pub(super) arena_length: u64,
    /// In the arena's end: where segments are attached on their way to their places.
    pub(super) workplace: u64,
}

impl Places {
    /// Finds room that no process of the image uses.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(records: &RecordSet) -> Result<Self> {
        let page = cryonaut_sys::PAGE_SIZE;
        let mut arena_length = 0;
        for object in records.all::<SharedObject>()? {
            arena_length += object.size.next_multiple_of(page) + page;
        }
        let (mut longest, mut largest) = (0, page);
        for segment in records.all::<SharedSegment>()? {
            arena_length += segment.length() + segment.page() + page;
            longest = longest.max(segment.length());
            largest = largest.max(segment.page());
        }
        let objects_length = arena_length;
        if longest > 0 {
            arena_length += largest + longest + page;
        }
        let wanted = page
            + STUB_DATA
            + page
            + SPARE
            + page
            + page
            + LOADER_DATA
            + page
            + arena_length
            + page;
        let mut used: Vec<(u64, u64)> = records
            .all::<AddressSpace>()?
            .iter()
            .flat_map(|space| space.areas.iter().map(|area| (area.start, area.end)))
            .collect();
        used.sort_unstable();
        let mut at = SEARCH_FROM;
        for (start, end) in used {
            if start >= at + wanted {
                break;
            }
            at = at.max(end.next_multiple_of(page) + page);
        }
        if at + wanted > SEARCH_TO {
            return Err(Error::Failed(
                "the job's processes leave no address range free for rebuilding them".into(),
            ));
        }
        let spare = at + page + STUB_DATA + page;
        let loader = spare + SPARE + page;
        let arena = loader + page + LOADER_DATA + page;
        Ok(Self {
            stub: at,
            spare,
            loader,
            arena,
            arena_length,
            workplace: (arena + objects_length).next_multiple_of(largest),
        })
    }
}

/// While it lives, the calling thread keeps to one processor. Stubs are put there too: each list is a switch to the stub and back,
/// which on one processor takes a fraction of the time that waking another one takes.
pub(crate) struct OneProcessor {
    pub(super) all: Vec<u64>,
    pub(super) only: Vec<u64>,
}

impl OneProcessor {
    pub(super) fn stay() -> Option<Self> {
        let all = task::affinity(0).ok()?;
        let processor = ProcessDirectory::open(std::process::id() as i32)
            .ok()?
            .stat()
            .ok()?
            .processor as usize;
        let mut only = vec![0; all.len()];
        *only.get_mut(processor / 64)? |= 1 << (processor % 64);
        task::set_affinity(0, &only).ok()?;
        Some(Self { all, only })
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        let _ = task::set_affinity(0, &self.all);
    }
}
