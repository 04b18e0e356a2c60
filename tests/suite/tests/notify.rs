//! Programs that are told of checkpoint, restart and continue by plain signals (`--notify`), as a shell script sees them.

use std::fs;
use std::time::{Duration, Instant};

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{Outcome, Program, Running, Scene, failed, for_each_user, processes};
use rustix::process::Signal;

const NOTIFY: &str = "checkpoint=USR1,restart=USR2,continue=RTMIN+2";

/// Gets ready by stopping itself; beside it a child that would die of any of the signals.
const SCRIPT: &str = r#"
trap 'echo told; kill -STOP $$' USR1
trap 'echo restarted' USR2
trap 'echo continued' RTMIN+2
sleep 600 &
echo "READY $CRYO_JOB $$ $!"
until [ -e "$VICTIM_GO" ]; do sleep 0.02; done
kill -0 $! && kill $! && echo END
"#;

/// As the first, and a second process that is told and never says that it is ready.
const HESITANT: &str = r#"
(
    trap 'echo heard' USR1
    : > hesitating
    until [ -e "$VICTIM_GO" ]; do sleep 0.02; done
) &
trap 'echo told; kill -STOP $$' USR1
trap 'echo restarted' USR2
trap 'echo continued' RTMIN+2
sleep 600 &
until [ -e hesitating ]; do sleep 0.02; done
echo "READY $CRYO_JOB $$ $!"
until [ -e "$VICTIM_GO" ]; do sleep 0.02; done
kill -0 $! && kill $! && echo END
"#;

/// A script as a job of this name.
fn start(scene: &Scene, script: &str, name: &str) -> Outcome<Running> {
    let bash = Program::installed("bash")?;
    let job = scene
        .cryo(["run", "--name", name, "--notify", NOTIFY, "--"])
        .arguments([bash.path.as_os_str()])
        .arguments(["-c", script])
        .start("job")?;
    await_word(scene, &job, &format!("READY {name} "))?;
    await_listed(scene, name)?;
    Ok(job)
}

/// A job comes into the list a moment after its command has begun.
fn await_listed(scene: &Scene, name: &str) -> Outcome {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if scene.cryo(["list"]).run()?.success()?.stdout.contains(name) {
            return Ok(());
        }
    }
    failed(format!("{name} is not in the list of jobs"))
}

fn await_word(scene: &Scene, job: &Running, word: &str) -> Outcome {
    scene.wait_for(&format!("{word:?} in the job's output"), LIMIT, || {
        job.output().contains(word).then_some(())
    })
}

/// The lines that the script wrote after the first.
fn lines(job: &Running) -> Vec<String> {
    job.output().lines().skip(1).map(str::to_owned).collect()
}

fn expect_lines(job: &Running, wanted: &[&str]) -> Outcome {
    let found = lines(job);
    if found == wanted {
        return Ok(());
    }
    failed(format!("the script wrote {found:?} instead of {wanted:?}"))
}

fn expect_end(scene: &Scene, job: &Running) -> Outcome {
    let status = scene.wait(job)?;
    if status.success() {
        return Ok(());
    }
    failed(format!("the job ended with {status}"))
}

fn continued(scene: &Scene) -> Outcome {
    let job = start(scene, SCRIPT, "told")?;
    let image = scene.file("image");
    for round in 1..=3 {
        let result = scene
            .cryo(["checkpoint", "told", "--grace", "60s", "-o"])
            .arguments([&image])
            .run()?
            .success()?;
        if result.stderr.contains("did not stop itself") {
            return failed("a program that stopped itself was not noticed");
        }
        scene.wait_for("the script to go on", LIMIT, || {
            (lines(&job).len() == 2 * round).then_some(())
        })?;
    }
    scene.go()?;
    expect_end(scene, &job)?;
    let mut wanted = ["told", "continued"].repeat(3);
    wanted.push("END");
    expect_lines(&job, &wanted)
}

fn restarted(scene: &Scene) -> Outcome {
    let job = start(scene, SCRIPT, "told")?;
    let image = scene.file("image");
    // By what the list of jobs knows of it.
    scene
        .cryo(["checkpoint", "told", "--kill", "-o"])
        .arguments([&image])
        .run()?
        .success()?;
    scene.wait(&job)?;
    expect_lines(&job, &["told"])?;
    for life in 1..=2 {
        let again = scene
            .cryo(["restart", "--name", "again"])
            .arguments([&image])
            .start(&format!("restart.{life}"))?;
        await_listed(scene, "again")?;
        // Its output is cut back to what it was at the checkpoint, each time.
        await_word(scene, &job, "told\nrestarted\n")?;
        // The new life is told as the first one was.
        scene
            .cryo(["checkpoint", "again", "-o"])
            .arguments([&scene.file("second")])
            .run()?
            .success()?;
        scene.wait_for("the continued script", LIMIT, || {
            (lines(&job).last()? == "continued").then_some(())
        })?;
        scene.go()?;
        expect_end(scene, &again)?;
        fs::remove_file(scene.go_path())?;
        expect_lines(&job, &["told", "restarted", "told", "continued", "END"])?;
        scene.write(job.out_path(), first_lines(&job, 2))?;
    }
    Ok(())
}

fn first_lines(job: &Running, count: usize) -> String {
    job.output().split_inclusive('\n').take(count).collect()
}

fn out_of_time(scene: &Scene) -> Outcome {
    let job = start(scene, HESITANT, "hesitant")?;
    let result = scene
        .cryo(["checkpoint", "hesitant", "--json", "--grace", "500ms", "-o"])
        .arguments([&scene.file("image")])
        .run()?
        .success()?;
    if !result.stdout.contains("did not stop itself") {
        return failed("nothing was said of a program that took all of the time");
    }
    await_word(scene, &job, "continued")?;
    scene.go()?;
    expect_end(scene, &job)?;
    let found = lines(&job);
    match ["told", "heard", "continued", "END"].map(|word| found.contains(&word.into())) {
        [true, true, true, true] => Ok(()),
        _ => failed(format!("the script wrote {found:?}")),
    }
}

