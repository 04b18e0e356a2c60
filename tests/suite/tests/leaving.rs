//! An image is planned while the job that it was made of still lives: its own ids count as free, everybody else's do not.

use std::collections::BTreeSet;
use std::fs::File;

use cryonaut_engine::host::{Changed, Host};
use cryonaut_engine::{Refusal, restart};
use cryonaut_image::SeekableImage;
use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::checkpoint;
use cryonaut_suite::{Outcome, Program, Scene, User, failed, processes, test};

fn refusals(image: &SeekableImage, leaving: BTreeSet<i32>) -> Outcome<Vec<Refusal>> {
    let planned = || -> cryonaut_engine::Result<Vec<Refusal>> {
        let host = Host {
            leaving,
            ..Host::look(true, Changed::Refuse)?
        };
        let plan = restart::plan(image, &image.records()?, &host)?;
        Ok(plan.refusals.list().to_vec())
    };
    planned().or_else(failed)
}

fn plan_for_the_living(scene: &Scene) -> Outcome {
    let program = Program::victim("threads", &[])?.argument("4");
    let job = scene.start("victim", &program)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    let path = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &path, "--leave-running")?;
    let image = SeekableImage::open(File::open(&path)?).or_else(failed)?;
    let taken = refusals(&image, BTreeSet::new())?;
    if taken.len() < 5
        || !taken
            .iter()
            .all(|refusal| refusal.reason.contains("in use"))
    {
        return failed(format!(
            "the ids of a job that lives are not taken: {taken:?}"
        ));
    }
    let mut leaving: BTreeSet<i32> = processes::descendants(job.pid()).into_iter().collect();
    leaving.insert(job.pid());
    let left = refusals(&image, leaving)?;
    if !left.is_empty() {
        return failed(format!("its own ids stand in its way: {left:?}"));
    }
    scene.go()?;
    scene.wait(&job)?;
    Ok(())
}

#[test]
fn a_job_does_not_stand_in_its_own_way() {
    test(
        "a_job_does_not_stand_in_its_own_way",
        User::Root,
        plan_for_the_living,
    );
}
