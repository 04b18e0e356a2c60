//! `cryo` killed with SIGKILL at random instants of checkpoints never hurts the job, and no earlier image.
//!
//! `CRYONAUT_KILL_ROUNDS` says how many instants (50 each as root and as an ordinary user, unless said).

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cryonaut_suite::scene::describe_status;
use cryonaut_suite::victim::{await_ready, checkpoint, finish};
use cryonaut_suite::{
    Outcome, Program, Random, Running, Scene, User, failed, kill_rounds, processes, test,
};

/// About how long one torture victim computes without a checkpoint.
const SECONDS: &str = "4";
const LIMIT: Duration = Duration::from_secs(100);

fn rounds() -> u32 {
    kill_rounds(50)
}

/// The digest line of a run that nothing disturbed.
fn undisturbed(scene: &Scene) -> Outcome<String> {
    let job = scene.start(
        "reference",
        &Program::victim("torture", &[])?.argument(SECONDS),
    )?;
    let status = scene.wait_within(&job, LIMIT)?;
    if !status.success() {
        return failed(format!("the undisturbed run {}", describe_status(status)));
    }
    Ok(job.output())
}

/// How long one checkpoint of the victim takes here.
fn checkpoint_time(scene: &Scene, job: &Running, image: &Path) -> Outcome<Duration> {
    let start = Instant::now();
    for _ in 0..3 {
        checkpoint(scene, &job.pid().to_string(), image, "--leave-running")?;
    }
    Ok(start.elapsed() / 3)
}

/// Kills one checkpoint after a random time; whether that was before its end.
fn kill_one(
    scene: &Scene,
    random: &mut Random,
    job: &Running,
    target: &Path,
    usual: Duration,
) -> Outcome<bool> {
    scene
        .cryo(["checkpoint", &job.pid().to_string(), "-o"])
        .arguments([target])
        .killed_after(random.between(Duration::ZERO, usual * 5 / 4))
}

/// No task of the job may be left stopped or traced.
fn expect_free(job: &Running) -> Outcome {
    let family = processes::family(job.pid());
    for pid in family {
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let tracer = status
                .lines()
                .find_map(|line| line.strip_prefix("TracerPid:"));
            if tracer.is_some_and(|tracer| tracer.trim() != "0") {
                return failed(format!("{} is still traced", task.path().display()));
            }
        }
    }
    Ok(())
}

fn kill_anytime(scene: &Scene) -> Outcome {
    let mut random = Random::new();
    let wanted = undisturbed(scene)?;
    let (mut killed, mut finished, mut jobs) = (0, 0, 0);
    while killed < rounds() {
        jobs += 1;
        let job = scene.start(
            &format!("job.{jobs}"),
            &Program::victim("torture", &[])?.argument(SECONDS),
        )?;
        scene.wait_for("READY", LIMIT, || {
            job.output().contains("READY").then_some(())
        })?;
        let earlier = scene.file("earlier");
        let usual = checkpoint_time(scene, &job, &earlier)?;
        let mut before = fs::read(&earlier)?;
        while killed < rounds() && job.ended().is_none() {
            // Every second time the earlier image is the one to be replaced.
            let target = if killed % 2 == 0 {
                earlier.clone()
            } else {
                scene.file("fresh")
            };
            if kill_one(scene, &mut random, &job, &target, usual)? {
                killed += 1;
            } else {
                finished += 1;
            }
            // Replaced as a whole or not at all.
            let after = fs::read(&earlier)?;
            if after != before {
                scene
                    .cryo(["verify"])
                    .arguments([&earlier])
                    .run()?
                    .success()?;
                before = after;
            }
            // A tracer's end is seen by its tracees at once, but the reader of /proc may be earlier.
            std::thread::sleep(Duration::from_millis(2));
            if job.ended().is_none() {
                expect_free(&job)?;
            }
        }
        let status = scene.wait_within(&job, LIMIT)?;
        if !status.success() || job.output() != wanted {
            return failed(format!(
                "after {killed} kills the job {}, wrote {:?} instead of {wanted:?}",
                describe_status(status),
                job.output()
            ));
        }
    }
    scene.note(format!(
        "{killed} checkpoints killed, {finished} finished first, {jobs} jobs"
    ));
    println!("{killed} checkpoints killed, {finished} finished first, {jobs} jobs");
    Ok(())
}

/// A job whose filters kill it for nearly every call that a checkpoint makes in it.
fn kill_anytime_under_seccomp(scene: &Scene) -> Outcome {
    kill_anytime_apart(scene, &["seccomp_filters", "seccomp_strict"])
}

