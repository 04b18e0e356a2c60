//! Terminals: a job on a pty of its own, carrying, and raw mode that ends however its process ends.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cryonaut_launch::terminal::{Holding, Pty, RawMode, View, Viewer, WindowSize, hold};
use cryonaut_launch::{
    ChildSpec, Direct, Ended, LaunchError, NamespaceRequest, Namespaces, Nursery, Outcome,
    Supervisor, WatchedSignals, held_terminal,
};
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
    let raw = RawMode::enter(pty.slave.as_fd()).unwrap();
    assert_ne!(Settings::of(pty.slave.as_fd()).unwrap(), before);
    raw.suspend().unwrap();
    assert_eq!(Settings::of(pty.slave.as_fd()).unwrap(), before);
    raw.resume().unwrap();
    assert_ne!(Settings::of(pty.slave.as_fd()).unwrap(), before);
    drop(raw);
    assert_eq!(Settings::of(pty.slave.as_fd()).unwrap(), before);
    let panicked = std::panic::catch_unwind(|| {
        let _raw = RawMode::enter(pty.slave.as_fd()).unwrap();
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
        let _raw = RawMode::enter(io::stdin().as_fd()).unwrap();
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
