//! Programs written for BLCR, and its commands.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use cryonaut_suite::blcr::{checkpoint, command, program, restart, start};
use cryonaut_suite::lines::{
    ORDER, await_lines, await_word, comes_before, expect_end, in_order, lines,
};
use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{
    CryoCall, Outcome, Program, Running, Scene, failed, for_each_user, place, processes,
};
use rustix::process::Signal;

/// Runs it; it has to end with this status, and to say this.
fn expect_status(call: CryoCall<'_>, status: i32, words: &str) -> Outcome {
    let result = call.run()?;
    if result.status.code() == Some(status) && result.stderr.contains(words) {
        return Ok(());
    }
    failed(format!(
        "{}: {:?} instead of {status} and {words:?}: {}",
        result.what, result.status, result.stderr
    ))
}

/// As [`in_order`] says, and nobody is told the second before all were told the first.
fn ordered(lines: &[String], event: &str) -> Outcome {
    in_order(lines, event)?;
    for (before, after) in ORDER {
        comes_before(
            lines,
            &format!("{after} checkpoint"),
            &format!("{before} {event}"),
        )?;
    }
    Ok(())
}

fn order_continued(scene: &Scene) -> Outcome {
    let job = start(scene, &["order"])?;
    for round in 1..=5 {
        checkpoint(scene, &job, &[])?.run()?.success()?;
        // The command comes back when all callbacks have.
        let told = lines(&job);
        if told.len() != 10 * round {
            return failed(format!("after {round} checkpoints: {told:?}"));
        }
        ordered(&told[10 * (round - 1)..], "continue")?;
    }
    scene.go()?;
    expect_end(scene, &job)
}

fn order_restarted(scene: &Scene) -> Outcome {
    let job = start(scene, &["order"])?;
    checkpoint(scene, &job, &["--kill"])?.run()?.success()?;
    let status = scene.wait(&job)?;
    if status.signal() != Some(Signal::KILL.as_raw()) {
        return failed(format!("the job ended with {status}"));
    }
    let mode = fs::metadata(scene.file("image"))?.permissions().mode();
    if mode & 0o777 != 0o400 {
        return failed(format!("the image has mode {mode:o}"));
    }
    let again = restart(scene, &[])?;
    scene.wait_for("all to be told", LIMIT, || {
        (lines(&job).len() == 10).then_some(())
    })?;
    ordered(&lines(&job), "restart")?;
    scene.go()?;
    expect_end(scene, &again)
}

/// A callback that answers so: the exit code of the command, what it says, and what the callback is given.
fn answered(scene: &Scene, how: &str, (status, words): (i32, &str), given: i32) -> Outcome {
    let job = start(scene, &[how])?;
    for round in 1..=2 {
        expect_status(checkpoint(scene, &job, &[])?, status, words)?;
        scene.wait_for("all to be told", LIMIT, || {
            (lines(&job).len() == 4 * round).then_some(())
        })?;
    }
    let (refuser, before) = (format!("refuser {given}"), format!("before {given}"));
    let round = ["before checkpoint", "refuser checkpoint", &refuser, &before];
    await_lines(scene, &job, &[round, round].concat())?;
    if scene.file("image").exists() {
        return failed("there is an image");
    }
    scene.go()?;
    expect_end(scene, &job)
}

fn killed_by_answer(scene: &Scene, how: &str, status: i32, words: &str) -> Outcome {
    let job = start(scene, &[how])?;
    expect_status(checkpoint(scene, &job, &[])?, status, words)?;
    let ended = scene.wait(&job)?;
    match ended.signal() {
        Some(9) => Ok(()),
        _ => failed(format!("the job ended with {ended}")),
    }
}

/// It fails in its second half: all are killed, in the life that goes on and in the restarted one; the image stays.
fn fails_after(scene: &Scene) -> Outcome {
    killed_by_answer(scene, "fails-after", 51, "unable to checkpoint")?;
    let again = restart(scene, &[])?;
    let status = scene.wait(&again)?;
    match status.code() {
        Some(58) => Ok(()),
        _ => failed(format!("the restart ended with {status}")),
    }
}

