//! What can go wrong with an image, in words for the person who holds the file.

use std::io;
use std::path::PathBuf;

/// Why an image could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file does not begin with the magic of an image.
    #[error("this is not a Cryonaut image (it does not begin with \"CRYONAUT\")")]
    NotAnImage,

    /// The image ends before its end section.
    #[error(
        "the image is truncated: it ends at byte {offset}, before its end section; \
         copy it again, or take an earlier image"
    )]
    Truncated {
        /// Length in bytes of what was there.
        offset: u64,
    },

    /// The image contradicts its checksums or the rules of the format.
    #[error(
        "the image is damaged at byte {offset}: {what}; copy it again, or take an earlier image"
    )]
    Damaged {
        /// Where the damaged part begins, in bytes from the start of the image.
        offset: u64,
        /// What is wrong there.
        what: String,
    },

    /// The image has a newer format than this version reads.
    #[error(
        "the image has format version {found}, written by {created_by}; this version reads up to \
         {supported}: use a newer cryo"
    )]
    FutureVersion {
        /// The image's format version.
        found: u32,
        /// The newest format version this crate reads.
        supported: u32,
        /// The program that wrote it, or "an unknown version" where its preamble cannot be read.
        created_by: String,
    },

    /// The image holds a feature, announced by a flag, that this version does not know.
    #[error(
        "the image at byte {offset} uses features {flags:#x} that this version does not know: use a newer cryo"
    )]
    UnknownFlags {
        /// Where the flags are, in bytes from the start of the image.
        offset: u64,
        /// The flags that are not known.
        flags: u32,
    },

    /// The image was made on another processor architecture.
    #[error(
        "the image was made on {}, this machine is {}: restart it on a machine of that architecture",
        architecture_name(*found),
        architecture_name(*supported)
    )]
    OtherArchitecture {
        /// ELF `e_machine` of the image.
        found: u32,
        /// ELF `e_machine` of this build.
        supported: u32,
    },

    /// Something is larger than the format allows.
    #[error("{what} has {size} bytes, the image format allows {limit}")]
    Oversized {
        /// What is too large.
        what: String,
        /// Its size in bytes (or in entries, where `what` says so).
        size: u64,
        /// The largest size allowed, in the same unit.
        limit: u64,
    },

    /// A record is of a newer version than this program knows.
    #[error(
        "the image's record \"{kind}\" has version {found}, this cryo knows it up to version {supported}; \
         the image was written by {created_by}: use that version or a newer one"
    )]
    NewerKind {
        /// Name of the kind.
        kind: String,
        /// The version in the image.
        found: u32,
        /// The newest version known.
        supported: u32,
        /// The program that wrote the image.
        created_by: String,
    },

    /// A record that must be there is not.
    #[error("the image has no \"{kind}\" record; it was written by {created_by}")]
    MissingRecord {
        /// Name of the kind.
        kind: &'static str,
        /// The program that wrote the image.
        created_by: String,
    },

    /// A record that may be there once is there several times.
    #[error(
        "the image has {count} \"{kind}\" records where one is expected; it was written by {created_by}"
    )]
    RepeatedRecord {
        /// Name of the kind.
        kind: &'static str,
        /// How many there are.
        count: usize,
        /// The program that wrote the image.
        created_by: String,
    },

    /// A record's bytes are not a message of its kind.
    #[error("a \"{kind}\" record of the image cannot be decoded; it was written by {created_by}")]
    BadRecord {
        /// Name of the kind.
        kind: &'static str,
        /// The program that wrote the image.
        created_by: String,
        /// What the decoder found.
        source: prost::DecodeError,
    },

    /// A kind's name or version cannot be written.
    #[error(
        "\"{name}\" version {version} is not a kind: names have 1 to 64 of a-z 0-9 . _ -, versions begin at 1"
    )]
    BadKind {
        /// The name.
        name: String,
        /// The version.
        version: u32,
    },

    /// A run of pages that cannot be written.
    #[error("a run of {pages} pages at {address:#x} cannot be written: {why}")]
    BadRun {
        /// Address of the first page.
        address: u64,
        /// Number of pages.
        pages: u64,
        /// What is wrong with it.
        why: &'static str,
    },

    /// The path given for an image is something else than a regular file.
    #[error("{} cannot hold an image: {why}", path.display())]
    NotAFile {
        /// The path given.
        path: PathBuf,
        /// What it is, and what to do.
        why: String,
    },

    /// An earlier error left the reader or writer without a defined position.
    #[error("the image cannot be used after the error that was reported before")]
    Failed,

    /// The operating system reported an error.
    #[error("cannot {action}")]
    Io {
        /// What was attempted, on what.
        action: String,
        /// The system's error.
        source: io::Error,
    },
}

impl ImageError {
    pub(crate) fn damaged(offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged {
            offset,
            what: what.into(),
        }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action: action.into(),
            source,
        }
    }
}

/// The name people use for an ELF `e_machine` value.
fn architecture_name(machine: u32) -> String {
    match machine {
        62 => "x86-64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv".to_owned(),
        other => format!("architecture {other}"),
    }
}
