//! Programs that take part in their own checkpoints by libcryo.

use std::time::Duration;

use cryonaut_suite::lines::{await_lines, await_word, comes_before, expect_end, in_order, lines};
use cryonaut_suite::participant::{checkpoint, linked, participant, python, start};
use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{Outcome, Program, Random, Scene, failed, for_each_user, place, processes};
use rustix::process::Signal;

/// As [`in_order`] says, with a barrier, and each once.
fn ordered(lines: &[String], event: &str) -> Outcome {
    let line = |name: &str, event: &str| format!("{name} {event}");
    in_order(lines, event)?;
    // The barrier.
    for name in ["main", "other-first", "first"] {
        for other in ["main", "other-first", "first"] {
            comes_before(lines, &line(name, "checkpoint"), &line(other, event))?;
        }
    }
    let wanted = 10;
    let told = lines.iter().filter(|line| !line.starts_with("END")).count();
    if told == wanted {
        return Ok(());
    }
    failed(format!("{told} lines instead of {wanted}: {lines:?}"))
}

fn order_continued(scene: &Scene) -> Outcome {
    let job = start(scene, "order")?;
    for round in 1..=20 {
        checkpoint(scene, &job, &[]).run()?.success()?;
        scene.wait_for("all to be told", LIMIT, || {
            (lines(&job).len() == 10 * round).then_some(())
        })?;
        ordered(&lines(&job)[10 * (round - 1)..], "continue")?;
    }
    scene.go()?;
    expect_end(scene, &job)
}

fn order_restarted(scene: &Scene) -> Outcome {
    let job = start(scene, "order")?;
    checkpoint(scene, &job, &["--kill"]).run()?.success()?;
    scene.wait(&job)?;
    let again = scene
        .cryo(["restart", "--name", "again"])
        .arguments([scene.file("image")])
        .start("restart")?;
    scene.wait_for("all to be told", LIMIT, || {
        (lines(&job).len() == 10).then_some(())
    })?;
    ordered(&lines(&job), "restart")?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_word(scene, &job, "END 1")
}

fn refused(scene: &Scene, how: &str, words: &[&str]) -> Outcome {
    let job = start(scene, how)?;
    for _ in 0..2 {
        let words = [words, &["refuser", "a half-writtenfile"]].concat();
        let refused = checkpoint(scene, &job, &[]).run()?;
        let refused = refused.refusal_with(&[3], &words)?;
        // Programs were told, which a refusal must not deny.
        if refused.stderr.contains("nothing was disturbed") {
            return failed(refused.stderr);
        }
    }
    await_lines(
        scene,
        &job,
        &[
            "told-before checkpoint",
            "refuser checkpoint",
            "refuser abandoned",
            "told-before abandoned",
            "told-before checkpoint",
            "refuser checkpoint",
            "refuser abandoned",
            "told-before abandoned",
        ],
    )?;
    scene.go()?;
    expect_end(scene, &job)
}

fn refused_for_now(scene: &Scene) -> Outcome {
    refused(scene, "later", &["puts the checkpoint off", "later"])
}

fn refused_for_good(scene: &Scene) -> Outcome {
    refused(scene, "never", &["cannot be checkpointed"])
}

fn hanging(scene: &Scene, how: &str, first: &[&str]) -> Outcome {
    let job = start(scene, how)?;
    let pid = job.pid().to_string();
    checkpoint(scene, &job, &["--grace", "300ms"])
        .run()?
        .refusal_with(&[3], &["callback", "\"hang\"", "has not come back", &pid])?;
    scene.go()?;
    expect_end(scene, &job)?;
    // Its end may overtake the callbacks.
    let found = lines(&job);
    let told = first.iter().all(|line| found.iter().any(|own| own == line));
    if told && !scene.file("image").exists() {
        return Ok(());
    }
    failed(format!("the program wrote {found:?}"))
}

fn hangs(scene: &Scene) -> Outcome {
    hanging(scene, "hang", &["hang checkpoint"])
}

