//! Who can open an image.

use std::io::{self, Read, Write};
use std::str::FromStr;

use age::x25519;

use crate::{EnvelopeError, Identity, Secret, copy};

/// What an image is locked with.
#[derive(Debug, Clone)]
pub enum Lock {
    /// These can open it.
    Recipients(Recipients),
    /// Whoever knows this can.
    Passphrase(Secret),
}

/// Public keys.
#[derive(Debug, Clone, Default)]
pub struct Recipients(Vec<x25519::Recipient>);

impl Recipients {
    /// Adds a public key (`age1…`), or all from a text with one in each line, such as the content of a file.
    ///
    /// # Errors
    /// [`EnvelopeError::BadKey`] when it is none.
    pub fn add(&mut self, text: &str) -> Result<(), EnvelopeError> {
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let before = self.0.len();
        for line in lines {
            let key = x25519::Recipient::from_str(line).map_err(|why| EnvelopeError::BadKey {
                file: line.to_owned(),
                why: why.to_owned(),
            })?;
            self.0.push(key);
        }
        if self.0.len() > before {
            return Ok(());
        }
        Err(EnvelopeError::BadKey {
            file: text.to_owned(),
            why: "there is no public key (age1…) in it".to_owned(),
        })
    }
}

impl Lock {
    pub(crate) fn encryptor(&self) -> io::Result<age::Encryptor> {
        match self {
            Lock::Passphrase(secret) => Ok(age::Encryptor::with_user_passphrase(secret.clone())),
            Lock::Recipients(Recipients(keys)) => {
                let keys = keys.iter().map(|key| key as &dyn age::Recipient);
                age::Encryptor::with_recipients(keys).map_err(io::Error::other)
            }
        }
    }
}

/// Where keys come from when they are needed.
pub trait Keys {
    /// The keys of the user, for what is encrypted to recipients.
    ///
    /// # Errors
    /// When they cannot be had.
    fn identities(&self) -> Result<Vec<Identity>, EnvelopeError>;

    /// The passphrase.
    ///
    /// # Errors
    /// When it cannot be had.
    fn passphrase(&self) -> Result<Secret, EnvelopeError>;
}

/// The keys in a file as `age-keygen` writes it.
///
/// # Errors
/// [`EnvelopeError::BadKey`], with this name for the file.
pub fn identities(file: &str, content: impl io::BufRead) -> Result<Vec<Identity>, EnvelopeError> {
    let bad = |why: String| EnvelopeError::BadKey {
        file: file.to_owned(),
        why,
    };
    let keys = age::IdentityFile::from_buffer(content).map_err(|error| bad(error.to_string()))?;
    let keys = keys
        .into_identities()
        .map_err(|error| bad(error.to_string()))?;
    match keys.is_empty() {
        true => Err(bad("there is no key (AGE-SECRET-KEY-…) in it".into())),
        false => Ok(keys.into_iter().map(|key| key as Identity).collect()),
    }
}

/// Decrypts what `reader` gives.
pub(crate) fn decrypt(
    reader: impl Read,
    sink: &mut dyn Write,
    keys: &dyn Keys,
) -> Result<(), EnvelopeError> {
    let decryptor = age::Decryptor::new(reader).map_err(|error| explain(error, Locked::ByKeys))?;
    if decryptor.is_scrypt() {
        let identity = age::scrypt::Identity::new(keys.passphrase()?);
        let opened = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity));
        copy(
            opened.map_err(|error| explain(error, Locked::ByPassphrase))?,
            sink,
        )
    } else {
        let identities = keys.identities()?;
        if identities.is_empty() {
            return Err(EnvelopeError::NeedsIdentity);
        }
        let opened = decryptor.decrypt(identities.iter().map(AsRef::as_ref));
        copy(
            opened.map_err(|error| explain(error, Locked::ByKeys))?,
            sink,
        )
    }
}

#[derive(Clone, Copy)]
enum Locked {
    ByKeys,
    ByPassphrase,
}

fn explain(error: age::DecryptError, locked: Locked) -> EnvelopeError {
    use age::DecryptError as Reason;
    match (error, locked) {
        (Reason::Io(error), _) => EnvelopeError::of_reading(error),
        (
            Reason::DecryptionFailed | Reason::NoMatchingKeys | Reason::KeyDecryptionFailed,
            Locked::ByPassphrase,
        ) => EnvelopeError::WrongPassphrase,
        (Reason::NoMatchingKeys, Locked::ByKeys) => EnvelopeError::NoMatchingKey,
        (other, _) => EnvelopeError::Encrypted(other.to_string()),
    }
}
