//! Huge pages that are not there: a restart is refused and starts nothing, and goes well once there are enough.

use cryonaut_suite::victim::{await_ready, checkpoint, finish, restart};
use cryonaut_suite::{HugePages, Outcome, Program, Scene, User, processes, test};

/// Pages that the victim has, with what a fork has made two of.
const PAGES: u64 = 10;
/// The status of a restart in the foreground that did not come about.
const NOT_RESTARTED: i32 = 125;

fn too_few(scene: &Scene) -> Outcome {
    let pages = HugePages::provide(PAGES + 4);
    let job = scene.start("victim", &Program::victim("mem_huge_private", &[])?)?;
    await_ready(scene, &job)?;
    let image = scene.file("image");
    let family = processes::family(job.pid());
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    scene.wait_for_disappearance(&family)?;
    for left in [0, 5, 9] {
        pages.leave(left)?;
        let words = format!("{left} are free here; make more");
        scene
            .cryo(["restart"])
            .arguments([&image])
            .run()?
            .refusal_with(&[NOT_RESTARTED], &[&words])?;
    }
    pages.leave(PAGES)?;
    let life = restart(scene, &image, "restart")?;
    finish(scene, &job, &life.running)
}

/// Only root may change how many there are.
#[test]
fn too_few_root() {
    test("huge_pages::too_few_root", User::Root, too_few);
}
