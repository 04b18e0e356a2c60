//! Jobs in namespaces of their own and direct children, as whoever runs the tests; run by root, the
//! tests of namespaces run once more as an ordinary user.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use cryonaut_launch::{
    Child, ChildSpec, Direct, Ended, Event, LaunchError, Lifetime, NamespaceRequest, Namespaces,
    Nursery, Outcome, Privilege, Program, Role, StopBeforeExec, Supervisor, TimeOffset,
    TimeOffsets, UserNamespace, WatchedSignals, inherited_descriptors,
};

use cryonaut_sys::terminal::{Readiness, wait_ready};

const PATIENCE: Duration = Duration::from_secs(20);

/// Namespaces where there may be some, and none.
fn nurseries() -> impl Iterator<Item = Nursery> {
    let namespaces = nursery(NamespaceRequest::default());
    namespaces.into_iter().chain([Nursery::Direct(Direct)])
}

/// A nursery in fresh namespaces; `None`, with the reason printed, where this machine allows none.
fn nursery(request: NamespaceRequest) -> Option<Nursery> {
    match Namespaces::create(&request) {
        Ok(namespaces) => Some(Nursery::Namespace(namespaces)),
        Err(error @ LaunchError::Namespaces { .. }) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A shell command whose output goes into the pipe returned.
fn shell(script: &str) -> (ChildSpec, io::PipeReader) {
    let (reader, writer) = io::pipe().unwrap();
    let mut spec = ChildSpec::command(["/bin/sh", "-c", script]);
    spec.stdio[0] = Some(File::open("/dev/null").unwrap().into());
    spec.stdio[1] = Some(writer.into());
    (spec, reader)
}

fn end_of(nursery: &Nursery, child: &Child) -> Ended {
    let signals = WatchedSignals::block().unwrap();
    let mut supervisor = Supervisor::new(signals, nursery, child).unwrap();
    loop {
        match supervisor.next_event(Some(PATIENCE)).unwrap() {
            Event::RootEnded(ended) => return ended,
            Event::AllGone | Event::TimedOut => panic!("the root's end was not told"),
            _ => {}
        }
    }
}

/// Runs the script to its end and returns what it printed and how it ended.
fn run(nursery: &Nursery, mut edit: impl FnMut(&mut ChildSpec), script: &str) -> (String, Ended) {
    let (mut spec, mut output) = shell(script);
    edit(&mut spec);
    let child = nursery.spawn(&spec).unwrap();
    drop(spec);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    (text, end_of(nursery, &child))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with(['Z', 'X']))
}

#[test]
fn namespace_job_has_the_pid_asked_for_and_sees_itself() {
    let Some(nursery) = nursery(NamespaceRequest::default()) else {
        return;
    };
    let script = "echo $$; echo $PPID; cat /proc/self/stat | cut -d' ' -f4,6; id -u; id -g; cat /proc/1/comm; ls /proc | grep -c '^[0-9]'";
    let set_pid = |spec: &mut ChildSpec| spec.inner_pid = Some(4321);
    let (text, ended) = run(&nursery, set_pid, script);
    let lines: Vec<&str> = text.lines().collect();
    let user = fs::metadata("/proc/self").map(|facts| std::os::unix::fs::MetadataExt::uid(&facts));
    assert_eq!(lines[0], "4321");
    assert_eq!(lines[1], "1", "init is its parent");
    // cut and cat are children of the shell, in the session that it leads.
    assert_eq!(lines[2], "4321 4321");
    assert_eq!(lines[3], user.unwrap().to_string());
    assert_eq!(lines[5], "cryo-init");
    let seen: i32 = lines[6].parse().unwrap();
    assert!(seen <= 5, "{seen} processes in its /proc");
    assert_eq!(ended, Ended::Exited(0));
}

#[test]
fn init_has_a_command_line_of_its_own_and_no_descriptors_of_ours() {
    let _held = File::open("/etc/passwd").unwrap();
    let Some(nursery) = nursery(NamespaceRequest::default()) else {
        return;
    };
    let init = nursery.namespaces().unwrap().init_pid();
    let line = fs::read(format!("/proc/{init}/cmdline")).unwrap();
    assert!(line.starts_with(b"cryo-init\0"), "{line:?}");
    let open: Vec<String> = fs::read_dir(format!("/proc/{init}/fd"))
        .unwrap()
        .map(|entry| {
            fs::read_link(entry.unwrap().path())
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    assert!(
        !open.iter().any(|target| target.contains("passwd")),
        "{open:?}"
    );
    assert!(open.len() <= 6, "{open:?}");
}

#[test]
fn exit_status_and_signal_are_passed_on() {
    for nursery in nurseries() {
        assert_eq!(run(&nursery, |_| {}, "exit 7").1, Ended::Exited(7));
    }
    for nursery in nurseries() {
        let (_, ended) = run(&nursery, |_| {}, "kill -TERM $$");
        assert_eq!(ended, Ended::Killed(libc::SIGTERM));
        assert_eq!(ended.exit_code(), 143);
    }
}

#[test]
fn pid_taken_is_told_apart() {
    let Some(nursery) = nursery(NamespaceRequest::default()) else {
        return;
    };
    let (mut spec, _output) = shell("sleep 60");
    spec.inner_pid = Some(50);
    let first = nursery.spawn(&spec).unwrap();
    assert_eq!(first.inner_pid, 50);
    let error = nursery.spawn(&spec).unwrap_err();
    assert!(
        matches!(error, LaunchError::PidTaken { pid: 50 }),
        "{error}"
    );
    // The namespace goes on working after a failure.
    spec.inner_pid = Some(51);
    spec.role = Role::Other;
    assert_eq!(nursery.spawn(&spec).unwrap().inner_pid, 51);
    let Nursery::Namespace(namespaces) = nursery else {
        unreachable!()
    };
    namespaces.end().unwrap();
    assert!(!is_alive(first.pid));
}

#[test]
fn program_not_found_and_not_executable() {
    let data = std::env::temp_dir().join(format!("launch-data-{}", std::process::id()));
    fs::write(&data, "no program").unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o644)).unwrap();
    for _ in 0..2 {
        for direct in [true, false] {
            let start = |name: &str| {
                let nursery = match direct {
                    true => Nursery::Direct(Direct),
                    false => nursery(NamespaceRequest::default())?,
                };
                Some(nursery.spawn(&ChildSpec::command([name])).unwrap_err())
            };
            let Some(missing) = start("surely-no-such-program") else {
                continue;
            };
            assert!(matches!(missing, LaunchError::NotFound { .. }), "{missing}");
            assert_eq!(missing.exit_code(), 127);
            let denied = start(data.to_str().unwrap()).unwrap();
            assert!(
                matches!(denied, LaunchError::NotExecutable { .. }),
                "{denied}"
            );
            assert_eq!(denied.exit_code(), 126);
        }
    }
    fs::remove_file(&data).unwrap();
}

#[test]
fn script_without_interpreter_line_runs_in_the_shell() {
    let script = std::env::temp_dir().join(format!("launch-script-{}", std::process::id()));
    fs::write(&script, "echo \"$1\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let mut spec = ChildSpec::command([script.to_str().unwrap(), "given"]);
    spec.stdio[1] = Some(writer.into());
    let nursery = Nursery::Direct(Direct);
    let child = nursery.spawn(&spec).unwrap();
    drop(spec);
    assert_eq!(io::read_to_string(reader).unwrap(), "given\n");
    assert_eq!(end_of(&nursery, &child), Ended::Exited(0));
    fs::remove_file(&script).unwrap();
}

#[test]
fn clocks_run_ahead_by_the_offset() {
    let ahead = TimeOffset {
        seconds: 100_000,
        nanoseconds: 999_999_999,
    };
    let offsets = TimeOffsets {
        monotonic: ahead,
        boottime: ahead,
    };
    let request = NamespaceRequest {
        time_offsets: Some(offsets),
        ..Default::default()
    };
    let Some(nursery) = nursery(request) else {
        return;
    };
    let uptime = || fs::read_to_string("/proc/uptime").unwrap();
    let seconds = |text: &str| {
        text.split('.')
            .next()
            .unwrap()
            .trim()
            .parse::<i64>()
            .unwrap()
    };
    let before = seconds(&uptime());
    let (text, _) = run(
        &nursery,
        |_| {},
        "cat /proc/uptime; cat /proc/self/timens_offsets",
    );
    let gone = seconds(text.lines().next().unwrap()) - before;
    assert!((100_000..100_030).contains(&gone), "{gone}");
    assert!(
        text.contains("monotonic") && text.contains("100000"),
        "{text}"
    );
}

#[test]
fn orphans_are_reaped_and_init_ends_after_the_last() {
    let Some(nursery) = nursery(NamespaceRequest::default()) else {
        return;
    };
    // The subshell leaves orphans behind; one of them outlives the root.
    let stays = std::env::temp_dir().join(format!("cryonaut-daemon-{}", std::process::id()));
    fs::write(&stays, "").unwrap();
    let script = format!(
        "(sleep 0.2 & sleep 0.1 &) ; (setsid sh -c 'while [ -e {} ]; do sleep 0.05; done' >/dev/null &); sleep 0.4; \
         ps -o stat= 2>/dev/null | grep -c Z",
        stays.display()
    );
    let (text, ended) = run(&nursery, |_| {}, &script);
    assert_eq!(text.trim(), "0", "zombies");
    assert!(matches!(ended, Ended::Exited(_)));
    let init = nursery.namespaces().unwrap().init_pid();
    assert!(is_alive(init), "a daemon of the job still runs");
    fs::remove_file(&stays).unwrap();
    wait_until("init ends", || !is_alive(init));
}

#[test]
fn supervisor_hears_that_all_are_gone() {
    let Some(nursery) = nursery(NamespaceRequest::default()) else {
        return;
    };
    let (spec, _output) = shell("(setsid sleep 0.3 &) ; exit 3");
    let child = nursery.spawn(&spec).unwrap();
    let signals = WatchedSignals::block().unwrap();
    let mut supervisor = Supervisor::new(signals, &nursery, &child).unwrap();
    let mut events = Vec::new();
    while events.last() != Some(&Event::AllGone) {
        events.push(supervisor.next_event(Some(PATIENCE)).unwrap());
        assert_ne!(events.last(), Some(&Event::TimedOut));
    }
    assert_eq!(events, [Event::RootEnded(Ended::Exited(3)), Event::AllGone]);
}

#[test]
fn job_outlives_its_supervisor_or_dies_with_it() {
    for lifetime in [Lifetime::Independent, Lifetime::WithSupervisor] {
        let Some(nursery) = nursery(NamespaceRequest::default()) else {
            return;
        };
        let (spec, _output) = shell("exec sleep 60");
        let child = nursery.spawn(&spec).unwrap();
        nursery.set_lifetime(lifetime).unwrap();
        let init = nursery.namespaces().unwrap().init_pid();
        // To init it is the same as the supervisor's death: its end of the socket closes.
        drop(nursery);
        match lifetime {
            Lifetime::WithSupervisor => wait_until("job dies", || !is_alive(child.pid)),
            Lifetime::Independent => {
                std::thread::sleep(Duration::from_millis(200));
                assert!(is_alive(init) && is_alive(child.pid));
                child.signal(libc::SIGKILL).unwrap();
                wait_until("init ends after its last child", || !is_alive(init));
            }
        }
    }
}

#[test]
fn init_waits_for_orders_while_it_lives_with_its_supervisor() {
    let request = NamespaceRequest {
        lifetime: Lifetime::WithSupervisor,
        ..Default::default()
    };
    let Some(nursery) = nursery(request) else {
        return;
    };
    for number in 0..3 {
        let (_, ended) = run(&nursery, |_| {}, &format!("exit {number}"));
        assert_eq!(ended, Ended::Exited(number));
    }
}

#[test]
fn fast_children_are_never_lost() {
    let request = NamespaceRequest {
        lifetime: Lifetime::WithSupervisor,
        ..Default::default()
    };
    let Some(nursery) = nursery(request) else {
        return;
    };
    for _ in 0..50 {
        let mut spec = ChildSpec::command(["true"]);
        spec.role = Role::Other;
        let child = nursery.spawn(&spec).unwrap();
        assert!(child.pid > 0 && child.inner_pid > 1);
    }
}

#[test]
fn child_stops_before_exec_and_goes_on() {
    for nursery in nurseries() {
        let (mut spec, output) = shell("echo ran");
        spec.stop_before_exec = StopBeforeExec::Yes;
        let mut child = nursery.spawn(&spec).unwrap();
        drop(spec);
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.pid)).unwrap();
        assert!(stat.contains(") T "), "{stat}");
        child.signal(libc::SIGCONT).unwrap();
        child.exec_outcome().unwrap();
        assert_eq!(io::read_to_string(output).unwrap(), "ran\n");
        assert_eq!(end_of(&nursery, &child), Ended::Exited(0));
    }
}

