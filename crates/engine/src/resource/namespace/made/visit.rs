//! A look into a namespace, by a process of ours that enters it. It has no part in the job, changes nothing, and ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use cryonaut_sys::{namespace, spawn};
use prost::Message;

use crate::{Error, Result, finisher};

const WHAT: &str = "looking into a namespace of the job";
/// What an answer begins with.
const SEEN: u8 = 1;
const UNSEEN: u8 = 0;

/// Has a process enter the namespaces of `way`, one after the other, and look there.
///
/// # Errors
/// When it cannot get there, or see what it is to look at.
pub(super) fn visit<T: Message + Default>(
    way: &[&File],
    look: impl FnOnce() -> io::Result<T>,
) -> Result<T> {
    let answer = finisher::ask(c"cryo-visitor", WHAT, |link| {
        let entered = way
            .iter()
            .try_for_each(|place| namespace::enter(place.as_fd()));
        let entered =
            entered.map_err(|error| io::Error::other(format!("it cannot be entered: {error}")));
        // Its own files in /proc are shown to nobody otherwise, since it has changed its user namespace.
        let seen = entered
            .and_then(|()| spawn::allow_inspection())
            .and_then(|()| look());
        let bytes = match seen {
            Ok(seen) => [vec![SEEN], seen.encode_to_vec()].concat(),
            Err(error) => [vec![UNSEEN], error.to_string().into_bytes()].concat(),
        };
        i32::from(link.write_all(&bytes).is_err())
    })?;
    answer.await_end(WHAT)?;
    match answer.bytes.split_first() {
        Some((&SEEN, seen)) => T::decode(seen).map_err(|_| finisher::killed(WHAT)),
        Some((_, error)) => Err(Error::Failed(String::from_utf8_lossy(error).into_owned())),
        None => Err(finisher::killed(WHAT)),
    }
}
