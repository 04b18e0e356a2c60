//! Terminals: a job on a pty of its own, carrying, and raw mode that ends however its process ends.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cryonaut_launch::terminal::{
    Holding, Pty, RawMode, View, Viewer, WindowSize, ask_for_viewers, hold,
};
use cryonaut_launch::{
    ChildSpec, Direct, Ended, LaunchError, NamespaceRequest, Namespaces, Nursery, Outcome,
    Supervisor, WatchedSignals, held_terminal,
};
use cryonaut_sys::spawn::signal::ArrivedSignal;
use cryonaut_sys::spawn::{self, WaitFor, WaitStatus};
use cryonaut_sys::terminal::{Settings, set_window_size};

fn nurseries() -> Vec<Nursery> {
    let mut nurseries = vec![Nursery::Direct(Direct)];
    match Namespaces::create(&NamespaceRequest::default()) {
        Ok(namespaces) => nurseries.push(Nursery::Namespace(namespaces)),
        Err(error @ LaunchError::Namespaces { .. }) => println!("skipped in namespaces: {error}"),
        Err(error) => panic!("{error}"),
    }
    nurseries
}

/// Runs a script on a pty of its own with this input; returns what came out.
fn on_terminal(nursery: &Nursery, script: &str, input: OwnedFd) -> (String, Ended) {
    let pty = Pty::open(None).unwrap();
    let size = WindowSize {
        rows: 33,
        columns: 77,
        ..WindowSize::default()
    };
    set_window_size(pty.master.as_fd(), size).unwrap();
    let spec = ChildSpec::command(["/bin/sh", "-c", script])
        .on_terminal(pty.slave)
        .unwrap();
    let signals = WatchedSignals::block().unwrap();
    let child = nursery.spawn(&spec).unwrap();
    drop(spec);
    let (mut reader, writer) = io::pipe().unwrap();
    let mut supervisor = Supervisor::new(signals, nursery, &child).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let holding = Holding {
        master: pty.master,
        first: theirs,
        listener: None,
        root: Some(child.pidfd.try_clone().unwrap()),
        status: None,
    };
    let holder = std::thread::spawn(|| hold(holding));
    supervisor.attach(Viewer::join(input, writer.into(), ours, View::default()).unwrap());
    let collector = std::thread::spawn(move || {
        let mut text = String::new();
        // A slow reader: nothing may be lost.
        std::thread::sleep(Duration::from_millis(200));
        reader.read_to_string(&mut text).unwrap();
        text
    });
    let outcome = supervisor.run(&mut || {}).unwrap();
    drop(supervisor);
    holder.join().unwrap().unwrap();
    let Outcome::Ended(ended) = outcome else {
        panic!("{outcome:?}");
    };
    (collector.join().unwrap(), ended)
}

#[test]
fn job_has_a_controlling_terminal_and_its_input_ends() {
    for nursery in nurseries() {
        let (input, mut typed) = io::pipe().unwrap();
        typed.write_all(b"hello\nunfinished").unwrap();
        drop(typed);
        let script =
            "test -t 0 && stty size; stty -echo; echo ctl >/dev/tty; cat; echo end; exit 4";
        let (text, ended) = on_terminal(&nursery, script, input.into());
        assert!(text.contains("33 77\r\n"), "{text:?}");
        assert!(text.contains("ctl\r\n"), "{text:?}");
        assert!(text.contains("hello\r\nunfinishedend\r\n"), "{text:?}");
        assert_eq!(ended, Ended::Exited(4));
    }
}

#[test]
fn much_output_to_a_slow_reader_is_complete() {
    for nursery in nurseries() {
        let (input, _typed) = io::pipe().unwrap();
        let script = "i=0; while [ $i -lt 30000 ]; do echo line$i; i=$((i+1)); done";
        let (text, _) = on_terminal(&nursery, script, input.into());
        let expected: String = (0..30000).map(|i| format!("line{i}\r\n")).collect();
        assert_eq!(text.len(), expected.len());
        assert!(text == expected);
    }
}

