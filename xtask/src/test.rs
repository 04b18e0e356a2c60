//! Everything that has to hold, and one closing line: `N passed, N failed, N skipped`.

use std::fs;
use std::path::PathBuf;

use crate::dist;
use crate::packages;
use crate::report;
use crate::steps::{self, Result, cargo, output, program, repository, succeeds};

/// How long each fuzz target runs, in seconds.
const FUZZ_SECONDS: u32 = 30;

/// How many checkpoints are killed at random instants as root, and as many again as an ordinary user; other commands in proportion.
const KILL_ROUNDS: &str = "500";

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    Full,
    /// What a developer waits for.
    Quick,
}

/// What has been counted so far.
#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
    failures: Vec<String>,
}

impl Tally {
    /// Runs one step, whatever became of those before it.
    fn step(&mut self, name: &str, body: impl FnOnce() -> Result) {
        println!("\n==== {name}");
        match body() {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("FAILED: {name}: {error}");
                self.failed += 1;
                self.failures.push(format!("failed: {name}"));
            }
        }
    }

    fn skip(&mut self, name: &str, reason: &str) {
        println!("\nSKIP: {name}: {reason}");
        self.skipped += 1;
    }
}

/// Runs all steps and prints the closing line; an error if anything failed.
pub fn run(extent: Extent) -> Result {
    let mut tally = Tally::default();
    // The fuzz targets are a workspace of their own, which no other step looks at before they run.
    for (name, manifest) in [("", "Cargo.toml"), (" of fuzz targets", "fuzz/Cargo.toml")] {
        tally.step(&format!("format{name}"), || {
            steps::run(cargo().args(["fmt", "--all", "--check", "--manifest-path", manifest]))
        });
        tally.step(&format!("lints{name}"), || {
            let clippy = ["clippy", "--workspace", "--all-targets", "--manifest-path"];
            steps::run(
                cargo()
                    .args(clippy)
                    .args([manifest, "--", "-D", "warnings"]),
            )
        });
    }
    tally.step("documentation", || {
        steps::run(
            cargo()
                .args([
                    "doc",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                ])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
    check_dependencies(&mut tally);
    run_tests(&mut tally, extent);
    tally.step("SUPPORT.md", check_support);
    if extent == Extent::Full {
        check_packages(&mut tally);
        fuzz(&mut tally);
    }
    for failure in &tally.failures {
        println!("{failure}");
    }
    println!(
        "\n{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    if tally.failed == 0 {
        Ok(())
    } else {
        Err(format!("{} failed", tally.failed))
    }
}

/// Licences, sources and bans need nothing but the lock file; advisories need their database, which needs the network.
fn check_dependencies(tally: &mut Tally) {
    if !succeeds(cargo().args(["deny", "--version"])) {
        tally.skip(
            "dependencies",
            "cargo-deny is not installed; run cargo xtask setup",
        );
        return;
    }
    tally.step("dependencies", || {
        steps::run(cargo().args([
            "deny",
            "--all-features",
            "check",
            "bans",
            "licenses",
            "sources",
        ]))
    });
    if succeeds(cargo().args(["deny", "fetch", "db"])) {
        tally.step("advisories", || {
            steps::run(cargo().args([
                "deny",
                "--all-features",
                "check",
                "--disable-fetch",
                "advisories",
            ]))
        });
    } else {
        tally.skip("advisories", "their database cannot be fetched here");
    }
}

/// All tests, counted one by one: passed and failed as nextest says, skipped as the tests themselves noted.
fn run_tests(tally: &mut Tally, extent: Extent) {
    println!("\n==== tests");
    let noted = std::env::temp_dir().join(format!("cryonaut-skips-{}", std::process::id()));
    // A file of an earlier process of the same number would be counted again.
    let _ = fs::remove_file(&noted);
    // The suite runs the command itself, which no test of another package has built.
    tally.step("build", || {
        let mut command = cargo();
        command.args(["build", "-p", "cryonaut-cli", "-p", "cryonaut-libcryo"]);
        steps::run(command.args(dist::BLCR_LIBRARIES.map(|(package, _)| format!("-p{package}"))))
    });
    let mut command = cargo();
    command
        .args(["nextest", "run", "--workspace", "--no-fail-fast"])
        .env("CRYONAUT_SKIPS", &noted);
    if std::env::var_os("CI").is_some() {
        command.args(["--profile", "ci"]);
    }
    if extent == Extent::Full && std::env::var_os("CRYONAUT_KILL_ROUNDS").is_none() {
        command.env("CRYONAUT_KILL_ROUNDS", KILL_ROUNDS);
    }
    let report = report_path();
    let _ = fs::remove_file(&report);
    let result = steps::run(&mut command);
    let report = fs::read_to_string(&report).unwrap_or_default();
    let counts = report::counts(&report);
    let skips = fs::read_to_string(&noted).unwrap_or_default();
    let _ = fs::remove_file(&noted);
    let skipped = skips.lines().count() as u32;
    for line in skips.lines() {
        println!("{line}");
    }
    tally.skipped += skipped;
    match (result, counts) {
        (Ok(()), Some((tests, 0))) => tally.passed += tests.saturating_sub(skipped),
        (_, Some((tests, failed))) if failed > 0 => {
            tally.passed += tests.saturating_sub(failed).saturating_sub(skipped);
            tally.failed += failed;
            tally.failures.extend(report::failures(&report));
        }
        (result, _) => {
            tally.failed += 1;
            let error = result
                .err()
                .unwrap_or_else(|| "no report was written".to_owned());
            tally.failures.push(format!("failed: tests: {error}"));
        }
    }
    tally.step("examples in documentation", || {
        steps::run(cargo().args(["test", "--workspace", "--doc", "-q"]))
    });
}

/// Where nextest writes its report (`.config/nextest.toml`, profile.*.junit.path).
fn report_path() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from);
    let profile = if std::env::var_os("CI").is_some() {
        "ci"
    } else {
        "default"
    };
    target.join("nextest").join(profile).join("tests.xml")
}

/// What `cryo` says that it supports; the hidden subcommand prints SUPPORT.md from the registry of resources.
fn support() -> Result<String> {
    output(cargo().args(["run", "-q", "-p", "cryonaut-cli", "--", "__support"]))
}

fn check_support() -> Result {
    let wanted = support()?;
    let found = fs::read_to_string(repository().join("SUPPORT.md")).unwrap_or_default();
    if wanted == found {
        return Ok(());
    }
    Err("SUPPORT.md is not what the registry says; run cargo xtask support".to_owned())
}

/// Writes SUPPORT.md.
pub fn write_support() -> Result {
    fs::write(repository().join("SUPPORT.md"), support()?)
        .map_err(|error| format!("SUPPORT.md: {error}"))
}

/// What `cargo xtask dist` makes; the standard library for it may be missing.
fn check_packages(tally: &mut Tally) {
    match dist::require_target() {
        Ok(()) => tally.step("packages", packages::check),
        Err(reason) => tally.skip("packages", &reason),
    }
}

/// Every fuzz target for a short time.
fn fuzz(tally: &mut Tally) {
    if !succeeds(cargo().args(["fuzz", "--version"])) {
        tally.skip(
            "fuzzing",
            "cargo-fuzz is not installed; run cargo xtask setup",
        );
        return;
    }
    // Valid input to start from.
    if repository().join("fuzz/seeds.sh").exists() {
        tally.step("fuzzing: seeds", || {
            steps::run(program("bash").arg("fuzz/seeds.sh"))
        });
    }
    let targets = match output(cargo().args(["fuzz", "list"])) {
        Ok(targets) => targets,
        Err(error) => return tally.step("fuzzing", || Err(error)),
    };
    for target in targets.lines() {
        tally.step(&format!("fuzzing: {target}"), || {
            let seconds = format!("-max_total_time={FUZZ_SECONDS}");
            // What a fuzzer has to say fills pages, and is of use only where it found something.
            steps::quietly(
                cargo()
                    .args(["fuzz", "run", target, "--", &seconds, "-max_len=65536"])
                    // The sanitizer's options are kept back by stable Rust; with this its own compiler takes them.
                    .env("RUSTC_BOOTSTRAP", "1"),
            )
        });
    }
}
