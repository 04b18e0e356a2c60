//! Bad input: each gives a short reason and an exit status, and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cryonaut_suite::checksum::crc32c;
use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::{await_ready, checkpoint, kill};
use cryonaut_suite::{
    Outcome, Program, Running, Scene, User, failed, for_each_user, processes, skip,
};
use rustix::process::Signal;

/// A waiting victim.
fn start(scene: &Scene, source: &str) -> Outcome<Running> {
    let job = scene.start("victim", &Program::victim(source, &[])?)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    std::thread::sleep(Duration::from_millis(15));
    Ok(job)
}

/// Lets a victim go and expects that nothing has happened to it.
fn finish(scene: &Scene, job: &Running) -> Outcome {
    scene.go()?;
    let status = scene.wait(job)?;
    if status.success() && job.output() == "READY\nOK\n" {
        return Ok(());
    }
    failed(format!("the job was hurt: {}", job.output()))
}

fn refuse_checkpoint(scene: &Scene, target: &str, words: &[&str]) -> Outcome {
    let image = scene.file("refused");
    scene
        .cryo(["checkpoint", target, "-o"])
        .arguments([&image])
        .run()?
        .refusal(words)?;
    if image.exists() {
        return failed(format!(
            "{} was written although {target} was refused",
            image.display()
        ));
    }
    Ok(())
}

/// Nothing may run after a refused restart but what ran before.
fn refuse_restart(scene: &Scene, image: &Path, more: &[&str], words: &[&str]) -> Outcome {
    let own = std::process::id() as i32;
    let before = processes::descendants(own).len();
    scene
        .cryo(["restart"])
        .arguments([image])
        .arguments(more)
        .run()?
        .refusal(words)?;
    processes::reap_orphans(&std::collections::HashSet::new());
    let after = processes::descendants(own).len();
    if after > before {
        return failed("a refused restart left processes behind");
    }
    Ok(())
}

/// An image of a small victim that has been killed since, and the victim's handle.
fn image_of(scene: &Scene, source: &str) -> Outcome<(PathBuf, Running)> {
    let job = start(scene, source)?;
    let image = scene.file("image");
    let family = processes::family(job.pid());
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    scene.wait_for_disappearance(&family)?;
    Ok((image, job))
}

fn wrong_pid(scene: &Scene) -> Outcome {
    for (target, reason) in [
        ("4194303", "there is no process 4194303"),
        ("0", "0 is not a process id"),
        ("-1", "unexpected argument"),
        ("99999999999999999999", "too large for a process id"),
        ("no-such-job", "no job named no-such-job"),
        ("", "no target is named"),
    ] {
        refuse_checkpoint(scene, target, &[reason])?;
    }
    Ok(())
}

fn other_users_process(scene: &Scene) -> Outcome {
    if scene.user() == User::Root {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return skip("needs root to have a process of another user");
    }
    // This test itself runs as root.
    let mut other = Command::new("sleep").arg("100").spawn()?;
    let outcome = refuse_checkpoint(scene, &other.id().to_string(), &["runs as user", "as root"]);
    let running = other.try_wait()?.is_none();
    other.kill()?;
    other.wait()?;
    outcome?;
    if running {
        Ok(())
    } else {
        failed("the other user's process ended")
    }
}

fn kernel_thread(scene: &Scene) -> Outcome {
    let Some(pid) = fs::read_dir("/proc")?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        status
            .lines()
            .any(|line| line == "Kthread:\t1")
            .then_some(pid)
    }) else {
        return skip("no kernel thread is visible here");
    };
    refuse_checkpoint(scene, &pid.to_string(), &["kernel"])
}

fn pid_one(scene: &Scene) -> Outcome {
    refuse_checkpoint(scene, "1", &[])
}

/// The shell becomes cryo under its own pid.
fn itself(scene: &Scene) -> Outcome {
    let image = scene.file("refused");
    let mut command = scene.command(Path::new("/bin/sh"));
    command
        .args(["-c", "exec \"$0\" checkpoint $$ -o \"$1\""])
        .arg(scene.cryo_path())
        .arg(&image);
    let call = scene.spawn("itself", command)?;
    let status = scene.wait(&call)?;
    if status.code().is_none_or(|code| code == 0 || code == 101) || image.exists() {
        return failed("cryo checkpointed itself alone");
    }
    Ok(())
}

