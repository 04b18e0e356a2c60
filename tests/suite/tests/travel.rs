//! Images on their way: compressed, encrypted, through pipes and mails.

use std::fs;
use std::path::Path;

use age::secrecy::ExposeSecret;
use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{Outcome, Program, Running, Scene, Screen, failed, for_each_user};
use rustix::process::Signal;

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

/// Saves to a file with these arguments.
fn save(scene: &Scene, pid: &str, image: &Path, arguments: &[&str]) -> Outcome {
    scene
        .cryo(["checkpoint", pid, "-o"])
        .arguments([image])
        .arguments(arguments)
        .run()?
        .success()?;
    Ok(())
}

/// Through a mail program and back.
fn mailed(scene: &Scene) -> Outcome {
    let job = victim(scene, "mem_private")?;
    let pid = job.pid().to_string();
    let (image, mail) = (scene.file("image"), scene.file("mail"));
    save(scene, &pid, &image, &["--armor", "--compress", "--kill"])?;
    scene.wait(&job)?;
    let text = fs::read_to_string(&image)?;
    if !text.is_ascii() || text.lines().any(|line| line.len() > 64) {
        return failed("an armour is to be short lines of ASCII");
    }
    for command in ["verify", "show", "check"] {
        scene.cryo([command]).arguments([&image]).run()?.success()?;
    }
    // Half of it, all but the end, and a letter changed.
    let mut changed = text.clone();
    changed.replace_range(5000..5001, "!");
    for (bad, word) in [
        (&text[..text.len() / 2], "cut off"),
        (&text[..text.len() - 10], "cut off"),
        (&changed, "damaged at line"),
    ] {
        scene.write(&mail, bad)?;
        scene
            .cryo(["verify"])
            .arguments([&mail])
            .run()?
            .refusal_with(&[5], &[word])?;
        scene
            .cryo(["restart", "--detach"])
            .arguments([&mail])
            .run()?
            .refusal_with(&[5], &[word])?;
    }
    let quoted: String = text.lines().map(|line| format!("> {line}\r\n")).collect();
    scene.write(
        &mail,
        format!("Dear friend,\r\nhere it is:\r\n{quoted}-- \r\nAda\r\n"),
    )?;
    expect_right(scene, &job, &mail, &[])
}

fn by_passphrase(scene: &Scene) -> Outcome {
    let job = victim(scene, "mem_private")?;
    let pid = job.pid().to_string();
    let image = scene.file("image");
    let (right, wrong) = (scene.file("right"), scene.file("wrong"));
    scene.write(&right, "correct horse\n")?;
    scene.write(&wrong, "battery staple\n")?;
    let file = right.to_string_lossy().into_owned();
    save(scene, &pid, &image, &["--passphrase-file", &file, "--kill"])?;
    scene.wait(&job)?;
    if fs::read(&image)?
        .windows(8)
        .any(|window| window == b"CRYOSECT")
    {
        return failed("the image is not encrypted");
    }
    for command in [
        &["verify"][..],
        &["show"],
        &["check"],
        &["restart", "--detach"],
    ] {
        scene
            .cryo(command)
            .arguments([
                "--passphrase-file".as_ref(),
                wrong.as_os_str(),
                image.as_os_str(),
            ])
            .run()?
            .refusal_with(&[6], &["passphrase is wrong"])?;
        // Nobody can be asked.
        scene
            .cryo(command)
            .arguments([&image])
            .run()?
            .refusal_with(&[6], &["--passphrase-file"])?;
    }
    // Asked at the terminal, which shows nothing of it.
    let name = image.to_string_lossy().into_owned();
    let mut screen = Screen::start(scene, ["verify", &name])?;
    screen.expect("Passphrase")?;
    screen.type_keys("wrong\r")?;
    screen.expect("passphrase is wrong")?;
    screen.wait_for_status(6)?;
    let mut screen = Screen::start(scene, ["verify", &name])?;
    screen.expect("Passphrase")?;
    screen.type_keys("correctx\x7f horse\r")?;
    screen.expect("sound")?;
    if screen.shown().contains("horse") {
        return failed("the passphrase was shown");
    }
    screen.wait_for_status(0)?;
    // Given up, and killed while it asks: the terminal is as it was.
    let mut screen = Screen::start(scene, ["verify", &name])?;
    screen.expect("Passphrase")?;
    screen.type_keys("\x03")?;
    screen.wait_for_status(6)?;
    let mut screen = Screen::start(scene, ["verify", &name])?;
    screen.expect("Passphrase")?;
    screen.signal(Signal::KILL);
    screen.wait()?;
    expect_right(scene, &job, &image, &["--passphrase-file", &file])
}

fn to_recipients(scene: &Scene) -> Outcome {
    let key = age::x25519::Identity::generate();
    let other = age::x25519::Identity::generate();
    let (own, others) = (scene.file("own.key"), scene.file("other.key"));
    scene.write(&own, key.to_string().expose_secret())?;
    scene.write(&others, other.to_string().expose_secret())?;
    let job = victim(scene, "mem_private")?;
    let pid = job.pid().to_string();
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", &pid, "--encrypt", "age1nobody", "-o"])
        .arguments([&image])
        .run()?
        .refusal_with(&[2], &["age1nobody"])?;
    let public = key.to_public().to_string();
    save(
        scene,
        &pid,
        &image,
        &["--encrypt", &public, "--armor", "--compress=1", "--kill"],
    )?;
    scene.wait(&job)?;
    scene
        .cryo(["verify"])
        .arguments([&image])
        .run()?
        .refusal_with(&[6], &["--identity"])?;
    scene
        .cryo(["restart", "--detach", "--identity"])
        .arguments([&others, &image])
        .run()?
        .refusal_with(&[6], &["none of the keys"])?;
    let own = own.to_string_lossy().into_owned();
    // By way of a pipe.
    let mut piped = scene.cryo(["verify", "-", "--identity", &own]).command();
    if !piped.stdin(fs::File::open(&image)?).status()?.success() {
        return failed("an encrypted image cannot be read from a stream");
    }
    expect_right(scene, &job, &image, &["--identity", &own])
}

for_each_user! {compressed, mailed, by_passphrase, to_recipients}
