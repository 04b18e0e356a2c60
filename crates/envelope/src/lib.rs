//! What an image travels in: encryption to recipients or by a passphrase (<https://age-encryption.org/v1>), and an armour of plain
//! letters that mail programs leave alone. This crate knows of an image only how it begins.
//!
//! Writing: a [`Wrapping`] makes a [`Wrapped`] sink. Reading: [`Kind::of`] tells by its beginning what something is, and [`unwrap`]
//! gives the image in it.
#![forbid(unsafe_code)]

mod armor;
mod error;
mod lock;

use std::io::{self, Read, Write};

pub use error::EnvelopeError;
pub use lock::{Keys, Lock, Recipients, identities};

/// A text that is not shown, and wiped from memory when it is no longer needed.
pub type Secret = age::secrecy::SecretString;
pub use age::secrecy::ExposeSecret;
/// What opens an image that was encrypted to a recipient.
pub type Identity = Box<dyn age::Identity>;

use armor::{Armor, Dearmor};

/// How an image begins.
const IMAGE: &[u8] = b"CRYONAUT";
/// How an encrypted file begins.
const ENCRYPTED: &[u8] = b"age-encryption.org/";
/// How many bytes tell what something is.
pub const BEGINNING: usize = 32;

/// Whether the result is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Bytes.
    #[default]
    Binary,
    /// Lines of 64 letters between two marks.
    Text,
}

/// What an image is put into.
#[derive(Debug, Clone)]
pub struct Wrapping {
    /// Who can open it; `None` for everybody.
    pub lock: Option<Lock>,
    /// In which form.
    pub form: Form,
}

/// A sink that wraps what it is given.
pub struct Wrapped<'a>(Layers<'a>);

enum Layers<'a> {
    Plain(Armor<&'a mut dyn Write>),
    Encrypted(age::stream::StreamWriter<&'a mut dyn Write>),
    Both(age::stream::StreamWriter<Armor<&'a mut dyn Write>>),
    None(&'a mut dyn Write),
}

impl Wrapping {
    /// Begins to wrap; the result comes out at `sink`.
    ///
    /// # Errors
    /// Of the sink.
    pub fn begin<'a>(&self, sink: &'a mut dyn Write) -> io::Result<Wrapped<'a>> {
        Ok(Wrapped(match (&self.lock, self.form) {
            (None, Form::Binary) => Layers::None(sink),
            (None, Form::Text) => Layers::Plain(Armor::begin(sink, armor::Label::Image)?),
            (Some(lock), Form::Binary) => Layers::Encrypted(lock.encryptor()?.wrap_output(sink)?),
            (Some(lock), Form::Text) => {
                let armor = Armor::begin(sink, armor::Label::Encrypted)?;
                Layers::Both(lock.encryptor()?.wrap_output(armor)?)
            }
        }))
    }
}

impl Wrapped<'_> {
    /// Writes the end; without it the result is truncated.
    ///
    /// # Errors
    /// Of the sink.
    pub fn finish(self) -> io::Result<()> {
        match self.0 {
            Layers::None(sink) => sink.flush(),
            Layers::Plain(armor) => armor.finish(),
            Layers::Encrypted(stream) => stream.finish()?.flush(),
            Layers::Both(stream) => stream.finish()?.finish(),
        }
    }
}

impl Write for Wrapped<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Layers::None(sink) => sink.write(bytes),
            Layers::Plain(armor) => armor.write(bytes),
            Layers::Encrypted(stream) => stream.write(bytes),
            Layers::Both(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // Nothing goes out before it fills a block.
        Ok(())
    }
}

/// What something is, by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An image as it is.
    Image,
    /// An encrypted file.
    Encrypted,
    /// Neither: perhaps text with an armour in it.
    Other,
}

impl Kind {
    /// By the first bytes, [`BEGINNING`] of them where there are so many.
    #[must_use]
    pub fn of(beginning: &[u8]) -> Kind {
        if beginning.starts_with(IMAGE) {
            Kind::Image
        } else if beginning.starts_with(ENCRYPTED) {
            Kind::Encrypted
        } else {
            Kind::Other
        }
    }
}

/// Reads as much of the beginning as there is.
///
/// # Errors
/// Of the reader.
pub fn read_beginning(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut beginning = Vec::new();
    reader.take(BEGINNING as u64).read_to_end(&mut beginning)?;
    Ok(beginning)
}

/// Takes the image out of what `reader` gives, into `sink`.
///
/// # Errors
/// When there is none in it, it is cut off or damaged, or the keys do not fit. The sink then holds nothing of use.
pub fn unwrap(
    reader: impl Read,
    sink: &mut dyn Write,
    keys: &dyn Keys,
) -> Result<(), EnvelopeError> {
    let mut reader = reader;
    let beginning = read_beginning(&mut reader).map_err(EnvelopeError::of_reading)?;
    let kind = Kind::of(&beginning);
    let whole = io::Cursor::new(beginning).chain(reader);
    match kind {
        Kind::Image => copy(whole, sink),
        Kind::Encrypted => lock::decrypt(whole, sink, keys),
        Kind::Other => {
            let (mut text, label) = Dearmor::find(io::BufReader::new(whole))?;
            match label {
                armor::Label::Image => copy(&mut text, sink),
                armor::Label::Encrypted => lock::decrypt(&mut text, sink, keys),
            }?;
            // What follows the last byte of an encrypted file belongs to the armour still.
            text.finish()
        }
    }
}

fn copy(mut reader: impl Read, sink: &mut dyn Write) -> Result<(), EnvelopeError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(EnvelopeError::of_reading(error)),
        };
        sink.write_all(&buffer[..count])
            .map_err(EnvelopeError::Keep)?;
    }
}
