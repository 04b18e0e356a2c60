//! Real programs, interrupted at random times, must write byte for byte what they write when left alone.
//!
//! - *generations*: checkpointed, killed and restarted three times in a row;
//! - *named*: the same, started by `cryo run` and checkpointed by name;
//! - *older*: checkpointed and left running, killed later by something else, then restarted from the older image, twice.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cryonaut_suite::scene::describe_status;
use cryonaut_suite::victim::{checkpoint, generation, kill, restart};
use cryonaut_suite::{Outcome, Program, Random, Running, Scene, User, failed, place, skip, test};

/// How long an uninterrupted run may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(100);

/// One program and the files that it leaves.
struct Subject {
    program: fn() -> Outcome<Program>,
    results: &'static [&'static str],
}

static SUBJECTS: [(&str, Subject); 18] = [
    (
        "numpy",
        Subject {
            program: numpy,
            results: &[],
        },
    ),
    (
        "pipeline",
        Subject {
            program: pipeline,
            results: &["result.gz"],
        },
    ),
    (
        "lammps",
        Subject {
            program: lammps,
            results: &["final.dump"],
        },
    ),
    (
        "r",
        Subject {
            program: r,
            results: &["state.bin"],
        },
    ),
    (
        "exchange",
        Subject {
            program: exchange,
            results: &[],
        },
    ),
    (
        "static_c",
        Subject {
            program: static_c,
            results: &[],
        },
    ),
    (
        "rust_threads",
        Subject {
            program: rust_threads,
            results: &[],
        },
    ),
    (
        "java",
        Subject {
            program: java,
            results: &[],
        },
    ),
    (
        "node",
        Subject {
            program: node,
            results: &[],
        },
    ),
    (
        "perl",
        Subject {
            program: perl,
            results: &[],
        },
    ),
    (
        "ruby",
        Subject {
            program: ruby,
            results: &[],
        },
    ),
    (
        "go",
        Subject {
            program: go,
            results: &[],
        },
    ),
    (
        "octave",
        Subject {
            program: octave,
            results: &["field.bin"],
        },
    ),
    (
        "sqlite",
        Subject {
            program: sqlite,
            results: &[],
        },
    ),
    (
        "make",
        Subject {
            program: make,
            results: &["program"],
        },
    ),
    (
        "archive",
        Subject {
            program: archive,
            results: &["result.tar.xz"],
        },
    ),
    (
        "valgrind",
        Subject {
            program: valgrind,
            results: &[],
        },
    ),
    (
        "many_processes",
        Subject {
            program: many_processes,
            results: &[],
        },
    ),
];

fn numpy() -> Outcome<Program> {
    let python = Program::installed("python3")?;
    let probe = std::process::Command::new(&python.path)
        .args(["-c", "import numpy, scipy"])
        .output()?;
    if !probe.status.success() {
        return skip("python3 has no numpy and scipy; run cargo xtask setup");
    }
    Ok(python
        .argument(readable("algebra.py")?)
        .arguments(["60", "400"])
        .variable("OPENBLAS_NUM_THREADS", "2")
        .variable("PYTHONDONTWRITEBYTECODE", "1"))
}

fn pipeline() -> Outcome<Program> {
    Program::installed("gawk")?;
    Ok(Program::installed("bash")?
        .argument(readable("pipeline.sh")?)
        .argument("60000"))
}

fn lammps() -> Outcome<Program> {
    let variables = [
        "-var",
        "n",
        "1500",
        "-var",
        "out",
        "final.dump",
        "-log",
        "run.log",
        "-screen",
        "none",
    ];
    Ok(Program::installed("lmp")?
        .argument("-in")
        .argument(readable("melt.lammps")?)
        .arguments(variables)
        .variable("OMP_NUM_THREADS", "1")
        // Debian's is linked with Open MPI: without launcher, sockets and memory files, of which one process needs none.
        .variable("OMPI_MCA_ess_singleton_isolated", "1")
        .variable("OMPI_MCA_pml", "ob1")
        .variable("OMPI_MCA_btl", "self")
        .variable("OMPI_MCA_shmem", "mmap"))
}