/// `cryo` ends while one process has stopped itself and another is waited for.
fn ended_while_waiting(scene: &Scene, signal: Signal, verb: &[&str]) -> Outcome {
    let job = start(scene, HESITANT, "hesitant")?;
    let cryo = scene
        .cryo(verb)
        .arguments(["hesitant", "--grace", "10m"])
        .start("call")?;
    await_word(scene, &job, "told")?;
    let pid = stopped(scene)?;
    cryo.signal(signal);
    scene.wait(&cryo)?;
    await_word(scene, &job, "continued")?;
    scene.wait_for("it to run on", LIMIT, || {
        (processes::state(pid) != Some('T')).then_some(())
    })?;
    scene.go()?;
    expect_end(scene, &job)?;
    if scene.work("image").exists() {
        return failed("there is an image of a checkpoint that was given up");
    }
    Ok(())
}

const CHECKPOINT: &[&str] = &["checkpoint", "-o", "image"];
const SUSPEND: &[&str] = &["suspend", "--partial"];

/// Waits for the process of the job that has stopped itself.
fn stopped(scene: &Scene) -> Outcome<i32> {
    let own = std::process::id() as i32;
    scene.wait_for("a process that has stopped itself", LIMIT, || {
        processes::descendants(own)
            .into_iter()
            .find(|pid| processes::state(*pid) == Some('T'))
    })
}

fn killed(scene: &Scene) -> Outcome {
    ended_while_waiting(scene, Signal::KILL, CHECKPOINT)
}

fn interrupted(scene: &Scene) -> Outcome {
    ended_while_waiting(scene, Signal::INT, CHECKPOINT)
}

fn suspend_killed(scene: &Scene) -> Outcome {
    ended_while_waiting(scene, Signal::KILL, SUSPEND)
}

fn suspend_interrupted(scene: &Scene) -> Outcome {
    ended_while_waiting(scene, Signal::INT, SUSPEND)
}

/// Told before it is suspended, and *continue* when it is resumed, not before; what is done twice is told once.
fn suspended(scene: &Scene) -> Outcome {
    let job = start(scene, SCRIPT, "told")?;
    let mut wanted = Vec::new();
    for times in [1, 2, 1] {
        for _ in 0..times {
            scene.cryo(SUSPEND).arguments(["told"]).run()?.success()?;
        }
        wanted.push("told");
        std::thread::sleep(Duration::from_millis(50));
        expect_lines(&job, &wanted)?;
        scene.cryo(["resume", "told"]).run()?.success()?;
        wanted.push("continued");
        scene.wait_for("the script to go on", LIMIT, || {
            (lines(&job).len() == wanted.len()).then_some(())
        })?;
    }
    scene.go()?;
    expect_end(scene, &job)?;
    wanted.push("END");
    expect_lines(&job, &wanted)
}

/// A job that nobody started here is told, too.
fn suspended_by_pid(scene: &Scene) -> Outcome {
    let bash = Program::installed("bash")?;
    let job = scene.start("job", &bash.argument("-c").argument(SCRIPT))?;
    await_word(scene, &job, "READY")?;
    let pid = job.pid().to_string();
    scene
        .cryo(SUSPEND)
        .arguments([&pid, "--notify", NOTIFY, "--grace", "60s"])
        .run()?
        .success()?;
    expect_lines(&job, &["told"])?;
    scene.cryo(["resume", &pid]).run()?.success()?;
    await_word(scene, &job, "continued")?;
    scene.go()?;
    expect_end(scene, &job)?;
    expect_lines(&job, &["told", "continued", "END"])
}

/// One that its user has stopped is not told, and stays stopped in both lives.
fn left_stopped(scene: &Scene) -> Outcome {
    let bash = Program::installed("bash")?;
    let job = scene.start("job", &bash.argument("-c").argument(SCRIPT))?;
    await_word(scene, &job, "READY")?;
    processes::signal(job.pid(), Signal::STOP);
    let is_stopped = |pid: i32| (processes::state(pid) == Some('T')).then_some(());
    scene.wait_for("it to stop", LIMIT, || is_stopped(job.pid()))?;
    let pid = job.pid().to_string();
    scene
        .cryo([
            "checkpoint",
            &pid,
            "--notify",
            NOTIFY,
            "--grace",
            "60s",
            "-o",
        ])
        .arguments([&scene.file("image")])
        .run()?
        .success()?;
    is_stopped(job.pid()).map_or_else(|| failed("it was woken"), Ok)?;
    expect_lines(&job, &[])?;
    job.signal(Signal::CONT);
    scene.go()?;
    expect_end(scene, &job)?;
    expect_lines(&job, &["END"])
}

fn bad_requests(scene: &Scene) -> Outcome {
    for (notify, word) in [
        ("checkpoint=KILL", "catch"),
        ("checkpoint=TRAP", "debuggers"),
        ("checkpoint=NOSUCH", "kill -l"),
        ("later=USR1", "checkpoint, restart and continue"),
        ("USR1", "checkpoint=usr1"),
    ] {
        let run = scene
            .cryo(["run", "--notify", notify, "--", "true"])
            .run()?;
        run.refusal_with(&[2, 125], &[word])?;
    }
    Ok(())
}

for_each_user! {
    continued,
    restarted,
    out_of_time,
    killed,
    interrupted,
    suspended,
    suspended_by_pid,
    suspend_killed,
    suspend_interrupted,
    left_stopped,
    bad_requests
}
