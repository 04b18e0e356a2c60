//! How much an image holds.

/// Counts over a whole image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Length of the image in bytes.
    pub bytes: u64,
    /// Number of records and pages sections.
    pub sections: u64,
    /// Number of records.
    pub records: u64,
    /// Pages whose contents are in the image.
    pub stored_pages: u64,
    /// Pages recorded as equal to those of another space.
    pub same_pages: u64,
    /// Pages recorded as zero.
    pub zero_pages: u64,
}

impl Summary {
    /// Adds the pages of one section. Counts from a hostile image may be anything, so they saturate.
    pub(crate) fn add_pages(&mut self, pages: PageCounts) {
        self.stored_pages = self.stored_pages.saturating_add(pages.stored);
        self.same_pages = self.same_pages.saturating_add(pages.same);
        self.zero_pages = self.zero_pages.saturating_add(pages.zero);
    }
}

/// Pages in one pages section, by how they are described.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Pages whose contents are in the section.
    pub stored: u64,
    /// Pages equal to those of another space.
    pub same: u64,
    /// Pages recorded as zero.
    pub zero: u64,
}
