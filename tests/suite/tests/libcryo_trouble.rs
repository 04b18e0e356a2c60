//! Programs that take part by libcryo and do what they had better not, or several things at once.

use cryonaut_suite::lines::{await_lines, await_word, expect_end, lines};
use cryonaut_suite::participant::{checkpoint, participant, python, start};
use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{
    Outcome, Program, Running, Scene, failed, for_each_user, place, processes, victim,
};
use rustix::process::Signal;

/// Restarts the image under a label.
fn restart(scene: &Scene, label: &str) -> Outcome<Running> {
    let call = scene.cryo(["restart"]).arguments([scene.file("image")]);
    call.start(label)
}

/// Saves the job, kills it, and lets it begin again.
fn kill_and_restart(scene: &Scene, job: &Running) -> Outcome<Running> {
    checkpoint(scene, job, &["--kill"]).run()?.success()?;
    scene.wait(job)?;
    restart(scene, "restart")
}

/// That a process ends in its callback, or becomes another program, is told.
fn gone(scene: &Scene, how: &str) -> Outcome<Running> {
    let job = start(scene, how)?;
    let call = checkpoint(scene, &job, &[]);
    // By the callback's name, if it was seen in time.
    let words = &[
        "its callback",
        "the process ended, or became another program",
    ];
    call.run()?.refusal_with(&[3], words)?;
    if scene.file("image").exists() {
        return failed("there is an image");
    }
    Ok(job)
}

fn exits(scene: &Scene) -> Outcome {
    let job = gone(scene, "exit")?;
    expect_end(scene, &job)?;
    await_lines(scene, &job, &["exit checkpoint"])
}

fn becomes_another(scene: &Scene) -> Outcome {
    let job = gone(scene, "exec")?;
    // The other program runs on, and knows of nothing.
    checkpoint(scene, &job, &[]).run()?.success()?;
    job.signal(Signal::KILL);
    scene.wait(&job).map(drop)
}

/// A child that a callback has while the checkpoint is being made, and that takes part too: it is not saved without having been told.
fn bears(scene: &Scene) -> Outcome {
    let job = start(scene, "bear")?;
    let first = checkpoint(scene, &job, &[]).start("checkpoint")?;
    await_word(scene, &job, "born\n")?;
    scene.write(&scene.work("go-on"), "")?;
    let status = scene.wait(&first)?;
    if status.code() != Some(3) || !first.errors().contains("began to take part") {
        return failed(format!("the first ended with {status}"));
    }
    let again = kill_and_restart(scene, &job)?;
    await_word(scene, &job, "born restart")?;
    await_word(scene, &job, "bears restart")?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_word(scene, &job, "the child ended with 1")
}

/// The number of a life, from image to image.
fn generations(scene: &Scene) -> Outcome {
    let job = start(scene, "generations")?;
    let image = scene.file("image");
    checkpoint(scene, &job, &["--kill"]).run()?.success()?;
    scene.wait(&job)?;
    let mut life = victim::restart(scene, &image, "restart.1")?;
    for generation in 1..=3 {
        await_word(scene, &job, &format!("life {generation}\n"))?;
        let target = life.pid.to_string();
        let family = processes::family(life.running.pid());
        scene
            .cryo(["checkpoint", &target, "--kill", "--grace", "60s", "-o"])
            .arguments([&image])
            .run()?
            .success()?;
        scene.wait(&life.running)?;
        scene.wait_for_disappearance(&family)?;
        life = victim::restart(scene, &image, &format!("restart.{}", generation + 1))?;
    }
    await_word(scene, &job, "life 4\n")?;
    scene.go()?;
    expect_end(scene, &life.running)?;
    await_word(scene, &job, "END 4")
}

/// What is left out is in no epoll set of a restarted life.
fn watched(scene: &Scene) -> Outcome {
    let job = start(scene, "watched")?;
    checkpoint(scene, &job, &[]).run()?.success()?;
    let again = kill_and_restart(scene, &job)?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_lines(scene, &job, &["1 watched", "END 1"])
}

/// Two libraries in one process: each is told, of both lives.
fn both_libraries(scene: &Scene) -> Outcome {
    let libraries = [
        ("libcryo", "-lcryo", place::libcryo()?),
        ("libcr", "-lcr", place::blcr()?),
    ];
    let mut options: Vec<String> = [
        "gcc",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wl,--no-as-needed",
    ]
    .map(String::from)
    .to_vec();
    for (name, link, directory) in libraries {
        let (headers, directory) = (
            place::repository().join("crates").join(name),
            directory.display(),
        );
        options.extend([
            format!("-I{}/include", headers.display()),
            format!("-L{directory}"),
            link.to_owned(),
            format!("-Wl,-rpath,{directory}"),
        ]);
    }
    let compiler: Vec<&str> = options.iter().map(String::as_str).collect();
    let source = place::programs().join("both_libraries.c");
    let program = Program::at(place::compile("both_libraries", &compiler, &[source])?);
    let job = scene.start("job", &program)?;
    await_word(scene, &job, "READY")?;
    checkpoint(scene, &job, &[]).run()?.success()?;
    scene.wait_for("both to be told", LIMIT, || {
        (lines(&job).len() == 4).then_some(())
    })?;
    let again = kill_and_restart(scene, &job)?;
    scene.wait_for("both to be told", LIMIT, || {
        (lines(&job).len() == 8).then_some(())
    })?;
    for (library, event) in [
        ("libcryo", "continue"),
        ("libcr", "continue"),
        ("libcryo", "restart"),
        ("libcr", "restart"),
    ] {
        let line = format!("{library} {event}");
        if lines(&job).iter().filter(|told| **told == line).count() != 1 {
            return failed(format!("the program wrote {:?}", lines(&job)));
        }
    }
    scene.go()?;
    expect_end(scene, &again)
}

