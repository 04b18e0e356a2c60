//! A job is in the list of jobs from its first instruction on, and what does not start leaves nothing there.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{Outcome, Program, Random, Scene, User, failed, for_each_user, processes};
use rustix::process::Signal;

/// Kills of each kind, at least.
const ROUNDS: u32 = 12;
/// Kills of each kind at most, until some came before the job ran, and some after.
const MOST_ROUNDS: u32 = 200;

/// A script that says whether the job of this name is in the list of jobs, as the first thing it does.
fn look(name: &str) -> String {
    format!(
        "if [ -e \"$XDG_RUNTIME_DIR/cryonaut/{name}.json\" ]; then echo listed; else echo unlisted; fi"
    )
}

/// The pids of the jobs in the list.
fn listed(scene: &Scene) -> Outcome<Vec<i32>> {
    let jobs = scene.cryo(["list"]).run()?.success()?.stdout;
    let pids = jobs
        .lines()
        .filter_map(|line| line.split_once("  pid ")?.1.split(' ').next()?.parse().ok());
    Ok(pids.collect())
}

fn all_said(text: &str, word: &str) -> bool {
    let mut lines = text.lines().filter(|line| *line != "READY");
    lines.all(|line| line == word)
}

fn run_is_listed(scene: &Scene) -> Outcome {
    for _ in 0..5 {
        let said = scene
            .cryo(["run", "--name", "first", "--", "sh", "-c", &look("first")])
            .run()?
            .success()?;
        if said.stdout != "listed\n" {
            return failed(format!("the job was not in the list: {}", said.stdout));
        }
    }
    // What cannot be started.
    scene
        .cryo(["run", "--name", "none", "--", "/no/such/program"])
        .run()?
        .refusal_with(&[127], &["no/such/program"])?;
    if fs::read_dir(scene.file("run/cryonaut"))?
        .flatten()
        .any(|entry| entry.path().extension().is_some_and(|end| end == "json"))
    {
        return failed("a job that was never there is in the list");
    }
    Ok(())
}

fn restart_is_listed(scene: &Scene) -> Outcome {
    let go = scene.go_path();
    let script = format!(
        "echo READY; while [ ! -e {} ]; do :; done; {}; {}; exec sleep 1000",
        go.display(),
        look("again"),
        look("again"),
    );
    let job = scene
        .cryo(["run", "--name", "first", "--", "sh", "-c", &script])
        .start("first")?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", "first", "--kill", "-o"])
        .arguments([&image])
        .run()?
        .success()?;
    scene.wait(&job)?;
    scene.go()?;
    let restart = |limit: Option<Duration>| -> Outcome {
        let call = scene.cryo(["restart", "--detach", "--name", "again"]);
        run_for(call.arguments([&image]).command(), limit)
    };
    let start = Instant::now();
    restart(None)?;
    let usual = start.elapsed();
    scene.wait_for("the job to look", LIMIT, || {
        (job.output().lines().count() >= 3).then_some(())
    })?;
    settle(scene, || true)?;
    kill_around(usual, |limit| {
        // Each life writes where the one before did.
        let file = fs::OpenOptions::new().write(true).open(job.out_path())?;
        file.set_len("READY\n".len() as u64)?;
        restart(Some(limit))?;
        settle(scene, || looks(&job.output()) > 0)?;
        match all_said(&job.output(), "listed") {
            true => Ok(looks(&job.output()) > 0),
            false => failed("the restarted job ran without being in the list"),
        }
    })
}

fn killed_run(scene: &Scene) -> Outcome {
    let script = format!("{}; exec sleep 1000", look("first"));
    let (path, out) = scene.output_file("job.out")?;
    let run = |limit: Option<Duration>| -> Outcome {
        let words = ["run", "--detach", "--name", "first", "--", "sh", "-c"];
        let mut command = scene.cryo(words).arguments([&script]).command();
        command.stdout(out.try_clone()?);
        run_for(command, limit)
    };
    let start = Instant::now();
    run(None)?;
    let usual = start.elapsed();
    let text = || fs::read_to_string(&path).unwrap_or_default();
    settle(scene, || looks(&text()) > 0)?;
    kill_around(usual, |limit| {
        let before = looks(&text());
        run(Some(limit))?;
        settle(scene, || looks(&text()) > before)?;
        match text().contains("unlisted") {
            false => Ok(looks(&text()) > before),
            true => failed("the job ran without being in the list"),
        }
    })
}

/// How often jobs have looked.
fn looks(text: &str) -> usize {
    text.lines().filter(|line| line.ends_with("listed")).count()
}

/// Kills at random instants, around the one at which the job begins to run: a round tells whether it has.
fn kill_around(usual: Duration, mut round: impl FnMut(Duration) -> Outcome<bool>) -> Outcome {
    let (mut random, mut ran, mut came_to_nothing) = (Random::new(), 0, 0);
    for number in 0..MOST_ROUNDS {
        // On a busy machine it may take longer than before.
        let longest = match ran {
            0 => usual * (number + 2),
            _ => usual * 5 / 4,
        };
        match round(random.between(Duration::ZERO, longest))? {
            true => ran += 1,
            false => came_to_nothing += 1,
        }
        if number + 1 >= ROUNDS && ran > 0 && came_to_nothing > 0 {
            return Ok(());
        }
    }
    failed(format!("{ran} ran, {came_to_nothing} did not"))
}

