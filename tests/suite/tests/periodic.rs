//! Checkpoints at an interval are made as long as the job lives, whatever becomes of who started it.

use std::fs;
use std::path::{Path, PathBuf};

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::screen::Screen;
use cryonaut_suite::{Outcome, Scene, failed, for_each_user, processes};
use rustix::process::Signal;

/// What starts the job, up to the directory's name.
const RUN: [&str; 8] = [
    "run", "--name", "job", "--every", "1s", "--keep", "2", "--dir",
];

fn images(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut images: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "cryo"))
        .collect();
    images.sort();
    images
}

/// Waits for an image that is not there yet.
fn await_image(scene: &Scene, directory: &Path) -> Outcome {
    let before = images(directory);
    scene.wait_for("another checkpoint", LIMIT, || {
        images(directory)
            .iter()
            .any(|image| !before.contains(image))
            .then_some(())
    })
}

/// Ends the job; who makes its checkpoints ends with it.
fn end(scene: &Scene) -> Outcome {
    let saver = || {
        let mut all = processes::descendants(std::process::id() as i32).into_iter();
        all.find(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.starts_with(b"cryo-saver"))
        })
    };
    let Some(saver) = saver() else {
        return failed("nobody makes the checkpoints");
    };
    let listed = scene.cryo(["list"]).run()?.success()?.stdout;
    let pid = listed.lines().find_map(|line| {
        line.strip_prefix("job  pid ")?
            .split(' ')
            .next()?
            .parse()
            .ok()
    });
    let Some(pid) = pid else {
        return failed(format!("no such job in the list: {listed:?}"));
    };
    processes::signal(pid, Signal::KILL);
    scene.wait_for_disappearance(&[saver])
}

fn terminal_closed(scene: &Scene) -> Outcome {
    let directory = scene.make_directory("saves")?;
    let line = RUN.map(PathBuf::from).into_iter();
    let line = line.chain([directory.clone()]);
    let line = line.chain(["--", "sleep", "1000"].map(PathBuf::from));
    let user = Screen::start(scene, line)?;
    await_image(scene, &directory)?;
    user.vanish().wait()?;
    await_image(scene, &directory)?;
    await_image(scene, &directory)?;
    end(scene)
}

fn killed(scene: &Scene) -> Outcome {
    let directory = scene.make_directory("saves")?;
    let call = scene.cryo(RUN).arguments([&directory]);
    let run = call.arguments(["--", "sleep", "1000"]).start("run")?;
    await_image(scene, &directory)?;
    run.signal(Signal::KILL);
    scene.wait(&run)?;
    await_image(scene, &directory)?;
    await_image(scene, &directory)?;
    end(scene)
}

fn detached(scene: &Scene) -> Outcome {
    let directory = scene.make_directory("saves")?;
    let call = scene.cryo(RUN).arguments([&directory]);
    let call = call.arguments(["--detach", "--", "sleep", "1000"]);
    call.run()?.success()?;
    await_image(scene, &directory)?;
    await_image(scene, &directory)?;
    end(scene)
}

/// Why nothing is saved is told by the list.
fn failures(scene: &Scene) -> Outcome {
    let directory = scene.make_directory("saves")?;
    let away = scene.file("away");
    let call = scene.cryo(RUN).arguments([&directory]);
    let call = call.arguments(["--detach", "--", "sleep", "1000"]);
    call.run()?.success()?;
    await_image(scene, &directory)?;
    let says = |wanted: bool| {
        let what = match wanted {
            true => "the list to say what failed",
            false => "the list to say no more that something failed",
        };
        scene.wait_for(what, LIMIT, || {
            let listed = scene.cryo(["list"]).run().ok()?.success().ok()?.stdout;
            let told = listed.contains("not saved") && listed.contains("No such file");
            (told == wanted).then_some(())
        })
    };
    fs::rename(&directory, &away)?;
    says(true)?;
    fs::rename(&away, &directory)?;
    says(false)?;
    await_image(scene, &directory)?;
    end(scene)
}

for_each_user! { terminal_closed, killed, detached, failures }
