//! Private mappings of huge pages of the kernel's pool (hugetlb): how many of them a job needs, and how many there are.
//!
//! Their content is read like that of other private memory, but never by pinning: the kernel gives a process that shares a page
//! since a fork one of its own when it is pinned, and where the pool is empty it takes that page from the child. Whole pages are
//! described, zeros among them, so that pages that were there are there again, and no others.

use std::collections::BTreeMap;
use std::path::Path;

use cryonaut_sys::PAGE_SIZE;

use super::record::{AddressSpace, AreaRecord, attribute};
use crate::plan::Plan;
use crate::resource::kept_file::KeptFile;
use crate::{Error, Result};

/// Notes how many pages of each area of huge pages are those of the parent, of which `same` has (address, pages of 4 KiB).
pub(super) fn note_inherited(areas: &mut [AreaRecord], same: &[(u64, u64)]) {
    for area in areas.iter_mut().filter(|area| area.huge_page != 0) {
        let common = same.iter().map(|&(start, pages)| {
            let end = (start + pages * PAGE_SIZE).min(area.end);
            end.saturating_sub(start.max(area.start)) / PAGE_SIZE
        });
        area.inherited = common.sum();
    }
}

/// What a job needs of the pools of huge pages.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// Bytes, by the size of a page in bytes.
    pools: BTreeMap<u64, u64>,
}

impl Demand {
    /// Adds what a process needs that finds what it has in common with `parent` at its birth.
    ///
    /// # Errors
    /// When the areas make no sense.
    pub(super) fn add(
        &mut self,
        space: &AddressSpace,
        parent: Option<&AddressSpace>,
    ) -> Result<()> {
        for area in space.areas.iter().filter(|area| area.huge_page != 0) {
            let size = area.huge_page;
            let fits = size.is_power_of_two() && size > PAGE_SIZE;
            if !fits || area.start % size != 0 || area.end % size != 0 || area.end < area.start {
                return Err(Error::Failed(
                    "an area of huge pages makes no sense: the image is damaged".into(),
                ));
            }
            let found = parent.is_some_and(|parent| {
                let mut areas = parent.areas.iter();
                areas.any(|old| old.start < area.end && area.start < old.end && area.continues(old))
            });
            let own = if found {
                area.pages.saturating_sub(area.inherited)
            } else {
                area.pages
            };
            // The kernel sets pages aside for all of a new mapping that does not say otherwise.
            if found || area.has(attribute::NO_RESERVE) {
                self.more(size, own.saturating_mul(PAGE_SIZE));
            } else {
                self.more(size, area.length());
            }
        }
        Ok(())
    }

    /// Adds what a file of huge pages needs.
    pub(super) fn add_file(&mut self, file: &KeptFile) {
        // What is known by its mappings only may have holes where they had pages.
        if file.huge_page != 0 && file.stored > 0 {
            let bytes = if file.partial { 1 } else { file.stored };
            self.more(file.huge_page, bytes);
        }
    }

    fn more(&mut self, size: u64, bytes: u64) {
        let pages = bytes.div_ceil(size).saturating_mul(size);
        let pool = self.pools.entry(size).or_default();
        *pool = pool.saturating_add(pages);
    }

    /// Refuses a restart for which there are too few pages; `free` tells the free bytes of a pool.
    pub(super) fn check(&self, free: impl Fn(u64) -> u64, plan: &mut Plan) {
        for (&page, &bytes) in &self.pools {
            let free = free(page);
            if bytes > free {
                plan.refusals.add_for_job(
                    format!("huge pages of {} KiB", page / 1024),
                    format!("it needs {} of them, and {} are free here", bytes / page, free / page),
                    "make more of them (vm.nr_hugepages, or /sys/kernel/mm/hugepages), then restart again",
                );
            }
        }
    }
}

/// Bytes of huge pages of this size that are neither used nor set aside, those that may be made on demand among them.
pub(super) fn free_bytes(page: u64) -> u64 {
    free_in(Path::new("/sys/kernel/mm/hugepages"), page)
}

