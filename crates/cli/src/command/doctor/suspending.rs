//! What `cryo suspend` finds here: a freezer, a way to push memory out, and room for it.

use std::fs::OpenOptions;

use cryonaut_engine::suspend::{Cgroup, Swap, may_advise};

use super::Finding;
use crate::units;

/// The findings.
pub fn findings() -> Vec<Finding> {
    vec![freezer(), advice(), swap()]
}

fn freezer() -> Finding {
    let what = "suspending: the freezer (cgroup v2)";
    let Some(own) = Cgroup::of(std::process::id() as i32) else {
        return Finding::limited(
            what,
            "no cgroup v2 hierarchy is seen here: jobs are held by SIGSTOP",
            "mount one (mount -t cgroup2 none /sys/fs/cgroup/unified), also beside cgroup v1",
        );
    };
    // A directory of its own is what a suspension makes; it is only asked whether that would be permitted.
    let may = OpenOptions::new()
        .write(true)
        .open(own.path().join("cgroup.procs"))
        .is_ok();
    match may {
        true => Finding::ok(what, format!("can be used below {}", own.path().display())),
        false => Finding::limited(
            what,
            format!(
                "{} belongs to somebody else: jobs are held by SIGSTOP",
                own.path().display()
            ),
            "start jobs where cgroups are delegated to you: systemd-run --user --scope cryo run ...",
        ),
    }
}

fn advice() -> Finding {
    let what = "suspending: pushing memory out";
    // Of a process that is not this one: only that is restricted.
    let parent = cryonaut_sys::spawn::parent_pid();
    match may_advise(parent) {
        true => Finding::ok(what, "from outside, while the job stands still"),
        false => Finding::ok(what, "by the job itself, before it stands still"),
    }
}

fn swap() -> Finding {
    let what = "suspending: swap space";
    let swap = Swap::now();
    match swap.total {
        0 => Finding::limited(
            what,
            "there is none: only pages of files can be given back",
            "as root: fallocate -l 8G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile",
        ),
        total => Finding::ok(
            what,
            format!(
                "{} of {} free{}",
                units::size(swap.free),
                units::size(total),
                if swap.compressed {
                    ", some of it compressed memory (zram)"
                } else {
                    ""
                }
            ),
        ),
    }
}
