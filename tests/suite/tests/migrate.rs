//! Jobs that move: never two running copies, always one that can be had.
//!
//! Both sides are on this machine, each with a list of jobs of its own; what lies between them is a command of the test's.
//!
//! `CRYONAUT_KILL_ROUNDS` says how many times a process in between is killed at random (15, unless said).

#[path = "migrate/wire.rs"]
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::{await_ready, finish};
use cryonaut_suite::{
    CryoCall, Outcome, Program, Random, Running, Scene, Screen, User, failed, for_each_user,
    kill_rounds, processes,
};
use rustix::process::Signal;

use wire::Wire;

/// The exit code that says that the job has ended here, and is kept there.
const ELSEWHERE: i32 = 7;
const REFUSED: i32 = 3;
/// The exit code that says that it runs on here.
const UNDONE: i32 = 4;
/// The exit code that says that nobody can say.
const IN_DOUBT: i32 = 8;

fn rounds() -> u32 {
    kill_rounds(15)
}

/// A place that a job can be in: a list of jobs, and a directory for images on their way.
struct Side<'scene> {
    scene: &'scene Scene,
    run: PathBuf,
    state: PathBuf,
}

impl<'scene> Side<'scene> {
    fn new(scene: &'scene Scene, name: &str) -> Outcome<Self> {
        Ok(Self {
            scene,
            run: scene.make_directory(&format!("run-{name}"))?,
            state: scene.make_directory(&format!("state-{name}"))?,
        })
    }

    fn cryo(&self, arguments: &[&str]) -> CryoCall<'scene> {
        self.scene
            .cryo(arguments)
            .variable("XDG_RUNTIME_DIR", &self.run)
            .variable("XDG_STATE_HOME", &self.state)
    }

    /// The command that receives here, as sh reads it; env takes it, too.
    fn receive(&self) -> String {
        format!(
            "XDG_RUNTIME_DIR={} XDG_STATE_HOME={} {} receive",
            self.run.display(),
            self.state.display(),
            self.scene.cryo_path().display()
        )
    }

    /// The pids of the jobs that run here. One whose last process has just ended may still be in the list.
    fn running(&self) -> Outcome<Vec<i32>> {
        let jobs = self.cryo(&["list"]).run()?.success()?.stdout;
        let pids = jobs
            .lines()
            .filter_map(|line| line.split_once("  pid ")?.1.split(' ').next()?.parse().ok());
        let alive = |pid: &i32| !matches!(processes::state(*pid), None | Some('Z' | 'X'));
        Ok(pids.filter(alive).collect())
    }

    /// The images that are kept here.
    fn images(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state.join("cryonaut"));
        let files = entries.into_iter().flatten().flatten();
        files
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "cryo"))
            .collect()
    }

    fn forget_images(&self) {
        let _ = fs::remove_dir_all(self.state.join("cryonaut"));
    }
}

/// A victim that is a job of this side.
fn start(side: &Side<'_>, victim: &str) -> Outcome<Running> {
    let program = Program::victim(victim, &[])?;
    let job = side
        .cryo(&["run", "--name", "job", "--"])
        .arguments([&program.path])
        .start(victim)?;
    await_ready(side.scene, &job)?;
    Ok(job)
}

/// Lets a victim go on that runs somewhere, and wants it to find everything right.
fn expect_right(scene: &Scene, victim: &Running) -> Outcome {
    scene.go()?;
    scene.wait_for("the moved victim's word", LIMIT, || {
        victim.output().contains("OK").then_some(())
    })
}

fn moved(scene: &Scene) -> Outcome {
    for victim in [
        "mem_private",
        "threads",
        "task_tree",
        "pipe_data",
        "pty_bytes",
    ] {
        let _ = fs::remove_file(scene.go_path());
        let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
        let job = start(&here, victim)?;
        // There and back.
        for (from, to) in [(&here, &there), (&there, &here)] {
            let said = from
                .cryo(&["migrate", "job", "--via", &to.receive()])
                .run()?
                .success()?;
            if !said.stdout.contains("moved ") || !said.stdout.contains(": job, pid ") {
                return failed(format!("it says {:?}", said.stdout));
            }
            let (left, arrived) = (from.running()?, to.running()?);
            if !left.is_empty() || arrived.len() != 1 || !to.images().is_empty() {
                return failed(format!(
                    "{victim}: {left:?} are here, {arrived:?} there, and {:?}",
                    to.images()
                ));
            }
        }
        expect_right(scene, &job)?;
        scene.wait(&job)?;
        scene.wait_for("the job to leave the list", LIMIT, || {
            let jobs = here.cryo(&["list"]).run().ok()?.stdout;
            (!jobs.contains("  pid ")).then_some(())
        })?;
    }
    Ok(())
}

