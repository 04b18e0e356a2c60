//! What `cryo doctor` tries out.

use std::fs::{self, File};
use std::io::PipeWriter;
use std::os::fd::{AsFd, OwnedFd};

use cryonaut_engine::checkpoint::temporary_file;
use cryonaut_launch::registry::Registry;
use cryonaut_launch::{
    Child, ChildSpec, Direct, LaunchError, Lifetime, NamespaceRequest, Namespaces, Nursery,
    TimeOffsets, UserNamespace,
};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::spawn::{self, WaitFor};
use cryonaut_sys::task::Compare;
use cryonaut_sys::{memory, pidfd, ptrace, task};

use super::Finding;

/// The oldest kernel that is supported.
const OLDEST: (u32, u32) = (5, 14);

/// What the kernel itself must offer.
pub fn kernel() -> Vec<Finding> {
    vec![
        version(),
        memory_map(),
        comparison(),
        descriptors(),
        page_scan(),
        write_tracking(),
    ]
}

fn setting(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn version() -> Finding {
    let release = setting("/proc/sys/kernel/osrelease").unwrap_or_default();
    match numbers(&release) {
        Some(version) if version < OLDEST => Finding::missing(
            "kernel",
            format!("Linux {release}"),
            format!("Linux {}.{} or newer is needed", OLDEST.0, OLDEST.1),
        ),
        _ => Finding::ok("kernel", format!("Linux {release}")),
    }
}

fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// PR_SET_MM_MAP and the sysctl come and go together: both need CONFIG_CHECKPOINT_RESTORE (kernel/sys.c, kernel/pid_namespace.c).
fn memory_map() -> Finding {
    let what = "memory layout (PR_SET_MM_MAP)";
    if fs::metadata("/proc/sys/kernel/ns_last_pid").is_ok() {
        Finding::ok(what, "can be set")
    } else {
        Finding::missing(
            what,
            "cannot be set",
            "the kernel needs CONFIG_CHECKPOINT_RESTORE=y",
        )
    }
}

fn comparison() -> Finding {
    let what = "comparing descriptors (kcmp)";
    let own = std::process::id() as i32;
    match task::compare(Compare::File, (own, 2), (own, 2)) {
        Ok(_) => Finding::ok(what, "works"),
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Finding::ok(what, "works"),
        Err(error) => Finding::missing(
            what,
            error.to_string(),
            "the kernel needs CONFIG_KCMP=y, and a container's seccomp filter must let kcmp through",
        ),
    }
}

fn descriptors() -> Finding {
    let what = "taking descriptors (pidfd_getfd)";
    let taken = File::open("/dev/null").and_then(|file| {
        let own = pidfd::open(std::process::id() as i32)?;
        pidfd::get_descriptor(own.as_fd(), std::os::fd::AsRawFd::as_raw_fd(&file))
    });
    match taken {
        Ok(_) => Finding::ok(what, "works"),
        Err(error) => Finding::missing(
            what,
            error.to_string(),
            "a container's seccomp filter may forbid it: docker and podman need --cap-add SYS_PTRACE",
        ),
    }
}

fn page_scan() -> Finding {
    let what = "finding pages (PAGEMAP_SCAN)";
    let scanned = ProcessDirectory::open(std::process::id() as i32)
        .ok()
        .and_then(|own| {
            let area = own.maps().ok()?.into_iter().next()?;
            let pagemap = own.open_file("pagemap").ok()?;
            let found = memory::scan(
                pagemap.as_fd(),
                (area.start, area.end),
                memory::page::PRESENT,
                memory::page::PRESENT,
                |_| {},
            );
            Some(found)
        });
    match scanned {
        Some(Ok(())) => Finding::ok(what, "works"),
        _ => Finding::limited(
            what,
            "not there: pagemap is read instead, which is slower",
            "Linux 6.7 or newer has it",
        ),
    }
}

/// The sysctl is there where userfaultfd is; restricted to user mode faults every user may have it.
fn write_tracking() -> Finding {
    let what = "write tracking (userfaultfd)";
    if fs::metadata("/proc/sys/vm/unprivileged_userfaultfd").is_ok() {
        Finding::ok(what, "there")
    } else {
        Finding::limited(
            what,
            "not there",
            "CONFIG_USERFAULTFD=y lets memory be tracked while a program runs",
        )
    }
}

/// A child that does nothing until it is ended, or its pipe closes.
struct Idle {
    child: Child,
    _lifeline: PipeWriter,
}

fn idle(nursery: &Nursery, inner_pid: Option<i32>) -> Result<Idle, LaunchError> {
    let system = |what| move |source| LaunchError::System { what, source };
    let (input, lifeline) = std::io::pipe().map_err(system("open a pipe"))?;
    let program = std::env::current_exe().map_err(system("find cryo itself"))?;
    let mut spec = ChildSpec::command([program.into_os_string(), "__keep-terminal".into()]);
    spec.inner_pid = inner_pid;
    let nothing = || {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map(OwnedFd::from)
    };
    spec.stdio = [
        Some(input.into()),
        Some(nothing().map_err(system("open /dev/null"))?),
        Some(nothing().map_err(system("open /dev/null"))?),
    ];
    Ok(Idle {
        child: nursery.spawn(&spec)?,
        _lifeline: lifeline,
    })
}

/// Seizes the child, which is killed by that end.
fn seize(idle: Idle) -> std::io::Result<()> {
    let outcome = ptrace::seize(idle.child.pid, 0);
    let _ = idle.child.signal(libc::SIGKILL);
    let _ = spawn::wait_for(WaitFor::Pid(idle.child.pid), libc::WEXITED);
    outcome
}

const ALLOW_TRACING: &str = "ptrace is forbidden here: in docker or podman start the container with --cap-add SYS_PTRACE, otherwise look at kernel.yama.ptrace_scope and SELinux's deny_ptrace";

/// Whether running programs can be traced.
pub fn tracing() -> Vec<Finding> {
    let what = "tracing a child (ptrace)";
    let nursery = Nursery::Direct(Direct);
    let traced = match idle(&nursery, None) {
        Ok(idle) => seize(idle).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let child = match traced {
        Ok(()) => Finding::ok(what, "works"),
        Err(error) => Finding::missing(what, error, ALLOW_TRACING),
    };
    vec![child, yama()]
}

const CAP_SYS_PTRACE: u64 = 1 << 19;

fn yama() -> Finding {
    let what = "tracing other programs (Yama)";
    let scope = setting("/proc/sys/kernel/yama/ptrace_scope");
    let privileged = spawn::effective_capabilities().unwrap_or(0) & CAP_SYS_PTRACE != 0;
    let relax = "sysctl kernel.yama.ptrace_scope=0 lets you checkpoint programs by their pid";
    match scope.as_deref() {
        None | Some("0") => Finding::ok(what, "not restricted"),
        Some("1" | "2") if privileged => Finding::ok(what, "restricted, but not for you"),
        Some("1" | "2") => Finding::limited(
            what,
            "restricted: jobs of `cryo run` can be checkpointed, other running programs cannot",
            format!("start programs with `cryo run`; {relax}"),
        ),
        Some(_) => Finding::missing(
            what,
            "forbidden to everybody until the next boot",
            "set kernel.yama.ptrace_scope below 3 at boot",
        ),
    }
}

/// Whether jobs can live in namespaces of their own.
pub fn namespaces() -> Vec<Finding> {
    let request = |time_offsets| NamespaceRequest {
        user: UserNamespace::WhenNeeded,
        time_offsets,
        lifetime: Lifetime::WithSupervisor,
        ..NamespaceRequest::default()
    };
    let what = "fresh namespaces (user, pid, mount)";
    let with_time = Namespaces::create(&request(Some(TimeOffsets::default())));
    let (made, time) = match with_time {
        Ok(made) => (Ok(made), Finding::ok("time namespaces", "work")),
        Err(with_time) => match Namespaces::create(&request(None)) {
            Ok(made) => (Ok(made), without_time(&with_time)),
            Err(error) => (Err(error), without_time(&with_time)),
        },
    };
    match made {
        Err(error) => vec![refused(what, &error)],
        Ok(made) => {
            let nursery = Nursery::Namespace(made);
            let inside = inside(&nursery);
            if let Nursery::Namespace(made) = nursery {
                // Killed or not, it does not outlive this process.
                let _ = made.end();
            }
            [
                vec![Finding::ok(what, "work, with a /proc of their own"), time],
                inside,
            ]
            .concat()
        }
    }
}

fn refused(what: &'static str, error: &LaunchError) -> Finding {
    match error {
        LaunchError::Namespaces {
            step,
            source,
            advice,
        } => Finding::missing(what, format!("cannot {step}: {source}"), *advice),
        _ => Finding::missing(what, error.to_string(), ""),
    }
}

fn without_time(error: &LaunchError) -> Finding {
    let found = format!("{error}");
    Finding::limited(
        "time namespaces",
        found,
        "without them a restarted job sees its clocks jump",
    )
}

/// What works in namespaces of a job.
fn inside(nursery: &Nursery) -> Vec<Finding> {
    const CHOSEN: i32 = 4242;
    let what = "choosing pids in namespaces";
    match idle(nursery, Some(CHOSEN)) {
        Ok(idle) => {
            let chosen = match idle.child.inner_pid {
                CHOSEN => Finding::ok(what, "works"),
                other => Finding::missing(what, format!("asked for {CHOSEN}, got {other}"), ""),
            };
            // Reaped by its tracer first of all: init waits for that.
            let traced = match seize(idle) {
                Ok(()) => Finding::ok("tracing a job in namespaces", "works"),
                Err(error) => Finding::missing(
                    "tracing a job in namespaces",
                    error.to_string(),
                    ALLOW_TRACING,
                ),
            };
            vec![chosen, traced]
        }
        Err(error) => vec![refused(what, &error)],
    }
}

/// Whether pids can be chosen beside everything else.
pub fn choosing_pids() -> Finding {
    let what = "choosing pids here";
    let free = (300_i32..32_000)
        .rev()
        .find(|pid| fs::metadata(format!("/proc/{pid}")).is_err());
    match idle(&Nursery::Direct(Direct), free) {
        Ok(idle) => {
            let _ = idle.child.signal(libc::SIGKILL);
            let _ = spawn::wait_for(WaitFor::Pid(idle.child.pid), libc::WEXITED);
            Finding::ok(what, "works")
        }
        Err(LaunchError::PidNotPermitted { .. }) => Finding::limited(
            what,
            "not for this user: jobs are restarted in namespaces of their own",
            "root may, and whoever has CAP_CHECKPOINT_RESTORE (setcap cap_checkpoint_restore+ep on cryo, executable by a trusted group only)",
        ),
        Err(error) => Finding::limited(
            what,
            error.to_string(),
            "jobs are restarted in namespaces of their own",
        ),
    }
}

/// What else matters.
pub fn surroundings() -> Vec<Finding> {
    vec![proc_mount(), temporary_space(), list_of_jobs()]
}

fn proc_mount() -> Finding {
    let what = "/proc";
    let mounts =
        ProcessDirectory::open(std::process::id() as i32).and_then(|own| own.read("mountinfo"));
    let text = String::from_utf8_lossy(&mounts.unwrap_or_default()).into_owned();
    let options = text
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some("/proc"))
        .unwrap_or_default();
    let hidden = [
        "hidepid=2",
        "hidepid=invisible",
        "hidepid=4",
        "hidepid=ptraceable",
    ];
    let seen = fs::metadata("/proc/1").is_ok();
    if options.contains("subset=pid") {
        Finding::missing(what, "mounted with subset=pid", "mount the whole /proc")
    } else if hidden.iter().any(|option| options.contains(option)) && !seen {
        Finding::ok(
            what,
            "shows only your own processes (hidepid), which is enough for them",
        )
    } else {
        Finding::ok(what, "shows all processes")
    }
}

fn temporary_space() -> Finding {
    let what = "temporary files";
    match temporary_file() {
        Ok(_) => Finding::ok(what, "can be made"),
        Err(error) => Finding::limited(
            what,
            error.to_string(),
            "needed for `-o -` and `restart -` only",
        ),
    }
}

fn list_of_jobs() -> Finding {
    let what = "the list of jobs";
    match Registry::open() {
        Ok(registry) => Finding::ok(what, format!("in {}", registry.directory().display())),
        Err(error) => Finding::limited(what, error.to_string(), "without it jobs have no names"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(numbers("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(numbers("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(numbers("strange"), None);
    }
}
