//! Who can open an image.

use std::io::{self, BufRead, Read, Write};
use std::str::FromStr;

use age::x25519;

use crate::{EnvelopeError, Identity, Secret, copy};

/// The longest header of an encrypted file, in bytes: it is read before any key has been asked for.
const LONGEST_HEADER: u64 = 64 * 1024;
/// So many recipients fit into it.
const MOST_RECIPIENTS: usize = 512;
/// The most work that a passphrase may cost, as a power of two (scrypt's N): 1 GiB of memory, and seconds. What age(1) and we
/// ourselves write takes a quarter of it.
const MOST_WORK: u8 = 20;

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
        if self.0.len() > MOST_RECIPIENTS {
            return Err(EnvelopeError::BadKey {
                file: text.to_owned(),
                why: format!("an image has {MOST_RECIPIENTS} recipients at most"),
            });
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
    let mut reader = reader;
    let header = read_header(&mut reader)?;
    let reader = io::Cursor::new(header).chain(reader);
    let decryptor = age::Decryptor::new(reader).map_err(|error| explain(error, Locked::ByKeys))?;
    if decryptor.is_scrypt() {
        let mut identity = age::scrypt::Identity::new(keys.passphrase()?);
        identity.set_max_work_factor(MOST_WORK);
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

/// The header, with the line that ends it.
fn read_header(reader: &mut impl Read) -> Result<Vec<u8>, EnvelopeError> {
    const LAST_LINE: &[u8] = b"--- ";
    let mut header = Vec::new();
    let mut bytes = io::BufReader::with_capacity(1, reader).take(LONGEST_HEADER);
    loop {
        let start = header.len();
        let length = bytes
            .read_until(b'\n', &mut header)
            .map_err(EnvelopeError::of_reading)?;
        if header[start..].starts_with(LAST_LINE) {
            return Ok(header);
        }
        if length == 0 || !header.ends_with(b"\n") {
            return match bytes.limit() {
                0 => Err(EnvelopeError::Encrypted("its header does not end".into())),
                _ => Err(EnvelopeError::Truncated),
            };
        }
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
        (Reason::ExcessiveWork { required, .. }, _) => EnvelopeError::TooMuchWork(required),
        (other, _) => EnvelopeError::Encrypted(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Keys for Nobody {
        fn identities(&self) -> Result<Vec<Identity>, EnvelopeError> {
            Ok(Vec::new())
        }

        fn passphrase(&self) -> Result<Secret, EnvelopeError> {
            Ok(Secret::from("word".to_owned()))
        }
    }

    fn error_of(file: impl Read) -> EnvelopeError {
        decrypt(file, &mut io::sink(), &Nobody).expect_err("it cannot be opened")
    }

    #[test]
    fn a_header_without_an_end_is_not_read_for_ever() {
        let begun = b"age-encryption.org/v1\n".as_slice();
        let endless = begun.chain(io::repeat(b'x'));
        assert!(matches!(error_of(endless), EnvelopeError::Encrypted(_)));
        let stanza = b"-> X25519 abc\nabc\n".repeat(1_000_000);
        let many = begun.chain(stanza.as_slice());
        assert!(matches!(error_of(many), EnvelopeError::Encrypted(_)));
        assert!(matches!(error_of(begun), EnvelopeError::Truncated));
        assert!(matches!(
            error_of(&b"age-encryption.org/v1\n-> X2"[..]),
            EnvelopeError::Truncated
        ));
    }

    #[test]
    fn a_passphrase_costs_no_more_work_than_stated() {
        let salt = "AAAAAAAAAAAAAAAAAAAAAA";
        let body = "A".repeat(43);
        for work in [21, 30, 63] {
            let file = format!(
                "age-encryption.org/v1\n-> scrypt {salt} {work}\n{body}\n--- {body}\n0123456789abcdef"
            );
            let error = error_of(file.as_bytes());
            assert!(
                matches!(error, EnvelopeError::TooMuchWork(found) if found == work),
                "{error}"
            );
        }
    }
}
