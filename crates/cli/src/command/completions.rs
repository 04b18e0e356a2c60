//! `cryo completions` and `cryo man`: made from the definitions of the command line itself.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory, ValueHint};
use clap_complete::Shell;

use super::CommandLine;
use crate::console::Console;
use crate::exit::{self, Failure};

/// Prints a shell's completions of this command
///
/// For bash: cryo completions bash > ~/.local/share/bash-completion/completions/cryo
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

impl Arguments {
    /// Prints them.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut visible(), "cryo", &mut script);
        let script = String::from_utf8_lossy(&script).into_owned();
        console.result(&script, || script.clone())?;
        Ok(0)
    }
}

/// The command line without what is hidden, which clap_complete would offer.
fn visible() -> Command {
    let whole = CommandLine::command();
    let shown: Vec<Command> = whole
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
        .cloned()
        .collect();
    let base = Command::new("cryo").version(env!("CARGO_PKG_VERSION"));
    base.args(whole.get_arguments().cloned()).subcommands(shown)
}

/// Writes the manual pages, cryo.1 and one for each command, into a directory
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct ManArguments {
    /// The directory, made if it is not there
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    directory: PathBuf,
}

impl ManArguments {
    /// Writes them.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let failed = || {
            Failure::system(format!(
                "write manual pages into {}",
                self.directory.display()
            ))
        };
        std::fs::create_dir_all(&self.directory).map_err(failed())?;
        let mut command = CommandLine::command().disable_help_subcommand(true);
        command.build();
        let mut written = Vec::new();
        write_page(&command, &self.directory, &mut written).map_err(failed())?;
        console.result(&written, || {
            written
                .iter()
                .map(|path| format!("{}\n", path.display()))
                .collect()
        })?;
        Ok(0)
    }
}

fn write_page(
    command: &Command,
    directory: &Path,
    written: &mut Vec<PathBuf>,
) -> std::io::Result<()> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned();
    let path = directory.join(format!("{name}.1"));
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    std::fs::write(&path, page)?;
    written.push(path);
    for inner in command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
    {
        write_page(inner, directory, written)?;
    }
    Ok(())
}