fn ends_in_callback(scene: &Scene) -> Outcome {
    let job = start(scene, &["exits"])?;
    expect_status(
        checkpoint(scene, &job, &[])?,
        3,
        "no processes checkpointed",
    )?;
    expect_end(scene, &job)
}

fn without_checkpoint(scene: &Scene) -> Outcome {
    let job = start(scene, &["nothing"])?;
    checkpoint(scene, &job, &[])?.run()?.success()?;
    scene.go()?;
    expect_end(scene, &job)?;
    await_lines(
        scene,
        &job,
        &["x called", "first checkpoint", "first continue", "END"],
    )
}

fn bad_calls(scene: &Scene) -> Outcome {
    let job = scene.start("job", &program(&["bad-calls"])?)?;
    expect_end(scene, &job)?;
    await_lines(scene, &job, &["END"])
}

/// Every function, from within callbacks of both kinds.
fn from_within(scene: &Scene) -> Outcome {
    let job = start(scene, &["curious"])?;
    checkpoint(scene, &job, &[])?.run()?.success()?;
    await_lines(scene, &job, &["signal continue", "thread continue"])?;
    // They have put others in their places.
    checkpoint(scene, &job, &[])?.run()?.success()?;
    scene.go()?;
    expect_end(scene, &job)?;
    await_lines(
        scene,
        &job,
        &[
            "signal continue",
            "thread continue",
            "thread replaced",
            "signal replaced",
            "END",
        ],
    )
}

fn from_within_restarted(scene: &Scene) -> Outcome {
    let job = start(scene, &["curious"])?;
    checkpoint(scene, &job, &["--kill"])?.run()?.success()?;
    scene.wait(&job)?;
    let again = restart(scene, &[])?;
    await_lines(scene, &job, &["signal restart", "thread restart"])?;
    scene.go()?;
    expect_end(scene, &again)
}

fn thousands(scene: &Scene) -> Outcome {
    let job = start(scene, &["many"])?;
    checkpoint(scene, &job, &["--kill"])?.run()?.success()?;
    scene.wait(&job)?;
    let again = restart(scene, &[])?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_lines(scene, &job, &["END"])
}

fn sections(scene: &Scene) -> Outcome {
    let job = start(scene, &["sections"])?;
    checkpoint(scene, &job, &[])?.run()?.success()?;
    scene.go()?;
    expect_end(scene, &job)?;
    await_lines(
        scene,
        &job,
        &[
            "PENDING",
            "section continue",
            "section continue",
            "LEFT 0",
            "END",
        ],
    )
}

fn holding(scene: &Scene, how: &str, steps: &str) -> Outcome {
    let job = start(scene, &[how])?;
    checkpoint(scene, &job, &[])?.run()?.success()?;
    let told = lines(&job);
    scene.go()?;
    expect_end(scene, &job)?;
    // Those of the two other threads come in any order, before.
    let mut hooks = told[..told.len().min(2)].to_vec();
    hooks.sort();
    let rest: Vec<_> = told.iter().skip(2).map(String::as_str).collect();
    if hooks == ["hook 0", "hook 2"] && rest == [steps, "holds continue", "hook 1"] {
        return Ok(());
    }
    failed(format!("the program wrote {told:?}"))
}

/// Sockets of programs with callbacks are closed in a life that the commands restart; those of others come back.
fn sockets(scene: &Scene, how: &str, wanted: &[&str]) -> Outcome {
    let job = start(scene, &[how])?;
    checkpoint(scene, &job, &["--kill"])?.run()?.success()?;
    scene.wait(&job)?;
    let again = restart(scene, &[])?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_lines(scene, &job, wanted)
}

fn itself(scene: &Scene) -> Outcome {
    let image = scene.file("image");
    let job = start(scene, &["itself", &image.display().to_string()])?;
    await_lines(scene, &job, &["asked", "own continue", "life 0"])?;
    processes::signal(job.pid(), Signal::KILL);
    scene.wait(&job)?;
    for _ in 0..2 {
        fs::remove_file(scene.go_path()).ok();
        let again = restart(scene, &[])?;
        await_word(scene, &job, "life 1")?;
        scene.go()?;
        expect_end(scene, &again)?;
        // What was written after the checkpoint is cut off.
        await_lines(scene, &job, &["asked", "own restart", "life 1", "END"])?;
    }
    Ok(())
}

