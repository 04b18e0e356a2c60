//! The command line: every subcommand, and what all of them share.

mod attach;
mod check;
mod checkpoint;
mod completions;
mod demo;
mod doctor;
mod extract;
mod hold_terminal;
mod list;
mod migrate;
mod receive;
mod restart;
mod resume;
mod run;
mod show;
mod support;
mod suspend;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use restart::Taking;

use crate::blcr::Manner;
use crate::console::{Console, Form};
use crate::exit::{self, Failure};
use crate::saver;

/// Freezes running programs into a file and brings them back
///
/// cryo saves a process, with all its descendants, threads, memory, open files, pipes, timers and signals, to one file, and
/// restarts it from there: later, after a reboot, as often as wanted. It needs no kernel module, no preparation of the program
/// and, for jobs started with `cryo run`, no root.
#[derive(Parser, Debug)]
#[command(name = "cryo", version, max_term_width = 100, after_long_help = exit::DOCUMENTED, subcommand_required = true, arg_required_else_help = true)]
pub struct CommandLine {
    /// Print results and errors as JSON objects
    #[arg(long, global = true)]
    json: bool,
    /// Print what happens inside to standard error: `debug`, or any filter such as `cryonaut_engine=trace`
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "CRYO_LOG",
        hide_env_values = true
    )]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::Arguments),
    Checkpoint(checkpoint::Arguments),
    Restart(restart::Arguments),
    Migrate(migrate::Arguments),
    Receive(receive::Arguments),
    Attach(attach::Arguments),
    Suspend(suspend::Arguments),
    Resume(resume::Arguments),
    Check(check::Arguments),
    Show(show::Arguments),
    Extract(extract::Arguments),
    Verify(verify::Arguments),
    List(list::Arguments),
    Doctor(doctor::Arguments),
    Demo(demo::Arguments),
    Completions(completions::Arguments),
    Man(completions::ManArguments),
    /// Prints SUPPORT.md
    #[command(name = "__support", hide = true)]
    Support,
    /// Serves the viewers of a terminal
    #[command(name = "__hold-terminal", hide = true)]
    HoldTerminal(hold_terminal::Arguments),
    /// Keeps a terminal open
    #[command(name = "__keep-terminal", hide = true)]
    KeepTerminal,
    /// Makes checkpoints at an interval
    #[command(name = "__save", hide = true)]
    Save(saver::Arguments),
    /// Starts both for a restart
    #[command(name = "__stand-by", hide = true)]
    StandBy,
    #[command(name = "__demo-worker", hide = true)]
    DemoWorker(demo::WorkerArguments),
}

impl Command {
    /// Runs it; gives the exit status.
    fn run(self, console: Console) -> Result<u8, Failure> {
        match self {
            Command::Run(arguments) => arguments.run(console),
            Command::Checkpoint(arguments) => arguments.run(console),
            Command::Restart(arguments) => arguments.run(console),
            Command::Migrate(arguments) => arguments.run(console),
            Command::Receive(arguments) => arguments.run(console),
            Command::Attach(arguments) => arguments.run(console),
            Command::Suspend(arguments) => arguments.run(console),
            Command::Resume(arguments) => arguments.run(console),
            Command::Check(arguments) => arguments.run(console),
            Command::Show(arguments) => arguments.run(console),
            Command::Extract(arguments) => arguments.run(console),
            Command::Verify(arguments) => arguments.run(console),
            Command::List(arguments) => arguments.run(console),
            Command::Doctor(arguments) => arguments.run(console),
            Command::Demo(arguments) => arguments.run(console),
            Command::Completions(arguments) => arguments.run(console),
            Command::Man(arguments) => arguments.run(console),
            Command::Support => support::run(console),
            Command::HoldTerminal(arguments) => arguments.run(),
            Command::KeepTerminal => hold_terminal::keep(),
            Command::Save(arguments) => arguments.run(console),
            Command::StandBy => hold_terminal::stand_by(),
            Command::DemoWorker(arguments) => arguments.run(),
        }
    }
}

/// Shows an image, as `cryo show` does without options.
///
/// # Errors
/// As that.
pub fn show_image(image: std::path::PathBuf, console: Console) -> Result<u8, Failure> {
    show::Arguments::of(image).run(console)
}

/// Restarts as `cryo` does with these words, in the foreground and in the manner of BLCR.
///
/// # Errors
/// As that.
pub fn restart_as_blcr(
    words: Vec<std::ffi::OsString>,
    manner: Manner,
    console: Console,
) -> Result<u8, Failure> {
    let words = std::iter::once("cryo".into()).chain(words);
    let line = CommandLine::try_parse_from(words);
    match line
        .map_err(|error| Failure::usage(error.to_string()))?
        .command
    {
        Command::Restart(arguments) => arguments.run_as_blcr(manner, console),
        _ => Err(Failure::usage("this is no restart")),
    }
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return refuse_line(&error),
    };
    let form = if line.json { Form::Json } else { Form::Text };
    let console = Console { form };
    let started = line
        .log
        .as_deref()
        .filter(|filter| !filter.is_empty())
        .map_or(Ok(()), crate::logging::start);
    match started.and_then(|()| line.command.run(console)) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            console.failure(&failure);
            ExitCode::from(failure.status)
        }
    }
}

/// Help and version go to standard output and are no failure.
fn refuse_line(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed pipe is nobody's fault.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let command = words
        .iter()
        .find(|word| !word.starts_with('-'))
        .map(String::as_str);
    let own_words = || words.iter().take_while(|word| *word != "--");
    let detached = own_words().any(|word| word == "--detach");
    let text = error.render().to_string();
    let mut failure = Failure::usage(text.trim_end().trim_start_matches("error: "));
    if command == Some("attach") || matches!(command, Some("run" | "restart")) && !detached {
        failure = failure.instead_of_job();
    }
    if own_words().any(|word| word == "--json") {
        Console { form: Form::Json }.failure(&failure);
    } else {
        let _ = error.print();
    }
    ExitCode::from(failure.status)
}
