//! Capabilities that this very program file has been given (setcap(8)), and what has become of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cryonaut_sys::{file, spawn};

use super::Finding;

/// The extended attribute that holds them.
const ATTRIBUTE: &[u8] = b"security.capability";
/// CAP_CHECKPOINT_RESTORE (include/uapi/linux/capability.h).
const CHECKPOINT_RESTORE: u64 = 1 << 40;
const WHAT: &str = "capabilities of this program file";
const GIVE: &str = "setcap cap_checkpoint_restore+ep";

/// What `security.capability` says (struct vfs_cap_data, struct vfs_ns_cap_data).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Given {
    /// What a process gets that runs the file.
    permitted: u64,
    /// Whether it need not ask for them (the `e` of setcap).
    effective: bool,
    /// The user that is root in the user namespaces in which alone they count.
    root: u32,
}

fn parse(bytes: &[u8]) -> Option<Given> {
    const EFFECTIVE: u32 = 1;
    let word = |index: usize| {
        let bytes = bytes.get(index * 4..index * 4 + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let magic = word(0)?;
    // After the magic come pairs of words, permitted and inheritable: low halves, then high halves.
    let (high, root) = match (magic >> 24, bytes.len()) {
        (1, 12) => (0, 0),
        (2, 20) => (word(3)?, 0),
        (3, 24) => (word(3)?, word(5)?),
        _ => return None,
    };
    Some(Given {
        permitted: u64::from(word(1)?) | u64::from(high) << 32,
        effective: magic & EFFECTIVE != 0,
        root,
    })
}

/// What is found about the file; nothing where it has no capabilities, which is the usual case.
pub fn finding() -> Option<Finding> {
    let path = std::env::current_exe().ok()?;
    let attributes = file::extended_attributes(&path).ok()?;
    let (_, value) = attributes.iter().find(|(name, _)| name == ATTRIBUTE)?;
    let mode = fs::metadata(&path).ok()?.permissions().mode();
    let held = spawn::effective_capabilities().unwrap_or(0);
    Some(judge(&path, parse(value), mode, held, what_hinders))
}

fn judge(
    path: &Path,
    given: Option<Given>,
    mode: u32,
    held: u64,
    hindrance: impl FnOnce() -> &'static str,
) -> Finding {
    let path = path.display();
    let Some(given) = given else {
        return Finding::limited(
            WHAT,
            "in a form that is not known",
            format!("{GIVE} {path}"),
        );
    };
    if given.permitted & CHECKPOINT_RESTORE == 0 || given.permitted & !CHECKPOINT_RESTORE != 0 {
        return Finding::limited(
            WHAT,
            format!(
                "others than CAP_CHECKPOINT_RESTORE alone (bits {:#x}): who may run it gets their power over other users",
                given.permitted
            ),
            format!("{GIVE} {path}"),
        );
    }
    if mode & 0o001 != 0 {
        return Finding::limited(
            WHAT,
            "CAP_CHECKPOINT_RESTORE, and every user may run it: who has it chooses pids and reads whatever /proc shows of mappings",
            format!("chgrp a trusted group {path} && chmod 0750 {path} && {GIVE} {path}"),
        );
    }
    if !given.effective {
        return Finding::limited(
            WHAT,
            "CAP_CHECKPOINT_RESTORE, but not effective",
            format!("{GIVE} {path}"),
        );
    }
    if held & CHECKPOINT_RESTORE == 0 {
        return Finding::limited(
            WHAT,
            "CAP_CHECKPOINT_RESTORE, but the kernel has not granted it",
            if given.root == 0 {
                hindrance()
            } else {
                "it was given in a user namespace, and counts only there: use setcap outside of it"
            },
        );
    }
    Finding::ok(WHAT, "CAP_CHECKPOINT_RESTORE, effective")
}

/// Why an effective capability of the file did not become one of the process (execve(2)).
fn what_hinders() -> &'static str {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|line| line == "NoNewPrivs:\t1") {
        return "this process may not gain privileges (no_new_privs): start cryo from a shell that has not given them up";
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let initial: Vec<&str> = map.split_whitespace().collect();
    if initial != ["0", "0", "4294967295"] {
        return "this is a user namespace, where it does not count: start cryo outside of it";
    }
    "its file system may be mounted nosuid, the process traced, or the capability missing from the bounding set: \
     move cryo to an ordinary file system, or start it elsewhere"
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    const SECOND: [u8; 20] = [1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];

    fn state(bytes: &[u8], mode: u32, held: u64) -> (State, String) {
        let found = judge(Path::new("/x"), parse(bytes), mode, held, || "because");
        (found.state, found.remedy)
    }

    #[test]
    fn attributes_are_read() {
        let only = Given {
            permitted: CHECKPOINT_RESTORE,
            effective: true,
            root: 0,
        };
        assert_eq!(parse(&SECOND), Some(only));
        let mut third = SECOND.to_vec();
        third[3] = 3;
        third.extend(1000_u32.to_le_bytes());
        assert_eq!(parse(&third), Some(Given { root: 1000, ..only }));
        let first = [0, 0, 0, 1, 0, 0, 8, 0, 0, 0, 0, 0];
        let traces = Given {
            permitted: 1 << 19,
            effective: false,
            root: 0,
        };
        assert_eq!(parse(&first), Some(traces));
        assert_eq!(parse(&SECOND[..12]), None);
        assert_eq!(parse(&[]), None);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let held = CHECKPOINT_RESTORE;
        assert_eq!(state(&SECOND, 0o750, held).0, State::Ok);
        assert_eq!(state(&SECOND, 0o755, held).0, State::Limited);
        assert_eq!(
            state(&SECOND, 0o750, 0),
            (State::Limited, "because".to_owned())
        );
        let mut more = SECOND;
        more[6] = 8;
        assert_eq!(state(&more, 0o750, held).0, State::Limited);
        let mut idle = SECOND;
        idle[0] = 0;
        assert_eq!(state(&idle, 0o750, held).0, State::Limited);
        assert_eq!(state(&SECOND[1..], 0o750, held).0, State::Limited);
    }
}