/// It cannot be had there: it runs on here.
fn refused(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    let job = start(&here, "mem_private")?;
    let other = there
        .cryo(&["run", "--detach", "--name", "job", "--", "sleep", "1000"])
        .run()?
        .success()?;
    scene.note(other.stdout);
    let receive = there.receive();
    let migrate = |via: &str, more: &[&str]| {
        let call = here.cryo(&["migrate", "job", "--via", via]);
        call.arguments(more).run()
    };
    migrate(&receive, &["--name", "job"])?.refusal_with(&[2], &["is running already"])?;
    migrate(&receive, &["--name", "77"])?.refusal_with(&[2], &["is no name"])?;
    migrate("echo welcome; exit 3", &[])?.refusal_with(&[4], &["it said: welcome"])?;
    migrate("exit 1", &[])?.refusal_with(&[4], &["no `cryo receive` answers"])?;
    migrate("yes | head -c 1000000", &[])?.refusal_with(&[4], &["does not speak as cryo"])?;
    here.cryo(&["migrate", "nobody", "--via", &receive])
        .run()?
        .refusal_with(&[2], &["no job named nobody"])?;
    here.cryo(&["migrate", "job"])
        .run()?
        .refusal_with(&[2], &["host"])?;
    here.cryo(&["migrate", "job", "-oProxyCommand=true"])
        .run()?
        .refusal_with(&[2], &["-o"])?;
    // A pipe tells nobody whether what went through it has arrived.
    here.cryo(&["checkpoint", "job", "--kill", "-o", "-"])
        .run()?
        .refusal_with(&[2], &["cryo migrate"])?;
    // A name that is taken is given a number where nobody asked for it.
    let said = migrate(&receive, &[])?.success()?;
    if !said.stdout.contains(": job-2, pid ") {
        return failed(format!("it says {:?}", said.stdout));
    }
    expect_right(scene, &job)?;
    scene.wait(&job)?;
    Ok(())
}

/// A program that the other side does not have is a reason against it, until it travels along.
fn missing_files(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    let place = scene.make_directory("place")?;
    let program = Program::victim("mem_private", &[])?;
    fs::copy(&program.path, place.join("program"))?;
    let job = here
        .cryo(&["run", "--name", "job", "--"])
        .arguments([place.join("program")])
        .start("victim")?;
    await_ready(scene, &job)?;
    // It is not there on the other side, which has a tree of its own.
    let own = scene.user_id();
    let (outer, inner) = match scene.user() {
        User::Root => ("unshare -m", "env".to_owned()),
        User::Ordinary => (
            "unshare -Urm",
            format!("unshare -U --map-user={own} --map-group={own} env"),
        ),
    };
    let hidden = format!(
        "{outer} sh -c 'mount -t tmpfs none {} && exec {inner} {}'",
        place.display(),
        there.receive()
    );
    here.cryo(&["migrate", "job", "--via", &hidden])
        .run()?
        .refusal_with(&[REFUSED], &["--self-contained"])?;
    if here.running()?.len() != 1 || !there.images().is_empty() {
        return failed("the job does not run on, or its image was left");
    }
    here.cryo(&["migrate", "job", "--self-contained", "--via", &hidden])
        .run()?
        .success()?;
    scene.wait(&job)?;
    expect_right(scene, &job)
}