fn to_its_end(scene: &Scene, what: &str, wanted: &[&str]) -> Outcome {
    let command = scene.cryo_path().to_path_buf();
    let job = scene.start("job", &program(&[what])?.variable("CRYO_COMMAND", command))?;
    expect_end(scene, &job)?;
    await_lines(scene, &job, wanted)
}

fn itself_later(scene: &Scene) -> Outcome {
    let asked = ["asked", "own continue"];
    let wanted = [&["section"][..], &asked.repeat(5), &["END"]].concat();
    to_its_end(scene, "itself-later", &wanted)
}

fn itself_refused(scene: &Scene) -> Outcome {
    to_its_end(
        scene,
        "itself-refused",
        &[
            "refuser checkpoint",
            "refuser -79",
            "refuser checkpoint",
            "refuser -2358",
            "END",
        ],
    )
}

fn restarts_by_library(scene: &Scene) -> Outcome {
    let job = start(scene, &["exit-code"])?;
    checkpoint(scene, &job, &["--kill"])?.run()?.success()?;
    scene.wait(&job)?;
    let image = scene.file("image").display().to_string();
    let caller =
        program(&["restarts", &image])?.variable("CRYO_COMMAND", scene.cryo_path().to_path_buf());
    let caller = scene.start("caller", &caller)?;
    await_word(scene, &caller, "RESTARTED")?;
    scene.go()?;
    let status = scene.wait(&caller)?;
    match status.code() {
        Some(23) => to_its_end(scene, "restarts-nothing", &["END"]),
        _ => failed(format!("the caller ended with {status}")),
    }
}

/// A process alone is asked for; its callback has its child saved too.
fn forwarded(scene: &Scene) -> Outcome {
    let job = start(scene, &["forward"])?;
    checkpoint(scene, &job, &["--process", "--kill"])?
        .run()?
        .success()?;
    scene.wait(&job)?;
    scene.wait_for("the child to be killed", LIMIT, || {
        processes::descendants(job.pid()).is_empty().then_some(())
    })?;
    let again = restart(scene, &[])?;
    await_word(scene, &job, "child restart")?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_word(scene, &job, "parent restart")
}

fn forked(scene: &Scene) -> Outcome {
    let job = start(scene, &["fork"])?;
    checkpoint(scene, &job, &["--kill"])?.run()?.success()?;
    scene.wait(&job)?;
    let again = restart(scene, &[])?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_lines(
        scene,
        &job,
        &[
            "parent checkpoint",
            "parent checkpoint",
            "parent restart",
            "parent restart",
            "END",
        ],
    )
}

/// The command ends as the job does: with its status, or by the same signal.
fn ends_alike(scene: &Scene) -> Outcome {
    let job = start(scene, &["exit-code"])?;
    checkpoint(scene, &job, &["--term"])?.run()?.success()?;
    let status = scene.wait(&job)?;
    if status.signal() != Some(Signal::TERM.as_raw()) {
        return failed(format!("the job ended with {status}"));
    }
    let again = restart(scene, &["--term"])?;
    let status = scene.wait(&again)?;
    if status.signal() != Some(Signal::TERM.as_raw()) {
        return failed(format!("the restart ended with {status}"));
    }
    let again = restart(scene, &["--run-on-success=touch succeeded"])?;
    scene.go()?;
    let status = scene.wait(&again)?;
    match (status.code(), scene.work("succeeded").exists()) {
        (Some(23), true) => Ok(()),
        other => failed(format!("the second restart: {other:?}")),
    }
}

