//! Checkpoints that cannot be written: the job is unharmed, an earlier image is intact, and no stray file is left.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cryonaut_suite::scene::{LIMIT, describe_status};
use cryonaut_suite::victim::checkpoint;
use cryonaut_suite::{Outcome, Program, Random, Running, Scene, failed, for_each_user, processes};
use rustix::process::Signal;

/// Starts a victim that beats a thousand times a second and holds this much memory.
fn start(scene: &Scene, mebibytes: u32) -> Outcome<Running> {
    let program = Program::victim("heartbeat", &[])?.argument(mebibytes.to_string());
    let job = scene.start("victim", &program)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    expect_beats(scene)?;
    Ok(job)
}

fn beats(scene: &Scene) -> u64 {
    let bytes = fs::read(scene.work("beats")).unwrap_or_default();
    bytes
        .first_chunk()
        .map_or(0, |word| u64::from_ne_bytes(*word))
}

/// The longest time that the victim has not beaten, so far.
fn longest_gap(scene: &Scene) -> Duration {
    let bytes = fs::read(scene.work("beats")).unwrap_or_default();
    Duration::from_nanos(
        bytes
            .last_chunk()
            .map_or(0, |word| u64::from_ne_bytes(*word)),
    )
}

/// The victim must be beating now.
fn expect_beats(scene: &Scene) -> Outcome {
    let before = beats(scene);
    scene.wait_for("the job to beat", LIMIT, || {
        (beats(scene) > before + 5).then_some(())
    })
}

/// Lets the victim end and expects it to find its memory as it was.
fn finish(scene: &Scene, job: &Running) -> Outcome {
    expect_beats(scene)?;
    scene.go()?;
    let status = scene.wait(job)?;
    if status.success() && job.output() == "READY\nOK\n" {
        return Ok(());
    }
    failed(format!(
        "the job {}: {}",
        describe_status(status),
        job.output()
    ))
}

/// Exactly these files are in a directory.
fn expect_files(directory: &Path, wanted: &[&str]) -> Outcome {
    let mut names: Vec<String> = fs::read_dir(directory)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    if names == wanted {
        return Ok(());
    }
    failed(format!(
        "{} holds {names:?} instead of {wanted:?}",
        directory.display()
    ))
}