/// The stream is cut, the disk there is full, the other side hangs.
fn broken(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    let job = start(&here, "mem_large")?;
    let receive = there.receive();
    let expect_unharmed = || match here.running()?.len() == 1 && there.images().is_empty() {
        true => Ok(()),
        false => failed("the job does not run on, or its image was left"),
    };
    for length in [1, 10, 100, 1_000, 5_000, 20_000] {
        here.cryo(&[
            "migrate",
            "job",
            "--via",
            &format!("dd bs=1 count={length} status=none | {receive}"),
        ])
        .run()?
        .refusal_with(&[UNDONE], &["connection has ended"])?
        .refusal(&["runs on here"])?;
        expect_unharmed()?;
    }
    let small = scene.make_directory("small")?;
    let full = format!(
        "unshare -Urm sh -c 'mount -t tmpfs -o size=16k,mode=700 none {0} && exec env {receive} --dir {0}'",
        small.display()
    );
    here.cryo(&["migrate", "job", "--via", &full])
        .run()?
        .refusal_with(&[UNDONE], &["no space"])?
        .refusal(&["runs on here"])?;
    expect_unharmed()?;
    here.cryo(&[
        "migrate",
        "job",
        "--patience",
        "1s",
        "--via",
        &format!("(dd bs=1 count=5000 status=none; sleep 1000) | {receive}"),
    ])
    .run()?
    .refusal_with(&[UNDONE], &["nothing has moved"])?
    .refusal(&["runs on here"])?;
    expect_unharmed()?;
    // Ctrl-C while nobody answers.
    let waiting = here
        .cryo(&["migrate", "job", "--via", "sleep 1000"])
        .start("waiting")?;
    std::thread::sleep(Duration::from_millis(300));
    waiting.signal(Signal::INT);
    if scene.wait(&waiting)?.code() != Some(4) {
        return failed("Ctrl-C did not end it in order");
    }
    expect_unharmed()?;
    finish(scene, &job, &job)
}

/// A job on a terminal has one there, where nobody is until somebody attaches.
fn on_a_terminal(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    here.cryo(&[
        "run",
        "--detach",
        "--terminal",
        "--name",
        "shell",
        "--",
        "sh",
        "-c",
    ])
    .arguments(["read line; echo \"heard $line\"; read line"])
    .run()?
    .success()?;
    let said = here
        .cryo(&["--json", "migrate", "shell", "--via", &there.receive()])
        .run()?
        .success()?;
    if !said.stdout.contains("\"terminal\":true") {
        return failed(format!("it says {:?}", said.stdout));
    }
    let attach = scene.work("attach.sh");
    scene.write(
        &attach,
        format!(
            "XDG_RUNTIME_DIR={} exec {} attach shell\n",
            there.run.display(),
            scene.cryo_path().display()
        ),
    )?;
    let mut screen = Screen::start_program(scene, Path::new("/bin/sh"), [&attach])?;
    screen.type_keys("you\r")?;
    screen.expect("heard you")?;
    screen.type_keys("\r")?;
    screen.wait_for_status(0)
}

/// The user has stopped the terminal (Ctrl-S) on which the move shows how far it is: the job does not stand still for that.
fn on_a_stopped_terminal(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    let job = start(&here, "mem_large")?;
    let script = scene.work("migrate.sh");
    // Longer under way than a bar waits to show itself.
    let via = format!(
        "(dd bs=1 count=5000 status=none; sleep 3; cat) | {}",
        there.receive()
    );
    scene.write(
        &script,
        format!(
            "read line; XDG_RUNTIME_DIR={} exec {} migrate job --no-compress --via '{via}'\n",
            here.run.display(),
            scene.cryo_path().display()
        ),
    )?;
    let mut screen = Screen::start_program(scene, Path::new("/bin/sh"), [&script])?;
    screen.type_keys("\r\x13")?;
    scene.wait_for("the job on the other side", LIMIT, || {
        let arrived = there.running().ok()?;
        (arrived.len() == 1).then_some(())
    })?;
    expect_copies((&here, 0), (&there, 1))?;
    if screen.shown().contains("rebuilding") {
        return failed("the terminal was not stopped");
    }
    screen.type_keys("\x11")?;
    screen.wait_for_status(0)?;
    if !screen.shown().contains("moved ") {
        return failed(format!("it shows {:?}", screen.shown()));
    }
    scene.wait(&job)?;
    expect_right(scene, &job)
}

/// What somebody outside reads does not get there: that is told.
fn led_out(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    let mut piped = scene.command(Path::new("/bin/sh"));
    piped.arg("-c").arg(format!(
        "XDG_RUNTIME_DIR={} {} run --name job -- sh -c 'echo READY; exec sleep 1000' < /dev/null | cat",
        here.run.display(),
        scene.cryo_path().display(),
    ));
    let piped = scene.spawn("piped", piped)?;
    await_ready(scene, &piped)?;
    let said = here
        .cryo(&["--json", "migrate", "job", "--via", &there.receive()])
        .run()?
        .success()?;
    if !said
        .stdout
        .contains("its standard output led to processes outside of it")
    {
        return failed(format!("it says {:?}", said.stdout));
    }
    expect_copies((&here, 0), (&there, 1))?;
    scene.wait(&piped)?;
    for pid in there.running()? {
        processes::signal(pid, Signal::KILL);
    }
    Ok(())
}