fn stopped(scene: &Scene) -> Outcome {
    let job = start(scene, &["exit-code"])?;
    checkpoint(scene, &job, &["--stop"])?.run()?.success()?;
    scene.wait_for("the job to be stopped", LIMIT, || {
        (processes::state(job.pid()) == Some('T')).then_some(())
    })?;
    processes::signal(job.pid(), Signal::CONT);
    scene.go()?;
    let status = scene.wait(&job)?;
    match status.code() {
        Some(23) => Ok(()),
        _ => failed(format!("the job ended with {status}")),
    }
}

/// What `cr_run` starts: as any program, or left out with all that it starts.
fn run(scene: &Scene) -> Outcome {
    let script = "sleep 1000 & echo READY; wait";
    let start = |option: &str, label: &str| -> Outcome<Running> {
        let mut call = command(scene, "cr_run", &[option, "sh", "-c", script])?.command();
        call.stdin(Stdio::null());
        let job = scene.spawn(label, call)?;
        await_word(scene, &job, "READY")?;
        Ok(job)
    };
    let plain = start("--run", "plain")?;
    checkpoint(scene, &plain, &[])?.run()?.success()?;
    let omitted = start("--omit", "omitted")?;
    expect_status(
        checkpoint(scene, &omitted, &[])?,
        3,
        "no processes checkpointed",
    )?;
    let missing = command(scene, "cr_run", &["--", "/nothing/at/all"])?;
    expect_status(missing, 127, "/nothing/at/all")?;
    let version = command(scene, "cr_run", &["--version"])?.run()?.success()?;
    match version.stdout.as_str() {
        "cr_run: version 0.8.6_b4\n" => Ok(()),
        other => failed(format!("it said {other:?}")),
    }
}

/// A program of which a part is left out: in the image is what is not.
fn omitted_in_part(scene: &Scene) -> Outcome {
    let run = place::blcr()?.join("cr_run");
    let script = format!(
        "{} --omit sleep 1000 & echo READY; while [ ! -e \"$VICTIM_GO\" ]; do sleep 0.05; done; exit 5",
        run.display()
    );
    let shell = Program::at("/bin/sh").arguments(["-c", &script]);
    let job = scene.start("job", &shell)?;
    await_word(scene, &job, "READY")?;
    scene.wait_for("the other program", LIMIT, || {
        let family = processes::descendants(job.pid());
        let maps = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        family
            .iter()
            .any(|pid| maps(pid).contains("libcr_omit"))
            .then_some(())
    })?;
    checkpoint(scene, &job, &[])?.run()?.success()?;
    let family = processes::descendants(job.pid());
    processes::signal(job.pid(), Signal::KILL);
    scene.wait(&job)?;
    for pid in family {
        processes::signal(pid, Signal::KILL);
    }
    let again = restart(scene, &[])?;
    scene.go()?;
    let status = scene.wait(&again)?;
    match status.code() {
        Some(5) => Ok(()),
        _ => failed(format!("the restart ended with {status}")),
    }
}

/// Files: the usual name, what becomes of older ones, descriptors and pipes.
fn destinations(scene: &Scene) -> Outcome {
    let job = start(scene, &["exit-code"])?;
    let pid = job.pid().to_string();
    let call = |options: &[&str]| command(scene, "cr_checkpoint", &[options, &[&pid]].concat());
    let usual = scene.work(format!("context.{pid}"));
    call(&["-T"])?.run()?.success()?;
    let first = fs::read(&usual)?;
    call(&["--backup"])?.run()?.success()?;
    let kept = scene.work(format!("context.{pid}.~1~"));
    if fs::read(&kept)? != first || fs::read(&usual)? == first {
        return failed("there is no backup");
    }
    call(&["--backup=old", "--process"])?.run()?.success()?;
    if !scene.work("old").exists() {
        return failed("there is no backup of that name");
    }
    let second = fs::read(&usual)?;
    expect_status(
        call(&["--noclobber"])?,
        17,
        "Checkpoint failed: File exists",
    )?;
    expect_status(call(&["-f", "."])?, 21, "Is a directory")?;
    expect_status(call(&["-f", "/dev/null"])?, 22, "Invalid argument")?;
    expect_status(call(&["-f", "/nothing/at/all"])?, 2, "No such file")?;
    if fs::read(&usual)? != second {
        return failed("an older image is gone");
    }
    call(&["--noclobber", "-f", "fresh"])?.run()?.success()?;
    let mut to_pipe = call(&["-F", "1"])?.command();
    let mut child = to_pipe.stdout(Stdio::piped()).spawn()?;
    let mut bytes = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut bytes)?;
    }
    if !child.wait()?.success() || !bytes.starts_with(b"CRYONAUT") {
        return failed(format!("{} bytes came through the pipe", bytes.len()));
    }
    scene.go()?;
    let image = scene.work("fresh");
    let info = command(scene, "cr_info", &[])?.arguments([&image]).run()?;
    if !info.success()?.stdout.contains("blcr") {
        return failed("cr_info does not show the program");
    }
    let again = command(scene, "cr_restart", &[])?
        .arguments([&image])
        .run()?;
    match again.status.code() {
        Some(23) => Ok(()),
        _ => failed(format!("the restart ended with {}", again.status)),
    }
}