/// A small file system of its own for a scene, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn new(scene: &Scene, name: &str, size: &str) -> Outcome<Self> {
        let path = scene.make_directory(name)?;
        let options = format!("size={size},mode=0700,uid={0},gid={0}", scene.user_id());
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path)
            .output()?;
        if !output.status.success() {
            return cryonaut_suite::skip(format!(
                "cannot mount a small file system: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        Ok(Self(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn full_disk(scene: &Scene) -> Outcome {
    let small = Mounted::new(scene, "small", "24m")?;
    let job = start(scene, 1)?;
    let image = small.0.join("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--leave-running")?;
    let before = fs::read(&image)?;
    // The rest of the space, but for less than an image.
    let filler = small.0.join("filler");
    let mut size = 24 << 20;
    while fs::write(&filler, vec![1u8; size]).is_err() {
        size -= 64 << 10;
    }
    for target in [image.clone(), small.0.join("other")] {
        scene
            .cryo(["checkpoint", &job.pid().to_string(), "-o"])
            .arguments([&target])
            .run()?
            .refusal(&["space"])?;
        expect_files(&small.0, &["filler", "image"])?;
        if fs::read(&image)? != before {
            return failed("the earlier image changed");
        }
        expect_beats(scene)?;
    }
    // --kill must not kill either: there is no image.
    scene
        .cryo(["checkpoint", &job.pid().to_string(), "--kill", "-o"])
        .arguments([&image])
        .run()?
        .refusal(&["space"])?;
    scene
        .cryo(["verify"])
        .arguments([&image])
        .run()?
        .success()?;
    finish(scene, &job)
}

fn file_too_large(scene: &Scene) -> Outcome {
    let job = start(scene, 4)?;
    let directory = scene.make_directory("images")?;
    let image = directory.join("image");
    let mut command = scene.command(Path::new("/usr/bin/prlimit"));
    command
        .args(["--fsize=1000000", "--"])
        .arg(scene.cryo_path());
    command
        .args(["checkpoint", &job.pid().to_string(), "-o"])
        .arg(&image);
    let limited = scene.spawn("limited", command)?;
    let status = scene.wait(&limited)?;
    if status.success() {
        return failed("a checkpoint beyond the file size limit succeeded");
    }
    expect_files(&directory, &[])?;
    finish(scene, &job)
}

/// A disk that fails: at any write, when the image is to be made durable, when it is to get its name, when it is read back.
fn failing_disk(scene: &Scene) -> Outcome {
    let strace = Path::new("/usr/bin/strace");
    if !strace.exists() {
        return cryonaut_suite::skip("strace, which makes calls fail, is not installed");
    }
    let job = start(scene, 16)?;
    let directory = scene.make_directory("images")?;
    let image = directory.join("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--leave-running")?;
    let before = fs::read(&image)?;
    let faults = [
        ("--leave-running", "write:error=EIO:when=1+"),
        ("--leave-running", "write:error=EIO:when=4"),
        ("--leave-running", "write:error=EIO:when=9"),
        ("--kill", "write:error=EIO:when=6"),
        ("--leave-running", "fsync,fdatasync:error=EIO"),
        ("--kill", "fsync,fdatasync:error=EIO"),
        ("--kill", "pread64:error=EIO:when=12+"),
        ("--kill", "linkat,renameat2,renameat,rename:error=EIO"),
    ];
    for (number, (afterwards, fault)) in faults.into_iter().enumerate() {
        let mut command = scene.command(strace);
        command.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
        command.arg(format!("inject={fault}"));
        command.arg(scene.cryo_path());
        command.args(["checkpoint", &job.pid().to_string(), afterwards, "-o"]);
        command.arg(&image);
        let failing = scene.spawn(&format!("failing.{number}"), command)?;
        let status = scene.wait(&failing)?;
        if status.success() {
            return failed(format!("a checkpoint succeeded in spite of {fault}"));
        }
        expect_files(&directory, &["image"])?;
        if fs::read(&image)? != before {
            return failed(format!("the earlier image changed ({fault})"));
        }
        expect_beats(scene)?;
    }
    finish(scene, &job)
}

fn missing_directory(scene: &Scene) -> Outcome {
    let job = start(scene, 1)?;
    scene
        .cryo(["checkpoint", &job.pid().to_string(), "-o"])
        .arguments([scene.file("nowhere/image")])
        .run()?
        .refusal(&["nowhere"])?;
    finish(scene, &job)
}

fn closed_reader(scene: &Scene) -> Outcome {
    let job = start(scene, 16)?;
    for length in [0usize, 1, 100_000] {
        let mut child = scene
            .cryo(["checkpoint", &job.pid().to_string(), "-o", "-"])
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut reader = child.stdout.take().expect("piped");
        let mut part = vec![0; length];
        reader.read_exact(&mut part)?;
        drop(reader);
        let end = std::time::Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if std::time::Instant::now() > end {
                return failed(format!(
                    "cryo goes on although its reader closed after {length} bytes"
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if status.success() {
            return failed(format!(
                "cryo succeeded although its reader closed after {length} bytes"
            ));
        }
        expect_beats(scene)?;
    }
    finish(scene, &job)
}

fn stalled_reader(scene: &Scene) -> Outcome {
    let job = start(scene, 64)?;
    let mut child = scene
        .cryo(["checkpoint", &job.pid().to_string(), "-o", "-"])
        .command()
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut reader = child.stdout.take().expect("piped");
    std::thread::sleep(Duration::from_secs(3));
    // However much was to be written: the job runs.
    expect_beats(scene)?;
    let gap = longest_gap(scene);
    scene.note(format!(
        "longest gap with a stalled reader: {} ms",
        gap.as_millis()
    ));
    if gap > Duration::from_millis(1500) {
        return failed(format!(
            "the job stood still for {} ms while nobody read",
            gap.as_millis()
        ));
    }
    let image = scene.file("image");
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    let status = child.wait()?;
    if !status.success() {
        return failed(format!(
            "cryo {} although its reader came back",
            describe_status(status)
        ));
    }
    scene.write(&image, bytes)?;
    scene
        .cryo(["verify"])
        .arguments([&image])
        .run()?
        .success()?;
    finish(scene, &job)
}

/// SIGINT, as the terminal sends it, at random times.
fn interrupted(scene: &Scene) -> Outcome {
    let mut random = Random::new();
    let job = start(scene, 64)?;
    let directory = scene.make_directory("images")?;
    let image = directory.join("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--leave-running")?;
    let (mut stopped, mut done) = (0, 0);
    for round in 0..25 {
        let target = if round % 2 == 0 {
            image.clone()
        } else {
            directory.join("other")
        };
        let mut command = scene
            .cryo(["checkpoint", &job.pid().to_string(), "-o"])
            .arguments([&target])
            .command();
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(120)));
        processes::signal(child.id() as i32, Signal::INT);
        let status = child.wait()?;
        if status.success() {
            done += 1;
            let _ = fs::remove_file(directory.join("other"));
        } else {
            stopped += 1;
        }
        expect_files(&directory, &["image"])?;
        scene
            .cryo(["verify"])
            .arguments([&image])
            .run()?
            .success()?;
        expect_beats(scene)?;
    }
    println!("{stopped} checkpoints interrupted, {done} finished first");
    finish(scene, &job)
}

for_each_user!(
    full_disk,
    file_too_large,
    failing_disk,
    missing_directory,
    closed_reader,
    stalled_reader,
    interrupted
);