/// What waits in a terminal is taken out of it and put back.
fn kill_anytime_on_terminals(scene: &Scene) -> Outcome {
    kill_anytime_apart(scene, &["pty_bytes", "pty_lines"])
}

/// The messages of a queue are taken out of it and put back.
fn kill_anytime_on_queues(scene: &Scene) -> Outcome {
    kill_anytime_apart(scene, &["posix_stream", "posix_messages"])
}

/// Processes of ours look into the namespaces that the job has made itself.
fn kill_anytime_in_namespaces(scene: &Scene) -> Outcome {
    let sources = [
        "own_user_namespace",
        "own_network_namespace",
        "own_mount_namespace",
    ];
    kill_anytime_apart(scene, &sources)
}

/// The limits of a process that has no memory left are raised for a moment, and put back.
fn kill_anytime_at_memory_limit(scene: &Scene) -> Outcome {
    kill_anytime_apart(scene, &["mem_limit"])
}

/// Jobs that other processes than `cryo` have to do with.
fn kill_anytime_apart(scene: &Scene, sources: &[&str]) -> Outcome {
    let mut random = Random::new();
    for source in sources {
        let again = scene.go_path();
        let _ = fs::remove_file(&again);
        let job = scene.start(source, &Program::victim(source, &[])?)?;
        await_ready(scene, &job)?;
        let target = scene.file("image");
        let usual = checkpoint_time(scene, &job, &target)?;
        let mut killed = 0;
        while killed < rounds() / 2 {
            killed += u32::from(kill_one(scene, &mut random, &job, &target, usual)?);
        }
        // The process apart is told of the end of its parent, and lets the job go.
        let free = scene.wait_for("the job to be free", LIMIT, || {
            expect_free(&job).is_ok().then_some(())
        });
        free?;
        finish(scene, &job, &job)?;
    }
    Ok(())
}

/// A job that a checkpoint has to bring out of the vDSO first.
fn kill_anytime_in_the_vdso(scene: &Scene) -> Outcome {
    let mut random = Random::new();
    let job = scene.start("victim", &Program::victim("mem_vdso_threads", &[])?)?;
    await_ready(scene, &job)?;
    let target = scene.file("image");
    let usual = checkpoint_time(scene, &job, &target)?;
    let mut killed = 0;
    while killed < rounds() && job.ended().is_none() {
        killed += u32::from(kill_one(scene, &mut random, &job, &target, usual)?);
    }
    let free = scene.wait_for("the job to be free", LIMIT, || {
        expect_free(&job).is_ok().then_some(())
    });
    free?;
    finish(scene, &job, &job)
}

#[test]
fn terminals_root() {
    let name = "kill_anytime::terminals_root";
    test(name, User::Root, kill_anytime_on_terminals);
}

#[test]
fn terminals_user() {
    let name = "kill_anytime::terminals_user";
    test(name, User::Ordinary, kill_anytime_on_terminals);
}

#[test]
fn queues_root() {
    let name = "kill_anytime::queues_root";
    test(name, User::Root, kill_anytime_on_queues);
}

#[test]
fn queues_user() {
    let name = "kill_anytime::queues_user";
    test(name, User::Ordinary, kill_anytime_on_queues);
}

#[test]
fn namespaces_root() {
    let name = "kill_anytime::namespaces_root";
    test(name, User::Root, kill_anytime_in_namespaces);
}

#[test]
fn namespaces_user() {
    let name = "kill_anytime::namespaces_user";
    test(name, User::Ordinary, kill_anytime_in_namespaces);
}

#[test]
fn vdso_root() {
    let name = "kill_anytime::vdso_root";
    test(name, User::Root, kill_anytime_in_the_vdso);
}

#[test]
fn vdso_user() {
    let name = "kill_anytime::vdso_user";
    test(name, User::Ordinary, kill_anytime_in_the_vdso);
}

#[test]
fn seccomp() {
    let name = "kill_anytime::seccomp";
    test(name, User::Root, kill_anytime_under_seccomp);
}

#[test]
fn root() {
    test("kill_anytime::root", User::Root, kill_anytime);
}

#[test]
fn user() {
    test("kill_anytime::user", User::Ordinary, kill_anytime);
}

#[test]
fn memory_limit_root() {
    let name = "kill_anytime::memory_limit_root";
    test(name, User::Root, kill_anytime_at_memory_limit);
}

#[test]
fn memory_limit_user() {
    let name = "kill_anytime::memory_limit_user";
    test(name, User::Ordinary, kill_anytime_at_memory_limit);
}
