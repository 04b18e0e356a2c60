//! What `cryo migrate` and `cryo receive` tell each other: the bodies of their messages.

use std::path::PathBuf;
use std::time::Duration;

use cryonaut_engine::Refusal;
use serde::{Deserialize, Serialize};

use crate::command::Taking;
use crate::exit::{Code, Failure};
use crate::kept::quoted;
use crate::line::Trouble;

/// The version of what is said here; both sides must have the same.
pub const PROTOCOL: u32 = 2;

/// What the receiving side is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Its version of cryo.
    pub version: String,
    /// Its processor.
    pub architecture: String,
    /// The machine's name.
    pub node: String,
}

/// What is to be moved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offer {
    /// The sender's version of cryo.
    pub version: String,
    /// The machine that it runs on.
    pub node: String,
    /// The name that it must have there, where the user gave one.
    pub name: Option<String>,
    /// What it is called in file names.
    pub label: String,
    /// How it is taken.
    pub taking: Taking,
    /// How long the sender waits where nothing moves; neither side waits longer for the other.
    pub patience: Duration,
}

impl Offer {
    /// The options of `cryo restart` that take it in the same way, as sh reads them.
    pub fn restart_options(&self) -> Vec<String> {
        restart_options(&self.taking, self.name.as_deref())
    }
}

/// The options of `cryo restart` that take an image in this way, as sh reads them.
pub fn restart_options(taking: &Taking, name: Option<&str>) -> Vec<String> {
    let mut words = taking.words();
    if let Some(name) = name {
        words.extend(["--name".to_owned(), name.to_owned()]);
    }
    words.iter().map(|word| quoted(word)).collect()
}

/// That there is a place for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// Where its image will lie there until it runs.
    pub image: PathBuf,
}

/// How much was sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Complete {
    /// In bytes.
    pub bytes: u64,
    /// What the answer to it repeats.
    pub token: String,
}

/// That the job is rebuilt, and stopped.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// That of [`Complete`].
    pub token: String,
    /// What the answer to it repeats.
    pub answer: String,
}

/// That the original has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// That of [`Ready`].
    pub answer: String,
}

/// A word that nobody has said before.
pub fn token() -> Result<String, Trouble> {
    let word = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(word.trim_end().to_owned())
}

/// That it runs there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    /// Its root's pid, as it is seen there.
    pub pid: i32,
    /// Its name in the list there.
    pub name: Option<String>,
    /// Whether it has a terminal of its own.
    pub terminal: bool,
    /// What the user should know.
    pub remarks: Vec<String>,
}

/// Why it does not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// What kind of failure.
    pub code: Code,
    /// What, why, and what to do.
    pub message: String,
    /// All refusals, where it is one.
    pub refusals: Vec<Refusal>,
}

impl From<&Failure> for Failed {
    fn from(failure: &Failure) -> Failed {
        Failed {
            code: failure.code,
            message: failure.message.clone(),
            refusals: failure.refusals.clone(),
        }
    }
}

/// The name of the machine.
pub fn node() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}
