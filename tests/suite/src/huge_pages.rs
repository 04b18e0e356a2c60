//! Huge pages for tests that need some: the machine's pool, enlarged for a while and put back.

use std::fs;

use crate::outcome::{Outcome, failed};

/// Huge pages of 2 MiB that are there for a test. Only one test at a time may have some (`.config/nextest.toml`).
#[derive(Debug)]
pub struct HugePages {
    before: u64,
}

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

fn count(name: &str) -> u64 {
    let text = fs::read_to_string(format!("{POOL}/{name}")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn set(pages: u64) -> std::io::Result<()> {
    fs::write(format!("{POOL}/nr_hugepages"), pages.to_string())
}

impl HugePages {
    /// Has `pages` of them free. Who may not enlarge the pool has what is there.
    #[must_use]
    pub fn provide(pages: u64) -> Self {
        let before = count("nr_hugepages");
        let lacking = (pages + count("resv_hugepages")).saturating_sub(count("free_hugepages"));
        // A machine without huge pages, or without enough memory: the victim skips.
        let _ = set(before + lacking);
        Self { before }
    }

    /// Leaves no more than `pages` of them free.
    pub fn leave(&self, pages: u64) -> Outcome {
        let used = count("nr_hugepages") - count("free_hugepages") + count("resv_hugepages");
        set(used + pages)?;
        let free = count("free_hugepages") - count("resv_hugepages");
        if free == pages {
            return Ok(());
        }
        failed(format!("{free} huge pages are free instead of {pages}"))
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = set(self.before);
    }
}