#[test]
fn child_waits_at_its_gate_and_goes_on() {
    for nursery in nurseries() {
        let (mut spec, output) = shell("echo ran");
        spec.stop_before_exec = StopBeforeExec::Gate;
        let mut child = nursery.spawn(&spec).unwrap();
        drop(spec);
        let mut early = [Readiness::new(output.as_fd(), libc::POLLIN)];
        wait_ready(&mut early, Some(Duration::from_millis(50))).unwrap();
        assert_eq!(early[0].found, 0, "it did not wait");
        child.open_gate();
        child.exec_outcome().unwrap();
        assert_eq!(io::read_to_string(output).unwrap(), "ran\n");
        assert_eq!(end_of(&nursery, &child), Ended::Exited(0));
    }
}

#[test]
fn a_program_that_takes_its_time_to_start_is_not_waited_for() {
    for nursery in nurseries() {
        let (mut spec, output) = shell("echo ran");
        spec.stop_before_exec = StopBeforeExec::Gate;
        let mut child = nursery.spawn(&spec).unwrap();
        drop(spec);
        let moment = Duration::from_millis(50);
        assert!(!child.exec_outcome_within(moment).unwrap());
        child.open_gate();
        assert!(child.exec_outcome_within(Duration::from_secs(60)).unwrap());
        assert_eq!(io::read_to_string(output).unwrap(), "ran\n");
        assert_eq!(end_of(&nursery, &child), Ended::Exited(0));
    }
}