#[test]
fn terminal_echoes() {
    let (input, mut typed) = io::pipe().unwrap();
    typed.write_all(b"typed\n").unwrap();
    drop(typed);
    let (text, _) = on_terminal(
        &Nursery::Direct(Direct),
        "sleep 0.2; cat >/dev/null",
        input.into(),
    );
    assert_eq!(text, "typed\r\n");
}

#[test]
fn init_keeps_the_terminal_for_later() {
    for nursery in nurseries() {
        let Some(namespaces) = nursery.namespaces() else {
            continue;
        };
        let pty = Pty::open(None).unwrap();
        assert!(held_terminal(namespaces.init_pid()).unwrap().is_none());
        namespaces.hold_terminal(pty.master.as_fd()).unwrap();
        let script = "trap 'exit 66' HUP; stty -echo; echo ready; read line; echo got $line";
        let spec = ChildSpec::command(["/bin/sh", "-c", script])
            .on_terminal(pty.slave)
            .unwrap();
        let child = nursery.spawn(&spec).unwrap();
        drop(spec);
        drop(pty.master);
        let init = namespaces.init_pid();
        drop(nursery);
        std::thread::sleep(Duration::from_millis(100));
        let mut master = std::fs::File::from(held_terminal(init).unwrap().expect("kept"));
        let mut seen = String::new();
        let mut room = [0; 100];
        while !seen.contains("ready") {
            let length = master.read(&mut room).unwrap();
            seen.push_str(&String::from_utf8_lossy(&room[..length]));
        }
        master.write_all(b"word\n").unwrap();
        while !seen.contains("got word") {
            let length = master.read(&mut room).unwrap();
            seen.push_str(&String::from_utf8_lossy(&room[..length]));
        }
        drop(child);
    }
}

#[test]
fn raw_mode_ends_when_dropped_and_when_a_panic_unwinds() {
    let pty = Pty::open(None).unwrap();
    let before = Settings::of(pty.slave.as_fd()).unwrap();
    let raw = RawMode::enter(pty.slave.as_fd(), None).unwrap();
    assert_ne!(Settings::of(pty.slave.as_fd()).unwrap(), before);
    raw.suspend().unwrap();
    assert_eq!(Settings::of(pty.slave.as_fd()).unwrap(), before);
    raw.resume().unwrap();
    assert_ne!(Settings::of(pty.slave.as_fd()).unwrap(), before);
    drop(raw);
    assert_eq!(Settings::of(pty.slave.as_fd()).unwrap(), before);
    let panicked = std::panic::catch_unwind(|| {
        let _raw = RawMode::enter(pty.slave.as_fd(), None).unwrap();
        assert_ne!(Settings::of(pty.slave.as_fd()).unwrap(), before);
        panic!("on purpose");
    });
    assert!(panicked.is_err());
    assert_eq!(Settings::of(pty.slave.as_fd()).unwrap(), before);
}

const ROLE: &str = "CRYONAUT_TEST_RAW_MODE";

