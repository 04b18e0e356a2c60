//! Victims: what to start, and the ways in which each is put to the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::huge_pages::HugePages;
use crate::outcome::{Outcome, failed, skip};
use crate::processes;
use crate::program::Program;
use crate::scene::{LIMIT, Running, Scene, User, describe_status};

/// Between READY and a checkpoint: time to enter the call that the victim waits in.
const SETTLE: Duration = Duration::from_millis(15);

/// The status with which a victim says that it cannot show its behaviour here.
const SKIPPED: i32 = 77;

/// The status of `cryo` for a refusal.
const REFUSED: i32 = 3;

/// What happens to a victim between READY and its being let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: the victim itself is right.
    Plain,
    /// Checkpointed three times and left running.
    Continued,
    /// Checkpointed, killed, restarted.
    Restarted,
    /// Checkpointed, killed, restarted; and all of it a second time.
    Twice,
    /// Started by `cryo run` under a name, checkpointed by that name, killed, restarted.
    Named,
    /// Suspended and resumed, twice.
    Suspended,
}

/// One victim of the table.
#[derive(Debug, Clone, Copy)]
pub struct Victim {
    source: &'static str,
    arguments: &'static [&'static str],
    options: &'static [&'static str],
    only: Option<User>,
    refusal: Option<&'static str>,
    huge_pages: u64,
    sees_stops: bool,
    system_v: bool,
}

impl Victim {
    /// The victim compiled from SOURCE.c.
    #[must_use]
    pub const fn new(source: &'static str) -> Self {
        Self {
            source,
            arguments: &[],
            options: &[],
            only: None,
            refusal: None,
            huge_pages: 0,
            sees_stops: false,
            system_v: false,
        }
    }

    /// It makes System V objects: the test has an IPC namespace where it may, so that nothing is left behind when it ends.
    #[must_use]
    pub const fn makes_system_v_objects(mut self) -> Self {
        self.system_v = true;
        self
    }

    /// It sees that it, or a child, is stopped and continued by signals, and takes that for a change: where only signals can hold a
    /// suspended job that is what happens, and what is said.
    #[must_use]
    pub const fn sees_stops(mut self) -> Self {
        self.sees_stops = true;
        self
    }

    /// With these arguments.
    #[must_use]
    pub const fn arguments(mut self, arguments: &'static [&'static str]) -> Self {
        self.arguments = arguments;
        self
    }

    /// With these additional compiler options.
    #[must_use]
    pub const fn options(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    /// For this user only; the other is skipped silently, as a case that does not exist.
    #[must_use]
    pub const fn only(mut self, user: User) -> Self {
        self.only = Some(user);
        self
    }

    /// It may be refused with a text that contains this; the test is then skipped, once the victim has shown that the
    /// refusal did not hurt it.
    #[must_use]
    pub const fn unless_refused(mut self, text: &'static str) -> Self {
        self.refusal = Some(text);
        self
    }

    /// With so many huge pages of 2 MiB, where the tests may provide some.
    #[must_use]
    pub const fn huge_pages(mut self, pages: u64) -> Self {
        self.huge_pages = pages;
        self
    }

    /// The name of its source.
    #[must_use]
    pub fn source(&self) -> &'static str {
        self.source
    }

    /// Starts it, does to it what the mode says, lets it go, and expects it to find everything as it was.
    pub fn run(&self, scene: &Scene, mode: Mode) -> Outcome {
        if self.only.is_some_and(|only| only != scene.user()) {
            return Ok(());
        }
        let program = Program::victim(self.source, self.options)?.arguments(self.arguments);
        if self.system_v {
            leave_ipc_namespace();
        }
        let _pages = (self.huge_pages > 0).then(|| HugePages::provide(self.huge_pages));
        let job = if mode == Mode::Named {
            start_named(scene, &program)?
        } else {
            scene.start("victim", &program)?
        };
        await_ready(scene, &job)?;
        if !matches!(mode, Mode::Plain | Mode::Suspended)
            && let Some(text) = self.refusal
        {
            let target = if mode == Mode::Named {
                job_name()
            } else {
                job.pid().to_string()
            };
            skip_if_refused(scene, &job, &target, text)?;
        }
        match mode {
            Mode::Plain => finish(scene, &job, &job),
            Mode::Continued => {
                for number in 1..=3 {
                    let image = scene.file(format!("image.{number}"));
                    checkpoint(scene, &job.pid().to_string(), &image, "--leave-running")?;
                }
                finish(scene, &job, &job)
            }
            Mode::Suspended => {
                for _ in 0..2 {
                    let held = suspend_and_resume(scene, &job)?;
                    if held == Held::BySignals && self.sees_stops {
                        return skip("held by SIGSTOP here, which this program sees");
                    }
                }
                finish(scene, &job, &job)
            }
            Mode::Restarted => {
                let life = generation(scene, &job, &job.pid().to_string(), 1)?;
                finish(scene, &job, &life.running)
            }
            Mode::Named => {
                let life = generation(scene, &job, &job_name(), 1)?;
                finish(scene, &job, &life.running)
            }
            Mode::Twice => {
                let first = generation(scene, &job, &job.pid().to_string(), 1)?;
                std::thread::sleep(SETTLE);
                let second = generation(scene, &first.running, &first.pid.to_string(), 2)?;
                finish(scene, &job, &second.running)
            }
        }
    }
}