fn r() -> Outcome<Program> {
    Ok(Program::installed("Rscript")?
        .argument(readable("bootstrap.R")?)
        .argument("5000"))
}

fn exchange() -> Outcome<Program> {
    Ok(Program::installed("python3")?
        .argument(readable("exchange.py")?)
        .argument("1200")
        .variable("PYTHONDONTWRITEBYTECODE", "1"))
}

fn static_c() -> Outcome<Program> {
    Ok(Program::victim("torture", &["-static"])?.argument("4"))
}

fn rust_threads() -> Outcome<Program> {
    let sources = [place::programs().join("many_threads.rs")];
    let compiler = ["rustc", "--edition", "2024", "-O"];
    let path = place::compile("many_threads", &compiler, &sources)?;
    Ok(Program::at(path).arguments(["300", "400"]))
}

fn java() -> Outcome<Program> {
    // The compiler is a package of its own.
    Program::installed("javac")?;
    Ok(Program::installed("java")?
        .arguments(["-Xmx128m", "-XX:ActiveProcessorCount=2"])
        .argument(readable("Threads.java")?)
        .arguments(["60", "4000"]))
}

fn node() -> Outcome<Program> {
    Ok(Program::installed("node")?
        .argument(readable("workers.js")?)
        .arguments(["60", "60000"]))
}

fn perl() -> Outcome<Program> {
    Ok(Program::installed("perl")?
        .argument(readable("children.pl")?)
        .argument("600"))
}

fn ruby() -> Outcome<Program> {
    Ok(Program::installed("ruby")?
        .argument(readable("actors.rb")?)
        .arguments(["60", "4000"]))
}

fn go() -> Outcome<Program> {
    Program::installed("go")?;
    let sources = [place::programs().join("goroutines.go")];
    // What it has compiled it keeps in a cache, which is to be of this user, whoever runs the test.
    let cache = format!(
        "GOCACHE={}",
        std::env::temp_dir().join("cryonaut-go").display()
    );
    let compiler = ["env", &cache, "CGO_ENABLED=0", "go", "build"];
    let path = place::compile("goroutines", &compiler, &sources)?;
    Ok(Program::at(path).arguments(["140", "40"]))
}

fn octave() -> Outcome<Program> {
    Ok(Program::installed("octave-cli")?
        .arguments(["--norc", "--no-history", "--silent"])
        .argument(readable("simulation.m")?)
        .arguments(["250", "120"])
        .variable("OPENBLAS_NUM_THREADS", "1"))
}

fn sqlite() -> Outcome<Program> {
    Program::installed("sqlite3")?;
    Ok(Program::installed("bash")?
        .argument(readable("transactions.sh")?)
        .argument("120"))
}

fn make() -> Outcome<Program> {
    Program::installed("make")?;
    Ok(Program::installed("bash")?
        .argument(readable("build.sh")?)
        .argument("12"))
}

fn archive() -> Outcome<Program> {
    Program::installed("xz")?;
    Ok(Program::installed("bash")?
        .argument(readable("archive.sh")?)
        .argument("60"))
}

fn valgrind() -> Outcome<Program> {
    let sources = [place::programs().join("lists.c")];
    let watched = place::compile("lists", &["gcc", "-O1", "-pthread"], &sources)?;
    // It moves its own descriptors to the top of what is allowed.
    Ok(Program::installed("valgrind")?
        .arguments(["--quiet", "--error-exitcode=9", "--leak-check=full"])
        .argument(watched)
        .argument("3000"))
}

fn many_processes() -> Outcome<Program> {
    let sources = [place::programs().join("fork_tree.c")];
    let path = place::compile("fork_tree", &["gcc", "-O1"], &sources)?;
    Ok(Program::at(path).arguments(["500", "400"]))
}

