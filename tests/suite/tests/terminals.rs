//! Whole sessions on terminals, driven by a person's stand-in: tmux types the keys and reads the screens.
//!
//! Nothing is typed before what was typed last has shown its effect, so that no test depends on time.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cryonaut_suite::{Outcome, Program, Scene, failed, for_each_user, name, processes};

/// How long anything may take to show.
const LIMIT: Duration = Duration::from_secs(60);

/// Several terminals, each with a program, and somebody in front of them.
struct Desk<'a> {
    scene: &'a Scene,
    tmux: Program,
    socket: PathBuf,
    marks: Cell<u32>,
}

impl<'a> Desk<'a> {
    /// A desk whose terminals are at this socket; the first is called `base` and does nothing.
    fn new(scene: &'a Scene, socket: &str) -> Outcome<Self> {
        let desk = Self {
            scene,
            tmux: Program::installed("tmux")?,
            socket: scene.work(socket),
            marks: Cell::new(0),
        };
        desk.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-s",
            "desk",
            "-n",
            "base",
            "-x",
            "80",
            "-y",
            "24",
            "exec sleep 1000",
        ])?;
        Ok(desk)
    }

    fn tmux(&self, arguments: &[&str]) -> Outcome<String> {
        let output = self
            .scene
            .command(&self.tmux.path)
            .arg("-S")
            .arg(&self.socket)
            .args(arguments)
            .output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        failed(format!(
            "tmux {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }

    /// A new terminal of this name, on which a command runs.
    fn open(&self, name: &str, command: &str) -> Outcome {
        self.tmux(&["new-window", "-d", "-t", "desk:", "-n", name, command])
            .map(drop)
    }

    /// The process that a terminal was opened with.
    fn pid(&self, name: &str) -> Outcome<String> {
        let text = self.tmux(&["display-message", "-p", "-t", name, "#{pane_pid}"])?;
        Ok(text.trim().to_owned())
    }

    fn keys(&self, name: &str, keys: &[&str]) -> Outcome {
        let mut arguments = vec!["send-keys", "-t", name];
        arguments.extend(keys);
        self.tmux(&arguments).map(drop)
    }

    /// Types a line.
    fn line(&self, name: &str, text: &str) -> Outcome {
        self.tmux(&["send-keys", "-t", name, "-l", text])?;
        self.keys(name, &["Enter"])
    }

    fn screen(&self, name: &str) -> String {
        self.tmux(&["capture-pane", "-p", "-t", name])
            .unwrap_or_default()
    }

    /// Looks until this is there; a screen on which it never was is shown.
    fn look<T>(&self, name: &str, what: &str, mut found: impl FnMut() -> Option<T>) -> Outcome<T> {
        let limited = self
            .scene
            .wait_for(&format!("{what} on {name}"), LIMIT, || {
                let found = found();
                // Each look is a process.
                found
                    .is_none()
                    .then(|| std::thread::sleep(Duration::from_millis(30)));
                found
            });
        limited.inspect_err(|_| self.scene.note(format!("{name}:\n{}", self.screen(name))))
    }

    /// Waits until a screen shows this.
    fn see(&self, name: &str, text: &str) -> Outcome {
        self.look(name, &format!("{text:?}"), || {
            self.screen(name).contains(text).then_some(())
        })
    }

    /// Waits until a screen shows this no more.
    fn gone(&self, name: &str, text: &str) -> Outcome {
        self.look(name, &format!("an end of {text:?}"), || {
            (!self.screen(name).contains(text)).then_some(())
        })
    }

    /// Waits until a shell, at which no other program has the terminal any more, has done all that was typed.
    fn settle(&self, name: &str) -> Outcome {
        let mark = self.marks.get() + 1;
        self.marks.set(mark);
        // Typed in two parts, so that the screen shows it whole only when it was done.
        self.line(name, &format!("echo 'mark''{mark}.'"))?;
        self.see(name, &format!("mark{mark}."))
    }

    /// Waits for a new shell's prompt.
    fn prompt(&self, name: &str) -> Outcome {
        let shown = || (!self.screen(name).trim().is_empty()).then_some(());
        self.look(name, "a prompt", shown)
    }

    /// Those processes on a terminal that run this program.
    fn members(&self, name: &str, program: &str) -> Vec<i32> {
        let pane = self.pid(name).ok().and_then(|pid| pid.parse().ok());
        let all = pane.map(processes::descendants).unwrap_or_default();
        let comm = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm"));
        all.into_iter()
            .filter(|pid| comm(pid).is_ok_and(|comm| comm.trim_end() == program))
            .collect()
    }

    /// Their states, as ps(1) shows them.
    fn states(&self, name: &str, program: &str) -> Vec<char> {
        let members = self.members(name, program);
        members.into_iter().filter_map(processes::state).collect()
    }

    /// Expects that a program on a terminal has it as its controlling terminal.
    fn controlled(&self, name: &str, program: &str) -> Outcome {
        let members = self.members(name, program);
        // proc_pid_stat(5): the fifth field after the name is the terminal's device number.
        let has_none = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default();
            fields
                .split_whitespace()
                .nth(4)
                .is_none_or(|tty| tty == "0")
        };
        if members.is_empty() || members.iter().any(has_none) {
            return failed(format!("{program} on {name} has no controlling terminal"));
        }
        Ok(())
    }

    /// Waits until a program on a terminal has been stopped. Its shell then has the terminal, or will have before it reads.
    fn stopped(&self, name: &str, program: &str) -> Outcome {
        self.look(name, &format!("{program} to stop"), || {
            (self.states(name, program) == ['T']).then_some(())
        })
    }

    /// Waits until a program on a terminal has ended, and its shell knows.
    fn ended(&self, name: &str, program: &str) -> Outcome {
        self.look(name, &format!("{program} to end"), || {
            self.states(name, program).is_empty().then_some(())
        })
    }

    /// Saves and kills what is on a terminal, and restarts it on another.
    fn travel(&self, from: &str, scope: &[&str], to: &str) -> Outcome {
        let image = self.scene.file(format!("{from}.image"));
        let pid = self.pid(from)?;
        self.scene
            .cryo(["checkpoint"])
            .arguments(scope)
            .arguments([pid.as_str(), "--kill", "-o"])
            .arguments([&image])
            .run()?
            .success()?;
        let cryo = self.scene.cryo_path().display();
        let image = image.display();
        self.open(
            to,
            &format!("{cryo} restart {image}; echo status $?.; exec sleep 1000"),
        )
    }

    /// Leaves a shell, also one that objects that there are jobs, with status 7.
    fn leave(&self, name: &str) -> Outcome {
        self.look(name, "the shell's end", || {
            let shown = self.screen(name).contains("status 7.");
            if !shown {
                let _ = self.line(name, "exit 7");
                std::thread::sleep(Duration::from_millis(500));
            }
            shown.then_some(())
        })
    }
}

impl Drop for Desk<'_> {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

/// A login shell with jobs of all sorts, by its session: what was typed, what it knew, what it had started, and job control.
fn shell(scene: &Scene, name: &str, options: &str, [set, editor, pager]: [&str; 3]) -> Outcome {
    let shell = Program::installed(name)?;
    for other in ["vim", "less", "top"] {
        Program::installed(other)?;
    }
    let lines: String = (1..=200).map(|number| format!("{number}\n")).collect();
    scene.write(&scene.work("lines"), lines)?;
    let desk = Desk::new(scene, "desk.socket")?;
    desk.open("old", &format!("exec {} {options}", shell.path.display()))?;
    desk.prompt("old")?;
    desk.settle("old")?;
    desk.line("old", set)?;
    desk.line("old", "sleep 1000 &")?;
    desk.settle("old")?;
    desk.line("old", "vim -u NONE -N notes")?;
    desk.see("old", "\"notes\" [New]")?;
    desk.keys("old", &["i", "unsaved text", "Escape"])?;
    desk.see("old", "unsaved text")?;
    desk.gone("old", "-- INSERT --")?;
    desk.keys("old", &["C-z"])?;
    desk.stopped("old", "vim")?;
    desk.settle("old")?;
    desk.line("old", "less lines")?;
    desk.see("old", "\n17\n")?;
    desk.keys("old", &["C-z"])?;
    desk.stopped("old", "less")?;
    desk.settle("old")?;
    desk.line("old", "sleep 1000 | cat > /dev/null &")?;
    desk.settle("old")?;
    desk.line("old", "top -d 1")?;
    desk.see("old", "load average")?;

    desk.travel("old", &["--session"], "new")?;

    desk.see("new", "load average")?;
    for member in [name, "sleep", "vim", "less", "top"] {
        desk.controlled("new", member)?;
    }
    desk.keys("new", &["q"])?;
    desk.ended("new", "top")?;
    desk.settle("new")?;
    desk.line("new", "echo \"got $A\"")?;
    desk.see("new", "got hello")?;
    desk.line("new", "jobs")?;
    desk.see("new", "less lines")?;
    // What was stopped goes on where it was, and with what it had.
    desk.line("new", editor)?;
    desk.see("new", "~\n~\n")?;
    desk.see("new", "unsaved text")?;
    desk.line("new", ":wq")?;
    desk.ended("new", "vim")?;
    desk.settle("new")?;
    if fs::read_to_string(scene.work("notes"))? != "unsaved text\n" {
        return failed("vim did not save what it had");
    }
    desk.line("new", pager)?;
    desk.see("new", "\n17\n")?;
    desk.keys("new", &["q"])?;
    desk.ended("new", "less")?;
    desk.settle("new")?;
    // Keys reach what is in the foreground, and only that.
    desk.line(
        "new",
        "perl -e '$| = 1; print \"list\" . \"ening\\n\"; sleep'",
    )?;
    desk.see("new", "listening")?;
    desk.keys("new", &["C-c"])?;
    desk.ended("new", "perl")?;
    desk.settle("new")?;
    desk.line("new", "sort -n lines | tail -1")?;
    desk.see("new", "\n200\n")?;
    desk.tmux(&["resize-window", "-t", "new", "-x", "97", "-y", "31"])?;
    desk.settle("new")?;
    let size = || {
        desk.line("new", "stty size").ok()?;
        std::thread::sleep(Duration::from_millis(200));
        desk.screen("new").contains("31 97").then_some(())
    };
    scene.wait_for("the size of the new window", LIMIT, size)?;
    desk.leave("new")
}

/// A whole tmux server with several windows, and clients that come afterwards.
fn server(scene: &Scene) -> Outcome {
    for other in ["vim", "bash", "python3"] {
        Program::installed(other)?;
    }
    let image = scene.file("image");
    let inner = Desk::new(scene, "inner.socket")?;
    inner.open("shell", "exec bash --norc")?;
    inner.open("editor", "exec vim -u NONE -N notes")?;
    inner.open("python", "exec /usr/bin/python3 -q")?;
    inner.prompt("shell")?;
    inner.settle("shell")?;
    inner.line("shell", "A=hello; sleep 1000 &")?;
    inner.settle("shell")?;
    inner.see("editor", "\"notes\" [New]")?;
    inner.keys("editor", &["i", "unsaved text", "Escape"])?;
    inner.see("editor", "unsaved text")?;
    inner.line("python", "x = 41")?;
    inner.line("python", "x * 1000")?;
    inner.see("python", "\n41000")?;
    let pid = inner.tmux(&["display-message", "-p", "#{pid}"])?;
    let names = inner.tmux(&["list-panes", "-s", "-F", "#{pane_tty}"])?;
    scene
        .cryo(["checkpoint", pid.trim(), "--kill", "-o"])
        .arguments([&image])
        .run()?
        .success()?;
    if inner.tmux(&["list-windows"]).is_ok() {
        return failed("the server that was killed answers");
    }
    scene
        .cryo(["restart", "--detach"])
        .arguments([&image])
        .run()?
        .success()?;

    if inner.tmux(&["list-panes", "-s", "-F", "#{pane_tty}"])? != names {
        return failed(format!("the terminals were called {names}"));
    }
    inner.line("shell", "echo got $A $(tty); jobs")?;
    inner.see("shell", "got hello /dev/pts/")?;
    inner.see("shell", "Running")?;
    inner.line("editor", ":w")?;
    inner.see("editor", "written")?;
    inner.line("python", "x + 1")?;
    inner.see("python", "\n42\n")?;
    inner.open("later", "exec bash --norc")?;
    inner.prompt("later")?;
    inner.settle("later")?;
    // Clients come and go.
    let outer = Desk::new(scene, "outer.socket")?;
    let attach = format!(
        "env -u TMUX tmux -S {} attach -t desk:shell; exec sleep 1000",
        inner.socket.display()
    );
    for name in ["first", "second"] {
        outer.open(name, &attach)?;
        outer.see(name, "got hello /dev/pts/")?;
    }
    outer.settle("second")?;
    let mark = format!("mark{}.", outer.marks.get());
    outer.see("first", &mark)?;
    inner.see("shell", &mark)
}

/// A job on two terminals of others is refused, naming both, and goes on.
fn two_terminals(scene: &Scene) -> Outcome {
    let desk = Desk::new(scene, "desk.socket")?;
    desk.open("other", "exec sleep 1000")?;
    let name = |window: &str| desk.tmux(&["display-message", "-p", "-t", window, "#{pane_tty}"]);
    let other = name("other")?.trim().to_owned();
    desk.open("old", &format!("exec bash --norc 2> {other}"))?;
    // A shell prompts on its standard error.
    desk.prompt("other")?;
    desk.line("old", "sleep 1000 &")?;
    desk.settle("old")?;
    let own = name("old")?.trim().to_owned();
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", "--session", &desk.pid("old")?, "-o"])
        .arguments([&image])
        .run()?
        .refusal_with(&[3], &["2 terminals", &own, &other])?;
    desk.settle("old")
}

/// script(1) in script(1), with a shell inside: three sessions, two of them on terminals of the job's own.
fn nested(scene: &Scene) -> Outcome {
    Program::installed("script")?;
    let desk = Desk::new(scene, "desk.socket")?;
    desk.open(
        "old",
        "exec script -q -e -c \"script -q -e -c 'bash --norc' inner\" outer",
    )?;
    desk.prompt("old")?;
    desk.settle("old")?;
    desk.line("old", "A=hello; sleep 1000 &")?;
    desk.settle("old")?;
    desk.travel("old", &[], "new")?;
    desk.settle("new")?;
    desk.line("new", "echo \"got $A\"; jobs")?;
    desk.see("new", "got hello")?;
    desk.see("new", "Running")?;
    desk.line(
        "new",
        "perl -e '$| = 1; print \"list\" . \"ening\\n\"; sleep'",
    )?;
    desk.see("new", "listening")?;
    desk.keys("new", &["C-c"])?;
    desk.ended("new", "perl")?;
    desk.settle("new")?;
    desk.leave("new")?;
    for log in ["inner", "outer"] {
        let text = String::from_utf8_lossy(&fs::read(scene.work(log))?).into_owned();
        if !text.contains("mark1.") || !text.contains("got hello") {
            return failed(format!("{log} lacks what was shown: {text}"));
        }
    }
    Ok(())
}

/// A shell with a script(1) in it, by its session: that of the shell inside, which is another one, belongs to it.
fn script_in_session(scene: &Scene) -> Outcome {
    Program::installed("script")?;
    let desk = Desk::new(scene, "desk.socket")?;
    desk.open("old", "exec bash --norc")?;
    desk.prompt("old")?;
    desk.settle("old")?;
    desk.line("old", "B=outer; sleep 1000 &")?;
    desk.settle("old")?;
    desk.line("old", "script -q -e -c 'bash --norc' log")?;
    desk.settle("old")?;
    desk.line("old", "A=hello; sleep 1000 &")?;
    desk.settle("old")?;
    desk.travel("old", &["--session"], "new")?;
    desk.settle("new")?;
    desk.line("new", "echo \"got $A$B.\"; jobs")?;
    desk.see("new", "got hello.")?;
    desk.see("new", "Running")?;
    desk.line(
        "new",
        "perl -e '$| = 1; print \"list\" . \"ening\\n\"; sleep'",
    )?;
    desk.see("new", "listening")?;
    desk.keys("new", &["C-c"])?;
    desk.ended("new", "perl")?;
    desk.settle("new")?;
    desk.line("new", "exit 3")?;
    desk.ended("new", "script")?;
    desk.settle("new")?;
    desk.line("new", "echo \"back $A$B.\"; jobs")?;
    desk.see("new", "back outer.")?;
    desk.leave("new")
}

/// A shell with an expect(1) in it that is in the middle of a dialogue, by its session.
fn expect_in_session(scene: &Scene) -> Outcome {
    let expect = Program::installed("expect")?;
    let script = scene.work("dialogue");
    scene.write(&script, DIALOGUE)?;
    let desk = Desk::new(scene, "desk.socket")?;
    desk.open("first", "exec bash --norc")?;
    desk.prompt("first")?;
    desk.settle("first")?;
    let command = format!("{} {}", expect.path.display(), script.display());
    desk.line("first", &command)?;
    desk.see("first", "round 1?")?;
    desk.line("first", "one")?;
    desk.see("first", "round 2?")?;
    desk.travel("first", &["--session"], "second")?;
    desk.line("second", "two")?;
    desk.see("second", "got hello two")?;
    desk.see("second", "round 3?")?;
    desk.line("second", "three")?;
    desk.see("second", "got hello three")?;
    desk.ended("second", "expect")?;
    desk.settle("second")?;
    desk.leave("second")
}

/// screen(1) with two windows: its server and the client that looks at it, which tell each other their pids.
fn screen(scene: &Scene) -> Outcome {
    let screen = Program::installed("screen")?;
    name::give(scene)?;
    let sockets = scene.make_directory("sockets")?;
    let desk = Desk::new(scene, "desk.socket")?;
    let command = format!(
        "exec env SCREENDIR={} TERM=xterm {} -c /dev/null -s /bin/bash -S job bash --norc",
        sockets.display(),
        screen.path.display()
    );
    desk.open("old", &command)?;
    desk.prompt("old")?;
    desk.settle("old")?;
    desk.line("old", "A=hello; sleep 1000 &")?;
    desk.settle("old")?;
    desk.line("old", "vim -u NONE -N notes")?;
    desk.see("old", "\"notes\" [New]")?;
    desk.keys("old", &["i", "unsaved text", "Escape"])?;
    desk.see("old", "unsaved text")?;
    desk.gone("old", "-- INSERT --")?;
    desk.keys("old", &["C-a", "c"])?;
    desk.gone("old", "unsaved text")?;
    desk.settle("old")?;
    desk.travel("old", &[], "new")?;
    desk.settle("new")?;
    desk.line("new", "echo in $WINDOW.")?;
    desk.see("new", "in 1.")?;
    desk.keys("new", &["C-a", "0"])?;
    desk.see("new", "unsaved text")?;
    desk.line("new", ":wq")?;
    // An editor that ends throws away what was typed too early.
    desk.look("new", "a prompt", || {
        let shown = desk.screen("new");
        let (_, behind) = shown.split_once("written")?;
        behind.contains("bash").then_some(())
    })?;
    desk.settle("new")?;
    if fs::read_to_string(scene.work("notes"))? != "unsaved text\n" {
        return failed("vim did not save what it had");
    }
    desk.line("new", "echo \"got $A\"; jobs")?;
    desk.see("new", "got hello")?;
    desk.see("new", "Running")?;
    // Keys reach what is in the foreground, and only that.
    desk.line(
        "new",
        "perl -e '$| = 1; print \"list\" . \"ening\\n\"; sleep'",
    )?;
    desk.see("new", "listening")?;
    desk.keys("new", &["C-c"])?;
    desk.settle("new")?;
    // A window that is opened now works like the others.
    desk.keys("new", &["C-a", "c"])?;
    desk.gone("new", "got hello")?;
    desk.settle("new")?;
    desk.line("new", "echo in $WINDOW.")?;
    desk.see("new", "in 2.")?;
    desk.keys("new", &["C-a", ":"])?;
    desk.see("new", ":")?;
    desk.line("new", "quit")?;
    desk.see("new", "status 0.")
}

/// The script of an expect(1) in the middle of a dialogue: with a program on a terminal of its own, and with its user.
const DIALOGUE: &str = r#"
set timeout 100
log_user 0
spawn -noecho /bin/bash --norc
send "PS1='rea''dy> '\r"
expect "ready> "
send "A=hello; stty -echo\r"
expect "ready> "
for {set round 1} {$round <= 3} {incr round} {
    send "read answer; echo $round '<'\"\$A \$answer>\"\r"
    send_user "round $round?\n"
    expect_user -re "(\[^\n]*)\n"
    send "$expect_out(1,string)\r"
    expect -re "$round <(\[^>]*)>"
    send_user "got $expect_out(1,string)\n"
}
send "exit 5\r"
expect eof
exit [lindex [wait] 3]
"#;

/// expect(1), saved while it waits for its user and its program for it, after a question each time.
fn dialogue(scene: &Scene) -> Outcome {
    let expect = Program::installed("expect")?;
    let script = scene.work("dialogue");
    scene.write(&script, DIALOGUE)?;
    let desk = Desk::new(scene, "desk.socket")?;
    let command = format!("exec {} {}", expect.path.display(), script.display());
    desk.open("first", &command)?;
    desk.see("first", "round 1?")?;
    desk.line("first", "one")?;
    desk.see("first", "got hello one")?;
    desk.see("first", "round 2?")?;
    // What it drives is in a session of its own.
    desk.travel("first", &[], "second")?;
    desk.line("second", "two")?;
    desk.see("second", "got hello two")?;
    desk.see("second", "round 3?")?;
    desk.line("second", "three")?;
    desk.see("second", "got hello three")?;
    desk.see("second", "status 5.")
}

/// What expect(1) types and waits for in front of a job of ours, which is left, saved, and restarted in front of it.
const DRIVER: &str = r#"
set timeout 100
proc await {what} {
    expect {
        $what {}
        timeout { puts "no $what"; exit 1 }
        eof { puts "end before $what"; exit 1 }
    }
}
set cryo $env(CRYO)
# What expect itself leaves open in the programs that it starts is no part of a job.
spawn /bin/sh -c {exec 3>&- 4>&-; exec "$CRYO" run --terminal --name dialogue /bin/bash --norc}
send "PS1='rea''dy> '\r"
await "ready> "
send "A=hello; sleep 1000 &\r"
await "ready> "
send "\x1cd"
await "cryo attach"
expect eof
wait
spawn $cryo checkpoint dialogue --kill -o image
expect eof
if {[lindex [wait] 3] != 0} { exit 2 }
spawn $cryo restart image
send "echo got \$A; jobs\r"
await "got hello"
await "Running"
await "ready> "
send "echo sta''rt; cat\r"
await "start"
send "li\x7fine\r"
await "\nline"
send "\x1a"
await "Stopped"
await "ready> "
send "fg\r"
await "cat"
send "fine\r"
await "fine\r\nfine"
send "\x03"
await "ready> "
send "exit 6\r"
expect eof
exit [lindex [wait] 3]
"#;

/// expect(1) in front of `cryo`, as a script that drives a program would use it.
fn driven(scene: &Scene) -> Outcome {
    let expect = Program::installed("expect")?;
    let script = scene.work("driver");
    scene.write(&script, DRIVER)?;
    let output = scene
        .command(&expect.path)
        .arg(&script)
        .env("CRYO", scene.cryo_path())
        .output()?;
    match output.status.code() {
        Some(6) => Ok(()),
        _ => failed(format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        )),
    }
}

/// Setting a variable, and taking up vim and less again.
const POSIX: [&str; 3] = ["A=hello", "fg %2", "fg %3"];
const FISH: [&str; 3] = [
    "set A hello",
    "fg (pgrep -s 0 -x vim)",
    "fg (pgrep -s 0 -x less)",
];

for_each_user! {
    bash => |scene| shell(scene, "bash", "--norc", POSIX);
    dash => |scene| shell(scene, "dash", "-i", POSIX);
    zsh => |scene| shell(scene, "zsh", "-f", POSIX);
    fish => |scene| shell(scene, "fish", "-N", FISH);
    tmux_server => server;
    nested_script => nested;
    script_in_session => script_in_session;
    expect_in_session => expect_in_session;
    several_terminals => two_terminals;
    screen => screen;
    expect_in_dialogue => dialogue;
    driven_by_expect => driven;
}
