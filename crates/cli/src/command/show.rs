//! `cryo show`: what an image holds, in the terminal, as JSON, or as a page.

mod text;

use std::path::PathBuf;

use clap::{Args, ValueHint};
use cryonaut_engine::show;

use self::text::{Look, Wanted};
use super::restart::open;
use crate::console::Console;
use crate::exit::{self, Failure};

/// Shows what an image holds: processes, threads, memory, descriptors, pipes
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {
    /// The image: a file, or - for standard input
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    image: PathBuf,
    /// List every mapping, not only sums by kind
    #[arg(long)]
    mappings: bool,
    /// List every descriptor, not only the first of each process
    #[arg(long)]
    descriptors: bool,
}

impl Arguments {
    /// Shows it.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let image = open(&self.image)?;
        let description = show::describe(&image)?;
        let wanted = Wanted {
            mappings: self.mappings,
            descriptors: self.descriptors,
        };
        console.coloured_result(&description, || {
            text::text(&description, wanted, Look::of_output())
        })?;
        Ok(0)
    }
}