fn hangs_in_signal(scene: &Scene) -> Outcome {
    hanging(
        scene,
        "hang-in-signal",
        &["first checkpoint", "hang checkpoint"],
    )
}

fn crashes(scene: &Scene) -> Outcome {
    let job = start(scene, "crash")?;
    checkpoint(scene, &job, &[])
        .run()?
        .refusal_with(&[3], &["ended", "callback"])?;
    let status = scene.wait(&job)?;
    if status.success() {
        return failed("a program that called abort() ended well");
    }
    Ok(())
}

fn misused_in_callbacks(scene: &Scene) -> Outcome {
    let job = start(scene, "misuse")?;
    checkpoint(scene, &job, &[]).run()?.success()?;
    await_lines(
        scene,
        &job,
        &[
            "misuse checkpoint",
            "first checkpoint",
            "first continue",
            "misuse continue",
        ],
    )?;
    scene.go()?;
    expect_end(scene, &job)
}

fn bad_calls(scene: &Scene) -> Outcome {
    let job = scene.start("job", &participant("bad-calls")?)?;
    expect_end(scene, &job)?;
    await_lines(scene, &job, &["END"])
}

fn forked(scene: &Scene) -> Outcome {
    let job = start(scene, "fork")?;
    checkpoint(scene, &job, &["--kill"]).run()?.success()?;
    scene.wait(&job)?;
    let told = lines(&job);
    if told.len() != 2
        || !told.contains(&"parent checkpoint".into())
        || !told.contains(&"child checkpoint".into())
    {
        return failed(format!("the programs wrote {told:?}"));
    }
    let again = scene
        .cryo(["restart"])
        .arguments([scene.file("image")])
        .start("restart")?;
    scene.wait_for("both to be told", LIMIT, || {
        (lines(&job).len() == 4).then_some(())
    })?;
    scene.go()?;
    expect_end(scene, &again)
}

fn left_out(scene: &Scene) -> Outcome {
    let job = start(scene, "leave-out")?;
    checkpoint(scene, &job, &[]).run()?.success()?;
    scene.wait_for("all to be told", LIMIT, || {
        (lines(&job).len() == 4).then_some(())
    })?;
    processes::signal(job.pid(), Signal::KILL);
    let child = processes::descendants(std::process::id() as i32);
    scene.wait(&job)?;
    for pid in child.into_iter().filter(|pid| *pid != job.pid()) {
        processes::signal(pid, Signal::KILL);
    }
    let again = scene
        .cryo(["restart"])
        .arguments([scene.file("image")])
        .start("restart")?;
    await_word(scene, &job, "parent restart")?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_word(scene, &job, "without child")
}

fn sections_put_off(scene: &Scene) -> Outcome {
    let job = start(scene, "sections")?;
    for _ in 0..20 {
        checkpoint(scene, &job, &[]).run()?.success()?;
    }
    scene.go()?;
    expect_end(scene, &job)
}

/// Left in peace, a program that lies on its board harms itself at most.
fn lies(scene: &Scene) -> Outcome {
    let job = start(scene, "lies")?;
    checkpoint(scene, &job, &[]).run()?.success()?;
    scene.go()?;
    expect_end(scene, &job)
}

fn stays_in_section(scene: &Scene) -> Outcome {
    let job = start(scene, "stay")?;
    checkpoint(scene, &job, &["--grace", "300ms"])
        .run()?
        .refusal_with(&[3], &["critical section"])?;
    scene.go()?;
    expect_end(scene, &job)?;
    // No callback was told of a checkpoint that did not begin.
    await_lines(scene, &job, &["END 0"])
}

fn marked(scene: &Scene) -> Outcome {
    let job = start(scene, "marked")?;
    checkpoint(scene, &job, &["--kill"]).run()?.success()?;
    scene.wait(&job)?;
    let again = scene
        .cryo(["restart"])
        .arguments([scene.file("image")])
        .start("restart")?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_word(scene, &job, "END 1")
}

fn unmarked(scene: &Scene) -> Outcome {
    let job = start(scene, "unmarked")?;
    checkpoint(scene, &job, &[])
        .run()?
        .refusal_with(&[3], &["userfaultfd"])?;
    scene.go()?;
    expect_end(scene, &job)
}

