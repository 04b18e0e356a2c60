//! MPI jobs on one node, launcher and all, come back as they were: messages on their way, shared segments, connections.
//!
//! - *generations*: started by `cryo run`, checkpointed at random times, killed and restarted, three times in a row;
//! - *quiet*: a program that quiesces its communication in callbacks (examples/ring.c), checkpointed and left running, then killed
//!   and restarted;
//! - *older*: checkpointed and left running, killed later, restarted from the older image, killed again, and restarted once more
//!   from it: shared memory must come back as it was saved, not as it is found.
//!
//! Each library with the transports it has on one node, but MPICH 4.0 over TCP (UCX), which hangs at its end every now and then, by
//! itself, on a busy machine. Connections in an MPI job are those of Open MPI, and of both launchers. The program checks whatever
//! it receives, and its output must be byte for byte that of an undisturbed run.

use std::fs;
use std::time::{Duration, Instant};

use cryonaut_suite::scene::describe_status;
use cryonaut_suite::victim::{checkpoint, generation, kill, leave_ipc_namespace, restart_within};
use cryonaut_suite::{Outcome, Program, Random, Running, Scene, User, failed, place, skip, test};

/// How long anything may take on a busy machine: four ranks that spin, on few processors.
const LIMIT: Duration = Duration::from_secs(280);

/// What the ranks run.
#[derive(Debug, Clone, Copy)]
enum Ranks {
    /// A C program that exchanges everything with everybody.
    Exchange,
    /// numpy and mpi4py, with large messages.
    Arrays,
    /// The example that has nothing on its way during a checkpoint.
    Quiet,
}

/// One library with one transport.
struct Setting {
    ranks: Ranks,
    launcher: &'static str,
    compiler: &'static str,
    options: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

/// As many ranks as the machine has no processors for, which give way to each other; also for root.
const OPEN_MPI: &[&str] = &[
    "--oversubscribe",
    "--bind-to",
    "none",
    "-mca",
    "mpi_yield_when_idle",
    "1",
    "-mca",
];
const AS_ROOT: &[(&str, &str)] = &[
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
];

const fn open_mpi(options: &'static [&'static str]) -> Setting {
    Setting {
        ranks: Ranks::Exchange,
        launcher: "mpirun.openmpi",
        compiler: "mpicc.openmpi",
        options,
        environment: AS_ROOT,
    }
}

const fn mpich(environment: &'static [(&'static str, &'static str)]) -> Setting {
    Setting {
        ranks: Ranks::Exchange,
        launcher: "mpirun.mpich",
        compiler: "mpicc.mpich",
        options: &[],
        environment,
    }
}

/// Large messages go by process_vm_readv(2), small ones by files in /dev/shm.
const OPEN_MPI_CMA: Setting = open_mpi(&["btl_vader_single_copy_mechanism", "cma"]);
/// All go through shared memory.
const OPEN_MPI_SHARED: Setting = open_mpi(&[
    "btl_vader_single_copy_mechanism",
    "none",
    "-mca",
    "osc",
    "pt2pt",
]);
const OPEN_MPI_TCP: Setting = open_mpi(&[
    "btl",
    "self,tcp",
    "-mca",
    "btl_tcp_if_include",
    "lo",
    "-mca",
    "osc",
    "pt2pt",
]);
/// As Open MPI comes, with numpy.
const MPI4PY: Setting = Setting {
    ranks: Ranks::Arrays,
    ..open_mpi(&["btl_vader_single_copy_mechanism", "cma"])
};
/// As it comes: System V segments that are marked for removal, deleted files in /dev/shm, process_vm_readv(2).
const MPICH: Setting = mpich(&[]);
const MPICH_SYSTEM_V: Setting = mpich(&[("UCX_TLS", "self,sysv")]);
const QUIET_OPEN_MPI: Setting = Setting {
    ranks: Ranks::Quiet,
    ..OPEN_MPI_CMA
};
const QUIET_MPICH: Setting = Setting {
    ranks: Ranks::Quiet,
    ..MPICH
};

