//! What can be wrong with an envelope, in words for people.

use std::io;

/// An image cannot be taken out of what it came in.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// There is nothing of ours in it.
    #[error(
        "this is not a Cryonaut image: it neither begins as one (\"CRYONAUT\") nor as an encrypted one, and has no line \
         \"-----BEGIN CRYONAUT IMAGE-----\" or \"-----BEGIN AGE ENCRYPTED FILE-----\""
    )]
    NoImage,
    /// The text ends too early.
    #[error(
        "the text is cut off: it ends after line {line}, before the line \"-----END {label}-----\"; get the whole of it"
    )]
    CutOff {
        /// The last line.
        line: u64,
        /// What the text holds.
        label: &'static str,
    },
    /// Encrypted bytes end too early.
    #[error("the encrypted image is truncated; copy it again")]
    Truncated,
    /// The text is not as it was written.
    #[error(
        "the text is damaged at line {line}: {what}; send it as an attachment, so that no program changes it"
    )]
    Text {
        /// The line.
        line: u64,
        /// What is wrong there.
        what: String,
    },
    /// Encrypted bytes are not as they were written.
    #[error("the encrypted image is damaged: {0}; copy it again")]
    Encrypted(String),
    /// Nobody has said which key opens it.
    #[error("the image is encrypted to recipients: name the file with your key (--identity FILE)")]
    NeedsIdentity,
    /// None of the keys opens it.
    #[error("none of the keys given opens the image: it was encrypted to others")]
    NoMatchingKey,
    /// Nobody has said the passphrase.
    #[error("the image is encrypted by a passphrase: {0}")]
    NeedsPassphrase(String),
    /// It is another one.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// To try the passphrase would take more memory and time than any that we or age(1) write.
    #[error(
        "the image asks for 2^{0} rounds of work for its passphrase, which no image of ours does; if you trust it, decrypt it with age(1)"
    )]
    TooMuchWork(u8),
    /// A file with keys cannot be used.
    #[error("cannot use {file} as a key: {why}")]
    BadKey {
        /// The file, or the text that is none.
        file: String,
        /// Why not.
        why: String,
    },
    /// It cannot be read.
    #[error("cannot read the image: {0}")]
    Read(io::Error),
    /// It cannot be kept.
    #[error("cannot keep the image while it is read: {0}")]
    Keep(io::Error),
}

impl EnvelopeError {
    /// An error of a reader, which may carry one of these.
    pub(crate) fn of_reading(error: io::Error) -> EnvelopeError {
        let kind = error.kind();
        match error.downcast::<EnvelopeError>() {
            Ok(error) => error,
            Err(error) => match kind {
                io::ErrorKind::UnexpectedEof => EnvelopeError::Truncated,
                io::ErrorKind::InvalidData => EnvelopeError::Encrypted(error.to_string()),
                _ => EnvelopeError::Read(error),
            },
        }
    }

    /// Whether somebody with the right key could open it.
    #[must_use]
    pub fn is_about_keys(&self) -> bool {
        matches!(
            self,
            EnvelopeError::NeedsIdentity
                | EnvelopeError::NoMatchingKey
                | EnvelopeError::NeedsPassphrase(_)
                | EnvelopeError::WrongPassphrase
        )
    }
}

impl From<EnvelopeError> for io::Error {
    fn from(error: EnvelopeError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}