/// Command lines that make no sense, and targets that are none.
fn refused_lines(scene: &Scene) -> Outcome {
    let status = |name: &str, arguments: &[&str], status: i32, words: &str| {
        expect_status(command(scene, name, arguments)?, status, words)
    };
    status("cr_checkpoint", &[], 255, "cr_checkpoint")?;
    status("cr_checkpoint", &["-q"], 255, "")?;
    status("cr_checkpoint", &["none"], 255, "none")?;
    status("cr_checkpoint", &["1", "2"], 255, "one ID")?;
    status("cr_checkpoint", &["--sto", "--s", "1"], 255, "ambiguous")?;
    status("cr_checkpoint", &["-f", "a", "-F", "1", "1"], 22, "")?;
    status("cr_checkpoint", &["-d", "a", "1"], 22, "")?;
    status("cr_checkpoint", &["-S", "65", "1"], 22, "")?;
    status("cr_checkpoint", &["1"], 1, "Checkpoint failed")?;
    status("cr_checkpoint", &["67108848"], 3, "no processes")?;
    status("cr_checkpoint", &["-g", "67108848"], 3, "no processes")?;
    status("cr_restart", &[], 255, "")?;
    status("cr_restart", &["nothing"], 255, "Failed to open nothing")?;
    status("cr_restart", &["-f", "a", "-f", "b"], 22, "")?;
    status("cr_restart", &["--relocate", "a=b", "x"], 22, "")?;
    status("cr_restart", &["/dev/null"], 22, "Restart failed")?;
    status(
        "cr_restart",
        &["--run-on-fail-args=exit 9", "nothing"],
        9,
        "",
    )?;
    status(
        "cr_restart",
        &["--run-on-failure=exit 8", "/dev/null"],
        8,
        "",
    )?;
    status("cr_info", &[], 255, "cr_info")?;
    for name in ["cr_checkpoint", "cr_restart", "cr_info", "cr_run"] {
        let help = command(scene, name, &["--help"])?.run()?.success()?;
        if !help.stdout.starts_with("Usage: cr_") {
            return failed(format!("{name} --help says {:?}", help.stdout));
        }
    }
    Ok(())
}

/// A shell that has itself saved: it goes on after the command in both lives, which has done well in both.
fn script(scene: &Scene) -> Outcome {
    let checkpoint = place::blcr()?.join("cr_checkpoint");
    let image = scene.file("image");
    let text = format!(
        "{} -f {} $$; echo status $? in the $(cat life); while [ ! -e \"$VICTIM_GO\" ]; do sleep 0.05; done",
        checkpoint.display(),
        image.display()
    );
    scene.write(&scene.work("life"), "first")?;
    let job = scene.start("job", &Program::at("/bin/bash").arguments(["-c", &text]))?;
    await_lines(scene, &job, &["status 0 in the first"])?;
    scene.write(&scene.work("life"), "second")?;
    processes::signal(job.pid(), Signal::KILL);
    scene.wait(&job)?;
    let again = restart(scene, &[])?;
    // What was written after the checkpoint is cut off.
    await_lines(scene, &job, &["status 0 in the second"])?;
    scene.go()?;
    expect_end(scene, &again)
}

