//! Programs of the tests that write a line for each thing that they are told, and READY when they can be worked with.

use crate::outcome::{Outcome, failed};
use crate::scene::{LIMIT, Running, Scene};

/// Waits until the program has written this word.
pub fn await_word(scene: &Scene, job: &Running, word: &str) -> Outcome {
    scene.wait_for(&format!("{word:?} in the job's output"), LIMIT, || {
        job.output().contains(word).then_some(())
    })
}

/// The lines that the program wrote, without READY.
#[must_use]
pub fn lines(job: &Running) -> Vec<String> {
    let output = job.output();
    let lines = output.lines().filter(|line| *line != "READY");
    lines.map(str::to_owned).collect()
}

/// Waits until the program has written exactly these lines.
pub fn await_lines(scene: &Scene, job: &Running, wanted: &[&str]) -> Outcome {
    let last = wanted.last().copied().unwrap_or_default();
    let came = scene.wait_for("its lines", LIMIT, || {
        let lines = lines(job);
        (lines.len() >= wanted.len() && lines.iter().any(|line| line == last)).then_some(())
    });
    let found = lines(job);
    if came.is_ok() && found == wanted {
        return Ok(());
    }
    failed(format!("the program wrote {found:?} instead of {wanted:?}"))
}

/// One of these lines comes before another one.
pub fn comes_before(lines: &[String], first: &str, second: &str) -> Outcome {
    let at = |wanted: &str| lines.iter().position(|line| line == wanted);
    match (at(first), at(second)) {
        (Some(first), Some(second)) if first < second => Ok(()),
        _ => failed(format!(
            "{first:?} does not come before {second:?}: {lines:?}"
        )),
    }
}

/// The callbacks of which the first is called before the second: thread context in reverse, then all threads with callbacks in signal
/// context, each in reverse. Afterwards it is the other way round.
pub const ORDER: [(&str, &str); 4] = [
    ("second", "first"),
    ("first", "main"),
    ("first", "other-second"),
    ("other-second", "other-first"),
];

/// The callbacks of [`ORDER`] were called in it for the checkpoint, and the other way round for what came then.
pub fn in_order(lines: &[String], event: &str) -> Outcome {
    let line = |name: &str, event: &str| format!("{name} {event}");
    for (before, after) in ORDER {
        comes_before(
            lines,
            &line(before, "checkpoint"),
            &line(after, "checkpoint"),
        )?;
        comes_before(lines, &line(after, event), &line(before, event))?;
    }
    Ok(())
}

/// Waits for the program's end, which is to be a good one.
pub fn expect_end(scene: &Scene, job: &Running) -> Outcome {
    let status = scene.wait(job)?;
    if status.success() {
        return Ok(());
    }
    failed(format!("the job ended with {status}"))
}