/// The list of jobs there is held for longer than the sender waits where nothing moves: the other side says that it is at work.
fn held_list(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    let job = start(&here, "mem_private")?;
    // It makes the directory.
    there.running()?;
    let lock = fs::OpenOptions::new()
        .write(true)
        .open(there.run.join("cryonaut/.lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(std::io::Error::from)?;
    let moving = here
        .cryo(&[
            "migrate",
            "job",
            "--patience",
            "1s",
            "--via",
            &there.receive(),
        ])
        .start("moving")?;
    // The original has ended when the copy is let go.
    scene.wait_for("the end of the original", LIMIT, || {
        here.running().ok()?.is_empty().then_some(())
    })?;
    std::thread::sleep(Duration::from_secs(8));
    drop(lock);
    if !scene.wait(&moving)?.success() {
        return failed(format!("it says {:?}", moving.errors()));
    }
    expect_copies((&here, 0), (&there, 1))?;
    scene.wait(&job)?;
    expect_right(scene, &job)
}

/// The word that lets the copy go comes when nobody expects it any more: there is one copy all the same.
fn late_word(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    let job = start(&here, "mem_private")?;
    let mut wire = Wire::start(&here, &there, 1)?;
    let ready = wire.until_ready()?;
    let [image] = there.images().try_into().or_else(|images| {
        failed(format!(
            "the image is to be there when it is said, not {images:?}"
        ))
    })?;
    wire.far.signal(Signal::STOP);
    wire.pass_back(&ready)?;
    let commit = wire.until_commit()?;
    wire.pass_there(&commit)?;
    expect_end(scene, &wire, ELSEWHERE, "restart --detach")?;
    let restart = || {
        let call = there.cryo(&["restart", "--detach"]).arguments([&image]);
        call.run()
    };
    restart()?.refusal_with(&[REFUSED], &["holds a copy"])?;
    wire.far.signal(Signal::CONT);
    if !scene.wait(&wire.far)?.success() {
        return failed(format!("it says {:?}", wire.far.errors()));
    }
    expect_copies((&here, 0), (&there, 1))?;
    if !there.images().is_empty() {
        return failed("the image was left");
    }
    scene.wait(&job)?;
    expect_right(scene, &job)
}

/// The word that lets the copy go never comes: the image is there, with what to do.
fn lost_word(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    let job = start(&here, "mem_private")?;
    let mut wire = Wire::start(&here, &there, 1)?;
    let ready = wire.until_ready()?;
    wire.pass_back(&ready)?;
    let commit = wire.until_commit()?;
    expect_end(scene, &wire, ELSEWHERE, "restart --detach")?;
    scene.wait(&wire.far)?;
    // Nobody is there to hear it.
    wire.pass_there(&commit)?;
    let [image] = there
        .images()
        .try_into()
        .or_else(|images| failed(format!("not one image, but {images:?}")))?;
    let beside = image.with_extension("txt");
    let text = fs::read_to_string(&beside)?;
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&beside)?) & 0o777;
    let command = format!("cryo restart --detach {}", image.display());
    if !text.contains(&command) || !text.contains("Nobody has said") || mode != 0o600 {
        return failed(format!("mode {mode:o}: {text:?}"));
    }
    there
        .cryo(&["restart", "--detach"])
        .arguments([&image])
        .run()?
        .success()?;
    expect_copies((&here, 0), (&there, 1))?;
    scene.wait(&job)?;
    expect_right(scene, &job)
}