/// The command is killed while callbacks wait: the program is told that life goes on.
fn killed(scene: &Scene) -> Outcome {
    let job = start(scene, &["slow"])?;
    let call = checkpoint(scene, &job, &[])?.start("checkpoint")?;
    await_word(scene, &job, "in callback")?;
    for pid in processes::descendants(call.pid()) {
        // The one that does the work; its own children stand by for it.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if status.contains(&format!("PPid:\t{}\n", call.pid())) {
            processes::signal(pid, Signal::KILL);
        }
    }
    scene.wait(&call)?;
    scene.write(&scene.work("release"), "")?;
    await_word(scene, &job, "slow -2354")?;
    if scene.file("image").exists() {
        return failed("there is an image");
    }
    checkpoint(scene, &job, &[])?.run()?.success()?;
    scene.go()?;
    expect_end(scene, &job)
}

fn given_up(scene: &Scene) -> Outcome {
    let job = start(scene, &["slow"])?;
    expect_status(
        checkpoint(scene, &job, &["--time", "1"])?,
        rustix::io::Errno::TIMEDOUT.raw_os_error(),
        "Checkpoint failed",
    )?;
    scene.write(&scene.work("release"), "")?;
    scene.go()?;
    expect_end(scene, &job)
}

/// Two at a time: the second one is told so at once.
fn busy(scene: &Scene) -> Outcome {
    let job = start(scene, &["slow"])?;
    let first = checkpoint(scene, &job, &[])?.start("checkpoint")?;
    await_word(scene, &job, "in callback")?;
    let pid = job.pid().to_string();
    let second = command(scene, "cr_checkpoint", &["-f", "other", &pid])?;
    expect_status(second, 16, "Checkpoint failed")?;
    scene.write(&scene.work("release"), "")?;
    expect_end(scene, &first)?;
    if Path::new(&scene.work("other")).exists() {
        return failed("there is a second image");
    }
    scene.go()?;
    expect_end(scene, &job)
}

for_each_user! {
    order_continued => super::order_continued;
    order_restarted => super::order_restarted;
    refused_for_now => |scene| answered(scene, "refuse-later", (50, "Checkpoint cancelled by application: try again later"), -2354);
    refused_for_now_by_code => |scene| answered(scene, "refuse-later-code", (77, "Checkpoint failed: "), -77);
    refused_for_good => |scene| killed_by_answer(scene, "refuse-never", 51, "Checkpoint cancelled by application: unable to checkpoint");
    refused_for_good_by_code => |scene| killed_by_answer(scene, "refuse-never-code", 78, "Checkpoint failed: ");
    left_out => |scene| answered(scene, "refuse-omit", (3, "Checkpoint failed: no processes checkpointed"), -2358);
    fails_before => |scene| killed_by_answer(scene, "fails-before", 51, "unable to checkpoint");
    fails_after => super::fails_after;
    ends_in_callback => super::ends_in_callback;
    without_checkpoint => super::without_checkpoint;
    bad_calls => super::bad_calls;
    from_within => super::from_within;
    from_within_restarted => super::from_within_restarted;
    thousands => super::thousands;
    sections => super::sections;
    held => |scene| holding(scene, "hold-both", "steps held");
    not_held => |scene| holding(scene, "hold-none", "steps went on");
    sockets_of_callbacks => |scene| sockets(scene, "socket-callback", &["socket closed after restart", "socket closed", "END"]);
    sockets_of_others => |scene| sockets(scene, "socket-plain", &["socket open", "END"]);
    itself => super::itself;
    itself_later => super::itself_later;
    itself_refused => super::itself_refused;
    restarts_by_library => super::restarts_by_library;
    forwarded => super::forwarded;
    forked => super::forked;
    ends_alike => super::ends_alike;
    stopped => super::stopped;
    run => super::run;
    omitted_in_part => super::omitted_in_part;
    destinations => super::destinations;
    refused_lines => super::refused_lines;
    script => super::script;
    killed => super::killed;
    given_up => super::given_up;
    busy => super::busy;
}
