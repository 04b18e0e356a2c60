//! Jobs on a terminal of their own that nobody, one or several look at: detaching, attaching, and what is left of the user's
//! terminal.

use std::fs;
use std::path::Path;

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{Outcome, Scene, Screen, failed, for_each_user, processes};
use rustix::process::Signal;

const DETACH: &str = "\x1cd";

/// A shell as a job, in the way that this user's jobs usually live.
fn shell<'scene>(scene: &'scene Scene, name: &str) -> Outcome<Screen<'scene>> {
    let screen = Screen::start(scene, ["run", "--name", name, "--", "bash", "--norc"])?;
    screen.expect("$ ")?;
    Ok(screen)
}

/// Waits until `cryo list` shows this of the job.
fn expect_listed(scene: &Scene, name: &str, text: &str) -> Outcome {
    for _ in 0..100 {
        let listed = scene.cryo(["list"]).run()?.success()?.stdout;
        let line = listed.lines().find(|line| line.starts_with(name));
        if line.is_some_and(|line| line.contains(text)) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    failed(format!("cryo list does not show {name} as {text:?}"))
}

/// The processes of ours with this name below the tests.
fn ours(name: &str) -> Vec<i32> {
    let named = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
            && processes::state(*pid) != Some('Z')
    };
    processes::descendants(std::process::id() as i32)
        .into_iter()
        .filter(named)
        .collect()
}

fn detach_and_attach(scene: &Scene) -> Outcome {
    let mut screen = shell(scene, "one")?;
    expect_listed(scene, "one", " attached ")?;
    screen.type_keys("kept=remembered; (sleep 1; echo la'ter') & \r")?;
    screen.type_keys(DETACH)?;
    screen.expect("cryo attach one")?;
    screen.wait_for_status(0)?;
    expect_listed(scene, "one", " detached ")?;
    let mut again = Screen::start(scene, ["attach", "one"])?;
    // From before and from meanwhile.
    again.expect("kept=remembered")?;
    again.expect("later")?;
    again.type_keys("echo \"<$kept>\"\r")?;
    again.expect("<remembered>")?;
    // A lone first key reaches the job.
    again.type_keys("sleep 1000\r")?;
    again.expect("sleep 1000")?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    again.type_keys("\x1c")?;
    again.expect("Quit")?;
    again.type_keys("exit 7\r")?;
    again.wait_for_status(7)?;
    scene
        .cryo(["attach", "one"])
        .run()?
        .refusal_with(&[125], &["no job named one"])?;
    Ok(())
}

fn two_viewers(scene: &Scene) -> Outcome {
    let mut first = shell(scene, "shared")?;
    let mut second = Screen::start(scene, ["attach", "shared"])?;
    second.expect("$ ")?;
    expect_listed(scene, "shared", "attached 2 times")?;
    // The window is as small as the smallest.
    first.resize(30, 90)?;
    second.resize(40, 70)?;
    first.clear();
    scene.wait_for("the size that both can show", LIMIT, || {
        let _ = second.type_keys("stty size\r");
        std::thread::sleep(std::time::Duration::from_millis(100));
        first.shown().contains("30 70").then_some(())
    })?;
    second.expect("30 70")?;
    // One of them is killed: the other and the job go on.
    second.signal(Signal::KILL);
    second.wait()?;
    first.clear();
    scene.wait_for("the size of the one that is left", LIMIT, || {
        let _ = first.type_keys("stty size\r");
        std::thread::sleep(std::time::Duration::from_millis(100));
        first.shown().contains("30 90").then_some(())
    })?;
    let mut third = Screen::start(scene, ["attach", "shared"])?;
    third.expect("30 90")?;
    first.type_keys("exit 9\r")?;
    first.wait_for_status(9)?;
    third.wait_for_status(9)?;
    Ok(())
}

