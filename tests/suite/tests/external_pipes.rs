//! Pipes to processes outside the job: stated in the image, asked for at a restart, what was in flight read first.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{Outcome, Program, Scene, User, failed, test};

/// A victim that was killed after its checkpoint, with "before, " in flight to it, and its pipes' names.
fn saved(scene: &Scene, argument: &str, numbers: [i32; 2]) -> Outcome<[String; 2]> {
    let program = Program::victim("pipe_external", &[])?;
    saved_of(scene, &program.path, argument, numbers)
}

/// The same of a victim that lies here; its files are in the image where they are in this scene's directory.
fn saved_of(
    scene: &Scene,
    program: &Path,
    argument: &str,
    numbers: [i32; 2],
) -> Outcome<[String; 2]> {
    let (path, output) = scene.output_file("victim.out")?;
    let mut child: Child = scene
        .session_command(program)
        .arg(argument)
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()?;
    let mut feed = child.stdin.take().expect("piped");
    feed.write_all(b"1234before, ")?;
    scene.wait_for("READY", LIMIT, || {
        let text = fs::read_to_string(&path).ok()?;
        text.contains("READY").then_some(())
    })?;
    let name = |number: i32| -> Outcome<String> {
        let link = fs::read_link(format!("/proc/{}/fd/{number}", child.id()))?;
        Ok(link.to_string_lossy().into_owned())
    };
    let names = [name(numbers[0])?, name(numbers[1])?];
    let pid = child.id().to_string();
    scene
        .cryo([
            "checkpoint",
            &pid,
            "--kill",
            "--embed=*/place/program",
            "-o",
        ])
        .arguments([scene.file("image")])
        .run()?
        .success()?;
    child.wait()?;
    scene.write(&scene.file("source"), "after")?;
    scene.go()?;
    Ok(names)
}

fn expect_ok(scene: &Scene) -> Outcome {
    let text = fs::read_to_string(scene.file("victim.out"))?;
    if text == "READY\nOK\n" {
        return Ok(());
    }
    failed(format!("the victim wrote {text:?}"))
}

/// What is no standard stream is refused, all at once, until something is given for it.
fn moved(scene: &Scene) -> Outcome {
    let image = scene.file("image").to_string_lossy().into_owned();
    let names = saved(scene, "moved", [70, 80])?;
    let words = [names[0].as_str(), names[1].as_str(), "--inherit-fd"];
    scene.cryo(["check", &image]).run()?.refusal(&words)?;
    let refused = scene.cryo(["restart", &image]).run()?;
    refused.refusal_with(&[125], &words)?;
    let shown = scene.cryo(["show", &image]).run()?.success()?;
    if !names.iter().all(|name| shown.stdout.contains(name)) {
        return failed(format!("cryo show does not name {names:?}"));
    }
    let from = format!("{}={}", names[0], scene.file("source").display());
    let given = [
        "--inherit-fd",
        &from,
        "--inherit-fd",
        &format!("{}=1", names[1]),
    ];
    scene
        .cryo(["check", &image])
        .arguments(given)
        .run()?
        .success()?;
    let twice = scene.cryo(["check", &image]).arguments(given);
    twice
        .arguments(["--inherit-fd", "pipe:[1]=0"])
        .run()?
        .refusal(&["pipe:[1]", "no external pipe"])?;
    let restarted = scene
        .cryo(["restart", &image])
        .arguments(given)
        .run()?
        .success()?;
    if !restarted.stdout.ends_with("heard\n") {
        return failed(format!("cryo restart passed {:?} on", restarted.stdout));
    }
    expect_ok(scene)
}

/// Standard streams are those of the restart, after what was in flight.
fn standard(scene: &Scene) -> Outcome {
    saved(scene, "standard", [0, 2])?;
    let (source, sink) = (scene.file("source"), scene.file("sink"));
    scene.write(&sink, "")?;
    let call = scene.cryo(["restart", "--stdin"]).arguments([&source]);
    let call = call
        .arguments(["--stderr"])
        .arguments([&sink, &scene.file("image")]);
    call.run()?.success()?;
    if fs::read_to_string(&sink)? != "heard\n" {
        return failed("nothing came out at --stderr");
    }
    expect_ok(scene)
}

/// A file that is given is the caller's, also where the job sees its directory with files of the image in it.
fn beside_embedded(scene: &Scene) -> Outcome {
    let place = scene.make_directory("place")?;
    let program = place.join("program");
    fs::copy(Program::victim("pipe_external", &[])?.path, &program)?;
    let names = saved_of(scene, &program, "moved", [70, 80])?;
    fs::remove_file(&program)?;
    let sink = place.join("sink");
    let given = |name: &str, file: &Path| format!("{name}={}", file.display());
    let restart = |source: &Path| {
        scene
            .cryo(["restart"])
            .arguments(["--inherit-fd", &given(&names[0], source)])
            .arguments(["--inherit-fd", &given(&names[1], &sink)])
            .arguments([scene.file("image")])
            .run()
    };
    restart(&place.join("none"))?.refusal_with(&[125], &["none: no such file"])?;
    restart(&scene.file("source"))?.success()?;
    if fs::read_to_string(&sink).unwrap_or_default() != "heard\n" {
        return failed("nothing has come into the file");
    }
    expect_ok(scene)
}

#[test]
fn beside_embedded_root() {
    let name = "external_pipes::beside_embedded_root";
    test(name, User::Root, beside_embedded);
}

#[test]
fn beside_embedded_user() {
    let name = "external_pipes::beside_embedded_user";
    test(name, User::Ordinary, beside_embedded);
}

#[test]
fn moved_root() {
    test("external_pipes::moved_root", User::Root, moved);
}

#[test]
fn moved_user() {
    test("external_pipes::moved_user", User::Ordinary, moved);
}

#[test]
fn standard_root() {
    test("external_pipes::standard_root", User::Root, standard);
}

#[test]
fn standard_user() {
    test("external_pipes::standard_user", User::Ordinary, standard);
}