/// A member of a session stands for it only when its leader has gone.
fn no_session_leader(scene: &Scene) -> Outcome {
    let mut command = scene.session_command(Path::new("/bin/sh"));
    command.args(["-c", "sleep 1000 & sleep 1000 & wait"]);
    let leader = scene.spawn("leader", command)?;
    let members = scene.wait_for("the members", LIMIT, || {
        let found = processes::descendants(leader.pid());
        (found.len() == 2).then_some(found)
    })?;
    let member = members.first().map(i32::to_string).unwrap_or_default();
    let session = leader.pid().to_string();
    let image = scene.file("image");
    let save = |target: &str| {
        scene
            .cryo(["checkpoint", "--session", target, "-o"])
            .arguments([&image])
            .run()
    };
    save(&member)?.refusal_with(&[2], &["no session leader", &session])?;
    save(&session)?.success()?;
    processes::signal(leader.pid(), Signal::KILL);
    scene.wait(&leader)?;
    save(&member)?.success()?;
    for member in members {
        processes::signal(member, Signal::KILL);
    }
    Ok(())
}

fn no_image(scene: &Scene) -> Outcome {
    refuse_restart(scene, &scene.file("nowhere"), &[], &["nowhere"])?;
    refuse_restart(scene, &scene.file("work"), &[], &["director"])?;
    let empty = scene.file("empty");
    scene.write(&empty, "")?;
    refuse_restart(scene, &empty, &[], &["image"])?;
    let text = scene.file("text");
    scene.write(&text, "This is a letter, and a long one. ".repeat(1000))?;
    refuse_restart(scene, &text, &[], &["not", "image"])?;
    refuse_restart(scene, Path::new("/dev/zero"), &[], &[])?;
    for command in ["verify", "show", "check"] {
        for path in [
            scene.file("nowhere"),
            scene.file("work"),
            empty.clone(),
            text.clone(),
        ] {
            scene
                .cryo([command])
                .arguments([path])
                .run()?
                .refusal(&[])?;
        }
    }
    Ok(())
}

