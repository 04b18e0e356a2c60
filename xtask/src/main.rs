//! Tasks of the repository: `cargo xtask setup`, `cargo xtask test`, `cargo xtask dist`.

#![forbid(unsafe_code)]

mod dist;
mod kernel;
mod notices;
mod packages;
mod report;
mod setup;
mod steps;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  setup            install what the tests need: programs through apt-get (as root), cargo's tools through cargo
  test             everything that has to hold: format, lints, licences, all tests, fuzzing, SUPPORT.md
  test --quick     the same without fuzzing and without the victims as they are killed a thousand times
  test packages    only what `cargo xtask dist` makes
  dist             make a tarball with a static binary, and a Debian package, under target/dist
  dist --profile P the same, built with another profile of cargo than dist-release
  support          write SUPPORT.md anew from the registry of resources
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["setup"] => setup::run(),
        ["test"] => test::run(test::Extent::Full),
        ["test", "--quick"] => test::run(test::Extent::Quick),
        ["dist"] => dist::run(dist::PROFILE),
        ["dist", "--profile", profile] => dist::run(profile),
        ["test", "packages"] => dist::require_target().and_then(|()| packages::check()),
        ["support"] => test::write_support(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