/// A name that no other test uses at the same time.
fn job_name() -> String {
    format!("victim-{}", std::process::id())
}

/// Has this thread, and whatever it starts, live in an IPC namespace of its own; an ordinary user stays where they are.
pub fn leave_ipc_namespace() {
    let _ = cryonaut_sys::spawn::unshare(cryonaut_sys::spawn::namespace::IPC);
}

fn start_named(scene: &Scene, program: &Program) -> Outcome<Running> {
    let call = scene
        .cryo(["run", "--name", &job_name(), "--"])
        .program(program);
    call.start("victim")
}

/// Tries a checkpoint: if it is refused for the known reason the victim goes on unharmed and the test is skipped.
fn skip_if_refused(scene: &Scene, job: &Running, target: &str, text: &str) -> Outcome {
    let image = scene.file("tried");
    let tried = scene
        .cryo(["checkpoint", target, "-o"])
        .arguments([&image])
        .run()?;
    if tried.status.success() {
        return Ok(());
    }
    let tried = tried.refusal_with(&[REFUSED], &[text])?;
    if image.exists() {
        return failed("a refused checkpoint left an image");
    }
    finish(scene, job, job)?;
    skip(tried.stderr.trim())
}

/// Waits until a victim is ready; a victim that cannot show its behaviour skips the test.
pub fn await_ready(scene: &Scene, job: &Running) -> Outcome {
    let ready = scene.wait_for("READY", LIMIT, || {
        let output = job.output();
        if output.contains("READY\n") {
            Some(Ok(()))
        } else {
            job.ended().map(|status| Err((status, output)))
        }
    })?;
    match ready {
        Ok(()) => {
            std::thread::sleep(SETTLE);
            Ok(())
        }
        Err((status, output)) if status.code() == Some(SKIPPED) => {
            skip(output.trim().trim_start_matches("SKIP: "))
        }
        Err((status, _)) => failed(format!(
            "the victim was never ready: {}",
            describe_status(status)
        )),
    }
}

/// Checkpoints a target into an image and expects that to succeed.
pub fn checkpoint(scene: &Scene, target: &str, image: &Path, afterwards: &str) -> Outcome {
    scene
        .cryo(["checkpoint", target, "-o"])
        .arguments([image])
        .arguments([afterwards])
        .run()?
        .success()?;
    if image.exists() {
        Ok(())
    } else {
        failed(format!("{} was not written", image.display()))
    }
}

/// Kills a job from outside, and who holds it.
pub fn kill(scene: &Scene, holder: &Running) -> Outcome {
    let family = processes::family(holder.pid());
    for pid in &family {
        processes::signal(*pid, Signal::KILL);
    }
    scene.wait(holder)?;
    scene.wait_for_disappearance(&family)
}

