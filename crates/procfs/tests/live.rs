//! The reading layer against this machine: itself, its children, and every process there is.

use std::process::{Child, Command, Stdio};

use cryonaut_procfs::{AreaName, ProcCause, ProcError, ProcessDirectory, auxv, system};

/// A child that waits, ended when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(
            Command::new("sleep")
                .arg("1000")
                .stdin(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn own() -> ProcessDirectory {
    ProcessDirectory::open(i32::try_from(std::process::id()).unwrap()).unwrap()
}

#[test]
fn own_process() {
    let own = own();
    let (stat, status) = (own.stat().unwrap(), own.status().unwrap());
    assert_eq!((stat.pid, stat.ppid), (own.pid(), status.ppid));
    assert_eq!(stat.comm, own.comm().unwrap());
    assert_eq!(stat.comm, status.name);
    assert!(status.vm_resident.unwrap() > 0 && status.namespace_pid[0] == own.pid());
    let maps = own.maps().unwrap();
    assert!(maps.is_sorted_by_key(|area| area.start));
    let vdso = maps
        .iter()
        .find(|area| area.name == AreaName::Vdso)
        .unwrap();
    assert_eq!(
        auxv::value(&own.auxv().unwrap(), auxv::AT_SYSINFO_EHDR),
        Some(vdso.start)
    );
    let executable = own.link("exe").unwrap();
    assert!(maps.iter().any(|area| area.name
        == AreaName::File {
            path: executable.clone(),
            deleted: false
        }));
    let stack = maps
        .iter()
        .find(|area| area.contains(stat.start_stack))
        .unwrap();
    assert_eq!(stack.name, AreaName::Stack);
    let pages = own.pagemap(stack.start, stack.end).unwrap();
    assert_eq!(pages.len() as u64, stack.length() / 4096);
    assert!(
        pages
            .iter()
            .any(|page| page.present() && !page.file_or_shared())
    );
    let environment = own.environment().unwrap();
    assert!(environment.iter().any(|entry| entry.starts_with(b"PATH=")));
    assert!(!own.command_line().unwrap().is_empty());
    assert!(own.namespace("pid").unwrap() > 0);
    assert!(
        own.mountinfo()
            .unwrap()
            .iter()
            .any(|mount| mount.mount_point == b"/")
    );
    assert!(!own.uid_map().unwrap().is_empty() && !own.gid_map().unwrap().is_empty());
    own.personality().unwrap();
    // Of another task than the reading thread it takes CAP_SYS_NICE.
    acceptable("timerslack_ns", own.timerslack_ns());
    own.exec_start().unwrap();
    own.loginuid().unwrap();
}

#[test]
fn own_descriptors() {
    use std::os::fd::AsRawFd;
    let own = own();
    let file = std::fs::File::open("/dev/null").unwrap();
    let descriptor = file.as_raw_fd();
    assert!(own.descriptors().unwrap().contains(&descriptor));
    assert_eq!(own.descriptor_link(descriptor).unwrap(), b"/dev/null");
    assert_eq!(own.fdinfo(descriptor).unwrap().flags & 3, 0);
    let error = own.fdinfo(1_000_000).unwrap_err();
    assert!(error.is_missing() && !error.is_gone(), "{error}");
    assert_eq!(error.path, own.path().join("fdinfo/1000000"));
}

#[test]
fn threads_have_directories_of_their_own() {
    let own = own();
    let thread = std::thread::spawn(|| {
        let tid: i32 = std::fs::read_link("/proc/thread-self")
            .unwrap()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let process = ProcessDirectory::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(process.threads().unwrap().contains(&tid));
        let task = process.task(tid).unwrap();
        assert_eq!(task.stat().unwrap().pid, tid);
        assert_eq!(task.status().unwrap().tgid, process.pid());
        tid
    });
    let tid = thread.join().unwrap();
    while own.threads().unwrap().contains(&tid) {
        std::thread::yield_now();
    }
    assert!(own.task(tid).unwrap_err().is_gone());
    assert!(own.children(tid).unwrap_err().is_gone());
}

#[test]
fn a_child_is_found_and_seen_to_end() {
    let mut sleeper = Sleeper::start();
    let directory = ProcessDirectory::open(sleeper.pid()).unwrap();
    assert!(own().all_children().unwrap().contains(&sleeper.pid()));
    assert_eq!(directory.all_children().unwrap(), Vec::<i32>::new());
    assert!(directory.exists());
    sleeper.0.kill().unwrap();
    while directory.stat().unwrap().state != 'Z' {
        std::thread::yield_now();
    }
    assert!(directory.exists(), "a zombie is still there");
    assert_eq!(directory.stat().unwrap().exit_code, 9);
    assert_eq!(directory.status().unwrap().vm_size, None);
    assert!(directory.link("exe").unwrap_err().is_missing());
    sleeper.0.wait().unwrap();
    assert!(!directory.exists());
    for error in [
        directory.stat().unwrap_err(),
        directory.smaps().unwrap_err(),
        directory.descriptors().unwrap_err(),
        directory.link("exe").unwrap_err(),
        directory.children(directory.pid()).unwrap_err(),
        directory.task(directory.pid()).unwrap_err(),
        ProcessDirectory::open(directory.pid()).unwrap_err(),
    ] {
        assert!(error.is_gone(), "{error}");
    }
}

/// A result that is right for a process that runs, ends, or is not ours to look at.
fn acceptable<T>(what: &str, result: Result<T, ProcError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.is_gone() || error.is_denied() || error.is_missing() => None,
        Err(error) if matches!(error.cause, ProcCause::Parse(_)) => panic!("{what}: {error}"),
        // mem of kernel threads and the like: EINVAL, EIO …
        Err(_) => None,
    }
}