/// `cryo` is killed while a callback runs: the program is told that life goes on.
fn killed(scene: &Scene) -> Outcome {
    let job = start(scene, "hang")?;
    let cryo = checkpoint(scene, &job, &["--grace", "10m"]).start("checkpoint")?;
    await_word(scene, &job, "hang checkpoint")?;
    cryo.signal(Signal::KILL);
    scene.wait(&cryo)?;
    scene.go()?;
    expect_end(scene, &job)?;
    if scene.file("image").exists() {
        return failed("there is an image of a checkpoint that was given up");
    }
    Ok(())
}

/// Whatever instant `cryo` is killed at, whoever was told of a checkpoint is told of one outcome, and the next one can be made.
fn killed_anytime(scene: &Scene) -> Outcome {
    let mut random = Random::new();
    let job = start(scene, "order")?;
    for _ in 0..30 {
        let delay = random.between(Duration::ZERO, Duration::from_millis(150));
        checkpoint(scene, &job, &[]).killed_after(delay)?;
    }
    checkpoint(scene, &job, &[]).run()?.success()?;
    let told = |name: &str, events: &[&str]| {
        let all = lines(&job);
        let told = |event: &&str| {
            let line = format!("{name} {event}");
            all.iter().filter(|found| **found == line).count()
        };
        events.iter().map(told).sum::<usize>()
    };
    for name in ["first", "second", "main", "other-first", "other-second"] {
        scene.wait_for("one outcome for each checkpoint", LIMIT, || {
            let before = told(name, &["checkpoint"]);
            (before == told(name, &["continue", "abandoned"])).then_some(())
        })?;
        if told(name, &["continue"]) == 0 {
            return failed(format!("{name} never went on after a checkpoint"));
        }
    }
    let image = scene.file("image");
    scene
        .cryo(["verify"])
        .arguments([&image])
        .run()?
        .success()?;
    scene.go()?;
    expect_end(scene, &job)
}

/// `cryo` is killed, and before it the guardian: the program waits a minute, then goes on by itself.
fn killed_with_guardian(scene: &Scene) -> Outcome {
    let job = start(scene, "hold")?;
    let cryo = checkpoint(scene, &job, &["--grace", "10m"]).start("checkpoint")?;
    await_word(scene, &job, "hold checkpoint")?;
    for pid in processes::descendants(cryo.pid()) {
        processes::signal(pid, Signal::KILL);
    }
    cryo.signal(Signal::KILL);
    scene.wait(&cryo)?;
    scene.write(&scene.work("release"), "")?;
    let patience = Duration::from_secs(60) + LIMIT * 2;
    scene.wait_for("it to give up", patience, || {
        job.output().contains("hold abandoned").then_some(())
    })?;
    checkpoint(scene, &job, &[]).run()?.success()?;
    await_lines(
        scene,
        &job,
        &[
            "hold checkpoint",
            "hold abandoned",
            "hold checkpoint",
            "hold continue",
        ],
    )?;
    scene.go()?;
    expect_end(scene, &job)
}

/// Suspending is no checkpoint: nobody is told, and a checkpoint of who would have to be told is refused meanwhile.
fn suspended(scene: &Scene) -> Outcome {
    let job = start(scene, "order")?;
    let pid = job.pid().to_string();
    scene
        .cryo(["suspend", &pid, "--no-reclaim"])
        .run()?
        .success()?;
    checkpoint(scene, &job, &[])
        .run()?
        .refusal_with(&[3], &["suspended", "callbacks", "cryo resume"])?;
    scene.cryo(["resume", &pid]).run()?.success()?;
    if !lines(&job).is_empty() {
        return failed("callbacks were told of a suspension");
    }
    checkpoint(scene, &job, &[]).run()?.success()?;
    scene.wait_for("all to be told", LIMIT, || {
        (lines(&job).len() == 10).then_some(())
    })?;
    scene.go()?;
    expect_end(scene, &job)
}