/// Whether the shell answers. What is typed in the instant in which a holder is killed is lost with it.
fn expect_answer(scene: &Scene, screen: &Screen<'_>) -> Outcome {
    scene.wait_for("an answer of the shell", LIMIT, || {
        let _ = screen.type_keys("echo $((40+2))\r");
        std::thread::sleep(std::time::Duration::from_millis(100));
        screen.shown().contains("\r42\r").then_some(())
    })
}

fn carrier_killed(scene: &Scene) -> Outcome {
    let mut screen = shell(scene, "orphan")?;
    screen.type_keys("trap 'echo hung up' HUP; echo set\r")?;
    screen.expect("\rset\r")?;
    screen.signal(Signal::KILL);
    screen.wait()?;
    expect_listed(scene, "orphan", " detached ")?;
    let screen = Screen::start(scene, ["attach", "orphan"])?;
    screen.expect("\rset\r")?;
    // The terminal of the user vanishes.
    let mut gone = screen.vanish();
    gone.wait()?;
    expect_listed(scene, "orphan", " detached ")?;
    // The process that holds the job's terminal is killed, while somebody looks.
    let mut screen = Screen::start(scene, ["attach", "orphan"])?;
    screen.expect("\rset\r")?;
    for holder in ours("cryo-holder") {
        processes::signal(holder, Signal::KILL);
    }
    expect_answer(scene, &screen)?;
    if screen.shown().contains("hung up\r") {
        return failed("the job's terminal hung up");
    }
    screen.type_keys(DETACH)?;
    screen.wait_for_status(0)?;
    // And while nobody does.
    for holder in ours("cryo-holder") {
        processes::signal(holder, Signal::KILL);
    }
    let mut screen = Screen::start(scene, ["attach", "orphan"])?;
    screen.type_keys("echo $((50+5))\r")?;
    screen.expect("55")?;
    screen.type_keys("exit 3\r")?;
    screen.wait_for_status(3)?;
    Ok(())
}

fn foreground_loses_holder_and_terminal(scene: &Scene) -> Outcome {
    let mut screen = shell(scene, "front")?;
    for holder in ours("cryo-holder") {
        processes::signal(holder, Signal::KILL);
    }
    expect_answer(scene, &screen)?;
    screen.type_keys(DETACH)?;
    screen.wait_for_status(0)?;
    let mut again = Screen::start(scene, ["attach", "front"])?;
    again.type_keys("exit 4\r")?;
    again.wait_for_status(4)?;
    let second = shell(scene, "closed")?;
    let mut gone = second.vanish();
    let status = gone.wait()?;
    if status.code() != Some(0) {
        return failed(format!("cryo run without its terminal: {status}"));
    }
    expect_listed(scene, "closed", " detached ")?;
    let mut again = Screen::start(scene, ["attach", "closed"])?;
    again.type_keys("exit 5\r")?;
    again.wait_for_status(5)
}

/// More than is kept, with nobody looking: the job does not wait, and the end of it is shown.
fn flowing(scene: &Scene) -> Outcome {
    let done = scene.work("done");
    let script = format!(
        "i=0; while [ $i -lt 60000 ]; do echo number $i; i=$((i+1)); done; echo over; touch {}; read line; exit 6",
        done.display()
    );
    scene
        .cryo([
            "run",
            "--detach",
            "--terminal",
            "--name",
            "noisy",
            "--",
            "sh",
            "-c",
            &script,
        ])
        .run()?
        .success()?;
    scene.wait_for("the job to print all", LIMIT, || {
        done.exists().then_some(())
    })?;
    let mut screen = Screen::start(scene, ["attach", "noisy"])?;
    screen.expect("number 59999\r\nover\r\n")?;
    let shown = screen.shown();
    if shown.len() < 200_000 || shown.len() > 300_000 || !shown.starts_with("number ") {
        return failed(format!("{} bytes of scrollback", shown.len()));
    }
    let fresh = Screen::start(scene, ["attach", "--no-scrollback", "noisy"])?;
    fresh.resize(20, 60)?;
    expect_listed(scene, "noisy", "attached 2 times")?;
    screen.type_keys("answer\r")?;
    fresh.expect("answer")?;
    if fresh.shown().contains("number") {
        return failed("scrollback was shown against the user's wish");
    }
    screen.wait_for_status(6)
}

