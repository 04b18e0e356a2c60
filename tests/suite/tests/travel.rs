//! Images on their way: compressed, through pipes.

use std::fs;
use std::path::Path;

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{Outcome, Program, Running, Scene, User, failed, test};

/// A victim that has said READY.
fn victim(scene: &Scene, name: &str) -> Outcome<Running> {
    let job = scene.start("victim", &Program::victim(name, &[])?)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    Ok(job)
}

/// Restarts the image of a victim, lets it go on, and wants it to find everything right.
fn expect_right(scene: &Scene, victim: &Running, image: &Path, arguments: &[&str]) -> Outcome {
    let life = scene
        .cryo(["restart"])
        .arguments(arguments)
        .arguments([image])
        .start("life")?;
    scene.go()?;
    let status = scene.wait(&life)?;
    match status.success() && victim.output().contains("OK") {
        true => Ok(()),
        false => failed(format!(
            "the restarted victim: {status}: {}",
            victim.output()
        )),
    }
}

fn compressed(scene: &Scene) -> Outcome {
    let job = victim(scene, "mem_large")?;
    let pid = job.pid().to_string();
    let (plain, image, other) = (
        scene.file("plain"),
        scene.file("image"),
        scene.file("other"),
    );
    scene
        .cryo(["checkpoint", &pid, "-o"])
        .arguments([&plain])
        .run()?
        .success()?;
    for wrong in ["--compress=0", "--compress=20", "--compress=lz4"] {
        scene
            .cryo(["checkpoint", &pid, wrong, "-o"])
            .arguments([&image])
            .run()?
            .refusal_with(&[2], &["1 to 19"])?;
    }
    // Streamed, and at once to a file.
    let out = fs::File::create(&other)?;
    let mut streaming = scene
        .cryo(["checkpoint", &pid, "--compress=zstd:1", "-o", "-"])
        .command();
    if !streaming.stdout(out).status()?.success() {
        return failed("a compressed image cannot be streamed");
    }
    scene
        .cryo(["checkpoint", &pid, "--compress", "--kill", "-o"])
        .arguments([&image])
        .run()?
        .success()?;
    scene.wait(&job)?;
    for image in [&image, &other] {
        let (small, large) = (fs::metadata(image)?.len(), fs::metadata(&plain)?.len());
        scene.note(format!("{small} bytes instead of {large}"));
        if small > large {
            return failed("compression made the image larger");
        }
        for command in ["verify", "show", "check"] {
            scene.cryo([command]).arguments([image]).run()?.success()?;
        }
    }
    expect_right(scene, &job, &image, &[])
}

macro_rules! cases {
    ($($name:ident),*) => {
        $(mod $name {
            use super::*;
            #[test]
            fn root() {
                test(concat!("travel::", stringify!($name), "::root"), User::Root, super::$name);
            }
            #[test]
            fn user() {
                test(concat!("travel::", stringify!($name), "::user"), User::Ordinary, super::$name);
            }
        })*
    };
}

cases!(compressed);
