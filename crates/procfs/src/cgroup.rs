//! `/proc/PID/cgroup`: cgroups(7), kernel `proc_cgroup_show` in kernel/cgroup/cgroup.c.

use crate::error::ParseError;
use crate::scan;

/// Membership in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMembership {
    /// Hierarchy id; 0 for cgroup v2.
    pub hierarchy: u32,
    /// Controllers of a v1 hierarchy, or `name=NAME`; empty for v2.
    pub controllers: Vec<Vec<u8>>,
    /// Path from the root of the reader's cgroup namespace; begins with `/..` outside of it.
    pub path: Vec<u8>,
    /// The group has been removed.
    pub deleted: bool,
}

impl CgroupMembership {
    /// Whether this is the cgroup v2 hierarchy.
    pub fn is_unified(&self) -> bool {
        self.hierarchy == 0
    }
}

/// Parses a `cgroup` file.
///
/// # Errors
/// At the first line that is not a membership.
pub fn parse(text: &[u8]) -> Result<Vec<CgroupMembership>, ParseError> {
    scan::Lines::new(text)
        .map(|(number, line)| {
            parse_line(line)
                .ok_or_else(|| ParseError::new("cgroup", number, "not a membership", line))
        })
        .collect()
}

/// Parses `ID:CONTROLLERS:PATH`. Neither controllers nor hierarchy names hold a colon; paths may.
fn parse_line(line: &[u8]) -> Option<CgroupMembership> {
    let (hierarchy, rest) = scan::cut(line, b':')?;
    let (controllers, path) = scan::cut(rest, b':')?;
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(path) => (path, true),
        None => (path, false),
    };
    let controllers = controllers
        .split(|&byte| byte == b',')
        .filter(|name| !name.is_empty());
    Some(CgroupMembership {
        hierarchy: scan::decimal(hierarchy)?,
        controllers: controllers.map(<[u8]>::to_vec).collect(),
        path: path.to_vec(),
        deleted,
    })
}
