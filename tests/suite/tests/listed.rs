//! A job is in the list of jobs from its first instruction on, and what does not start leaves nothing there.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{Outcome, Random, Scene, failed, for_each_user, processes};
use rustix::process::Signal;

/// Kills of each kind.
const ROUNDS: u32 = 12;

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
    settle(scene)?;
    let mut random = Random::new();
    for _ in 0..ROUNDS {
        restart(Some(random.between(Duration::ZERO, usual)))?;
        settle(scene)?;
        if !all_said(&job.output(), "listed") {
            return failed("the restarted job ran without being in the list");
        }
    }
    Ok(())
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
    settle(scene)?;
    let mut random = Random::new();
    for _ in 0..ROUNDS {
        run(Some(random.between(Duration::ZERO, usual)))?;
        settle(scene)?;
        if fs::read_to_string(&path)?.contains("unlisted") {
            return failed("the job ran without being in the list");
        }
    }
    Ok(())
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

/// Sees to it that every process which lives is of a job in the list, and ends that job.
fn settle(scene: &Scene) -> Outcome {
    let own = std::process::id() as i32;
    let jobs = listed(scene)?;
    for pid in &jobs {
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

for_each_user! {run_is_listed, restart_is_listed, killed_run}
