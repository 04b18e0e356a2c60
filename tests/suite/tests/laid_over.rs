//! A restart for which files of the image are laid over those of this machine: what `cryo` itself needs stays as it is.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::await_ready;
use cryonaut_suite::{Outcome, Program, Scene, Screen, failed, for_each_user, processes, skip};

/// The C library that `cryo` runs with.
fn library(scene: &Scene) -> Outcome<PathBuf> {
    let listed = Command::new("ldd").arg(scene.cryo_path()).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut words = listed.split_whitespace();
    match words.find(|word| word.starts_with('/') && word.ends_with("/libc.so.6")) {
        Some(path) => Ok(fs::canonicalize(path)?),
        None => skip("cryo needs no C library of the machine's"),
    }
}

/// The image has a C library that is none for this `cryo`: its terminal is held all the same, and whoever attaches sees it.
fn other_library(scene: &Scene) -> Outcome {
    let here = library(scene)?;
    let (directory, name) = (here.parent(), here.file_name());
    let (Some(directory), Some(name)) = (directory, name) else {
        return failed(format!("{here:?} is no file"));
    };
    // As the image of another machine would have it.
    let there = scene.make_directory("other-libraries")?;
    fs::write(there.join(name), "no library at all\n")?;
    let script = format!(
        "exec 3< {}; read line; echo \"heard $line\"; read line; read other <&3; echo \"read <$other>\"; exit 7",
        there.join(name).display()
    );
    scene
        .cryo(["run", "--detach", "--terminal", "--name", "shell", "--"])
        // It needs no library.
        .arguments([Program::installed("busybox")?.path])
        .arguments(["sh", "-c", &script])
        .run()?
        .success()?;
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", "shell", "--kill", "--embed", "-o"])
        .arguments([&image])
        .run()?
        .success()?;
    let moved = format!("{}={}", there.display(), directory.display());
    let restarted = scene
        .cryo(["restart", "--detach", "--relocate", &moved])
        .arguments([&image])
        .run()?
        .success()?;
    if !restarted.stderr.is_empty() {
        return failed(format!("it says {:?}", restarted.stderr));
    }
    let mut screen = Screen::start(scene, ["attach", "shell"])?;
    screen.type_keys("you\r")?;
    screen.expect("heard you")?;
    // It has what the image has.
    screen.type_keys("\r")?;
    screen.expect("read <no library at all>")?;
    screen.wait_for_status(7)?;
    // In the foreground, too.
    let words = ["restart", "--relocate", &moved];
    let mut screen = Screen::start(
        scene,
        words.iter().map(AsRef::as_ref).chain([image.as_os_str()]),
    )?;
    screen.type_keys("again\r")?;
    screen.expect("heard again")?;
    screen.type_keys("\r")?;
    screen.wait_for_status(7)?;
    scene.wait_for("the end of what stood by", LIMIT, || {
        let mut left = processes::descendants(std::process::id() as i32).into_iter();
        let stands_by = |pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "cryo-stand-by" && processes::state(pid) != Some('Z')
        };
        (!left.any(stands_by)).then_some(())
    })
}

/// Ctrl-C while files are laid out, or whenever it comes: the restart is given up, or the job is told; nothing is left.
fn given_up(scene: &Scene) -> Outcome {
    const ATTEMPTS: usize = 8;
    let place = scene.make_directory("place")?;
    let mut noise = vec![0; 48 << 20];
    fs::File::open("/dev/urandom")?.read_exact(&mut noise)?;
    fs::write(place.join("data"), noise)?;
    let job = scene
        .cryo(["run", "--name", "job", "--", "sh", "-c"])
        .arguments([format!(
            "exec 3< {}; echo READY; exec sleep 1000",
            place.join("data").display()
        )])
        .start("job")?;
    await_ready(scene, &job)?;
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", "job", "--kill", "--embed", "-o"])
        .arguments([&image])
        .run()?
        .success()?;
    scene.wait(&job)?;
    fs::remove_dir_all(&place)?;
    let own = std::process::id() as i32;
    let lies_over = |pid: i32| {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        mounts.contains("cryonaut-embedded")
    };
    let mut given_up = 0;
    for _ in 0..ATTEMPTS {
        let words = [OsStr::new("restart"), image.as_os_str()];
        let mut screen = Screen::start(scene, words)?;
        let pid = screen.pid();
        scene.wait_for("files to be laid out", LIMIT, || {
            lies_over(pid).then_some(())
        })?;
        screen.type_keys("\x03")?;
        match screen.wait()?.code() {
            Some(125) if screen.shown().contains("interrupted") => given_up += 1,
            // It ran by then: the key was its own.
            Some(130) => {}
            code => return failed(format!("{code:?}, and it shows {:?}", screen.shown())),
        }
        scene.wait_for("all mounts to go", LIMIT, || {
            let mut left = processes::descendants(own).into_iter();
            (!left.any(lies_over)).then_some(())
        })?;
        let listed = scene.cryo(["list"]).run()?.success()?.stdout;
        if !listed.is_empty() {
            return failed(format!("it is in the list still: {listed}"));
        }
    }
    match given_up {
        0 => failed("it was never given up"),
        _ => Ok(()),
    }
}

for_each_user! {other_library, given_up}
