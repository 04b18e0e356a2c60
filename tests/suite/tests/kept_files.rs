//! What a job writes goes with the moment of its image: files in shared memory and mapped files after the job went on, ended, and
//! its files were changed or lost; and a restart that fails leaves them alone.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::{checkpoint, restart};
use cryonaut_suite::{Outcome, Program, Running, Scene, User, failed, processes, test};
use rustix::process::Signal;

/// What becomes of the files between the end of the job and its restart.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    Nothing,
    Deleted,
    Grown,
    CutShort,
}

fn files_of(job: &Running, scene: &Scene) -> Vec<PathBuf> {
    let shared = (0..3).map(|index| format!("/dev/shm/cryonaut-victim-{}-{index}", job.pid()));
    let own = scene.work(format!("victim-{}-3", job.pid()));
    shared.map(PathBuf::from).chain([own]).collect()
}

fn start(scene: &Scene) -> Outcome<(Running, Vec<PathBuf>)> {
    let program = Program::victim("mem_shm_file", &[])?.argument("writes_on");
    let job = scene.start("victim", &program)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    let files = files_of(&job, scene);
    Ok((job, files))
}

fn end(scene: &Scene, job: &Running) -> Outcome {
    let family = processes::family(job.pid());
    job.signal(Signal::KILL);
    scene.wait(job)?;
    scene.wait_for_disappearance(&family)
}

fn older_image(scene: &Scene, meanwhile: Meanwhile) -> Outcome {
    let (job, files) = start(scene)?;
    let image = scene.file("image");
    std::thread::sleep(Duration::from_millis(20));
    checkpoint(scene, &job.pid().to_string(), &image, "--leave-running")?;
    std::thread::sleep(Duration::from_millis(50));
    end(scene, &job)?;
    for file in &files {
        match meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::Deleted => fs::remove_file(file)?,
            Meanwhile::Grown => fs::OpenOptions::new()
                .write(true)
                .open(file)?
                .set_len(1 << 20)?,
            Meanwhile::CutShort => fs::OpenOptions::new().write(true).open(file)?.set_len(10)?,
        }
    }
    let life = restart(scene, &image, "restart")?;
    scene.go()?;
    let status = scene.wait(&life.running)?;
    for file in &files {
        let _ = fs::remove_file(file);
    }
    if !status.success() || job.output() != "READY\nOK\n" {
        return failed(format!("{meanwhile:?}: the victim says {:?}", job.output()));
    }
    let left = fs::read_dir("/dev/shm")?
        .flatten()
        .map(|entry| entry.file_name());
    let trace = format!("victim-{}", job.pid());
    let left: Vec<_> = left
        .filter(|name| name.to_string_lossy().contains(&trace))
        .collect();
    if left.is_empty() {
        Ok(())
    } else {
        failed(format!("left behind: {left:?}"))
    }
}

/// A restart that is refused changes nothing that is there.
fn refused(scene: &Scene) -> Outcome {
    let (job, files) = start(scene)?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--leave-running")?;
    end(scene, &job)?;
    for file in &files[..2] {
        fs::write(file, "another's")?;
    }
    fs::remove_file(&files[2])?;
    fs::create_dir(&files[2])?;
    let outcome = scene.cryo(["restart"]).arguments([&image]).run()?;
    let kept = files[..2]
        .iter()
        .all(|file| fs::read(file).is_ok_and(|text| text == b"another's"));
    for file in &files {
        let _ = fs::remove_file(file);
    }
    fs::remove_dir(&files[2])?;
    if outcome.status.success() || !outcome.stderr.contains("regular file") {
        return failed(format!("it was not refused: {}", outcome.stderr));
    }
    if kept {
        Ok(())
    } else {
        failed("what was there has changed")
    }
}

macro_rules! tests {
    ($($name:ident $user:ident $body:expr;)*) => {
        $(#[test]
        fn $name() {
            test(concat!("kept_files::", stringify!($name)), User::$user, $body);
        })*
    };
}

tests! {
    root_older Root |scene| older_image(scene, Meanwhile::Nothing);
    user_older Ordinary |scene| older_image(scene, Meanwhile::Nothing);
    root_deleted Root |scene| older_image(scene, Meanwhile::Deleted);
    user_deleted Ordinary |scene| older_image(scene, Meanwhile::Deleted);
    root_grown Root |scene| older_image(scene, Meanwhile::Grown);
    user_grown Ordinary |scene| older_image(scene, Meanwhile::Grown);
    root_cut_short Root |scene| older_image(scene, Meanwhile::CutShort);
    user_cut_short Ordinary |scene| older_image(scene, Meanwhile::CutShort);
    root_refused Root refused;
    user_refused Ordinary refused;
}