/// A viewer that is stopped does not stop the job.
fn stalled(scene: &Scene) -> Outcome {
    let done = scene.work("done");
    let mut screen = shell(scene, "stalled")?;
    screen.signal(Signal::STOP);
    let mut other = Screen::start(scene, ["attach", "stalled"])?;
    other.type_keys(&format!("seq 200000; touch {}\r", done.display()))?;
    scene.wait_for("the job to print all", 2 * LIMIT, || {
        let _ = other.shown();
        done.exists().then_some(())
    })?;
    screen.signal(Signal::CONT);
    screen.expect("\n200000\r")?;
    other.type_keys("exit 0\r")?;
    other.wait_for_status(0)?;
    screen.wait_for_status(0)
}

fn restarted(scene: &Scene) -> Outcome {
    let image = scene.file("image");
    let mut screen = shell(scene, "travel")?;
    screen.type_keys("kept=remembered\r")?;
    screen.expect("kept=remembered\r\n")?;
    scene
        .cryo(["checkpoint", "travel", "--kill", "-o"])
        .arguments([&image])
        .run()?
        .success()?;
    screen.wait_for_status(137)?;
    let holders = || ours("cryo-holder").is_empty() && ours("cryo-keeper").is_empty();
    scene.wait_for("the end of what held the terminal", LIMIT, || {
        holders().then_some(())
    })?;
    scene
        .cryo(["restart", "--detach"])
        .arguments([&image])
        .run()?
        .success()?;
    expect_listed(scene, "travel", " detached ")?;
    let mut screen = Screen::start(scene, ["attach", "travel"])?;
    screen.type_keys("echo \"<$kept>\"\r")?;
    screen.expect("<remembered>")?;
    screen.type_keys(DETACH)?;
    screen.wait_for_status(0)?;
    // An image of a detached job has nothing of ours in it.
    scene
        .cryo(["checkpoint", "travel", "--kill", "-o"])
        .arguments([&image])
        .run()?
        .success()?;
    let shown = scene.cryo(["show"]).arguments([&image]).run()?.success()?;
    if shown.stdout.contains("cryo-holder") || shown.stdout.contains("cryo-keeper") {
        return failed("the image contains a process of cryo");
    }
    from_standard_input(scene, &image)
}

/// The image comes from standard input, the user is at /dev/tty.
fn from_standard_input(scene: &Scene, image: &Path) -> Outcome {
    scene
        .cryo(["restart", "-"])
        .run()?
        .refusal_with(&[125], &["--detach"])?;
    let script = format!(
        "exec {} restart - < {}",
        scene.cryo_path().display(),
        image.display()
    );
    let mut screen = Screen::start_program(scene, Path::new("/bin/sh"), ["-c", &script])?;
    screen.type_keys("echo \"<$kept>\"\r")?;
    screen.expect("<remembered>")?;
    screen.type_keys(DETACH)?;
    screen.wait_for_status(0)?;
    let mut screen = Screen::start(scene, ["attach", "travel"])?;
    screen.type_keys("exit 8\r")?;
    screen.wait_for_status(8)
}

fn refused(scene: &Scene) -> Outcome {
    let job = scene
        .cryo(["run", "--name", "plain", "--", "sleep", "1000"])
        .start("plain")?;
    expect_listed(scene, "plain", "sleep")?;
    scene
        .cryo(["attach", "plain"])
        .run()?
        .refusal_with(&[125], &["no terminal of its own"])?;
    scene
        .cryo(["attach", "plain", "--detach-key", "ctrl-"])
        .run()?
        .refusal_with(&[125], &["ctrl-x"])?;
    job.signal(Signal::TERM);
    scene.wait(&job)?;
    Ok(())
}

for_each_user! {
    detach_and_attach,
    two_viewers,
    carrier_killed,
    foreground_loses_holder_and_terminal,
    flowing,
    stalled,
    restarted,
    refused
}
