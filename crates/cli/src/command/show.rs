//! `cryo show`: what an image holds, in the terminal, as JSON, or as a page.

mod page;
mod text;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use cryonaut_engine::show;
use cryonaut_image::AtomicFile;
use serde::Serialize;

use self::page::Verdict;
use self::text::{Look, Wanted};
use super::check::{Planned, plan_here};
use super::restart::Conditions;
use crate::console::Console;
use crate::exit::{self, Failure};
use crate::opening::{KeyArguments, open};
use crate::units::size;

/// Shows what an image holds: processes, threads, memory, descriptors, pipes
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {
    /// The image: a file, or - for standard input
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    image: PathBuf,
    #[command(flatten)]
    opening: KeyArguments,
    /// List every mapping, not only sums by kind
    #[arg(long)]
    mappings: bool,
    /// List every descriptor, not only the first of each process
    #[arg(long)]
    descriptors: bool,
    /// List every file whose content is in the image, with the size that it takes
    #[arg(long)]
    embedded: bool,
    /// Make a page for a browser, which needs no network: in FILE, - for standard output [default: IMAGE.html in the working
    /// directory]. It also says whether the image can be restarted here
    #[arg(long, value_name = "FILE", num_args = 0..=1, value_hint = ValueHint::FilePath)]
    html: Option<Option<PathBuf>>,
}

/// The page that was made.
#[derive(Serialize, Debug)]
struct Made {
    page: PathBuf,
    bytes: u64,
}

impl Arguments {
    /// An image, without options.
    pub(super) fn of(image: PathBuf) -> Self {
        Self {
            image,
            opening: KeyArguments::default(),
            mappings: false,
            descriptors: false,
            embedded: false,
            html: None,
        }
    }

    /// Shows it.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let image = open(&self.image, &self.opening)?;
        let description = show::describe(&image)?;
        if let Some(file) = &self.html {
            let verdict = match plan_here(&image, &Conditions::default()) {
                Ok(Planned { plan, pids }) => Verdict::Planned {
                    pids,
                    refusals: plan.refusals.list().to_vec(),
                    remarks: plan.remarks,
                },
                Err(failure) => Verdict::Failed(failure.message),
            };
            let text = page::page(&description, &verdict);
            return self.write(file.as_deref(), &text, console);
        }
        let wanted = Wanted {
            mappings: self.mappings,
            descriptors: self.descriptors,
            embedded: self.embedded,
        };
        console.coloured_result(&description, || {
            text::text(&description, wanted, Look::of_output())
        })?;
        Ok(0)
    }

    fn write(&self, file: Option<&Path>, text: &str, console: Console) -> Result<u8, Failure> {
        let path = match file {
            Some(path) => path.to_owned(),
            None => self.usual_page(),
        };
        if path == Path::new("-") {
            console.document(text)?;
            return Ok(0);
        }
        refuse_image(&path)?;
        let mut file = AtomicFile::create(&path)?;
        file.write_all(text.as_bytes())
            .map_err(Failure::system(format!("write {}", path.display())))?;
        file.commit()?;
        let bytes = text.len() as u64;
        let made = Made { page: path, bytes };
        console.result(&made, || {
            format!("made {}, {}", made.page.display(), size(made.bytes))
        })?;
        Ok(0)
    }

    /// The image's own name with another ending, in the working directory; a page of standard input goes to standard output.
    fn usual_page(&self) -> PathBuf {
        match self.image.file_stem() {
            Some(name) if self.image != Path::new("-") => Path::new(name).with_extension("html"),
            _ => PathBuf::from("-"),
        }
    }
}

/// A page must not take the place of an image: `cryo show --html a.cryo b.cryo` is soon written.
fn refuse_image(path: &Path) -> Result<(), Failure> {
    let mut beginning = [0; 8];
    let is_image = std::fs::metadata(path)
        .is_ok_and(|status| status.mode() & libc::S_IFMT == libc::S_IFREG)
        && File::open(path)
            .and_then(|mut file| file.read_exact(&mut beginning))
            .is_ok_and(|()| beginning == *b"CRYONAUT");
    match is_image {
        true => Err(Failure::usage(format!(
            "{} is an image, which a page would replace: name another file after --html",
            path.display()
        ))),
        false => Ok(()),
    }
}