/// Whatever is killed, and when: the exit code says what has become of the job.
fn true_to_the_end(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    let job = start(&here, "mem_private")?;
    // Nothing has been sent.
    let mut wire = Wire::start(&here, &there, 1)?;
    wire.until_accepted()?;
    processes::signal(await_apart(scene, &wire)?, Signal::KILL);
    expect_end(scene, &wire, UNDONE, "the job runs on here")?;
    expect_copies((&here, 1), (&there, 0))?;
    let (_, far) = wire.hang_up();
    scene.wait(&far)?;
    if !there.images().is_empty() {
        return failed("an image was left of what was not sent");
    }
    // It was not heard that it is ready.
    let mut wire = Wire::start(&here, &there, 2)?;
    let ready = wire.until_ready()?;
    let apart = await_apart(scene, &wire)?;
    processes::signal(apart, Signal::STOP);
    wire.pass_back(&ready)?;
    processes::signal(apart, Signal::KILL);
    expect_end(scene, &wire, UNDONE, "remove it")?;
    expect_copies((&here, 1), (&there, 0))?;
    scene.wait(&wire.far)?;
    drop(wire);
    there.forget_images();
    // The original has ended.
    let mut wire = Wire::start(&here, &there, 3)?;
    let ready = wire.until_ready()?;
    wire.pass_back(&ready)?;
    let commit = wire.until_commit()?;
    processes::signal(await_apart(scene, &wire)?, Signal::KILL);
    wire.pass_there(&commit)?;
    expect_end(scene, &wire, ELSEWHERE, "has ended here")?;
    scene.wait(&wire.far)?;
    expect_copies((&here, 0), (&there, 1))?;
    scene.wait(&job)?;
    // Nobody hears of a move that went well.
    let mut back = scene.command(Path::new("/bin/sh"));
    back.arg("-c").arg(format!(
        "exec env XDG_RUNTIME_DIR={} XDG_STATE_HOME={} {} migrate job --via '{}' > /dev/full",
        there.run.display(),
        there.state.display(),
        scene.cryo_path().display(),
        here.receive()
    ));
    let back = scene.spawn("unheard", back)?;
    if scene.wait(&back)?.code() != Some(0) || !back.errors().contains("runs on") {
        return failed(format!("it says {:?}", back.errors()));
    }
    expect_copies((&here, 1), (&there, 0))?;
    expect_right(scene, &job)
}

/// The other side is killed while it builds: there is no image then, since the original runs on.
fn killed_building(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    let job = start(&here, "task_tree")?;
    let mut random = Random::new();
    let mut building = 0;
    for number in 0..60 {
        if building == 5 {
            break;
        }
        let mut wire = Wire::start(&here, &there, number)?;
        wire.until_complete()?;
        std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(60)));
        wire.far.signal(Signal::KILL);
        scene.wait(&wire.far)?;
        let ready = wire.is_ready()?;
        let (near, _) = wire.hang_up();
        if scene.wait(&near)?.code() != Some(UNDONE) {
            return failed(format!("it says {:?}", near.errors()));
        }
        expect_copies((&here, 1), (&there, 0))?;
        building += u32::from(!ready);
        // It may have been killed between the name and the word.
        let images = there.images();
        if !ready
            && images
                .iter()
                .any(|image| !image.with_extension("txt").exists())
        {
            return failed(format!("{images:?} were left without a word"));
        }
        scene.note(format!("ready: {ready}, {images:?}"));
        there.forget_images();
    }
    if building == 0 {
        return failed("it was never killed while it built");
    }
    finish(scene, &job, &job)
}

fn expect_end(scene: &Scene, wire: &Wire, code: i32, words: &str) -> Outcome {
    let status = scene.wait(&wire.near)?;
    let said = wire.near.errors();
    if status.code() != Some(code) || !said.contains(words) {
        return failed(format!("{status:?} and {said:?}, not {code} and {words:?}"));
    }
    Ok(())
}

fn expect_copies(here: (&Side<'_>, usize), there: (&Side<'_>, usize)) -> Outcome {
    for (side, wanted) in [here, there] {
        let running = side.running()?;
        if running.len() != wanted {
            return failed(format!("{running:?} run in {:?}, not {wanted}", side.run));
        }
    }
    Ok(())
}

/// The process that moves the job.
fn await_apart(scene: &Scene, wire: &Wire) -> Outcome<i32> {
    scene.wait_for("the process apart", LIMIT, || {
        let mut found = processes::descendants(wire.near.pid()).into_iter();
        found.find(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "cryo-apart"
        })
    })
}

for_each_user! {
    moved, refused, missing_files, broken, on_a_terminal, on_a_stopped_terminal, led_out, held_list, late_word, lost_word, true_to_the_end, killed_building, killed
}

