//! A name for the acting user: some programs serve nobody without one.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cryonaut_sys::spawn::mount;

use crate::mount::leave_mount_namespace;
use crate::outcome::{Outcome, failed, skip};
use crate::scene::Scene;

/// What the ordinary user is called that tests run by root take on.
const NAME: &str = "traveller";

/// Which columns of passwd(5) and group(5) are the same in both.
const ID_COLUMN: usize = 2;

/// Sees to it that the acting user has a name for all that the test starts from now on: where root runs the tests, by other tables
/// of users and groups in a mount namespace of the test's own; otherwise the test is skipped.
pub fn give(scene: &Scene) -> Outcome {
    let id = scene.user_id();
    if has_name(&fs::read_to_string("/etc/passwd")?, id) {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return skip("the user that runs the tests has no name in /etc/passwd");
    }
    let home = scene.work("");
    let lines = [
        (
            "passwd",
            format!("{NAME}:x:{id}:{id}::{}:/bin/bash", home.display()),
        ),
        ("group", format!("{NAME}:x:{id}:")),
    ];
    leave_mount_namespace()?;
    for (table, line) in lines {
        let place = Path::new("/etc").join(table);
        let ours = scene.file(table);
        let before = fs::read_to_string(&place)?;
        fs::write(&ours, format!("{}\n{line}\n", before.trim_end()))?;
        fs::set_permissions(&ours, Permissions::from_mode(0o644))?;
        let [from, to] = [&ours, &place].map(|path| CString::new(path.as_os_str().as_bytes()));
        let (Ok(from), Ok(to)) = (from, to) else {
            return failed("a path with a zero byte");
        };
        mount(&from, &to, None, libc::MS_BIND)?;
    }
    Ok(())
}

/// Whether a table of users has one with this id.
fn has_name(table: &str, id: u32) -> bool {
    let id = id.to_string();
    table
        .lines()
        .any(|line| line.split(':').nth(ID_COLUMN) == Some(&id))
}
