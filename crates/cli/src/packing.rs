//! How an image is packed for its way.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueHint};
use cryonaut_engine::checkpoint::{Envelope, Packing, Seal};
use cryonaut_envelope::{Form, Lock, Recipients, Wrapped, Wrapping};
use cryonaut_image::LEVELS;

use crate::exit::Failure;
use crate::opening::{ask, passphrase_in};

/// How an image is packed.
#[derive(Args, Debug, Clone, Default)]
pub struct PackingArguments {
    /// Compress the memory in the image, with zstd at this level (1, the fastest, to 19, the smallest); this is done once the
    /// processes run on, from a temporary file
    #[arg(long, value_name = "LEVEL", value_parser = level, num_args = 0..=1, require_equals = true, default_missing_value = "3")]
    compress: Option<i32>,
    /// Encrypt the image, so that only the owner of this public key (age1…) can open it, or all whose keys are in this file (may be
    /// given several times)
    #[arg(long, value_name = "RECIPIENT")]
    encrypt: Vec<String>,
    /// Encrypt the image by a passphrase that you are asked for at the terminal
    #[arg(long, conflicts_with_all = ["encrypt", "passphrase_file"])]
    passphrase: bool,
    /// Encrypt the image by the passphrase in the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "encrypt", value_hint = ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
    /// Write the image as text, which mail programs leave as it is
    #[arg(long)]
    armor: bool,
}

/// Reads `9`, `zstd` or `zstd:9`.
fn level(text: &str) -> Result<i32, String> {
    let number = match text.strip_prefix("zstd") {
        Some("") => "3",
        Some(rest) => rest.strip_prefix(':').unwrap_or(rest),
        None => text,
    };
    match number.parse() {
        Ok(level) if LEVELS.contains(&level) => Ok(level),
        _ => Err(format!(
            "levels go from {} to {}, as in --compress=9 or --compress=zstd:9",
            LEVELS.start(),
            LEVELS.end()
        )),
    }
}

impl PackingArguments {
    /// Whether the result is text.
    pub fn is_text(&self) -> bool {
        self.armor
    }

    /// What the image is put into. It may ask for a passphrase.
    pub fn wrapping(&self) -> Result<Option<Wrapping>, Failure> {
        let lock = if !self.encrypt.is_empty() {
            let mut recipients = Recipients::default();
            for text in &self.encrypt {
                match std::fs::read_to_string(text) {
                    Ok(content) => recipients.add(&content)?,
                    Err(_) => recipients.add(text)?,
                }
            }
            Some(Lock::Recipients(recipients))
        } else if let Some(path) = &self.passphrase_file {
            Some(Lock::Passphrase(passphrase_in(path)?))
        } else if self.passphrase {
            Some(Lock::Passphrase(ask_twice()?))
        } else {
            None
        };
        let form = match self.armor {
            true => Form::Text,
            false => Form::Binary,
        };
        let needed = lock.is_some() || form == Form::Text;
        Ok(needed.then_some(Wrapping { lock, form }))
    }

    /// As the engine has it.
    pub fn packing(&self, wrapping: Option<Wrapping>) -> Packing {
        Packing {
            compress: self.compress,
            envelope: wrapping.map(|wrapping| Box::new(Outer(wrapping)) as Box<dyn Envelope>),
        }
    }
}

fn ask_twice() -> Result<cryonaut_envelope::Secret, Failure> {
    use cryonaut_envelope::ExposeSecret;
    let first = ask("Passphrase for the image: ")?;
    let second = ask("The same again: ")?;
    match first.expose_secret() == second.expose_secret() {
        true => Ok(first),
        false => Err(Failure::usage("the two passphrases differ")),
    }
}

#[derive(Debug)]
struct Outer(Wrapping);

struct Filling<'a>(Wrapped<'a>);

impl Envelope for Outer {
    fn open<'a>(&self, sink: &'a mut dyn Write) -> io::Result<Box<dyn Seal + 'a>> {
        Ok(Box::new(Filling(self.0.begin(sink)?)))
    }
}

impl Write for Filling<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seal for Filling<'_> {
    fn seal(self: Box<Self>) -> io::Result<()> {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read() {
        assert_eq!(level("9"), Ok(9));
        assert_eq!(level("zstd"), Ok(3));
        assert_eq!(level("zstd:19"), Ok(19));
        for wrong in ["0", "20", "lz4", "zstd:", "-1", ""] {
            assert!(level(wrong).is_err(), "{wrong}");
        }
    }
}