/// Two lives of a program that has itself checkpointed, the second from an image of the first, the third from one of the second.
fn by_itself(scene: &Scene) -> Outcome {
    let image = scene.file("own");
    let program = participant("itself")?
        .argument(&image)
        .variable("CRYO_COMMAND", scene.cryo_path());
    let job = scene.start("job", &program)?;
    await_word(scene, &job, "READY")?;
    await_lines(
        scene,
        &job,
        &["first checkpoint", "first continue", "life 0 generation 0"],
    )?;
    job.signal(Signal::KILL);
    scene.wait(&job)?;
    let again = scene
        .cryo(["restart", "--name", "again"])
        .arguments([&image])
        .start("restart")?;
    await_word(scene, &job, "life 1 generation 1")?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_word(scene, &job, "END 1")
}

/// A solver's result, as it is without any checkpoint.
fn undisturbed(scene: &Scene, solver: &Program) -> Outcome<String> {
    let program = solver.clone().variable("CRYO_COMMAND", "/nowhere/cryo");
    let program = program.arguments(["400", "100", "nothing"]);
    let run = scene.start("undisturbed", &program)?;
    expect_end(scene, &run)?;
    let output = run.output();
    if !output.contains("no checkpoint") {
        return failed(format!("there was a checkpoint without cryo: {output}"));
    }
    result(&output)
}

fn result(output: &str) -> Outcome<String> {
    let last = output.lines().last().unwrap_or_default();
    match last.strip_prefix("result ") {
        Some(result) => Ok(result.to_owned()),
        None => failed(format!("the solver did not come to a result: {output}")),
    }
}

/// One that saves itself at three safe points comes to the same result, and so does a new life from its last image.
fn solves(scene: &Scene, solver: &Program) -> Outcome {
    let wanted = undisturbed(scene, solver)?;
    let image = scene.file("solver.cryo");
    let program = solver.clone().arguments(["400", "100"]).argument(&image);
    let program = program.variable("CRYO_COMMAND", scene.cryo_path());
    let job = scene.start("job", &program)?;
    expect_end(scene, &job)?;
    if result(&job.output())? != wanted {
        return failed("a solver that saved itself comes to another result");
    }
    let again = scene.cryo(["restart"]).arguments([&image]);
    let again = again.start("restart")?;
    expect_end(scene, &again)?;
    let output = job.output();
    if !output.contains("step 300: life 1 begins") || output.contains("no checkpoint") {
        return failed(format!("the solver wrote {output}"));
    }
    let found = result(&output)?;
    if found != wanted {
        return failed(format!("the result is {found} instead of {wanted}"));
    }
    Ok(())
}

fn solver_c(scene: &Scene) -> Outcome {
    solves(scene, &linked("solver", place::example("solver.c"))?)
}

fn solver_fortran(scene: &Scene) -> Outcome {
    Program::installed("gfortran")?;
    let library = place::libcryo()?.display().to_string();
    let compiler = [
        "gfortran",
        "-O2",
        "-Wall",
        "-Wl,--no-as-needed",
        &format!("-L{library}"),
        "-lcryo",
        &format!("-Wl,-rpath,{library}"),
    ];
    let solver = place::compile("solver-fortran", &compiler, &[place::example("solver.f90")])?;
    solves(scene, &Program::at(solver))
}

fn solver_python(scene: &Scene) -> Outcome {
    let script = place::publish(&place::example("solver.py"))?;
    solves(scene, &python("numpy")?.argument(script))
}

/// What a client of the server is told; none if it is not let in.
fn ask(port: u16) -> Option<(std::net::TcpStream, String)> {
    use std::io::{BufRead, BufReader};
    let stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).ok()?;
    (!line.is_empty()).then_some((stream, line))
}

