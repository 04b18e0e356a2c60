//! Which processes a suspension holds, by what, and what becomes of time that passes meanwhile.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::swap::{Delegated, cgroup_of};
use cryonaut_suite::victim::{await_ready, finish};
use cryonaut_suite::{Outcome, Program, Scene, failed, for_each_user, processes};
use rustix::process::Signal;

/// A leader of a session, with one of each: a child in its group, one in another group, one in another session, and one of its
/// session whose parent has ended.
const FAMILY: &str = r#"
sleep 600 & echo $! > child
(sleep 600 & echo $! > orphan)
set -m
sleep 600 & echo $! > group
set +m
setsid sleep 600 & echo $! > apart
echo READY
wait
"#;

/// Whether a process is held by a suspension.
fn is_held(pid: i32) -> bool {
    processes::state(pid) == Some('T') || cgroup_of(pid).contains("cryonaut-suspended")
}

fn scopes(scene: &Scene) -> Outcome {
    let bash = Program::installed("bash")?;
    let job = scene.start("family", &bash.arguments(["-c", FAMILY]))?;
    await_ready(scene, &job)?;
    let mut family = vec![("leader", job.pid())];
    for name in ["child", "orphan", "group", "apart"] {
        let text = fs::read_to_string(scene.work(name))?;
        match text.trim().parse() {
            Ok(pid) => family.push((name, pid)),
            Err(_) => return failed(format!("{name} has the pid {text:?}")),
        }
    }
    // Each is what it is named for, not a shell on its way to it.
    scene.wait_for("the family", LIMIT, || {
        let is_sleep = |&(_, pid): &(&str, i32)| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
        };
        family[1..].iter().all(is_sleep).then_some(())
    })?;
    let held = || -> Vec<&str> {
        let held = family.iter().filter(|(_, pid)| is_held(*pid));
        held.map(|(name, _)| *name).collect()
    };
    let pid = job.pid().to_string();
    for (scope, wanted) in [
        ("--process", &["leader"][..]),
        ("--group", &["leader", "child", "orphan"]),
        ("--session", &["leader", "child", "orphan", "group"]),
        ("--tree", &["leader", "child", "group", "apart"]),
    ] {
        scene
            .cryo(["suspend", "--no-reclaim", scope, &pid])
            .run()?
            .success()?;
        if held() != wanted {
            return failed(format!("{scope} holds {:?} instead of {wanted:?}", held()));
        }
        scene.cryo(["resume", &pid]).run()?.success()?;
        scene.wait_for("all to go on", LIMIT, || held().is_empty().then_some(()))?;
    }
    for (_, pid) in family {
        processes::signal(pid, Signal::KILL);
    }
    scene.wait(&job)?;
    Ok(())
}

/// A job of `cryo run` that may have a cgroup of its own is frozen in that, and stays in it.
fn own_cgroup(scene: &Scene) -> Outcome {
    let own = Delegated::make(scene)?;
    let mut command = scene.session_command(Path::new("/bin/sh"));
    let script = format!(
        "until [ -e moved ]; do sleep 0.02; done; exec {} run --name own -- sleep 600",
        scene.cryo_path().display()
    );
    command.args(["-c", &script]);
    let run = scene.spawn("run", command)?;
    own.take(run.pid())?;
    scene.write(&scene.work("moved"), "")?;
    let sleeping = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line == "sleep\u{0}600\u{0}")
    };
    let pid = scene.wait_for("the job", LIMIT, || {
        processes::descendants(run.pid()).into_iter().find(sleeping)
    })?;
    let place = cgroup_of(pid);
    if !place.contains("/cryonaut-job-") {
        return failed(format!("the job is in {place}"));
    }
    let done = scene
        .cryo(["suspend", "--partial", "--json", "own"])
        .run()?
        .success()?;
    let name = place.rsplit('/').next().unwrap_or_default();
    let events = fs::read_to_string(own.path().join(name).join("cgroup.events"))?;
    if !done.stdout.contains("\"way\":\"freezer\"")
        || cgroup_of(pid) != place
        || !events.contains("frozen 1")
    {
        return failed(format!(
            "it is in {}, with {events:?}: {}",
            cgroup_of(pid),
            done.stdout
        ));
    }
    scene.cryo(["resume", "own"]).run()?.success()?;
    if cgroup_of(pid) != place {
        return failed(format!("it is in {} now", cgroup_of(pid)));
    }
    processes::signal(pid, Signal::TERM);
    scene.wait(&run)?;
    Ok(())
}

/// What expires meanwhile arrives once, when the job goes on.
fn expired_meanwhile(scene: &Scene) -> Outcome {
    for seconds in [3, 9, 27] {
        let _ = fs::remove_file(scene.go_path());
        let all = Duration::from_secs(seconds);
        let program = Program::victim("expiring", &[])?.argument(seconds.to_string());
        let start = Instant::now();
        let job = scene.start(&format!("expiring.{seconds}"), &program)?;
        await_ready(scene, &job)?;
        let pid = job.pid().to_string();
        scene
            .cryo(["suspend", "--partial", &pid])
            .run()?
            .success()?;
        let held_in_time = start.elapsed() < all;
        std::thread::sleep((all + Duration::from_millis(300)).saturating_sub(start.elapsed()));
        scene.cryo(["resume", &pid]).run()?.success()?;
        finish(scene, &job, &job)?;
        if held_in_time {
            return Ok(());
        }
        println!("{seconds} s were over before the job was suspended");
    }
    failed("the job was never suspended in time")
}

for_each_user! {
    scope => scopes;
    run_cgroup => own_cgroup;
    timers => expired_meanwhile;
}