impl Setting {
    /// The launcher with the ranks of what they run, for so many rounds that there are some after the last checkpoint.
    fn program(&self) -> Outcome<Program> {
        let launcher = Program::installed(self.launcher)?.arguments(["-np", "4"]);
        let mut program = match self.options {
            [] => launcher,
            options => launcher.arguments(OPEN_MPI).arguments(options),
        };
        for (name, value) in self.environment {
            program = program.variable(name, *value);
        }
        program = match self.ranks {
            Ranks::Exchange => {
                let sources = [place::programs().join("mpi_exchange.c")];
                Program::installed(self.compiler)?;
                let compiler = [self.compiler, "-O2", "-Wall", "-Wextra", "-Werror"];
                program.argument(place::compile("mpi_exchange", &compiler, &sources)?)
            }
            Ranks::Quiet => {
                let source = place::example("ring.c");
                Program::installed(self.compiler)?;
                program.argument(place::compile_with_libcryo(self.compiler, "ring", source)?)
            }
            Ranks::Arrays => {
                // Debian's, which goes with its libraries.
                let python = Program::at("/usr/bin/python3");
                let probe = std::process::Command::new(&python.path)
                    .args(["-c", "import numpy, mpi4py"])
                    .output();
                if !probe.is_ok_and(|probe| probe.status.success()) {
                    return skip("/usr/bin/python3 has no numpy and mpi4py; run cargo xtask setup");
                }
                program
                    .variable("OPENBLAS_NUM_THREADS", "1")
                    .argument(python.path)
                    .argument(place::publish(&place::programs().join("mpi_arrays.py"))?)
            }
        };
        Ok(program.arguments(match self.ranks {
            Ranks::Exchange => ["100", "20000"],
            // Messages of 2 MiB.
            Ranks::Arrays => ["34", "262144"],
            Ranks::Quiet => ["300", "20000"],
        }))
    }
}

/// What an undisturbed run prints, and how long it takes.
fn reference(scene: &Scene, program: &Program) -> Outcome<(Vec<u8>, Duration)> {
    let start = Instant::now();
    let run = scene.start("reference", program)?;
    finish(scene, &run)?;
    let took = start.elapsed();
    scene.note(format!("undisturbed: {} ms", took.as_millis()));
    Ok((fs::read(run.out_path())?, took))
}

fn finish(scene: &Scene, holder: &Running) -> Outcome {
    let status = scene.wait_within(holder, LIMIT)?;
    if status.success() {
        Ok(())
    } else {
        failed(format!(
            "the job {}: {}",
            describe_status(status),
            holder.errors()
        ))
    }
}

fn expect_same(job: &Running, wanted: &[u8]) -> Outcome {
    let found = fs::read(job.out_path())?;
    if found == wanted {
        return Ok(());
    }
    failed(format!(
        "the output differs from the undisturbed run's: {}",
        String::from_utf8_lossy(&found)
    ))
}

/// Waits until the job has come to a round, or has ended.
fn await_round(scene: &Scene, job: &Running, round: u32) -> Outcome {
    let line = format!("ROUND {round}\n");
    scene.wait_for(&format!("round {round}"), LIMIT, || {
        (job.output().contains(&line) || job.ended().is_some()).then_some(())
    })
}

fn start(scene: &Scene, program: &Program, name: &str) -> Outcome<Running> {
    let call = scene.cryo(["run", "--name", name, "--"]).program(program);
    call.start("job")
}

/// A moment somewhere within a round.
fn moment(random: &mut Random) {
    std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(80)));
}

fn generations(scene: &Scene, setting: &Setting) -> Outcome {
    leave_ipc_namespace();
    let program = setting.program()?;
    let (wanted, _) = reference(scene, &program)?;
    let mut random = Random::new();
    let mut target = format!("mpi-{}", std::process::id());
    let mut lives = vec![start(scene, &program, &target)?];
    for number in 1..=3 {
        await_round(scene, &lives[0], number * 8)?;
        moment(&mut random);
        let holder = &lives[lives.len() - 1];
        let life = match generation(scene, holder, &target, number) {
            // It came to its end while it was being stopped.
            Err(_) if number > 1 && holder.ended().is_some_and(|status| status.success()) => break,
            life => life?,
        };
        target = life.pid.to_string();
        lives.push(life.running);
    }
    finish(scene, &lives[lives.len() - 1])?;
    expect_same(&lives[0], &wanted)
}

