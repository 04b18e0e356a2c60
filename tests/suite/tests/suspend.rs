//! Suspend and resume: what goes, what stays, who sees it, and what is left when `cryo` is killed.
//!
//! `CRYONAUT_KILL_ROUNDS` says how many random instants (20 each as root and as an ordinary user, unless said).

use std::fs;
use std::time::Duration;

use cryonaut_suite::scene::describe_status;
use cryonaut_suite::swap::{Delegated, SwapFile, cgroup_of};
use cryonaut_suite::victim::{await_ready, checkpoint, finish};
use cryonaut_suite::{
    Outcome, Program, Random, Running, Scene, failed, for_each_user, kill_rounds, processes,
};
use rustix::process::Signal;

const PATIENT: Duration = Duration::from_secs(300);

fn holder(scene: &Scene, arguments: &[&str]) -> Outcome<Running> {
    let program = Program::victim("holder", &[])?.arguments(arguments.iter().copied());
    // A label of its own: another holder's READY is not this one's.
    let label = format!("holder.{}", arguments.join("."));
    let job = scene.start(&label, &program)?;
    await_ready(scene, &job)?;
    Ok(job)
}

/// A number of the JSON that a command printed.
fn number(json: &str, name: &str) -> Outcome<u64> {
    let found = json.split(&format!("\"{name}\":")).nth(1);
    let digits = found.map(|rest| {
        rest.chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
    });
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(number) => Ok(number),
        None => failed(format!("no number {name:?} in {json}")),
    }
}

/// All tasks of a job are where they go when a suspension ends.
fn expect_unsuspended(scene: &Scene, job: &Running) -> Outcome {
    if cgroup_of(job.pid()).contains("cryonaut-suspended") {
        return failed("the job is still in the cgroup of its suspension");
    }
    let listed = scene.cryo(["list"]).run()?.success()?;
    if listed.stdout.contains("suspended") {
        return failed(format!("cryo list still says {:?}", listed.stdout));
    }
    Ok(())
}

fn memory_goes_and_comes_back(scene: &Scene) -> Outcome {
    let _swap = SwapFile::add(scene, 128)?;
    for (arguments, prefetch) in [
        (&["24"][..], "none"),
        (&["25"][..], "all"),
        (&["24", "fork"][..], "hot"),
    ] {
        let _ = fs::remove_file(scene.go_path());
        let job = holder(scene, arguments)?;
        let pid = job.pid().to_string();
        let report = scene.cryo(["suspend", &pid, "--json"]).run()?.success()?;
        let before = number(&report.stdout, "bytes_before")?;
        let after = number(&report.stdout, "bytes_after")?;
        // Private, shared and tmpfs memory of the holder; a little of the programs around it may stay.
        if before < 42 << 20 || after > 3 << 20 {
            return failed(format!(
                "{arguments:?}: {before} bytes before, {after} after"
            ));
        }
        if job.ended().is_some() {
            return failed("the job has ended");
        }
        scene
            .cryo(["resume", &pid, "--prefetch", prefetch])
            .run()?
            .success()?;
        finish_again(scene, &job)?;
        expect_unsuspended(scene, &job)?;
    }
    Ok(())
}

/// As `finish`, of a job whose output file others have written before.
fn finish_again(scene: &Scene, job: &Running) -> Outcome {
    scene.go()?;
    let status = scene.wait_within(job, PATIENT)?;
    let output = job.output();
    match status.success() && output.ends_with("OK\n") && !output.contains("WRONG") {
        true => Ok(()),
        false => failed(format!("the holder {}: {output}", describe_status(status))),
    }
}

fn without_room_nothing_is_stopped(scene: &Scene) -> Outcome {
    // More than any swap that tests beside this one may have added.
    let job = holder(scene, &["700"])?;
    let pid = job.pid().to_string();
    scene
        .cryo(["suspend", &pid])
        .run()?
        .refusal_with(&[3], &["swap space"])?;
    if !matches!(processes::state(job.pid()), Some('S' | 'R' | 'D')) {
        return failed("the job is not running");
    }
    // Only its standing still is asked for, so there is nothing to refuse.
    scene
        .cryo(["suspend", &pid, "--no-reclaim"])
        .run()?
        .success()?;
    scene.cryo(["resume", &pid]).run()?.success()?;
    finish_again(scene, &job)
}