/// A copy of one of the suite's programs that every user can read.
fn readable(name: &str) -> Outcome<PathBuf> {
    place::publish(&place::programs().join(name))
}

/// What a run left: its output, then its files.
fn results(scene: &Scene, job: &Running, subject: &Subject) -> Outcome<Vec<Vec<u8>>> {
    let mut all = vec![fs::read(job.out_path())?];
    for name in subject.results {
        match fs::read(scene.work(name)) {
            Ok(bytes) => all.push(bytes),
            Err(error) => return failed(format!("the program left no {name}: {error}")),
        }
    }
    Ok(all)
}

/// The uninterrupted run: what it leaves, and how long it takes.
fn reference(scene: &Scene, subject: &Subject) -> Outcome<(Vec<Vec<u8>>, Duration)> {
    let start = Instant::now();
    let job = scene.start("reference", &(subject.program)()?)?;
    let status = scene.wait_within(&job, LIMIT)?;
    if !status.success() {
        return failed(format!("the uninterrupted run {}", describe_status(status)));
    }
    let took = start.elapsed();
    let wanted = results(scene, &job, subject)?;
    for name in subject.results {
        fs::remove_file(scene.work(name))?;
    }
    scene.note(format!("uninterrupted: {} ms", took.as_millis()));
    Ok((wanted, took))
}

fn expect_same(scene: &Scene, job: &Running, subject: &Subject, wanted: &[Vec<u8>]) -> Outcome {
    let found = results(scene, job, subject)?;
    for (index, (wanted, found)) in wanted.iter().zip(&found).enumerate() {
        if wanted != found {
            let place = wanted
                .iter()
                .zip(found)
                .position(|(one, other)| one != other);
            let what = if index == 0 {
                "standard output"
            } else {
                subject.results[index - 1]
            };
            return failed(format!(
                "{what} differs from the uninterrupted run's: {} bytes instead of {}, first difference at {:?}",
                found.len(),
                wanted.len(),
                place.unwrap_or(wanted.len().min(found.len()))
            ));
        }
    }
    Ok(())
}

/// Lets a job run for a random share of the uninterrupted run's time; whether it still runs then.
fn run_on(random: &mut Random, job: &Running, took: Duration, low: u32, high: u32) -> bool {
    let pause = random.between(took * low / 100, took * high / 100);
    std::thread::sleep(pause);
    job.ended().is_none()
}

fn finish(scene: &Scene, holder: &Running) -> Outcome {
    let status = scene.wait_within(holder, LIMIT)?;
    if status.success() {
        Ok(())
    } else {
        failed(format!("the interrupted run {}", describe_status(status)))
    }
}

