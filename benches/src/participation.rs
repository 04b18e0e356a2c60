//! What libcryo costs a program where no `cryo` comes: linked and not used, with a callback, with critical sections.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::failure::Failure;
use crate::report::{load, median};

const SOURCE: &str = include_str!("../taking_part.c");

/// Whether a program is linked with the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linked {
    No,
    Yes,
}

/// What is measured: its row, the argument of the program, and with which row it is compared.
struct Measure {
    row: &'static str,
    key: &'static str,
    linked: Linked,
    argument: &'static str,
    compared: usize,
}

const fn measure_of(
    row: &'static str,
    key: &'static str,
    (linked, argument): (Linked, &'static str),
    compared: usize,
) -> Measure {
    Measure {
        row,
        key,
        linked,
        argument,
        compared,
    }
}

const MEASURES: [Measure; 8] = [
    measure_of("start", "start", (Linked::No, "start"), 0),
    measure_of("start, linked", "start_linked", (Linked::Yes, "start"), 0),
    measure_of("work", "work", (Linked::No, "work"), 2),
    measure_of("work, linked", "work_linked", (Linked::Yes, "work"), 2),
    measure_of(
        "work, callback",
        "work_callback",
        (Linked::Yes, "callback"),
        2,
    ),
    measure_of(
        "work, in sections",
        "work_sections",
        (Linked::Yes, "sections"),
        2,
    ),
    measure_of("mutex", "mutex", (Linked::No, "mutex"), 6),
    measure_of("section", "section", (Linked::Yes, "section"), 6),
];

/// Compiles both programs into a directory.
fn compile(directory: &Path, library: &Path) -> Result<[PathBuf; 2], Failure> {
    let source = directory.join("taking_part.c");
    fs::write(&source, SOURCE).map_err(|error| Failure::at(&source, &error))?;
    for name in ["libcryo.so", "libcryo.so.0"] {
        let link = directory.join(name);
        // One of an earlier run.
        let _ = fs::remove_file(&link);
        symlink(library, &link).map_err(|error| Failure::at(&link, &error))?;
    }
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/libcryo/include");
    let linking = [
        "-DLINKED".to_owned(),
        format!("-I{}", include.display()),
        "-Wl,--no-as-needed".to_owned(),
        format!("-L{}", directory.display()),
        "-lcryo".to_owned(),
        format!("-Wl,-rpath,{}", directory.display()),
    ];
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let compile = |name: &str, more: &[String]| {
        let program = directory.join(name);
        let status = Command::new(&compiler)
            .args(["-O2", "-Wall", "-pthread"])
            .args(more)
            .arg("-o")
            .args([&program, &source])
            .status()
            .map_err(|error| {
                Failure::new(format!("cannot start the C compiler {compiler}: {error}"))
            })?;
        match status.success() {
            true => Ok(program),
            false => Err(Failure::new(format!(
                "{compiler} could not compile taking_part.c: {status}"
            ))),
        }
    };
    Ok([compile("plain", &[])?, compile("linked", &linking)?])
}

fn sample(program: &Path, argument: &str) -> Result<f64, Failure> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .map_err(|error| Failure::at(program, &error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().parse() {
        Ok(number) if output.status.success() => Ok(number),
        _ => Err(Failure::new(format!(
            "{} {argument}: {}: {text}",
            program.display(),
            output.status
        ))),
    }
}

/// As nanoseconds are told best.
fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        small if small < 1e3 => format!("{small:.1} ns"),
        middle if middle < 1e6 => format!("{:.1} µs", middle / 1e3),
        large => format!("{:.2} ms", large / 1e6),
    }
}

/// Measures, and prints a table or JSON. All programs take turns, so that what else the machine does meets all of them.
///
/// # Errors
/// When a program cannot be compiled or does not run.
pub fn measure(
    directory: &Path,
    library: &Path,
    (rounds, json): (u32, bool),
    interrupted: &AtomicBool,
) -> Result<(), Failure> {
    let [plain, linked] = compile(directory, library)?;
    let begin = load();
    let mut samples = [const { Vec::new() }; MEASURES.len()];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (measure, samples) in MEASURES.iter().zip(&mut samples) {
            let program = match measure.linked {
                Linked::No => &plain,
                Linked::Yes => &linked,
            };
            samples.push(sample(program, measure.argument)?);
            if interrupted.load(Ordering::Relaxed) {
                return Err(Failure::new("interrupted".to_owned()));
            }
        }
    }
    let medians = samples.clone().map(|mut samples| {
        samples.sort_by(f64::total_cmp);
        median(&samples).unwrap_or(f64::NAN)
    });
    let rows = MEASURES.iter().zip(medians);
    let mut table = format!(
        "processor time; load {begin} at the begin, {} at the end\n",
        load()
    );
    for (measure, median) in rows {
        let ratio = median / medians[measure.compared];
        let line = format!("{:<20}{:>12}  x {ratio:.3}\n", measure.row, time(median));
        table.push_str(&line);
    }
    if json {
        eprint!("{table}");
        let all = MEASURES.iter().zip(&samples);
        let all: serde_json::Map<_, _> = all
            .map(|(measure, samples)| (measure.key.to_owned(), json!(samples)))
            .collect();
        println!("{}", json!({ "rounds": rounds, "nanoseconds": all }));
    } else {
        print!("{table}");
    }
    Ok(())
}