/// Changes the image's file header and makes its checksum right again; the layout is in docs/image-format.md.
fn with_header(image: &Path, place: usize, value: u32) -> Outcome<Vec<u8>> {
    let mut bytes = fs::read(image)?;
    bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
    let crc = crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

fn foreign_image(scene: &Scene) -> Outcome {
    let (image, _) = image_of(scene, "mem_stack")?;
    let changed = scene.file("changed");
    scene.write(&changed, with_header(&image, 8, 99)?)?;
    refuse_restart(scene, &changed, &[], &["version", "newer"])?;
    scene.write(&changed, with_header(&image, 12, 183)?)?;
    refuse_restart(scene, &changed, &[], &["aarch64", "architecture"])
}

/// Truncation and a flipped bit at places all over an image: never a panic, never a start.
fn damaged_image(scene: &Scene) -> Outcome {
    let (image, _) = image_of(scene, "mem_stack")?;
    let bytes = fs::read(&image)?;
    let changed = scene.file("changed");
    let step = (bytes.len() / 60).max(1);
    for (round, place) in (0..bytes.len()).step_by(step).enumerate() {
        scene.write(&changed, &bytes[..place])?;
        scene
            .cryo(["verify"])
            .arguments([&changed])
            .run()?
            .refusal_with(&[5], &[])?;
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << (round % 8);
        scene.write(&changed, &flipped)?;
        scene
            .cryo(["verify"])
            .arguments([&changed])
            .run()?
            .refusal_with(&[5], &[])?;
        if round % 6 == 0 {
            refuse_restart(scene, &changed, &[], &[])?;
        }
    }
    Ok(())
}

/// Restarting with the old pids while the job still runs.
fn pids_taken(scene: &Scene) -> Outcome {
    let job = start(scene, "mem_stack")?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--leave-running")?;
    let words: &[&str] = match scene.user() {
        User::Root => &["in use"],
        // Whatever comes first: the ids are taken, and this user could not choose them.
        User::Ordinary => &[],
    };
    refuse_restart(scene, &image, &["--pids", "keep"], words)?;
    finish(scene, &job)
}

/// Fewer threads than the job has may be started here: those that were are gone again.
fn too_many_threads(scene: &Scene) -> Outcome {
    if scene.user() == User::Root {
        return skip("root is not held to the limit on processes");
    }
    let job = scene.start("victim", &Program::victim("threads", &[])?.argument("400"))?;
    await_ready(scene, &job)?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    // In a user namespace, where other processes of this user do not count.
    scene
        .cryo(["--user", "--map-current-user", "prlimit", "--nproc=200"])
        .by(Program::installed("unshare")?.path)
        .arguments([scene.cryo_path()])
        .arguments(["restart", "--clamp-limits"])
        .arguments([&image])
        .run()?
        .refusal_with(
            &[125],
            &["starting thread", "resource temporarily unavailable"],
        )?;
    scene.end_all(Vec::new())
}

fn files_gone(scene: &Scene) -> Outcome {
    let (image, _) = image_of(scene, "file_offsets")?;
    fs::remove_file(scene.work("offsets.data"))?;
    let wanted = [
        "(file_offsets)",
        "offsets.data",
        "it does not exist here",
        "put it back",
    ];
    for command in ["restart", "check"] {
        let call = scene.cryo([command]).arguments([&image]);
        call.run()?.refusal(&wanted)?;
    }
    Ok(())
}

fn files_changed(scene: &Scene) -> Outcome {
    let (image, _) = image_of(scene, "mem_file_private")?;
    // The mapped file is another one now, and shorter.
    fs::remove_file(scene.work("private.data"))?;
    scene.write(&scene.work("private.data"), "something else")?;
    refuse_restart(scene, &image, &[], &["private.data"])
}

fn directory_gone(scene: &Scene) -> Outcome {
    let (image, _) = image_of(scene, "fs_context")?;
    fs::remove_dir_all(scene.work("with space"))?;
    refuse_restart(scene, &image, &[], &["with space"])
}

/// A mistake in the command line is told apart from everything else, and is never obeyed in part.
fn usage(scene: &Scene) -> Outcome {
    let job = start(scene, "mem_stack")?;
    let pid = job.pid().to_string();
    for arguments in [
        vec!["freeze-it"],
        vec!["checkpoint"],
        vec![
            "checkpoint",
            &pid,
            "--kill",
            "--leave-running",
            "-o",
            "refused",
        ],
        vec!["checkpoint", &pid, "--no-such-option"],
        vec!["restart"],
        vec!["restart", "image", "--pids", "some"],
        vec!["run", "--name", "a name/with a slash", "--", "true"],
    ] {
        let codes: &[i32] = if arguments[0] == "run" || arguments[0] == "restart" {
            &[2, 125]
        } else {
            &[2]
        };
        scene.cryo(arguments).run()?.refusal_with(codes, &[])?;
    }
    if scene.work("refused").exists() {
        return failed("a wrong command line wrote an image");
    }
    finish(scene, &job)
}

/// Only one tracer at a time: a process under a debugger cannot be frozen.
fn traced_by_another(scene: &Scene) -> Outcome {
    let strace = Program::installed("strace")?;
    let job = start(scene, "mem_stack")?;
    let mut command = scene.command(&strace.path);
    command.args(["-p", &job.pid().to_string(), "-o", "/dev/null"]);
    let tracer = scene.spawn("strace", command)?;
    scene.wait_for("strace to attach", LIMIT, || {
        let status = fs::read_to_string(format!("/proc/{}/status", job.pid())).unwrap_or_default();
        (!status.contains("TracerPid:\t0")).then_some(())
    })?;
    refuse_checkpoint(scene, &job.pid().to_string(), &["trace", "debug"])?;
    tracer.signal(Signal::INT);
    scene.wait(&tracer)?;
    finish(scene, &job)
}

fn already_ended(scene: &Scene) -> Outcome {
    let job = start(scene, "mem_stack")?;
    processes::signal(job.pid(), Signal::KILL);
    scene.wait_for("the zombie", LIMIT, || {
        (processes::state(job.pid()) == Some('Z')).then_some(())
    })?;
    refuse_checkpoint(scene, &job.pid().to_string(), &["has ended", "its parent"])?;
    kill(scene, &job)
}

/// A job that no restart could bring back is not killed on the strength of its image.
fn not_restorable(scene: &Scene) -> Outcome {
    if scene.user() == User::Root {
        // Root may open the file.
        return Ok(());
    }
    let job = start(scene, "file_forbidden")?;
    let target = job.pid().to_string();
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", &target, "--kill", "-o"])
        .arguments([&image])
        .run()?
        .refusal(&["a restart here would be refused"])?;
    if image.exists() {
        return failed("an image was left by a checkpoint that was refused");
    }
    // Whoever only saves it is free to.
    checkpoint(scene, &target, &image, "--leave-running")?;
    refuse_restart(scene, &image, &[], &["secret"])?;
    finish(scene, &job)
}

for_each_user!(
    wrong_pid,
    other_users_process,
    kernel_thread,
    pid_one,
    itself,
    no_session_leader,
    no_image,
    foreign_image,
    damaged_image,
    pids_taken,
    too_many_threads,
    files_gone,
    files_changed,
    directory_gone,
    usage,
    traced_by_another,
    already_ended,
    not_restorable
);