/// A job that counts, so that a second copy, or a gap, shows in what it writes.
const COUNTING: &str = "exec >> \"$1\"; i=0; while [ ! -e \"$VICTIM_GO\" ]; do i=$((i+1)); echo $i; sleep 0.01; done; echo end";

fn killed(scene: &Scene) -> Outcome {
    let (here, there) = (Side::new(scene, "here")?, Side::new(scene, "there")?);
    let (path, _) = scene.output_file("counted")?;
    here.cryo(&["run", "--detach", "--name", "job", "--"])
        .arguments(["sh", "-c", COUNTING, "sh"])
        .arguments([&path])
        .run()?
        .success()?;
    let mut random = Random::new();
    let (mut from, mut to) = (&here, &there);
    let mut usual = Duration::from_millis(300);
    let (mut killed, mut in_doubt) = (0, 0);
    while killed < rounds() {
        let via = format!("cat | {} | cat", to.receive());
        let start = Instant::now();
        let near = from
            .cryo(&["migrate", "job", "--patience", "5s", "--via", &via])
            .start(&format!("near.{killed}"))?;
        std::thread::sleep(random.between(Duration::ZERO, usual * 5 / 4));
        let hit = kill_one(&near, &mut random);
        killed += u32::from(hit);
        let status = scene.wait(&near)?;
        if !hit {
            usual = (usual + start.elapsed()) / 2;
        }
        settle(scene)?;
        let (left, arrived) = (from.running()?.len(), to.running()?.len());
        scene.note(format!(
            "{status:?}, killed: {hit}: {left} here, {arrived} there, images {:?}",
            to.images()
        ));
        match (left, arrived, status.code()) {
            // Nothing was said where the one who says it was killed.
            (1, 0, Some(3 | UNDONE | IN_DOUBT) | None) => {
                let told = status.code() != Some(UNDONE) || near.errors().contains("remove it");
                if !told && !to.images().is_empty() {
                    return failed(format!(
                        "an image was left, and it says {:?}",
                        near.errors()
                    ));
                }
            }
            (0, 1, Some(0 | ELSEWHERE | IN_DOUBT) | None) => std::mem::swap(&mut from, &mut to),
            (0, 0, Some(ELSEWHERE | IN_DOUBT) | None) => {
                in_doubt += 1;
                let images = to.images();
                let [image] = images.as_slice() else {
                    return failed(format!("not one image, but {images:?}"));
                };
                to.cryo(&["restart", "--detach"])
                    .arguments([image])
                    .run()?
                    .success()?;
                std::mem::swap(&mut from, &mut to);
            }
            _ => {
                return failed(format!(
                    "{left} copies run here, {arrived} there, it ended with {status:?}"
                ));
            }
        }
        here.forget_images();
        there.forget_images();
    }
    scene.go()?;
    let text = scene.wait_for("the job's end", LIMIT, || {
        let text = fs::read_to_string(&path).ok()?;
        text.ends_with("end\n").then_some(text)
    })?;
    println!("{killed} killed, {in_doubt} brought back from the image");
    let mut wanted = 0;
    for line in text.lines().filter(|line| *line != "end") {
        wanted += 1;
        if line != wanted.to_string() {
            return failed(format!("{line:?} was written where {wanted} should be"));
        }
    }
    Ok(())
}

/// Kills one of the processes that move a job; whether there was one.
fn kill_one(near: &Running, random: &mut Random) -> bool {
    let mut movers = processes::descendants(near.pid());
    movers.push(near.pid());
    movers.retain(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        matches!(name.trim(), "cryo" | "cryo-apart" | "cat")
            && !matches!(processes::state(*pid), None | Some('Z'))
    });
    if movers.is_empty() {
        return false;
    }
    let last = movers.len() as u64 - 1;
    let chosen = random.below(last + 1) as usize;
    processes::signal(movers[chosen], Signal::KILL);
    true
}

/// Waits until all that moved the job has ended.
fn settle(scene: &Scene) -> Outcome {
    let own = std::process::id() as i32;
    scene.wait_for("what moved the job to end", LIMIT, || {
        scene.wait_for_disappearance(&[]).ok()?;
        let mut left = processes::descendants(own).into_iter();
        left.all(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            !matches!(name.trim(), "cryo" | "cryo-apart" | "cryo-guardian" | "cat")
        })
        .then_some(())
    })
}
