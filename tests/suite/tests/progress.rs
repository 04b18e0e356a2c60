//! The bar that a terminal shows while work takes long: of a checkpoint whose receiver takes its time.

use std::fs::File;
use std::io::{Read, copy, sink};

use cryonaut_suite::scene::LIMIT;

use cryonaut_suite::victim::await_ready;
use cryonaut_suite::{Outcome, Program, Scene, Screen, failed, for_each_user};

/// What is on the terminal after its last line was cleared (EL, ECMA-48), as far as it can be read.
fn after_clearing(shown: &str) -> &str {
    shown.rsplit("\u{1b}[2K").next().unwrap_or_default()
}

fn checkpoint_to_a_slow_reader(scene: &Scene) -> Outcome {
    const MEBIBYTES: u64 = 16;
    let program = Program::victim("heartbeat", &[])?.argument(MEBIBYTES.to_string());
    let job = scene.start("victim", &program)?;
    await_ready(scene, &job)?;
    let fifo = scene.work("fifo");
    let line = format!(
        "mkfifo fifo; exec '{}' checkpoint {} -o - > fifo",
        scene.cryo_path().display(),
        job.pid()
    );
    let shell = Program::installed("sh")?;
    let mut screen = Screen::start_program(scene, &shell.path, ["-c", &line])?;
    scene.wait_for("the pipe", LIMIT, || fifo.exists().then_some(()))?;
    let mut reader = File::open(&fifo)?;
    // It shows what is done, how much of it there is, and how far it is.
    screen.expect("the job runs on")?;
    screen.expect(" MiB/")?;
    let mut first = [0; 1 << 16];
    reader.read_exact(&mut first)?;
    let rest = copy(&mut reader, &mut sink())?;
    screen.wait_for_status(0)?;
    let shown = screen.shown();
    let last = after_clearing(&shown);
    if rest < MEBIBYTES << 20 {
        return failed(format!("{rest} bytes were sent"));
    }
    if last.contains(" MiB/") || !last.contains("saved 1 process") {
        return failed(format!("the bar is still there: {last:?}"));
    }
    scene.go()?;
    scene.wait(&job)?;
    Ok(())
}

for_each_user! { checkpoint_to_a_slow_reader }
