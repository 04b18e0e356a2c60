//! Opening an image, in whatever it came: a file or a stream, encrypted, or as text in a mail.

use std::fs::File;
use std::io::{Cursor, Read, Write, stdin};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use cryonaut_engine::checkpoint::temporary_file;
use cryonaut_engine::restart::{self, Input};
use cryonaut_envelope::{
    EnvelopeError, Identity, Keys, Kind, Secret, identities, read_beginning, unwrap,
};
use cryonaut_image::SeekableImage;
use cryonaut_launch::terminal::RawMode;

use crate::exit::{Code, Failure};

/// What opens an encrypted image.
#[derive(Args, Debug, Clone, Default)]
pub struct KeyArguments {
    /// The file with your keys, as age-keygen writes it, for an image that is encrypted to you (may be given several times)
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    identity: Vec<PathBuf>,
    /// The file whose first line is the passphrase of an encrypted image; without it you are asked at the terminal
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
}

impl Keys for KeyArguments {
    fn identities(&self) -> Result<Vec<Identity>, EnvelopeError> {
        let mut keys = Vec::new();
        for path in &self.identity {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| EnvelopeError::BadKey {
                file: name.clone(),
                why: error.to_string(),
            })?;
            keys.extend(identities(&name, std::io::BufReader::new(file))?);
        }
        Ok(keys)
    }

    fn passphrase(&self) -> Result<Secret, EnvelopeError> {
        let asked = match &self.passphrase_file {
            Some(path) => passphrase_in(path),
            None => ask("Passphrase of the image: "),
        };
        asked.map_err(|failure| EnvelopeError::NeedsPassphrase(failure.message))
    }
}

impl From<EnvelopeError> for Failure {
    fn from(error: EnvelopeError) -> Failure {
        let code = match &error {
            error if error.is_about_keys() => Code::NotPermitted,
            EnvelopeError::BadKey { .. } => Code::Usage,
            EnvelopeError::Read(_) | EnvelopeError::Keep(_) => Code::Failed,
            _ => Code::Image,
        };
        Failure::new(code, error.to_string())
    }
}

/// The first line of a file.
pub fn passphrase_in(path: &Path) -> Result<Secret, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(Failure::system(format!("read {}", path.display())))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::from(line.to_owned())),
        _ => Err(Failure::usage(format!(
            "{} has no passphrase in its first line",
            path.display()
        ))),
    }
}

/// Asks for a passphrase at the terminal, which does not show it.
pub fn ask(question: &str) -> Result<Secret, Failure> {
    let failed = "ask for the passphrase";
    let mut terminal = File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(|error| {
            Failure::usage(format!(
                "there is no terminal to ask for the passphrase at ({error}): use --passphrase-file"
            ))
        })?;
    let raw = RawMode::enter(terminal.as_fd(), None).map_err(Failure::system(failed))?;
    let mut typed: Vec<u8> = Vec::new();
    let mut key = [0];
    terminal
        .write_all(question.as_bytes())
        .map_err(Failure::system(failed))?;
    let given = loop {
        match terminal.read(&mut key) {
            Ok(1) => {}
            _ => break false,
        }
        match key[0] {
            b'\r' | b'\n' => break true,
            // Ctrl-C, Ctrl-D, Ctrl-\
            0x03 | 0x04 | 0x1c => break false,
            // Ctrl-U
            0x15 => typed.clear(),
            0x08 | 0x7f => {
                // A letter may have several bytes.
                while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            byte => typed.push(byte),
        }
    };
    // Best effort: the answer counts, not the looks.
    let _ = terminal.write_all(b"\r\n");
    drop(raw);
    match String::from_utf8(typed) {
        Ok(text) if given && !text.is_empty() => Ok(Secret::from(text)),
        _ => Err(Failure::usage("no passphrase was given")),
    }
}

/// An image opened from its file or standard input (`-`). One that is encrypted or text is put into a temporary file first, so
/// that all of it is known to be there.
pub fn open(image: &Path, keys: &KeyArguments) -> Result<SeekableImage, Failure> {
    let from_stream = image == Path::new("-");
    let mut source = if from_stream {
        let copy = stdin().as_fd().try_clone_to_owned();
        File::from(copy.map_err(Failure::system("use standard input"))?)
    } else {
        let facts = std::fs::metadata(image);
        if !facts.is_ok_and(|facts| !facts.is_dir()) {
            // It says why not.
            return Ok(restart::open(Input::File(image.to_owned()))?);
        }
        File::open(image).map_err(Failure::system(format!("open {}", image.display())))?
    };
    let is_file = source.metadata().is_ok_and(|facts| facts.is_file());
    let beginning = read_beginning(&mut source).map_err(Failure::system("read the image"))?;
    let mut whole = Cursor::new(beginning.clone()).chain(source);
    match Kind::of(&beginning) {
        // Too short for anything; the reader of images says so.
        kind if kind == Kind::Image || beginning.len() < 8 => match is_file && !from_stream {
            true => Ok(restart::open(Input::File(image.to_owned()))?),
            false => Ok(restart::open_stream(&mut whole)?),
        },
        _ => {
            let mut spool = temporary_file()?;
            unwrap(whole, &mut spool, keys)?;
            Ok(SeekableImage::open(spool)?)
        }
    }
}
