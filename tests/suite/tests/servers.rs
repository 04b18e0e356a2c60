//! Servers and their clients, all in one job, in the middle of real traffic: nothing is lost, repeated or mixed up.
//!
//! Each program keeps its traffic up until it is told to end, says TRAFFIC now and then, checks all that it gets, and its sums in
//! the end. Meanwhile it is checkpointed at random times,
//!
//! - *traffic*: and left running, twice; then killed and restarted, twice; then left running once more;
//! - *older*: and left running, killed later by something else, and restarted from the older image. Only what keeps nothing in
//!   files: those would have moved on.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cryonaut_suite::scene::{ORDINARY_ID, describe_status};
use cryonaut_suite::victim::{Life, kill, leave_ipc_namespace, restart_within};
use cryonaut_suite::{
    Outcome, Program, Random, Running, Scene, User, failed, place, processes, skip, test,
};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

type Subject = fn(User) -> Outcome<Program>;

/// A copy of one of the suite's programs that every user can read.
fn readable(name: &str) -> Outcome<PathBuf> {
    place::publish(&place::programs().join(name))
}

/// A port below those that the kernel gives to clients, which another test would be given while the job is in its image.
fn port() -> Outcome<String> {
    let first = 20_000 + std::process::id() % 12_000;
    for port in (first..32_000).chain(20_000..first) {
        if TcpListener::bind(("127.0.0.1", port as u16)).is_ok() {
            return Ok(port.to_string());
        }
    }
    failed("there is no free port")
}

fn postgres(user: User) -> Outcome<Program> {
    Program::installed("psql")?;
    Program::installed("setpriv")?;
    let server = |directory: fs::DirEntry| directory.path().join("bin/initdb").exists();
    if !fs::read_dir("/usr/lib/postgresql").is_ok_and(|found| found.flatten().any(server)) {
        return skip("no server of PostgreSQL is installed; run cargo xtask setup");
    }
    let program = Program::installed("bash")?
        .argument(readable("postgres.sh")?)
        .argument(port()?);
    Ok(match user {
        // The server refuses to be root's.
        User::Root => program.argument(ORDINARY_ID.to_string()),
        User::Ordinary => program,
    })
}

fn redis(_: User) -> Outcome<Program> {
    Program::installed("redis-server")?;
    Ok(python("redis.py")?.argument(port()?))
}

fn nginx(_: User) -> Outcome<Program> {
    Program::installed("nginx")?;
    Program::installed("curl")?;
    Ok(Program::installed("bash")?
        .argument(readable("nginx.sh")?)
        .argument(port()?))
}

fn asyncio(_: User) -> Outcome<Program> {
    python("asyncio_streams.py")
}

fn python(name: &str) -> Outcome<Program> {
    Ok(Program::installed("python3")?
        .argument(readable(name)?)
        .variable("PYTHONDONTWRITEBYTECODE", "1"))
}

fn websocket(_: User) -> Outcome<Program> {
    Ok(Program::installed("node")?.argument(readable("websocket.js")?))
}

fn java(user: User) -> Outcome<Program> {
    // The compiler is a package of its own.
    Program::installed("javac")?;
    // What fills the largest buffers that the kernel gives takes root to make more room.
    let blocks = match user {
        User::Root => "100000",
        User::Ordinary => "40",
    };
    Ok(Program::installed("java")?
        .arguments(["-Xmx128m", "-XX:ActiveProcessorCount=2"])
        .argument(readable("Sockets.java")?)
        .argument(blocks))
}

/// One server with a thousand connections to a hundred processes.
fn crowd(_: User) -> Outcome<Program> {
    let sources = [place::programs().join("crowd.c")];
    let path = place::compile("crowd", &["gcc", "-O1"], &sources)?;
    Ok(Program::at(path).arguments(["100", "1000"]))
}

/// How often the job has said that its traffic goes on.
fn progress(job: &Running) -> usize {
    job.output().matches("TRAFFIC\n").count()
}

/// Waits until there was some more traffic, and then for a random moment.
fn let_it_run(scene: &Scene, job: &Running, holder: &Running, random: &mut Random) -> Outcome {
    let before = progress(job);
    scene.wait_for("traffic", LIMIT, || {
        (progress(job) >= before + 2 || holder.ended().is_some()).then_some(())
    })?;
    if let Some(status) = holder.ended() {
        return failed(format!("the job {}", describe_status(status)));
    }
    std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(200)));
    Ok(())
}

