//! Processes as `/proc` shows them: who descends from whom, how they stand, and how to end all that a test started.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

/// One process, of all that `/proc` shows.
#[derive(Debug, Clone, Copy)]
struct Entry {
    parent: i32,
    state: char,
}

/// The letter of a process's state in `/proc` (R, S, D, T, t, Z …); none if it has gone.
#[must_use]
pub fn state(pid: i32) -> Option<char> {
    entry(pid).map(|entry| entry.state)
}

/// A process's parent; none if the process has gone.
#[must_use]
pub fn parent(pid: i32) -> Option<i32> {
    entry(pid).map(|entry| entry.parent)
}

fn entry(pid: i32) -> Option<Entry> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 2..].split(' ');
    Some(Entry {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
    })
}

fn all() -> HashMap<i32, Entry> {
    let mut entries = HashMap::new();
    for name in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = name.file_name().to_str().and_then(|name| name.parse().ok())
            && let Some(entry) = entry(pid)
        {
            entries.insert(pid, entry);
        }
    }
    entries
}

/// All descendants of a process, and itself.
#[must_use]
pub fn family(pid: i32) -> Vec<i32> {
    let mut family = descendants(pid);
    family.push(pid);
    family
}

/// All descendants of a process, zombies included, in no order.
#[must_use]
pub fn descendants(ancestor: i32) -> Vec<i32> {
    let entries = all();
    let mut family = HashSet::from([ancestor]);
    loop {
        let before = family.len();
        for (pid, entry) in &entries {
            if family.contains(&entry.parent) {
                family.insert(*pid);
            }
        }
        if family.len() == before {
            break;
        }
    }
    family.remove(&ancestor);
    family.into_iter().collect()
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Makes orphans of this process's descendants its own children, so that none escapes the clean-up.
pub fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .expect("PR_SET_CHILD_SUBREAPER is always allowed");
}

/// Sends a signal to one process, which may have gone.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // A process that has gone is as good as signalled.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Waits for the zombies among this process's children, except those that `kept` says belong to a live handle.
pub fn reap_orphans(kept: &HashSet<i32>) {
    let own = own_pid();
    for (pid, entry) in all() {
        if entry.parent == own
            && entry.state == 'Z'
            && !kept.contains(&pid)
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Kills and reaps every descendant of this process, each by its pid; says which are left after ten seconds.
pub fn end_descendants() -> Vec<i32> {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let family = descendants(own_pid());
        if family.is_empty() || Instant::now() > limit {
            return family;
        }
        for pid in family {
            signal(pid, Signal::KILL);
        }
        reap_orphans(&HashSet::new());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One line for each descendant of this process: pid, parent, state, name, and what its tasks wait in.
#[must_use]
pub fn describe_descendants() -> String {
    let entries = all();
    let mut family = descendants(own_pid());
    family.sort_unstable();
    let mut text = String::new();
    for pid in family {
        let Some(entry) = entries.get(&pid) else {
            continue;
        };
        let read = |name: &str| {
            fs::read_to_string(format!("/proc/{pid}/{name}"))
                .unwrap_or_default()
                .replace('\0', " ")
                .trim()
                .to_owned()
        };
        let tracer = read("status")
            .lines()
            .find_map(|line| {
                line.strip_prefix("TracerPid:")
                    .map(|pid| pid.trim().to_owned())
            })
            .filter(|pid| pid != "0")
            .map_or(String::new(), |pid| format!(" traced by {pid}"));
        text += &format!(
            "  {pid} child of {} {}{tracer} [{}] {} | waits in {} | call {}\n",
            entry.parent,
            entry.state,
            read("comm"),
            read("cmdline"),
            read("wchan"),
            read("syscall"),
        );
    }
    text
}