#[test]
fn a_closed_gate_is_the_end() {
    for nursery in nurseries() {
        let (mut spec, output) = shell("echo ran");
        spec.stop_before_exec = StopBeforeExec::Gate;
        let child = nursery.spawn(&spec).unwrap();
        drop(spec);
        // As the death of its starter does.
        drop(child);
        assert_eq!(io::read_to_string(output).unwrap(), "");
    }
}

#[test]
fn what_cannot_be_started_is_told_at_the_gate() {
    for nursery in nurseries() {
        let mut spec = ChildSpec::command(["/no/such/program"]);
        spec.stop_before_exec = StopBeforeExec::Gate;
        let mut child = nursery.spawn(&spec).unwrap();
        child.open_gate();
        let error = child.exec_outcome().unwrap_err();
        assert!(matches!(error, LaunchError::NotFound { .. }), "{error}");
    }
}

#[test]
fn image_runs_by_its_descriptor_and_keeps_capabilities() {
    let Some(nursery) = nursery(NamespaceRequest {
        user: UserNamespace::Fresh,
        ..Default::default()
    }) else {
        return;
    };
    // `cat` with no arguments copies its input, here its own status.
    let cat = fs::canonicalize("/bin/cat").unwrap();
    for (privilege, all) in [(Privilege::Ordinary, false), (Privilege::Kept, true)] {
        let mut spec = ChildSpec::new(Program::Image {
            file: File::open(&cat).unwrap().into(),
            name: "stub".into(),
        });
        let (reader, writer) = io::pipe().unwrap();
        let (input, hold) = io::pipe().unwrap();
        spec.stdio = [Some(input.into()), Some(writer.into()), None];
        spec.privilege = privilege;
        spec.inner_pid = Some(300);
        let child = nursery.spawn(&spec).unwrap();
        drop(spec);
        let status = fs::read_to_string(format!("/proc/{}/status", child.pid)).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .unwrap();
        let caps = u64::from_str_radix(line.trim(), 16).unwrap();
        let root = status.contains("\nUid:\t0\t");
        // CAP_CHECKPOINT_RESTORE, which lets it choose pids for its children.
        assert_eq!(caps >> 40 & 1 == 1, all || root, "{caps:x}");
        let command = fs::read(format!("/proc/{}/cmdline", child.pid)).unwrap();
        assert_eq!(command, b"stub\0");
        drop(hold);
        drop(reader);
        if privilege == Privilege::Ordinary {
            // The pid is wanted again; init ends with its last child, so a second nursery is not needed
            // only as long as one lives.
            let mut keeper = ChildSpec::command(["sleep", "60"]);
            keeper.role = Role::Other;
            keeper.stdio[1] = Some(File::open("/dev/null").unwrap().into());
            match nursery.spawn(&keeper) {
                Ok(_) => wait_until("stub is reaped", || !is_alive(child.pid)),
                Err(LaunchError::InitGone) => return,
                Err(error) => panic!("{error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let Nursery::Namespace(namespaces) = nursery else {
        unreachable!()
    };
    namespaces.end().unwrap();
}

#[test]
fn descriptors_arrive_at_their_numbers_and_no_others() {
    for nursery in nurseries() {
        let (three, mut three_writer) = io::pipe().unwrap();
        let (four, mut four_writer) = io::pipe().unwrap();
        io::Write::write_all(&mut three_writer, b"three\n").unwrap();
        io::Write::write_all(&mut four_writer, b"four\n").unwrap();
        let mut kept: Option<Vec<(OwnedFd, i32)>> = Some(vec![(three.into(), 4), (four.into(), 3)]);
        let edit = |spec: &mut ChildSpec| spec.keep_descriptors = kept.take().unwrap();
        let script = "read a <&4; read b <&3; echo $a $b; ls /proc/self/fd | tr '\\n' ' '";
        let (text, _) = run(&nursery, edit, script);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("three four"));
        // The last one is the directory that ls itself reads.
        assert_eq!(lines.next().map(str::trim), Some("0 1 2 3 4 5"));
    }
    assert!(
        inherited_descriptors()
            .unwrap()
            .iter()
            .all(|(_, number)| *number > 2)
    );
}

#[test]
fn signals_reach_the_job() {
    for nursery in nurseries() {
        let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
        let (spec, mut output) = shell(script);
        let signals = WatchedSignals::block().unwrap();
        let child = nursery.spawn(&spec).unwrap();
        drop(spec);
        let mut ready = [0; 6];
        output.read_exact(&mut ready).unwrap();
        let mut supervisor = Supervisor::new(signals, &nursery, &child).unwrap();
        let own = std::process::id() as i32;
        supervisor.tick_every(Duration::from_millis(50)).unwrap();
        let mut ticks = 0;
        // In this thread the signal is blocked; others of the test program must not get it.
        let ended = supervisor.run(&mut || {
            ticks += 1;
            if ticks == 2 {
                cryonaut_sys::spawn::kill_thread(
                    own,
                    cryonaut_sys::spawn::own_tid(),
                    libc::SIGTERM,
                )
                .unwrap();
            }
        });
        assert_eq!(ended.unwrap(), Outcome::Ended(Ended::Exited(9)));
        assert_eq!(io::read_to_string(output).unwrap(), "caught\n");
    }
}

#[test]
fn signal_from_outside_to_init_goes_to_the_root() {
    let Some(nursery) = nursery(NamespaceRequest::default()) else {
        return;
    };
    let (spec, mut output) = shell("trap 'exit 11' USR1; echo ready; while :; do sleep 0.05; done");
    let child = nursery.spawn(&spec).unwrap();
    output.read_exact(&mut [0; 6]).unwrap();
    let init = nursery.namespaces().unwrap().init_pidfd();
    cryonaut_sys::pidfd::send_signal(init.as_fd(), libc::SIGUSR1).unwrap();
    assert_eq!(end_of(&nursery, &child), Ended::Exited(11));
}

#[test]
fn root_of_the_job_stops_and_continues_in_events() {
    let Some(nursery) = nursery(NamespaceRequest::default()) else {
        return;
    };
    let (spec, _output) = shell("kill -STOP $$; exit 5");
    let child = nursery.spawn(&spec).unwrap();
    let signals = WatchedSignals::block().unwrap();
    let mut supervisor = Supervisor::new(signals, &nursery, &child).unwrap();
    let stopped = supervisor.next_event(Some(PATIENCE)).unwrap();
    assert_eq!(stopped, Event::RootStopped(libc::SIGSTOP));
    let short = Some(Duration::from_millis(20));
    assert_eq!(supervisor.next_event(short).unwrap(), Event::TimedOut);
    child.signal(libc::SIGCONT).unwrap();
    let mut events = Vec::new();
    while !matches!(events.last(), Some(Event::RootEnded(_) | Event::TimedOut)) {
        events.push(supervisor.next_event(Some(PATIENCE)).unwrap());
    }
    assert_eq!(events.last(), Some(&Event::RootEnded(Ended::Exited(5))));
}

#[test]
fn all_of_this_as_an_ordinary_user() {
    if fs::metadata("/proc/self")
        .map(|f| std::os::unix::fs::MetadataExt::uid(&f))
        .unwrap()
        != 0
    {
        println!("skipped: this is an ordinary user already");
        return;
    }
    let directory = std::env::temp_dir().join(format!("launch-user-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.join("jobs");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["--test-threads=1", "--nocapture", "--skip", "all_of_this"])
        .current_dir("/")
        .output();
    fs::remove_dir_all(&directory).unwrap();
    match output {
        Err(error) => println!("skipped: cannot run setpriv: {error}"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}\n{errors}");
            text.lines()
                .filter(|line| line.contains("skipped:"))
                .for_each(|line| println!("{line}"));
        }
    }
}

const SUPERVISOR: &str = "CRYONAUT_TEST_SUPERVISOR";

#[test]
fn job_survives_sigkill_of_its_supervisor() {
    if let Some(file) = std::env::var_os(SUPERVISOR) {
        // The victim: starts a job, says where it is and waits for its end.
        let Some(nursery) = nursery(NamespaceRequest::default()) else {
            fs::write(file, "skipped").unwrap();
            return;
        };
        let mut spec = ChildSpec::command(["sleep", "60"]);
        for slot in &mut spec.stdio {
            *slot = Some(File::open("/dev/null").unwrap().into());
        }
        let child = nursery.spawn(&spec).unwrap();
        let init = nursery.namespaces().unwrap().init_pid();
        let unfinished = std::path::Path::new(&file).with_extension("tmp");
        fs::write(&unfinished, format!("{init} {}", child.pid)).unwrap();
        fs::rename(&unfinished, &file).unwrap();
        end_of_ever(&nursery, &child);
        return;
    }
    let file = std::env::temp_dir().join(format!("launch-killed-{}", std::process::id()));
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "job_survives_sigkill_of_its_supervisor"])
        .env(SUPERVISOR, &file)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("job starts", || file.exists());
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    if text == "skipped" {
        return;
    }
    let mut pids = text.split(' ').map(|pid| pid.parse::<i32>().unwrap());
    let (init, root) = (pids.next().unwrap(), pids.next().unwrap());
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_alive(init) && is_alive(root));
    cryonaut_sys::spawn::kill(root, libc::SIGKILL).unwrap();
    wait_until("init ends after its last child", || !is_alive(init));
}

fn end_of_ever(nursery: &Nursery, child: &Child) {
    let signals = WatchedSignals::block().unwrap();
    let _ = Supervisor::new(signals, nursery, child)
        .unwrap()
        .run(&mut || {});
}
