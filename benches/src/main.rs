//! What a checkpoint and a restart cost a program: seen by that program, beside CRIU in the same run.
//!
//! These are measurements, never tests: nothing here passes or fails by time. `benches/README.md` says how to run
//! them and how to read the table.
#![forbid(unsafe_code)]

mod case;
mod command;
mod failure;
mod participation;
mod report;
mod room;
mod round;
mod subject;
mod suspension;
mod tool;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;

use crate::case::Case;
use crate::failure::Failure;
use crate::report::Report;
use crate::round::Workplace;
use crate::subject::SubjectProgram;
use crate::tool::Tool;

/// Measures checkpoint and restart with cryo and, where CRYONAUT_CRIU names its binary, with CRIU.
#[derive(Debug, Parser)]
#[command(name = "cryonaut-benches")]
struct Arguments {
    /// Cases to measure, such as memory-64m, memory-1g-huge, processes-10, threads-100, mappings-10000 or
    /// descriptors-1000; any number will do. Without one, the standard cases.
    #[arg(value_name = "CASE")]
    cases: Vec<Case>,

    /// How often each case is measured with each tool; the table shows medians.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,

    /// Where images and logs are written while measuring; a directory on the disk to be measured.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,

    /// Measures suspend and resume of a numpy job of this size (64m, 1g) instead, beside SIGSTOP and beside an image; as root.
    #[arg(long, value_name = "SIZE", value_parser = case::parse_bytes, conflicts_with = "cases")]
    suspend: Option<u64>,

    /// Measures instead what libcryo costs a program that no cryo comes to: start, work with and without it, critical sections.
    #[arg(long, conflicts_with_all = ["cases", "suspend"])]
    libcryo: bool,

    /// Print every sample as JSON; the table then goes to standard error.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let apart = match arguments.suspend {
        Some(bytes) => Some(measure_suspension(&arguments, bytes)),
        None => arguments.libcryo.then(|| measure_libcryo(&arguments)),
    };
    if let Some(outcome) = apart {
        return match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("cryonaut-benches: {failure}");
                ExitCode::from(2)
            }
        };
    }
    match measure(&arguments) {
        Ok(report) if report.is_complete() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("cryonaut-benches: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Where it is measured.
fn directory(arguments: &Arguments) -> PathBuf {
    match &arguments.directory {
        Some(directory) => directory.clone(),
        None => target_directory().join("bench"),
    }
}

/// Processes whose parent has gone become children of this one, which then can wait for their end: a pid is only free for a restart
/// once somebody has done so.
fn adopt_orphans() -> Result<(), Failure> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Failure::new(format!("cannot become the parent of orphans: {error}")))
}

fn measure_suspension(arguments: &Arguments, bytes: u64) -> Result<(), Failure> {
    let workplace = Workplace::prepare(&directory(arguments))?;
    let cryo = find_tools()?.into_iter().find_map(|tool| match tool {
        Tool::Cryo(binary) => Some(binary),
        Tool::Criu(_) => None,
    });
    let cryo = cryo.ok_or_else(|| Failure::new("there is no cryo to measure".to_owned()))?;
    adopt_orphans()?;
    let measured = (bytes, arguments.rounds);
    let interrupted = watch_for_interruption()?;
    suspension::measure(
        workplace.directory(),
        cryo,
        measured,
        arguments.json,
        &interrupted,
    )
}

fn measure_libcryo(arguments: &Arguments) -> Result<(), Failure> {
    let workplace = Workplace::prepare(&directory(arguments))?;
    let library = std::env::var_os("CRYO_LIBRARY").map_or_else(
        || target_directory().join("release/libcryo.so"),
        PathBuf::from,
    );
    let interrupted = watch_for_interruption()?;
    participation::measure(
        workplace.directory(),
        &absolute(&library)?,
        (arguments.rounds, arguments.json),
        &interrupted,
    )
}

fn measure(arguments: &Arguments) -> Result<Report, Failure> {
    let workplace = Workplace::prepare(&directory(arguments))?;
    let tools = find_tools()?;
    adopt_orphans()?;
    let program = SubjectProgram::compile(workplace.directory())?;
    let standard = case::standard();
    let cases = if arguments.cases.is_empty() {
        &standard
    } else {
        &arguments.cases
    };

    let interrupted = watch_for_interruption()?;

    let mut report = Report::new(arguments.rounds);
    'cases: for case in cases {
        for round in 0..arguments.rounds {
            // The tools take turns at going first, so that neither always finds the machine as the
            // other left it.
            let first = round as usize % tools.len();
            for tool in tools[first..].iter().chain(&tools[..first]) {
                eprintln!(
                    "{case}: round {} of {}, {}",
                    round + 1,
                    arguments.rounds,
                    tool.name()
                );
                let outcome = workplace.round(case, tool, &program);
                if interrupted.load(Ordering::Relaxed) {
                    report.interrupt();
                    break 'cases;
                }
                report.add(case, tool, outcome);
            }
        }
    }
    if arguments.json {
        eprint!("{report}");
        println!("{}", report.to_json()?);
    } else {
        print!("{report}");
    }
    Ok(report)
}

/// Becomes true on SIGINT or SIGTERM. The round then still ends, and with it the subject, which is in a
/// session of its own and would otherwise go on.
fn watch_for_interruption() -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(|error| Failure::new(format!("cannot watch for signals: {error}")))?;
    }
    Ok(interrupted)
}

/// The tools there are; each that is absent is named on standard error, with the way to have it.
fn find_tools() -> Result<Vec<Tool>, Failure> {
    let mut tools = Vec::new();
    let cryo = std::env::var_os("CRYO_BIN")
        .map_or_else(|| target_directory().join("release/cryo"), PathBuf::from);
    if cryo.is_file() {
        tools.push(Tool::Cryo(absolute(&cryo)?));
    } else {
        eprintln!(
            "cryo is left out: {} does not exist (build it, or name it in CRYO_BIN)",
            cryo.display()
        );
    }
    match std::env::var_os("CRYONAUT_CRIU").map(PathBuf::from) {
        Some(criu) if criu.is_file() => tools.push(Tool::Criu(absolute(&criu)?)),
        Some(criu) => {
            return Err(Failure::new(format!(
                "CRYONAUT_CRIU names {}, which does not exist",
                criu.display()
            )));
        }
        None => eprintln!("CRIU is left out: CRYONAUT_CRIU does not name its binary"),
    }
    if tools.is_empty() {
        return Err(Failure::new("there is no tool to measure".to_owned()));
    }
    Ok(tools)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize()
        .map_err(|error| Failure::at(path, &error))
}

fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}
