//! What a suspension gives back, what it does not and why, and what a resume brings back.

use cryonaut_suite::swap::SwapFile;
use cryonaut_suite::victim::{await_ready, finish};
use cryonaut_suite::{Outcome, Program, Running, Scene, failed, for_each_user, processes};

fn start(scene: &Scene, victim: &str, arguments: &[&str]) -> Outcome<Running> {
    let program = Program::victim(victim, &[])?.arguments(arguments.iter().copied());
    let job = scene.start("victim", &program)?;
    await_ready(scene, &job)?;
    Ok(job)
}

/// What stayed of a job's memory, and why, as the JSON of a suspension says.
fn stayed(json: &str) -> Outcome<Vec<(u64, String)>> {
    let list = json
        .split_once("\"stayed\":[")
        .and_then(|(_, rest)| rest.split_once(']'));
    let Some((list, _)) = list else {
        return failed(format!("nothing is said of what stayed: {json}"));
    };
    let row = |text: &str| {
        let (bytes, why) = text.split_once("\"bytes\":")?.1.split_once(",\"why\":\"")?;
        Some((bytes.parse().ok()?, why.split('"').next()?.to_owned()))
    };
    let rows: Option<Vec<_>> = list
        .split('}')
        .filter(|text| text.contains('{'))
        .map(row)
        .collect();
    match rows {
        Some(rows) => Ok(rows),
        None => failed(format!("what stayed is told in another form: {json}")),
    }
}

/// Suspends `pid`, and expects that at least so many bytes stayed for this reason, and that each reason is told once.
fn expect_stayed(scene: &Scene, pid: i32, (bytes, why): (u64, &str)) -> Outcome {
    let pid = pid.to_string();
    let told = scene
        .cryo(["suspend", "--partial", "--json", &pid])
        .run()?
        .success()?;
    let rows = stayed(&told.stdout)?;
    if !rows
        .iter()
        .any(|(held, reason)| reason == why && *held >= bytes)
    {
        return failed(format!("{why} of {bytes} is not among {rows:?}"));
    }
    // Again, for people.
    let told = scene
        .cryo(["suspend", "--partial", &pid])
        .run()?
        .success()?
        .stdout;
    let mut reasons: Vec<&str> = told
        .lines()
        .filter_map(|line| line.split_once(" stayed: "))
        .map(|(_, reason)| reason)
        .collect();
    let all = reasons.len();
    reasons.sort_unstable();
    reasons.dedup();
    if all == 0 || reasons.len() != all {
        return failed(format!("a reason is told twice, or none: {told}"));
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    Ok(())
}

fn locked(scene: &Scene) -> Outcome {
    let job = start(scene, "stays", &["locked"])?;
    expect_stayed(scene, job.pid(), (4 << 20, "locked"))?;
    finish(scene, &job, &job)
}

fn shared_outside(scene: &Scene) -> Outcome {
    let job = start(scene, "stays", &["outside"])?;
    let Some(&child) = processes::descendants(job.pid()).first() else {
        return failed("the victim has no child");
    };
    expect_stayed(scene, child, (7 << 19, "shared-outside"))?;
    finish(scene, &job, &job)
}

fn shared_inside(scene: &Scene) -> Outcome {
    let _swap = SwapFile::add(scene, 64)?;
    let job = start(scene, "stays", &["inside"])?;
    expect_stayed(scene, job.pid(), (7 << 20, "shared"))?;
    finish(scene, &job, &job)
}

for_each_user! {
    stays_locked => locked;
    stays_outside => shared_outside;
    stays_inside => shared_inside;
}