/// Too little swap is told with numbers; a part goes where that is wished.
fn a_part_goes(scene: &Scene) -> Outcome {
    let _swap = SwapFile::add(scene, 24)?;
    // More than any swap that tests beside this one may have added.
    let job = holder(scene, &["400"])?;
    let pid = job.pid().to_string();
    let refused = scene
        .cryo(["suspend", &pid])
        .run()?
        .refusal_with(&[3], &["giving its memory back needs"])?;
    for words in [" MiB, and ", "is free", "swapon", "--partial", "--to-image"] {
        if !refused.stderr.contains(words) {
            return failed(format!(
                "the refusal does not say {words:?}: {}",
                refused.stderr
            ));
        }
    }
    let report = scene
        .cryo(["suspend", "--partial", "--json", &pid])
        .run()?
        .success()?;
    let (before, after) = (
        number(&report.stdout, "bytes_before")?,
        number(&report.stdout, "bytes_after")?,
    );
    if before < 690 << 20 || after > before - (12 << 20) || after == 0 {
        return failed(format!("{before} bytes before, {after} after"));
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    finish(scene, &job, &job)
}

/// It may keep some of its memory, whatever of it several processes map.
fn some_may_stay(scene: &Scene) -> Outcome {
    let _swap = SwapFile::add(scene, 160)?;
    for arguments in [&["48"][..], &["48", "fork"]] {
        let _ = fs::remove_file(scene.go_path());
        let job = holder(scene, arguments)?;
        let pid = job.pid().to_string();
        for wrong in ["0", "much", "-1G"] {
            scene
                .cryo(["suspend", &pid, &format!("--max-memory={wrong}")])
                .run()?
                .refusal_with(&[2], &[])?;
        }
        let report = scene
            .cryo(["suspend", "--max-memory", "30M", "--json", &pid])
            .run()?
            .success()?;
        let (before, after) = (
            number(&report.stdout, "bytes_before")?,
            number(&report.stdout, "bytes_after")?,
        );
        if before < 84 << 20 || !(20 << 20..=34 << 20).contains(&after) {
            return failed(format!(
                "{arguments:?}: {before} bytes before, {after} after"
            ));
        }
        if report.stdout.contains("in-use") {
            return failed(format!("what was to stay is told: {}", report.stdout));
        }
        scene
            .cryo(["resume", "--prefetch", "all", &pid])
            .run()?
            .success()?;
        finish_again(scene, &job)?;
    }
    Ok(())
}

/// The other way out: an image, from which it comes back.
fn to_an_image(scene: &Scene) -> Outcome {
    let job = holder(scene, &["3", "fork"])?;
    let pid = job.pid().to_string();
    let image = scene.file("image");
    scene
        .cryo(["suspend", &pid, "--to-image"])
        .arguments([&image])
        .run()?
        .success()?;
    scene.wait(&job)?;
    if scene
        .cryo(["list"])
        .run()?
        .success()?
        .stdout
        .contains("suspended")
    {
        return failed("a job that is in an image only is listed as suspended");
    }
    scene
        .cryo(["resume", "--from"])
        .arguments([&image])
        .run()?
        .refusal_with(&[2], &["cryo restart"])?;
    let life = cryonaut_suite::victim::restart(scene, &image, "life")?;
    scene.go()?;
    let status = scene.wait(&life.running)?;
    match status.success() {
        true => Ok(()),
        false => failed(format!("the restarted job {}", describe_status(status))),
    }
}

/// Somebody's SIGCONT wakes a job that signals hold, which is told; the freezer's it does not wake.
fn stray_continuation(scene: &Scene) -> Outcome {
    let job = holder(scene, &["2"])?;
    let pid = job.pid().to_string();
    let report = scene
        .cryo(["suspend", "--partial", "--json", &pid])
        .run()?
        .success()?;
    processes::signal(job.pid(), Signal::CONT);
    let by_signals = report.stdout.contains("\"way\":\"signals\"");
    if by_signals {
        if !report.stdout.contains("anybody's SIGCONT") {
            return failed(format!("nothing is said of SIGCONT: {}", report.stdout));
        }
        scene.wait_for("it to run", PATIENT, || {
            (processes::state(job.pid()) != Some('T')).then_some(())
        })?;
        let listed = scene.cryo(["list"]).run()?.success()?;
        if !listed.stdout.contains("somebody else has let it run") {
            return failed(format!("cryo list says {:?}", listed.stdout));
        }
        scene
            .cryo(["suspend", "--partial", &pid])
            .run()?
            .success()?;
    }
    std::thread::sleep(Duration::from_millis(20));
    let listed = scene.cryo(["list"]).run()?.success()?;
    if !listed.stdout.contains("suspended since") || listed.stdout.contains("somebody") {
        return failed(format!("cryo list says {:?}", listed.stdout));
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    expect_unsuspended(scene, &job)?;
    finish(scene, &job, &job)
}

fn twice_and_gone(scene: &Scene) -> Outcome {
    let job = holder(scene, &["2"])?;
    let pid = job.pid().to_string();
    scene
        .cryo(["resume", &pid])
        .run()?
        .refusal_with(&[2], &["not suspended"])?;
    scene
        .cryo(["suspend", "--partial", &pid])
        .run()?
        .success()?;
    let again = scene
        .cryo(["suspend", "--partial", "--json", &pid])
        .run()?
        .success()?;
    if !again.stdout.contains("suspended already") {
        return failed(format!("the second suspend says {:?}", again.stdout));
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    scene
        .cryo(["resume", &pid])
        .run()?
        .refusal_with(&[2], &["not suspended"])?;
    scene
        .cryo(["resume", "--from", "some.cryo"])
        .run()?
        .refusal_with(&[2], &["cryo restart"])?;
    scene
        .cryo(["suspend", "--partial", &pid])
        .run()?
        .success()?;
    job.signal(Signal::KILL);
    scene.wait(&job)?;
    scene
        .cryo(["resume", &pid])
        .run()?
        .refusal_with(&[2], &["no process"])?;
    let listed = scene.cryo(["list"]).run()?.success()?;
    match listed.stdout.contains("holder") {
        true => failed("a job that was killed is still in the list"),
        false => Ok(()),
    }
}

/// Meanwhile a command runs, whose status is that of `cryo`, and sees the job standing still.
fn meanwhile(scene: &Scene) -> Outcome {
    let job = holder(scene, &["2"])?;
    let pid = job.pid().to_string();
    let seen = scene.work("seen");
    let command = format!(
        "{} list > {} && exit 7",
        scene.cryo_path().display(),
        seen.display()
    );
    let ended = scene
        .cryo(["suspend", "--partial", &pid, "--for", &command])
        .run()?;
    if ended.status.code() != Some(7) {
        return failed(format!("it {}", describe_status(ended.status)));
    }
    if !fs::read_to_string(&seen)?.contains("suspended since") {
        return failed("the command did not see the job suspended");
    }
    expect_unsuspended(scene, &job)?;
    finish(scene, &job, &job)
}

/// In a cgroup of the user's own nothing but `cryo resume` wakes the job, and the list is not needed to find it.
fn frozen(scene: &Scene) -> Outcome {
    let own = Delegated::make(scene)?;
    let job = holder(scene, &["2", "fork"])?;
    let pid = job.pid().to_string();
    own.take(job.pid())?;
    for child in processes::descendants(job.pid()) {
        own.take(child)?;
    }
    let report = scene
        .cryo(["suspend", "--partial", "--json", &pid])
        .run()?
        .success()?;
    if !report.stdout.contains("\"way\":\"freezer\"") {
        return failed(format!("the freezer was not used: {}", report.stdout));
    }
    processes::signal(job.pid(), Signal::CONT);
    std::thread::sleep(Duration::from_millis(20));
    let place = own
        .path()
        .join(cgroup_of(job.pid()).rsplit('/').next().unwrap_or_default());
    let events = fs::read_to_string(place.join("cgroup.events"))?;
    if !events.contains("frozen 1") {
        return failed("a stray SIGCONT woke the job");
    }
    // The list is lost.
    for entry in fs::read_dir(scene.file("run/cryonaut"))?.flatten() {
        fs::remove_file(entry.path())?;
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    if !cgroup_of(job.pid()).ends_with(
        &own.path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    ) {
        return failed(format!("the job is in {:?} now", cgroup_of(job.pid())));
    }
    // Somebody else's freezer is none of ours.
    fs::write(own.path().join("cgroup.freeze"), "1")?;
    scene
        .cryo(["suspend", "--partial", &pid])
        .run()?
        .refusal_with(&[3], &["somebody else"])?;
    fs::write(own.path().join("cgroup.freeze"), "0")?;
    finish(scene, &job, &job)
}

/// A suspended job is saved, and stands still again.
fn checkpointed(scene: &Scene) -> Outcome {
    let job = holder(scene, &["2"])?;
    let pid = job.pid().to_string();
    scene
        .cryo(["suspend", "--partial", &pid])
        .run()?
        .success()?;
    let image = scene.file("image");
    checkpoint(scene, &pid, &image, "--leave-running")?;
    let listed = scene.cryo(["list"]).run()?.success()?;
    if !listed.stdout.contains("suspended since") || listed.stdout.contains("somebody") {
        return failed(format!(
            "after the checkpoint cryo list says {:?}",
            listed.stdout
        ));
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    expect_unsuspended(scene, &job)?;
    finish(scene, &job, &job)?;
    // What comes back from the image runs: its suspension was no part of it.
    let _ = fs::remove_file(scene.go_path());
    let life = cryonaut_suite::victim::restart(scene, &image, "life")?;
    scene.go()?;
    let status = scene.wait(&life.running)?;
    match status.success() {
        true => Ok(()),
        false => failed(format!("the restarted job {}", describe_status(status))),
    }
}

fn rounds() -> u32 {
    kill_rounds(20)
}

/// Kills one command after a random time; whether that was before its end.
fn kill_one(
    scene: &Scene,
    random: &mut Random,
    (arguments, longest): (&[&str], u64),
) -> Outcome<bool> {
    let delay = random.between(Duration::ZERO, Duration::from_millis(longest));
    scene.cryo(arguments).killed_after(delay)
}

fn kill_anytime(scene: &Scene) -> Outcome {
    let mut random = Random::new();
    let torture = || -> Outcome<Program> { Ok(Program::victim("torture", &[])?.argument("2")) };
    let reference = scene.start("reference", &torture()?)?;
    scene.wait_within(&reference, PATIENT)?;
    let wanted = reference.output();
    let (mut killed, mut finished, mut jobs) = (0, 0, 0);
    while killed < rounds() {
        jobs += 1;
        let job = scene.start(&format!("job.{jobs}"), &torture()?)?;
        scene.wait_for("READY", PATIENT, || {
            job.output().contains("READY").then_some(())
        })?;
        let pid = job.pid().to_string();
        while killed < rounds() && job.ended().is_none() {
            // About as many milliseconds as each takes: a suspension watches for a tenth of a second what the job uses, one that
            // gives nothing back has most of its instants where the job is stopped.
            let call: (&[&str], u64) = match killed % 4 {
                0 => (&["suspend", "--partial", &pid], 220),
                1 => (&["resume", &pid], 40),
                2 => (&["suspend", "--no-reclaim", &pid], 60),
                _ => (&["resume", &pid, "--prefetch", "all"], 40),
            };
            match kill_one(scene, &mut random, call)? {
                true => killed += 1,
                false => finished += 1,
            }
            // Whatever it left: it can be told, completed and undone.
            if random.below(4) == 0 {
                scene.cryo(["list"]).run()?.success()?;
            }
            if random.below(6) == 0 && job.ended().is_none() {
                let done = scene.cryo(["suspend", "--no-reclaim", &pid]).run()?;
                if !done.status.success() && job.ended().is_none() {
                    done.success()?;
                }
            }
        }
        // Not suspended is an answer, too.
        scene.cryo(["resume", &pid]).run()?;
        let status = scene.wait_within(&job, PATIENT)?;
        if !status.success() || job.output() != wanted {
            return failed(format!(
                "after {killed} kills the job {}, wrote {:?} instead of {wanted:?}",
                describe_status(status),
                job.output()
            ));
        }
    }
    println!("{killed} commands killed, {finished} finished first, {jobs} jobs");
    Ok(())
}

for_each_user! {
    memory => memory_goes_and_comes_back;
    no_room => without_room_nothing_is_stopped;
    partial => a_part_goes;
    max_memory => some_may_stay;
    image => to_an_image;
    stray => stray_continuation;
    answers => twice_and_gone;
    for_command => meanwhile;
    freezer => frozen;
    with_checkpoint => checkpointed;
    kill => kill_anytime;
}
