//! What an IPC namespace of the job's making must not have: only an empty one can be made again.

use std::io;

use super::Nothing;
use crate::resource::system_v;

/// Looks at the IPC namespace of the calling process.
///
/// # Errors
/// Those of the system; what there is.
pub(super) fn look() -> io::Result<Nothing> {
    match system_v::contents()? {
        None => Ok(Nothing {}),
        Some(what) => Err(io::Error::other(format!(
            "it has {what}, and only IPC namespaces without any can be made again"
        ))),
    }
}
