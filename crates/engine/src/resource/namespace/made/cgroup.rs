//! What a cgroup namespace shows: cgroups from that on in which its maker was (cgroup_namespaces(7)). Only processes that are in
//! that very one can come back to where they were: to the root of a namespace made where the restart is.

use std::io;

use super::Nothing;

/// Looks at a process from the cgroup namespace of the calling one, by the number that the process has for `cryo`.
///
/// # Errors
/// Those of the system; where the process is not in the cgroup that its namespace begins with.
pub(super) fn look(pid: i32) -> io::Result<Nothing> {
    let cgroups = std::fs::read(format!("/proc/{pid}/cgroup"))?;
    match is_at_root(&cgroups) {
        true => Ok(Nothing {}),
        false => Err(io::Error::other(
            "the process is not in the cgroup that it begins with".to_owned(),
        )),
    }
}

/// Whether all that a cgroup file names is the root.
fn is_at_root(cgroups: &[u8]) -> bool {
    let mut lines = cgroups
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines.all(|line| line.ends_with(b":/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_told_from_the_rest() {
        assert!(is_at_root(b"12:memory:/\n0::/\n"));
        assert!(!is_at_root(b"12:memory:/\n0::/inner\n"));
        assert!(!is_at_root(b"0::/..\n"));
        assert!(is_at_root(b""));
    }
}
