//! `cryo extract`: writes the files that an image holds to a directory.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};
use cryonaut_engine::extract::extract;
use cryonaut_engine::pattern::Pattern;
use serde::Serialize;

use crate::console::Console;
use crate::exit::{self, Failure};
use crate::opening::{KeyArguments, open};
use crate::units::{count, size};

/// Writes the files that an image holds (--embed, --self-contained) to a directory
///
/// Each goes to its path below the directory, and nothing outside of it, whatever the image says. Nothing that is there is
/// replaced: if something else is in the way, every such file is named and none is written.
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {
    /// The image: a file, or - for standard input
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    image: PathBuf,
    #[command(flatten)]
    opening: KeyArguments,
    /// Where the files go; / puts them to their own places
    #[arg(value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    directory: PathBuf,
    /// Only the files that one of these stands for: a path as the image has it, `*` for any characters, a directory for all below
    /// it
    #[arg(value_name = "PATTERN")]
    patterns: Vec<OsString>,
}

/// What was written.
#[derive(Serialize, Debug)]
struct Report {
    directory: PathBuf,
    files: usize,
    bytes: u64,
    already_there: usize,
}

impl Arguments {
    /// Extracts.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let parsed = self.patterns.iter().map(|text| Pattern::parse(text));
        let patterns = parsed
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(Failure::system("understand a pattern"))?;
        let image = open(&self.image, &self.opening)?;
        let done = extract(&image, &self.directory, &patterns)?;
        if done.files + done.there == 0 {
            console.remark(match patterns.is_empty() {
                true => "this image holds no files: --embed or --self-contained puts them in at the checkpoint",
                false => "this image holds no such files: cryo show --embedded lists those that it holds",
            });
        }
        let report = Report {
            directory: self.directory,
            files: done.files,
            bytes: done.bytes,
            already_there: done.there,
        };
        console.result(&report, || {
            let there = match report.already_there {
                0 => String::new(),
                there => format!("; {} there already", count(there, "was", "were")),
            };
            format!(
                "wrote {} with {} to {}{there}",
                count(report.files, "file", "files"),
                size(report.bytes),
                report.directory.display()
            )
        })?;
        Ok(0)
    }
}
