//! `cryo` killed while memory goes to swap and comes back, also by the freezer of an ordinary user, and while a command runs
//! instead of the job: that can be completed and undone, and no byte of the job's memory is another one afterwards.
//!
//! `CRYONAUT_KILL_ROUNDS` says how many random instants (10 each as root and as an ordinary user, unless said).

use std::fs;
use std::time::{Duration, Instant};

use cryonaut_suite::scene::{LIMIT, describe_status};
use cryonaut_suite::swap::{Delegated, SwapFile, cgroup_of};
use cryonaut_suite::victim::{finish, start_ready};
use cryonaut_suite::{
    Outcome, Random, Running, Scene, failed, for_each_user, kill_rounds, processes,
};

const PATIENT: Duration = Duration::from_secs(300);

/// How long a call of `cryo` takes that nobody kills.
fn usual(scene: &Scene, arguments: &[&str]) -> Outcome<Duration> {
    let start = Instant::now();
    scene.cryo(arguments).run()?.success()?;
    // One that was slow by chance would have most of the others end before they are killed.
    Ok(start.elapsed().min(Duration::from_secs(1)))
}

/// Kills a call of `cryo` at a random instant; whether that was before its end.
fn kill_one(
    scene: &Scene,
    random: &mut Random,
    usual: Duration,
    arguments: &[&str],
) -> Outcome<bool> {
    let delay = random.between(Duration::ZERO, usual * 11 / 10);
    scene.cryo(arguments).killed_after(delay)
}

/// Neither the list nor the kernel says that the job is suspended.
fn expect_unsuspended(scene: &Scene, job: &Running) -> Outcome {
    let listed = scene.cryo(["list"]).run()?.success()?.stdout;
    let family = processes::family(job.pid());
    let held = |pid: &&i32| {
        processes::state(**pid) == Some('T') || cgroup_of(**pid).contains("cryonaut-suspended")
    };
    match family.iter().find(held) {
        None if !listed.contains("suspended") => Ok(()),
        held => failed(format!(
            "process {held:?} is held; cryo list says {listed:?}"
        )),
    }
}

fn killed_again_and_again(scene: &Scene, job: &Running) -> Outcome {
    let mut random = Random::new();
    let pid = job.pid().to_string();
    let suspend = ["suspend", pid.as_str()];
    let resume = ["resume", "--prefetch", "all", pid.as_str()];
    let (suspend_takes, resume_takes) = (usual(scene, &suspend)?, usual(scene, &resume)?);
    let (mut killed, mut finished) = (0, 0);
    while killed < 2 * kill_rounds(10) {
        for (call, takes) in [(&suspend[..], suspend_takes), (&resume, resume_takes)] {
            match kill_one(scene, &mut random, takes, call)? {
                true => killed += 1,
                false => finished += 1,
            }
            if random.below(4) == 0 {
                scene.cryo(["list"]).run()?.success()?;
            }
            if call == suspend {
                // It is completed, whatever was done of it.
                scene.cryo(suspend).run()?.success()?;
            }
        }
        if random.below(2) == 0 {
            // Not suspended is an answer, too.
            scene.cryo(["resume", &pid]).run()?;
            expect_unsuspended(scene, job)?;
        }
        if let Some(status) = job.ended() {
            return failed(format!("the job {}", describe_status(status)));
        }
    }
    println!("{killed} commands killed, {finished} finished first");
    scene.cryo(["resume", &pid]).run()?;
    expect_unsuspended(scene, job)?;
    scene.go()?;
    let status = scene.wait_within(job, PATIENT)?;
    match status.success() && job.output() == "READY\nOK\n" {
        true => Ok(()),
        false => failed(format!(
            "the job {}: {}",
            describe_status(status),
            job.output()
        )),
    }
}

/// Memory of every kind goes, its copies are mapped and dropped, and it is read back.
fn with_swap(scene: &Scene) -> Outcome {
    let _swap = SwapFile::add(scene, 128)?;
    let job = start_ready(scene, "holder", &["24", "fork"])?;
    killed_again_and_again(scene, &job)
}

/// The same, held by the freezer also as an ordinary user.
fn in_a_delegated_cgroup(scene: &Scene) -> Outcome {
    let _swap = SwapFile::add(scene, 128)?;
    let own = Delegated::make(scene)?;
    let job = start_ready(scene, "holder", &["24", "fork"])?;
    own.take(job.pid())?;
    for child in processes::descendants(job.pid()) {
        own.take(child)?;
    }
    let place = cgroup_of(job.pid());
    let pid = job.pid().to_string();
    let told = scene
        .cryo(["suspend", "--json", &pid])
        .run()?
        .success()?
        .stdout;
    if !told.contains("\"way\":\"freezer\"") {
        return failed(format!("the freezer was not used: {told}"));
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    if cgroup_of(job.pid()) != place {
        return failed(format!("the job is in {} now", cgroup_of(job.pid())));
    }
    killed_again_and_again(scene, &job)
}

/// The cryo that runs a command meanwhile dies: the job can be resumed, or runs already.
fn meanwhile(scene: &Scene) -> Outcome {
    let mut random = Random::new();
    let job = start_ready(scene, "counting", &[])?;
    let pid = job.pid().to_string();
    let call = ["suspend", "--partial", &pid, "--for", "sleep 0.05"];
    let takes = usual(scene, &call)?;
    let counts = || fs::read(scene.work("count")).unwrap_or_default();
    let (mut killed, mut suspended) = (0, 0);
    while killed < kill_rounds(20) {
        if kill_one(scene, &mut random, takes, &call)? {
            killed += 1;
        }
        let listed = scene.cryo(["list"]).run()?.success()?.stdout;
        let resumed = scene.cryo(["resume", &pid]).run()?;
        if listed.contains("suspended since") {
            suspended += 1;
            resumed.success()?;
        }
        expect_unsuspended(scene, &job)?;
        let before = counts();
        scene.wait_for("every thread to count", LIMIT, || {
            let now = counts();
            let mut places = before.chunks(8).zip(now.chunks(8)).take(4);
            (now.len() == before.len() && places.all(|(then, now)| then != now)).then_some(())
        })?;
    }
    println!("{killed} killed, {suspended} of them left the job suspended");
    finish(scene, &job, &job)
}

for_each_user! {
    kill_swapping => with_swap;
    kill_delegated => in_a_delegated_cgroup;
    kill_for => meanwhile;
}
