//! What suspending is for: a job stands still in the middle of its computation while another, which needs more memory than is left,
//! runs to its end. Both results are those of undisturbed runs.

use std::path::PathBuf;
use std::time::Duration;

use cryonaut_suite::outcome::skip;
use cryonaut_suite::scene::describe_status;
use cryonaut_suite::swap::{LimitedMemory, SwapFile};
use cryonaut_suite::{Outcome, Program, Running, Scene, failed, for_each_user, place};
use rustix::process::Signal;

const PATIENT: Duration = Duration::from_secs(250);

/// numpy with a field of so many MiB, for so many rounds.
fn field(mebibytes: &str, rounds: &str) -> Outcome<Program> {
    let python = Program::installed("python3")?;
    let probe = std::process::Command::new(&python.path)
        .args(["-c", "import numpy"])
        .output()?;
    if !probe.status.success() {
        return skip("python3 has no numpy; run cargo xtask setup");
    }
    let script: PathBuf = place::publish(&place::programs().join("field.py"))?;
    Ok(python
        .argument(script)
        .arguments([mebibytes, rounds])
        .variable("PYTHONDONTWRITEBYTECODE", "1"))
}

/// Waits for its end, and gives what it printed.
fn result(scene: &Scene, job: &Running) -> Outcome<String> {
    let status = scene.wait_within(job, PATIENT)?;
    match status.success() {
        true => Ok(job.output()),
        false => failed(format!("the job {}", describe_status(status))),
    }
}

fn another_runs_meanwhile(scene: &Scene) -> Outcome {
    const LIMIT: u64 = 320;
    let _swap = SwapFile::add(scene, 512)?;
    let room = LimitedMemory::make(LIMIT)?;
    let (long, urgent) = (field("180", "12")?, field("220", "2")?);
    let alone = scene.start("alone", &long)?;
    let wanted = result(scene, &alone)?;
    let alone = scene.start("urgent_alone", &urgent)?;
    let urgently_wanted = result(scene, &alone)?;

    let job = scene.start("job", &long)?;
    room.take(job.pid())?;
    scene.wait_for("the middle of the job", PATIENT, || {
        job.output().contains("\n3 ").then_some(())
    })?;
    let held = room.usage()?;
    let pid = job.pid().to_string();
    scene.cryo(["suspend", &pid]).run()?.success()?;
    let left = room.usage()?;
    if held < 150 << 20 || left > 60 << 20 {
        return failed(format!(
            "its cgroup held {held} bytes before, and {left} when it was suspended"
        ));
    }
    let stands_at = job.output();
    let other = scene.start("urgent", &urgent)?;
    room.take(other.pid())?;
    if result(scene, &other)? != urgently_wanted {
        return failed("the urgent job printed something else");
    }
    if job.output() != stands_at || job.ended().is_some() {
        return failed("the suspended job ran meanwhile");
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    match result(scene, &job)? == wanted {
        true => Ok(()),
        false => failed("the job that was suspended printed something else"),
    }
}

/// The same in one line, and for a program of many small arrays that is stopped again and again.
fn preempted_in_one_line(scene: &Scene) -> Outcome {
    let _swap = SwapFile::add(scene, 256)?;
    let long = field("40", "60")?;
    let alone = scene.start("alone", &long)?;
    let wanted = result(scene, &alone)?;
    let job = scene.start("job", &long)?;
    scene.wait_for("it to compute", PATIENT, || {
        job.output().contains("\n3 ").then_some(())
    })?;
    let pid = job.pid().to_string();
    for prefetched in 0..3 {
        let call = scene.cryo(["suspend", &pid, "--for", "test -d /proc/$PPID"]);
        let ended = call.run()?;
        if job.ended().is_some() {
            println!("the job ended after {prefetched} of 3 suspensions");
            break;
        }
        ended.success()?;
    }
    let outcome = result(scene, &job)?;
    job.signal(Signal::KILL);
    match outcome == wanted {
        true => Ok(()),
        false => failed("the job printed something else"),
    }
}

for_each_user! {
    numpy => another_runs_meanwhile;
    one_line => preempted_in_one_line;
}