/// While a program asks for checkpoints of itself all the time, others ask for one too: each is made, or refused in order.
fn always(scene: &Scene) -> Outcome {
    let program = participant("always")?
        .argument(scene.file("own"))
        .variable("CRYO_COMMAND", scene.cryo_path());
    let job = scene.start("job", &program)?;
    await_word(scene, &job, "READY")?;
    let mut made = 0;
    for _ in 0..10 {
        let result = checkpoint(scene, &job, &[]).run()?;
        match result.status.success() {
            true => made += 1,
            false => drop(result.refusal_with(&[3, 4, 6], &[])?),
        }
    }
    scene.note(format!("{made} of 10 were made"));
    scene.go()?;
    expect_end(scene, &job)?;
    await_word(scene, &job, "some were made")
}

/// The Python package, installed by pip from the tree.
fn python_package(scene: &Scene) -> Outcome {
    let python = python("setuptools, pip")?;
    for directory in ["package", "package/src", "package/src/cryonaut"] {
        scene.make_directory(&format!("work/{directory}"))?;
    }
    for path in ["pyproject.toml", "src/cryonaut/__init__.py"] {
        let text = std::fs::read(place::repository().join("python").join(path))?;
        scene.write(&scene.work("package").join(path), text)?;
    }
    let installed = scene.work("installed");
    let install = Program::at(&python.path)
        .arguments(["-m", "pip", "install", "-q", "--no-index", "--no-deps"])
        .arguments(["--no-build-isolation", "--target"])
        .arguments([&installed, &scene.work("package")]);
    expect_end(scene, &scene.start("pip", &install)?)?;
    if !installed.join("cryonaut/__init__.py").exists() {
        return failed("pip did not install the package");
    }
    let script = place::publish(&place::programs().join("taking_part.py"))?;
    let program = python.argument(script).argument("fork");
    let job = scene.start("job", &program.variable("PYTHONPATH", installed))?;
    await_word(scene, &job, "READY")?;
    checkpoint(scene, &job, &[]).run()?.success()?;
    scene.go()?;
    expect_end(scene, &job)
}

/// A program in Python, started so that it takes part as its argument says.
fn in_python(scene: &Scene, what: &str) -> Outcome<Running> {
    let script = place::publish(&place::programs().join("taking_part.py"))?;
    let program = python("ctypes")?.argument(script).argument(what);
    let job = scene.start("job", &program)?;
    await_word(scene, &job, "READY")?;
    Ok(job)
}

fn python_threads(scene: &Scene) -> Outcome {
    let job = in_python(scene, "threads")?;
    for _ in 0..5 {
        checkpoint(scene, &job, &[]).run()?.success()?;
    }
    let again = kill_and_restart(scene, &job)?;
    await_word(scene, &job, "even RESTART")?;
    scene.go()?;
    expect_end(scene, &again)?;
    await_word(scene, &job, "END")
}

fn python_forks(scene: &Scene) -> Outcome {
    let job = in_python(scene, "fork")?;
    let again = kill_and_restart(scene, &job)?;
    scene.wait_for("both to be told", LIMIT, || {
        (lines(&job).len() == 4).then_some(())
    })?;
    scene.go()?;
    expect_end(scene, &again)?;
    let mut told = lines(&job);
    told.sort();
    let wanted = [
        "END",
        "child CHECKPOINT",
        "child RESTART",
        "parent CHECKPOINT",
        "parent RESTART",
    ];
    match told == wanted {
        true => Ok(()),
        false => failed(format!("the programs wrote {told:?}")),
    }
}

/// Python that is being taken apart is not called any more.
fn python_ends(scene: &Scene) -> Outcome {
    let job = in_python(scene, "end")?;
    await_word(scene, &job, "ENDING")?;
    let again = kill_and_restart(scene, &job)?;
    scene.write(&scene.work("go-on"), "")?;
    expect_end(scene, &again)?;
    await_lines(scene, &job, &["ENDING"])
}

for_each_user! { python_package, python_threads, python_forks, python_ends, exits, becomes_another, bears, generations, watched, both_libraries, always }