fn free_in(pools: &Path, page: u64) -> u64 {
    let pool = pools.join(format!("hugepages-{}kB", page / 1024));
    let count = |name: &str| {
        let text = std::fs::read_to_string(pool.join(name)).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    let there = count("free_hugepages").saturating_sub(count("resv_hugepages"));
    let more = count("nr_overcommit_hugepages").saturating_sub(count("surplus_hugepages"));
    there.saturating_add(more).saturating_mul(page)
}

#[cfg(test)]
mod tests {
    use super::super::record::Backing;
    use super::*;

    const HUGE: u64 = 2 << 20;

    fn space(process: i32, pages: u64, inherited: u64, attributes: u64) -> AddressSpace {
        let area = AreaRecord {
            start: 8 * HUGE,
            end: 12 * HUGE,
            backing: Backing::AnonymousHuge as i32,
            pages,
            inherited,
            attributes,
            huge_page: HUGE,
            ..AreaRecord::default()
        };
        AddressSpace {
            process,
            areas: vec![area],
            ..AddressSpace::default()
        }
    }

    #[test]
    fn what_is_set_aside_and_what_children_change_is_needed() {
        let parent = space(1, 1024, 0, 0);
        let child = space(2, 1024, 512, 0);
        let sparse = space(3, 1024, 0, attribute::NO_RESERVE);
        let mut demand = Demand::default();
        demand.add(&parent, None).unwrap();
        demand.add(&child, Some(&parent)).unwrap();
        demand.add(&sparse, None).unwrap();
        for (stored, partial) in [(5, false), (9 * HUGE, true), (0, false)] {
            demand.add_file(&KeptFile {
                huge_page: HUGE,
                stored,
                partial,
                ..KeptFile::default()
            });
        }
        assert_eq!(demand.pools[&HUGE], (4 + 1 + 2 + 1 + 1) * HUGE);
        let mut plan = Plan::default();
        demand.check(|_| 9 * HUGE, &mut plan);
        assert!(plan.refusals.list().is_empty());
        demand.check(|_| 8 * HUGE, &mut plan);
        let text = format!("{:?}", plan.refusals.list()[0]);
        assert!(
            text.contains("huge pages of 2048 KiB")
                && text.contains("needs 9")
                && text.contains("8 are free")
        );
    }

    #[test]
    fn areas_that_no_huge_pages_make_up_are_refused() {
        for (start, page) in [
            (8 * HUGE, 3 << 20),
            (8 * HUGE + 4096, HUGE),
            (13 * HUGE, HUGE),
        ] {
            let mut hostile = space(1, 0, 0, 0);
            hostile.areas[0].start = start;
            hostile.areas[0].huge_page = page;
            assert!(Demand::default().add(&hostile, None).is_err());
        }
    }

    #[test]
    fn pages_of_the_parent_are_counted_within_each_area() {
        let mut space = space(2, 1024, 0, 0);
        let same = [(7 * HUGE, 512 + 256), (10 * HUGE, 10), (12 * HUGE, 5)];
        note_inherited(&mut space.areas, &same);
        assert_eq!(space.areas[0].inherited, 256 + 10);
    }

    #[test]
    fn pages_that_are_set_aside_are_not_free() {
        let place = std::env::temp_dir().join(format!("cryonaut-pools-{}", std::process::id()));
        let pool = place.join("hugepages-2048kB");
        std::fs::create_dir_all(&pool).unwrap();
        for (name, count) in [
            ("free_hugepages", "9\n"),
            ("resv_hugepages", "4\n"),
            ("nr_overcommit_hugepages", "3\n"),
            ("surplus_hugepages", "1\n"),
        ] {
            std::fs::write(pool.join(name), count).unwrap();
        }
        assert_eq!(free_in(&place, HUGE), (9 - 4 + 3 - 1) * HUGE);
        assert_eq!(free_in(&place, 1 << 30), 0);
        std::fs::remove_dir_all(&place).unwrap();
    }
}