/// What held a suspended job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    ByFreezer,
    BySignals,
}

/// Suspends a job, sees all of it stand still, and resumes it.
fn suspend_and_resume(scene: &Scene, job: &Running) -> Outcome<Held> {
    let pid = job.pid().to_string();
    // Where there is no swap only pages of files go.
    let suspended = scene
        .cryo(["suspend", "--partial", &pid])
        .run()?
        .success()?;
    let listed = scene.cryo(["list"]).run()?.success()?;
    if !listed.stdout.contains("suspended since") {
        return failed(format!(
            "after {:?} cryo list says {:?}",
            suspended.stdout, listed.stdout
        ));
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    match suspended.stdout.contains("held by SIGSTOP") {
        true => Ok(Held::BySignals),
        false => Ok(Held::ByFreezer),
    }
}

/// Starts a victim with these arguments, and waits until it says that it is ready.
pub fn start_ready(scene: &Scene, source: &str, arguments: &[&str]) -> Outcome<Running> {
    let job = scene.start(
        "victim",
        &Program::victim(source, &[])?.arguments(arguments),
    )?;
    await_ready(scene, &job)?;
    Ok(job)
}

/// Lets a victim go on, whose life `holder` is, and expects that it found everything right and said nothing else.
pub fn finish_ok(scene: &Scene, job: &Running, holder: &Running) -> Outcome {
    scene.go()?;
    let status = scene.wait(holder)?;
    if status.success() && job.output() == "READY\nOK\n" {
        return Ok(());
    }
    failed(format!("the victim: {}", job.output()))
}

/// A restarted job.
#[derive(Debug)]
pub struct Life {
    /// The `cryo restart` that holds it.
    pub running: Running,
    /// The pid of its first process, as this side sees it.
    pub pid: i32,
}

/// Restarts an image in the foreground and waits until the job runs.
pub fn restart(scene: &Scene, image: &Path, label: &str) -> Outcome<Life> {
    restart_within(scene, image, label, LIMIT)
}

/// As [`restart`], where that may take as long as this.
pub fn restart_within(scene: &Scene, image: &Path, label: &str, limit: Duration) -> Outcome<Life> {
    let pid_path: PathBuf = scene.file(format!("{label}.pid"));
    // A pid left by an earlier life of the same label would be taken for this one's.
    let _ = fs::remove_file(&pid_path);
    let running = scene
        .cryo(["restart"])
        .arguments([image])
        .arguments([Path::new("--pidfile"), &pid_path])
        .start(label)?;
    let started = scene.wait_for("the restarted job's pid file", limit, || {
        let text = fs::read_to_string(&pid_path).unwrap_or_default();
        match text.trim().parse() {
            Ok(pid) if text.ends_with('\n') || !text.is_empty() => Some(Ok(pid)),
            _ => running.ended().map(Err),
        }
    })?;
    match started {
        Ok(pid) => Ok(Life { running, pid }),
        Err(status) => failed(format!("cryo restart {}", describe_status(status))),
    }
}

/// One generation: checkpoint with --kill, see everything gone, restart.
pub fn generation(scene: &Scene, holder: &Running, target: &str, number: u32) -> Outcome<Life> {
    let image = scene.file(format!("image.{number}"));
    let family = processes::family(holder.pid());
    checkpoint(scene, target, &image, "--kill")?;
    scene.wait(holder)?;
    scene.wait_for_disappearance(&family)?;
    restart(scene, &image, &format!("restart.{number}"))
}

/// Lets the victim go on and expects it to say OK and end with 0.
pub fn finish(scene: &Scene, job: &Running, holder: &Running) -> Outcome {
    scene.go()?;
    let status = scene.wait(holder)?;
    let output = job.output();
    if status.code() == Some(SKIPPED) {
        return skip(output.trim());
    }
    if output.contains("WRONG") || output.contains("BROKEN") {
        return failed(output.trim());
    }
    if !status.success() {
        return failed(format!("the victim {}", describe_status(status)));
    }
    if output != "READY\nOK\n" {
        return failed(format!("the victim's output is {output:?}"));
    }
    Ok(())
}