#[test]
fn raw_mode_ends_after_sigkill() {
    if std::env::var_os(ROLE).is_some() {
        // The victim: standard input is the terminal.
        let _raw = RawMode::enter(io::stdin().as_fd(), None).unwrap();
        loop {
            std::thread::sleep(Duration::from_secs(60));
        }
    }
    let pty = Pty::open(None).unwrap();
    let before = Settings::of(pty.slave.as_fd()).unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "raw_mode_ends_after_sigkill", "--nocapture"])
        .env(ROLE, "1")
        .stdin(pty.slave.try_clone().unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let now = || Settings::of(pty.slave.as_fd()).unwrap();
    let start = Instant::now();
    while now() == before && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_ne!(now(), before, "raw mode was entered");
    victim.kill().unwrap();
    victim.wait().unwrap();
    while now() != before {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "raw mode was left on"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn interactive_shell_has_job_control() {
    for nursery in nurseries() {
        let (input, mut typed) = io::pipe().unwrap();
        typed
            .write_all(b"sleep 30 &\nkill %1; wait; echo own $(ps -o pgid= -p $$) $$; exit 6\n")
            .unwrap();
        let script = "stty -echo; exec bash --norc --noprofile -i";
        let (text, ended) = on_terminal(&nursery, script, input.into());
        assert!(!text.contains("no job control"), "{text}");
        assert!(!text.contains("cannot set terminal"), "{text}");
        let own = text
            .lines()
            .rev()
            .find_map(|line| line.split_once("own "))
            .expect("answer")
            .1;
        let numbers: Vec<&str> = own.split_whitespace().collect();
        assert_eq!(numbers[0], numbers[1], "{text}");
        assert_eq!(ended, Ended::Exited(6));
    }
}

/// A holder of a fresh terminal, and a first connection to it.
fn held_pty() -> (OwnedFd, UnixStream, std::path::PathBuf) {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let pty = Pty::open(None).unwrap();
    Settings::of(pty.slave.as_fd())
        .unwrap()
        .raw()
        .apply(pty.slave.as_fd())
        .unwrap();
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("cryonaut-held-{}-{number}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let holding = Holding {
        master: pty.master,
        first: theirs,
        listener: Some(listener),
        root: None,
        status: None,
    };
    std::thread::spawn(|| hold(holding));
    (pty.slave, ours, path)
}

/// Lets a viewer carry until this is so.
fn carry_until(viewer: &mut Viewer, what: &str, mut done: impl FnMut(&Viewer) -> bool) {
    let start = Instant::now();
    while !done(viewer) {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        viewer.carry().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_viewer_whose_terminal_takes_nothing_is_not_stuck() {
    let (mut job, holder, path) = held_pty();
    let user = Pty::open(None).unwrap();
    let before = Settings::of(user.slave.as_fd()).unwrap();
    let copy = || user.slave.try_clone().unwrap();
    let mut viewer = Viewer::join(copy(), copy(), holder, View::default()).unwrap();
    let printing = std::thread::spawn(move || {
        let line = [b'x'; 1000];
        for _ in 0..100 {
            std::fs::File::from(job.try_clone().unwrap())
                .write_all(&line)
                .unwrap();
        }
        job = job.try_clone().unwrap();
        job
    });
    // Nobody reads what is shown: the terminal is full soon.
    let full = Instant::now();
    carry_until(&mut viewer, "it goes on", |_| {
        full.elapsed() > Duration::from_secs(1)
    });
    std::fs::File::from(user.master.try_clone().unwrap())
        .write_all(b"\x1cd")
        .unwrap();
    carry_until(&mut viewer, "it hears its keys", Viewer::is_detached);
    drop(viewer);
    assert_eq!(Settings::of(user.slave.as_fd()).unwrap(), before);
    drop(printing.join().unwrap());
    let _ = std::fs::remove_file(path);
}

#[test]
fn the_end_of_the_users_terminal_detaches_also_when_it_came_early() {
    let signals = WatchedSignals::block().unwrap();
    let nursery = Nursery::Direct(Direct);
    let (_job, holder, path) = held_pty();
    let user = Pty::open(None).unwrap();
    let root = nursery.spawn(&ChildSpec::command(["sleep", "60"])).unwrap();
    let mut supervisor = Supervisor::new(signals, &nursery, &root).unwrap();
    let copy = || user.slave.try_clone().unwrap();
    supervisor.attach(Viewer::join(copy(), copy(), holder, View::default()).unwrap());
    supervisor.hear(ArrivedSignal {
        number: libc::SIGHUP,
        code: 0,
        sender: 0,
    });
    let outcome = supervisor.run(&mut || {}).unwrap();
    assert_eq!(outcome, Outcome::Detached);
    drop(supervisor);
    // Its end would be a signal's if it had been told.
    root.signal(libc::SIGTERM).unwrap();
    let (_, status) = spawn::wait_for(WaitFor::Pid(root.pid), libc::WEXITED).unwrap();
    assert_eq!(status, WaitStatus::Killed(libc::SIGTERM));
    let _ = std::fs::remove_file(path);
}

#[test]
fn a_job_that_reads_nothing_does_not_keep_viewers_out() {
    let (job, holder, path) = held_pty();
    let (input, mut typed) = io::pipe().unwrap();
    let (_quiet, output) = io::pipe().unwrap();
    let typist = std::thread::spawn(move || {
        let _ = typed.write_all(&[b'x'; 1_000_000]);
    });
    let view = View::default;
    let mut first = Viewer::join(input.into(), output.into(), holder, view()).unwrap();
    let full = Instant::now();
    carry_until(&mut first, "it goes on", |_| {
        full.elapsed() > Duration::from_secs(1)
    });
    // Another comes, and sees what is printed.
    let (mut shown, output) = io::pipe().unwrap();
    let (silent, _open) = io::pipe().unwrap();
    let stream = UnixStream::connect(&path).unwrap();
    let mut second = Viewer::join(silent.into(), output.into(), stream, view()).unwrap();
    std::fs::File::from(job.try_clone().unwrap())
        .write_all(b"hello")
        .unwrap();
    let asked = UnixStream::connect(&path).unwrap();
    let asking =
        std::thread::spawn(|| ask_for_viewers(asked, Duration::from_secs(30)).expect("answer"));
    carry_until(&mut second, "the second is counted", |_| {
        asking.is_finished()
    });
    assert_eq!(asking.join().unwrap(), 2);
    // The first goes: that is noticed.
    drop(first);
    let start = Instant::now();
    let viewers = || {
        let stream = UnixStream::connect(&path).unwrap();
        ask_for_viewers(stream, Duration::from_secs(30)).expect("answer")
    };
    while viewers() != 1 {
        assert!(start.elapsed() < Duration::from_secs(30), "it has gone");
    }
    let mut room = [0; 5];
    second.carry().unwrap();
    shown.read_exact(&mut room).unwrap();
    assert_eq!(&room, b"hello");
    typist.join().unwrap();
    drop(job);
    let _ = std::fs::remove_file(path);
}

#[test]
fn what_the_job_made_of_the_screen_is_undone_after_sigkill() {
    const ROLE: &str = "CRYONAUT_TEST_SCREEN";
    if std::env::var_os(ROLE).is_some() {
        // The victim: standard input and error output are the user's terminal.
        let (job, holder, _) = held_pty();
        let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
        let (input, output) = (copy(io::stdin().as_fd()), copy(io::stderr().as_fd()));
        let mut viewer = Viewer::join(input, output, holder, View::default()).unwrap();
        std::fs::File::from(job.try_clone().unwrap())
            .write_all(b"\x1b[?1049h\x1b[?1003h\x1b[>1u\x1b[2;5rready")
            .unwrap();
        loop {
            viewer.carry().unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let mut user = Pty::open(None).unwrap();
    let before = Settings::of(user.slave.as_fd()).unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "what_the_job_made_of_the_screen_is_undone_after_sigkill",
            "--nocapture",
        ])
        .env(ROLE, "1")
        .stdin(user.slave.try_clone().unwrap())
        .stderr(user.slave.try_clone().unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut screen = std::fs::File::from(user.master.try_clone().unwrap());
    user.master = screen.try_clone().unwrap().into();
    let mut seen = String::new();
    let mut await_shown = |text: &str| {
        let mut room = [0; 1000];
        while !seen.contains(text) {
            let length = screen.read(&mut room).unwrap();
            seen.push_str(&String::from_utf8_lossy(&room[..length]));
        }
        std::mem::take(&mut seen)
    };
    await_shown("ready");
    victim.kill().unwrap();
    victim.wait().unwrap();
    let undone = await_shown("\x1b[0m");
    for sequence in ["\x1b[?1049l", "\x1b[?1003l", "\x1b[<1u", "\x1b[r"] {
        assert!(undone.contains(sequence), "{undone:?}");
    }
    assert_eq!(Settings::of(user.slave.as_fd()).unwrap(), before);
}