fn older(scene: &Scene, setting: &Setting) -> Outcome {
    leave_ipc_namespace();
    let program = setting.program()?;
    let (wanted, _) = reference(scene, &program)?;
    let mut random = Random::new();
    let name = format!("mpi-{}", std::process::id());
    let job = start(scene, &program, &name)?;
    await_round(scene, &job, 10)?;
    moment(&mut random);
    let image = scene.file("older");
    checkpoint(scene, &name, &image, "--leave-running")?;
    await_round(scene, &job, 20)?;
    // The ports of connections that are not closed in order are free again after a minute, which a restart waits for.
    kill(scene, &job)?;
    // Whatever another life has done since to what the ranks share must not be seen by the next.
    let life = restart_within(scene, &image, "restart.1", LIMIT)?;
    await_round(scene, &job, 30)?;
    moment(&mut random);
    kill(scene, &life.running)?;
    let life = restart_within(scene, &image, "restart.2", LIMIT)?;
    finish(scene, &life.running)?;
    expect_same(&job, &wanted)
}

/// The lines that tell of a checkpoint, and all others.
fn split(output: &str) -> (Vec<&str>, Vec<&str>) {
    output.lines().partition(|line| line.starts_with("quiet"))
}

/// All ranks stand at one step with nothing on its way, in both lives, and come to the undisturbed result.
fn quiet(scene: &Scene, setting: &Setting) -> Outcome {
    leave_ipc_namespace();
    let program = setting.program()?;
    let (wanted, _) = reference(scene, &program)?;
    let name = format!("mpi-{}", std::process::id());
    let job = start(scene, &program, &name)?;
    scene.wait_for("its first steps", LIMIT, || {
        job.output().contains("step 10\n").then_some(())
    })?;
    let image = scene.file("image");
    for afterwards in ["--leave-running", "--kill"] {
        let call = scene.cryo(["checkpoint", &name, afterwards, "--grace", "2m", "-o"]);
        call.arguments([&image]).run()?.success()?;
    }
    scene.wait_within(&job, LIMIT)?;
    let life = restart_within(scene, &image, "restart", LIMIT)?;
    finish(scene, &life.running)?;
    let (output, wanted) = (job.output(), String::from_utf8_lossy(&wanted).into_owned());
    let (told, others) = split(&output);
    let lives = ["continue in life 0", "restart in life 1"];
    let all_told = told.len() == 2
        && told
            .iter()
            .zip(lives)
            .all(|(line, life)| line.ends_with(life));
    if !all_told || others != split(&wanted).1 {
        return failed(format!("the ranks wrote {output:?} instead of {wanted:?}"));
    }
    Ok(())
}

macro_rules! settings {
    ($($name:ident $setting:ident;)*) => {
        $(mod $name {
            use super::*;
            settings!(@tests $name $setting
                root_generations Root generations, root_older Root older,
                user_generations Ordinary generations, user_older Ordinary older);
        })*
    };
    (@tests $name:ident $setting:ident $($test:ident $user:ident $scenario:ident),*) => {
        $(#[test]
        fn $test() {
            let name = concat!("mpi::", stringify!($name), "::", stringify!($test));
            test(name, User::$user, |scene| $scenario(scene, &$setting));
        })*
    };
}

macro_rules! quiet {
    ($($name:ident $setting:ident;)*) => {
        $(mod $name {
            use super::*;
            settings!(@tests $name $setting root_quiet Root quiet, user_quiet Ordinary quiet);
        })*
    };
}

quiet! {
    quiet_open_mpi QUIET_OPEN_MPI;
    quiet_mpich QUIET_MPICH;
}

settings! {
    open_mpi_cma OPEN_MPI_CMA;
    open_mpi_shared OPEN_MPI_SHARED;
    open_mpi_tcp OPEN_MPI_TCP;
    mpich MPICH;
    mpich_system_v MPICH_SYSTEM_V;
    mpi4py MPI4PY;
}