#[test]
fn every_process_of_the_machine() {
    let mut understood = 0;
    for pid in system::all_pids().unwrap() {
        let Some(directory) = acceptable("open", ProcessDirectory::open(pid)) else {
            continue;
        };
        acceptable("status", directory.status());
        acceptable("maps", directory.maps());
        acceptable("smaps", directory.smaps());
        acceptable("mountinfo", directory.mountinfo());
        acceptable("auxv", directory.auxv());
        acceptable("timers", directory.timers());
        acceptable("cgroup", directory.cgroups());
        acceptable("cmdline", directory.command_line());
        acceptable("environ", directory.environment());
        acceptable("sched", directory.exec_start());
        acceptable("personality", directory.personality());
        acceptable("oom_score_adj", directory.oom_score_adj());
        acceptable("timerslack_ns", directory.timerslack_ns());
        acceptable("coredump_filter", directory.coredump_filter());
        acceptable("loginuid", directory.loginuid());
        acceptable("timens_offsets", directory.time_offsets());
        acceptable("ns", directory.namespace("mnt"));
        for descriptor in acceptable("fd", directory.descriptors()).unwrap_or_default() {
            acceptable("fdinfo", directory.fdinfo(descriptor));
        }
        for tid in acceptable("task", directory.threads()).unwrap_or_default() {
            let Some(task) = acceptable("task", directory.task(tid)) else {
                continue;
            };
            acceptable("task stat", task.stat());
            acceptable("children", task.status());
        }
        understood += i32::from(acceptable("stat", directory.stat()).is_some());
    }
    assert!(understood > 1);
    assert!(!system::all_stats().unwrap().is_empty());
}

#[test]
fn the_machine() {
    assert_eq!(system::boot_id().unwrap().len(), 36);
    assert!(system::boot_time().unwrap() > 0);
    assert!(system::processor().unwrap().flags.contains("sse2"));
}

#[test]
fn directories_may_be_shared_between_threads() {
    fn shareable<T: Send + Sync>() {}
    shareable::<ProcessDirectory>();
}