/// Starts the program, lets it run for a random share, `low` to `high` percent, of the time that an uninterrupted run took, and makes
/// its first checkpoint by `act`. A machine that had other work then and has none now is faster than that time says: when the
/// program has come to its end, half of the time is tried.
fn interrupted<T>(
    scene: &Scene,
    subject: &Subject,
    (wanted, took): (&[Vec<u8>], Duration),
    (low, high): (u32, u32),
    start: impl Fn(&str) -> Outcome<Running>,
    act: impl Fn(&Running) -> Outcome<T>,
) -> Outcome<(Running, T)> {
    const STARTS: u32 = 6;
    let mut random = Random::new();
    for number in 0..STARTS {
        let job = start(&format!("job.{number}"))?;
        if run_on(&mut random, &job, took / (1 << number), low, high) {
            match act(&job) {
                Ok(done) => return Ok((job, done)),
                Err(error) if job.ended().is_none_or(|status| !status.success()) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        finish(scene, &job)?;
        expect_same(scene, &job, subject, wanted)?;
        for name in subject.results {
            fs::remove_file(scene.work(name))?;
        }
    }
    failed(format!(
        "the program ended before its first checkpoint, {STARTS} times"
    ))
}

/// Three generations of a job that `start` begins; `target` is how the first is checkpointed.
fn go_through_generations(
    scene: &Scene,
    subject: &Subject,
    start: impl Fn(&str) -> Outcome<Running>,
    target: impl Fn(&Running) -> String,
) -> Outcome {
    let (wanted, took) = reference(scene, subject)?;
    let mut random = Random::new();
    let (job, first) = interrupted(scene, subject, (&wanted, took), (5, 22), start, |job| {
        generation(scene, job, &target(job), 1)
    })?;
    let mut lives = vec![first];
    for number in 2..=3 {
        let holder = &lives[lives.len() - 1];
        if !run_on(&mut random, &holder.running, took, 5, 22) {
            break;
        }
        match generation(scene, &holder.running, &holder.pid.to_string(), number) {
            Ok(life) => lives.push(life),
            // It came to its end while it was being stopped.
            Err(_)
                if holder
                    .running
                    .ended()
                    .is_some_and(|status| status.success()) =>
            {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    finish(scene, &lives[lives.len() - 1].running)?;
    scene.note(format!(
        "{} generations; output in {}",
        lives.len(),
        job.out_path().display()
    ));
    expect_same(scene, &job, subject, &wanted)
}

fn generations(scene: &Scene, subject: &Subject) -> Outcome {
    let program = (subject.program)()?;
    go_through_generations(
        scene,
        subject,
        |label| scene.start(label, &program),
        |job| job.pid().to_string(),
    )
}

fn named(scene: &Scene, subject: &Subject) -> Outcome {
    let program = (subject.program)()?;
    let name = format!("program-{}", std::process::id());
    let start = |label: &str| {
        let call = scene.cryo(["run", "--name", &name, "--"]).program(&program);
        call.start(label)
    };
    go_through_generations(scene, subject, start, |_| name.clone())
}

fn older(scene: &Scene, subject: &Subject) -> Outcome {
    let (wanted, took) = reference(scene, subject)?;
    let mut random = Random::new();
    let program = (subject.program)()?;
    let image = scene.file("older");
    let (job, _) = interrupted(
        scene,
        subject,
        (&wanted, took),
        (10, 50),
        |label| scene.start(label, &program),
        |job| checkpoint(scene, &job.pid().to_string(), &image, "--leave-running"),
    )?;
    run_on(&mut random, &job, took, 10, 30);
    kill(scene, &job)?;
    for number in 1..=2 {
        let life = restart(scene, &image, &format!("restart.{number}"))?;
        finish(scene, &life.running)?;
        expect_same(scene, &job, subject, &wanted)?;
    }
    Ok(())
}

fn subject(name: &str) -> &'static Subject {
    &SUBJECTS
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a known program")
        .1
}

/// For each program the tests of both users: every scenario, as few as show everything (`brief`), or only those in which
/// what the program would do next to its files is not done (`kept`).
macro_rules! programs {
    (@tests $name:ident $($test:ident $user:ident $scenario:ident),*) => {
        $(#[test]
        fn $test() {
            let name = concat!(stringify!($name), "::", stringify!($test));
            test(name, User::$user, |scene| $scenario(scene, subject(stringify!($name))));
        })*
    };
    (@all $name:ident) => {
        programs!(@tests $name root_generations Root generations, root_older Root older,
            user_generations Ordinary generations, user_named Ordinary named, user_older Ordinary older);
    };
    (@brief $name:ident) => {
        programs!(@tests $name root_generations Root generations,
            user_named Ordinary named, user_older Ordinary older);
    };
    (@kept $name:ident) => {
        programs!(@tests $name root_generations Root generations, user_named Ordinary named);
    };
    ($($kind:ident: $($name:ident),*;)*) => {
        $($(mod $name {
            use super::*;
            programs!(@$kind $name);
        })*)*
    };
}

programs! {
    all: numpy, pipeline, lammps, r, exchange, static_c, rust_threads;
    brief: java, node, perl, go, archive;
    kept: ruby, octave, sqlite, make, valgrind, many_processes;
}