fn server(scene: &Scene) -> Outcome {
    use std::io::Read;
    let program = linked("server", place::example("server.c"))?.argument("0");
    let job = scene.start("job", &program)?;
    let port = scene.wait_for("its port", LIMIT, || {
        let output = job.output();
        output.strip_prefix("port ")?.trim().parse::<u16>().ok()
    })?;
    let served = |wanted: &str| {
        let answer = scene.wait_for("an answer", LIMIT, || ask(port));
        match answer {
            Ok((stream, line)) if line.trim() == wanted => Ok(stream),
            Ok((_, line)) => failed(format!("the server says {line:?} instead of {wanted:?}")),
            Err(error) => Err(error),
        }
    };
    // It holds a connection that could not be saved.
    let mut first = served("client 1")?;
    checkpoint(scene, &job, &[]).run()?.success()?;
    if first.read(&mut [0; 8])? != 0 {
        return failed("the connection did not end with the checkpoint");
    }
    let second = served("client 2")?;
    checkpoint(scene, &job, &["--kill"]).run()?.success()?;
    scene.wait(&job)?;
    drop(second);
    let again = scene
        .cryo(["restart"])
        .arguments([scene.file("image")])
        .start("restart")?;
    served("client 3").inspect_err(|_| again.signal(Signal::KILL))?;
    Ok(())
}

/// The size of an image of the cache example, and what its restarted life says, which ends with the scene.
fn cached(scene: &Scene, label: &str, more: &[&str]) -> Outcome<(u64, String)> {
    let program = linked("cache", place::example("cache.c"))?.argument("64");
    let job = scene.start(label, &program.arguments(more))?;
    await_word(scene, &job, "ready")?;
    checkpoint(scene, &job, &["--kill"]).run()?.success()?;
    scene.wait(&job)?;
    let image = scene.file("image");
    let size = std::fs::metadata(&image)?.len();
    let again = scene.cryo(["restart"]).arguments([&image]);
    again.start(&format!("restart-{label}"))?;
    await_word(scene, &job, "life 1")?;
    Ok((size, job.output()))
}

fn cache(scene: &Scene) -> Outcome {
    let (whole, kept) = cached(scene, "keeping", &["keep"])?;
    let (small, dropped) = cached(scene, "dropping", &[])?;
    scene.note(format!("{whole} bytes with the cache, {small} without"));
    println!("{whole} bytes with the cache of 64 MiB, {small} without");
    let all = "8388608 of 8388608 words were left out";
    if !kept.contains("life 1: 0 of") || !dropped.contains(all) {
        return failed(format!("the restarted lives say {kept:?} and {dropped:?}"));
    }
    if small + (60 << 20) > whole {
        return failed(format!(
            "the image has {small} bytes, with the cache {whole}"
        ));
    }
    Ok(())
}

/// Callbacks, refusals, sections and marks in Python.
fn from_python(scene: &Scene) -> Outcome {
    let script = place::publish(&place::programs().join("participant.py"))?;
    let job = scene.start("job", &python("ctypes")?.argument(script))?;
    await_word(scene, &job, "READY")?;
    checkpoint(scene, &job, &[])
        .run()?
        .refusal_with(&[3], &["callback \"moody\"", "not before lunch"])?;
    scene.wait_for("the refusal's end", LIMIT, || {
        (lines(&job).last()? == "moody ABANDONED").then_some(())
    })?;
    checkpoint(scene, &job, &["--kill"]).run()?.success()?;
    scene.wait(&job)?;
    let again = scene
        .cryo(["restart"])
        .arguments([scene.file("image")])
        .start("restart")?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_lines(
        scene,
        &job,
        &[
            "moody CHECKPOINT",
            "moody ABANDONED",
            "moody CHECKPOINT",
            "calm CHECKPOINT",
            "calm RESTART",
            "moody RESTART",
            "END 1",
        ],
    )
}

for_each_user! {
    order_continued,
    order_restarted,
    refused_for_now,
    refused_for_good,
    hangs,
    hangs_in_signal,
    crashes,
    misused_in_callbacks,
    bad_calls,
    forked,
    left_out,
    sections_put_off,
    lies,
    stays_in_section,
    marked,
    unmarked,
    killed,
    killed_anytime,
    killed_with_guardian,
    suspended,
    by_itself,
    solver_c,
    solver_fortran,
    solver_python,
    server,
    cache,
    from_python
}
