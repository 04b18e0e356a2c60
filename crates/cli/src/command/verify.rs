//! `cryo verify`: checks an image without restarting it.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::console::Console;
use crate::exit::{self, Failure};
use crate::opening::{KeyArguments, open};
use crate::progress::{Count, Progress};

/// Checks every checksum and the structure of an image, without restarting it
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {
    /// The image: a file, or - for standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    image: PathBuf,
    #[command(flatten)]
    opening: KeyArguments,
}

/// What was checked.
#[derive(Serialize, Debug)]
struct Report {
    sound: bool,
    id: String,
    bytes: u64,
    records: u64,
    stored_pages: u64,
    same_pages: u64,
    zero_pages: u64,
}

impl Arguments {
    /// Checks it.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let image = open(&self.image, &self.opening)?;
        let progress = Progress::new(console, Count::Read, "verifying");
        progress.expect(image.summary().bytes);
        let summary = image.verify()?;
        // Whether each record is a message of its kind.
        cryonaut_engine::show::describe(&image)?;
        drop(progress);
        let report = Report {
            sound: true,
            id: image.preamble().image_id_text(),
            bytes: summary.bytes,
            records: summary.records,
            stored_pages: summary.stored_pages,
            same_pages: summary.same_pages,
            zero_pages: summary.zero_pages,
        };
        console.result(&report, || {
            format!(
                "sound: {} in {} records and {} pages",
                BinaryBytes(report.bytes),
                report.records,
                report.stored_pages
            )
        })?;
        Ok(0)
    }
}