/// Runs a command, to its end or until it is killed.
fn run_for(mut command: Command, limit: Option<Duration>) -> Outcome {
    let mut child = command.stderr(Stdio::null()).spawn()?;
    match limit {
        Some(limit) => {
            std::thread::sleep(limit);
            child.kill()?;
            child.wait()?;
            Ok(())
        }
        None if child.wait()?.success() => Ok(()),
        None => failed("cryo failed"),
    }
}

/// Sees to it that every process which lives is of a job in the list, and ends that job when it has said something.
fn settle(scene: &Scene, said: impl Fn() -> bool) -> Outcome {
    let own = std::process::id() as i32;
    let jobs = listed(scene)?;
    for pid in &jobs {
        // One that was entered, and not let go, is about to end.
        scene.wait_for("a job to look, or to end", LIMIT, || {
            (said() || matches!(processes::state(*pid), None | Some('Z' | 'X'))).then_some(())
        })?;
        processes::signal(*pid, Signal::KILL);
    }
    scene.wait_for("everything that is in no list to end", LIMIT, || {
        scene.wait_for_disappearance(&[]).ok()?;
        let mut left = processes::descendants(own).into_iter();
        left.all(|pid| matches!(processes::state(pid), None | Some('Z')))
            .then_some(())
    })?;
    match listed(scene)?.as_slice() {
        [] => Ok(()),
        left => failed(format!("jobs that have ended are in the list: {left:?}")),
    }
}

/// Holds a lease of a file, so that whoever opens it, or has it executed, waits.
const LEASE: &str = "$SIG{IO} = 'IGNORE'; $| = 1; open(F, '<', $ARGV[0]) or die; \
    fcntl(F, 1024, 1) or die \"no lease: $!\"; print \"LEASED\\n\"; sleep 1000";

/// A program that a file system does not give out, as one that hangs: nobody else waits for that.
fn hanging_program(scene: &Scene) -> Outcome {
    let program = scene.make_directory("place")?.join("program");
    fs::copy(Program::victim("mem_private", &[])?.path, &program)?;
    if let User::Ordinary = scene.user() {
        std::os::unix::fs::chown(&program, Some(scene.user_id()), None)?;
    }
    let perl = Program::installed("perl")?.arguments(["-e", LEASE]);
    let lease = scene.start("lease", &perl.argument(&program))?;
    scene.wait_for("the lease", LIMIT, || {
        lease.output().contains("LEASED").then_some(())
    })?;
    let job = scene
        .cryo(["run", "--name", "first", "--"])
        .arguments([&program])
        .start("job")?;
    let entry = scene.file("run/cryonaut/first.json");
    scene.wait_for("the job's entry", LIMIT, || entry.exists().then_some(()))?;
    let jobs = listed(scene)?;
    if job.output().contains("READY") || jobs.len() != 1 {
        return failed(format!(
            "the list waited for the program to be started: {jobs:?}"
        ));
    }
    lease.signal(Signal::KILL);
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    scene.go()?;
    match scene.wait(&job)?.success() {
        true => Ok(()),
        false => failed("the job failed"),
    }
}

/// Jobs of one command that are started at once: each is told the name that it has in the list.
fn named_at_once(scene: &Scene) -> Outcome {
    const JOBS: usize = 8;
    let script = "[ \"$(cat \"$XDG_RUNTIME_DIR/cryonaut/$CRYO_JOB.json\" | tr -d ' \\n' | grep -o '\"root\":{\"pid\":[0-9]*')\" != '' ] \
        && echo \"<$CRYO_JOB>\"; while [ ! -e \"$VICTIM_GO\" ]; do sleep 0.05; done";
    let mut jobs = Vec::new();
    for number in 0..JOBS {
        let call = scene.cryo(["run", "--", "sh", "-c", script]);
        jobs.push(call.start(&format!("job.{number}"))?);
    }
    let mut names = Vec::new();
    for job in &jobs {
        names.push(scene.wait_for("a job's name", LIMIT, || {
            let said = job.output();
            Some(said.trim().strip_prefix('<')?.strip_suffix('>')?.to_owned())
        })?);
    }
    let mut listed: Vec<String> = fs::read_dir(scene.file("run/cryonaut"))?
        .flatten()
        .filter_map(|entry| {
            Some(
                entry
                    .file_name()
                    .to_str()?
                    .strip_suffix(".json")?
                    .to_owned(),
            )
        })
        .collect();
    names.sort();
    listed.sort();
    if names != listed || names.len() != JOBS {
        return failed(format!("they were told {names:?}, and are {listed:?}"));
    }
    scene.go()?;
    for job in &jobs {
        scene.wait(job)?;
    }
    // Nothing is left of what they were promised.
    let left: Vec<_> = fs::read_dir(scene.file("run/cryonaut"))?
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().ends_with(".reserved"))
        .collect();
    match left.is_empty() {
        true => Ok(()),
        false => failed(format!("{left:?} were left")),
    }
}

for_each_user! {run_is_listed, restart_is_listed, killed_run, hanging_program, named_at_once}
