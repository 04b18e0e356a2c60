//! Jobs on a terminal that are restarted where nobody sits in front of one: no input, input by a pipe, input that ends.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cryonaut_suite::{Outcome, Running, Scene, Screen, failed, for_each_user};

const DETACH: &str = "\x1cd";

/// Saves and kills a shell that waits for a command, after it was given these.
fn saved_shell(scene: &Scene, commands: &str) -> Outcome<PathBuf> {
    let mut screen = Screen::start(scene, ["run", "--name", "shell", "--", "bash", "--norc"])?;
    screen.expect("$ ")?;
    // It shows this prompt when it reads keys.
    screen.type_keys(&format!("{commands}; PS1='rea''dy> '\r"))?;
    screen.expect("ready> ")?;
    screen.type_keys(DETACH)?;
    screen.wait_for_status(0)?;
    let image = scene.file("image");
    save(scene, "shell", &image)?;
    Ok(image)
}

fn save(scene: &Scene, job: &str, image: &Path) -> Outcome {
    scene
        .cryo(["checkpoint", job, "--kill", "-o"])
        .arguments([image])
        .run()?
        .success()?;
    Ok(())
}

/// Restarts it with this typed by a pipe, which then ends.
fn restart_with(scene: &Scene, image: &Path, typed: &str) -> Outcome<Running> {
    let mut command = scene.cryo(["restart"]).arguments([image]).command();
    let (reader, mut writer) = std::io::pipe()?;
    command.stdin(Stdio::from(reader));
    let job = scene.spawn("restarted", command)?;
    writer.write_all(typed.as_bytes())?;
    Ok(job)
}

fn expect_end(scene: &Scene, job: &Running, codes: &[i32], shown: &str) -> Outcome {
    let status = scene.wait(job)?;
    let output = job.output();
    match status.code().is_some_and(|code| codes.contains(&code)) && output.contains(shown) {
        true => Ok(()),
        false => failed(format!("{status}, and it showed {output:?}")),
    }
}

/// Where nobody can type, nothing is started; nothing is lost.
fn nobody_there(scene: &Scene) -> Outcome {
    let image = saved_shell(scene, "kept=remembered")?;
    scene
        .cryo(["restart"])
        .arguments([&image])
        .run()?
        .refusal_with(&[125], &["cryo attach"])?;
    // Standard input is closed.
    let closed = format!(
        "exec {} restart {} <&-",
        scene.cryo_path().display(),
        image.display()
    );
    let mut closed_input = scene.command(Path::new("/bin/sh"));
    closed_input.args(["-c", &closed]);
    let closed = scene.spawn("closed", closed_input)?;
    let status = scene.wait(&closed)?;
    if status.code() != Some(125) || !closed.errors().contains("cryo attach") {
        return failed(format!("{status}: {}", closed.errors()));
    }
    let listed = scene.cryo(["list"]).run()?.success()?.stdout;
    if listed.contains("shell") {
        return failed(format!("something was started: {listed}"));
    }
    scene
        .cryo(["restart", "--detach"])
        .arguments([&image])
        .run()?
        .success()?;
    let mut screen = Screen::start(scene, ["attach", "shell"])?;
    screen.type_keys("echo \"<$kept>\"; exit 3\r")?;
    screen.expect("<remembered>")?;
    screen.wait_for_status(3)
}

/// A pipe types commands; its end is the key for that.
fn by_a_pipe(scene: &Scene) -> Outcome {
    let image = saved_shell(scene, "kept=remembered")?;
    let job = restart_with(scene, &image, "echo \"<$kept>\"; exit 5\n")?;
    expect_end(scene, &job, &[5], "<remembered>")?;
    let job = restart_with(scene, &image, "echo \"<$kept>\"; (exit 6)\n")?;
    // A shell that does not look at the key in time is hung up.
    expect_end(scene, &job, &[6, 129], "<remembered>")
}

/// A job that does not take the key for the end of file is hung up, and ends of that.
fn hung_up(scene: &Scene) -> Outcome {
    let image = saved_shell(scene, "IGNOREEOF=1000")?;
    let job = restart_with(scene, &image, "echo $((40+2))\n")?;
    expect_end(scene, &job, &[129], "42")?;
    match job.errors().contains("hung up") {
        true => Ok(()),
        false => failed("it does not say that the terminal was hung up"),
    }
}

/// One that ignores it goes on without a terminal.
fn goes_on(scene: &Scene) -> Outcome {
    const READER: &str = "trap '' HUP; stty -icanon; echo set; \
        dd bs=1 count=1000 of=keys 2> /dev/null; [ -t 0 ] || echo without > without; exit 4";
    let mut screen = Screen::start(scene, ["run", "--name", "reader", "--", "sh", "-c", READER])?;
    screen.expect("set")?;
    screen.type_keys(DETACH)?;
    screen.wait_for_status(0)?;
    let image = scene.file("image");
    save(scene, "reader", &image)?;
    let job = restart_with(scene, &image, "abc")?;
    expect_end(scene, &job, &[4], "")?;
    let keys = fs::read(scene.work("keys"))?;
    if keys != b"abc\x04" || !scene.work("without").exists() {
        return failed(format!(
            "it read {keys:?}, and has the terminal still, or never had it"
        ));
    }
    Ok(())
}

for_each_user!(nobody_there, by_a_pipe, hung_up, goes_on);
