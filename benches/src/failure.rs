//! Why a measurement could not be made.

use std::path::Path;

/// One sentence for the person who runs the benchmarks.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    reason: String,
}

impl Failure {
    /// A failure with its reason.
    pub fn new(reason: String) -> Self {
        Self { reason }
    }

    /// A file or directory that could not be used.
    pub fn at(path: &Path, error: &std::io::Error) -> Self {
        Self::new(format!("{}: {error}", path.display()))
    }
}