/// Has the job come to its end, which it does with 0 only if all was right.
fn finish(scene: &Scene, job: &Running, holder: &Running) -> Outcome {
    scene.go()?;
    let status = scene.wait_within(holder, LIMIT)?;
    if status.success() && job.output().ends_with("FINAL\n") {
        return Ok(());
    }
    failed(format!("the job {}", describe_status(status)))
}

/// Started by itself, or by `cryo run`; with the name by which it is checkpointed.
fn start(scene: &Scene, program: &Program) -> Outcome<(Running, String)> {
    if scene.user() == User::Root {
        let job = scene.start("job", program)?;
        let target = job.pid().to_string();
        return Ok((job, target));
    }
    let name = format!("server-{}", std::process::id());
    let call = scene.cryo(["run", "--name", &name, "--"]).program(program);
    Ok((call.start("job")?, name))
}

/// Checkpoints the job; again where what stands in the way passes by itself, and cryo says so: a connection that waits to be
/// accepted while something was sent on it already.
fn save(scene: &Scene, target: &str, image: &Path, afterwards: &str) -> Outcome {
    for _ in 0..20 {
        let result = scene
            .cryo(["checkpoint", target, "-o"])
            .arguments([image])
            .arguments([afterwards])
            .run()?;
        if result.status.success() {
            return Ok(());
        }
        result.refusal_with(&[3], &["waits to be accepted"])?;
    }
    failed("connections never stop waiting to be accepted")
}

/// One generation: saved and killed, everything gone, restarted.
fn generation(scene: &Scene, holder: &Running, target: &str, number: u32) -> Outcome<Life> {
    let image = scene.file(format!("image.{number}"));
    let family = processes::family(holder.pid());
    save(scene, target, &image, "--kill")?;
    scene.wait(holder)?;
    scene.wait_for_disappearance(&family)?;
    restart_within(scene, &image, &format!("restart.{number}"), LIMIT)
}

fn traffic(scene: &Scene, subject: Subject) -> Outcome {
    leave_ipc_namespace();
    let mut random = Random::new();
    let (job, mut target) = start(scene, &subject(scene.user())?)?;
    let_it_run(scene, &job, &job, &mut random)?;
    for number in 1..=2 {
        let image = scene.file(format!("left.{number}"));
        save(scene, &target, &image, "--leave-running")?;
        let_it_run(scene, &job, &job, &mut random)?;
    }
    let mut lives = vec![job];
    for number in 1..=2 {
        let life = generation(scene, &lives[lives.len() - 1], &target, number)?;
        target = life.pid.to_string();
        let_it_run(scene, &lives[0], &life.running, &mut random)?;
        lives.push(life.running);
    }
    save(scene, &target, &scene.file("last"), "--leave-running")?;
    let last = &lives[lives.len() - 1];
    let_it_run(scene, &lives[0], last, &mut random)?;
    finish(scene, &lives[0], last)
}

fn older(scene: &Scene, subject: Subject) -> Outcome {
    let mut random = Random::new();
    let (job, target) = start(scene, &subject(scene.user())?)?;
    let_it_run(scene, &job, &job, &mut random)?;
    let image = scene.file("older");
    save(scene, &target, &image, "--leave-running")?;
    let_it_run(scene, &job, &job, &mut random)?;
    kill(scene, &job)?;
    let life = restart_within(scene, &image, "restart", LIMIT)?;
    let_it_run(scene, &job, &life.running, &mut random)?;
    finish(scene, &job, &life.running)
}

macro_rules! servers {
    ($($name:ident: $($scenario:ident),*;)*) => {
        $(mod $name {
            use super::*;
            $(mod $scenario {
                use super::*;

                #[test]
                fn root() {
                    let name = concat!(stringify!($name), "::", stringify!($scenario), "::root");
                    test(name, User::Root, |scene| super::super::$scenario(scene, super::super::$name));
                }

                #[test]
                fn user() {
                    let name = concat!(stringify!($name), "::", stringify!($scenario), "::user");
                    test(name, User::Ordinary, |scene| super::super::$scenario(scene, super::super::$name));
                }
            })*
        })*
    };
}

servers! {
    postgres: traffic;
    redis: traffic;
    nginx: traffic;
    asyncio: traffic, older;
    websocket: traffic, older;
    java: traffic, older;
    crowd: traffic;
}
