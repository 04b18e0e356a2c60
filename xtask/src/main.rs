//! Tasks of the repository: `cargo xtask setup` and `cargo xtask test`.

#![forbid(unsafe_code)]

mod setup;
mod steps;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  setup            install what the tests need: programs through apt-get (as root), cargo's tools through cargo
  test             everything that has to hold: format, lints, licences, all tests, fuzzing, SUPPORT.md
  test --quick     the same without fuzzing and without the victims as they are killed a thousand times
  support          write SUPPORT.md anew from the registry of resources
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["setup"] => setup::run(),
        ["test"] => test::run(test::Extent::Full),
        ["test", "--quick"] => test::run(test::Extent::Quick),
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
