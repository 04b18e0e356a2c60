//! Looking into pseudo-terminals, by a process that finishes whatever becomes of `cryo`.
//!
//! What waits in a terminal can only be read by taking it out. A list of calls in the job could not put it back right: how often
//! there is something to read, which lines a key ended, and when the kernel has passed everything on show only as it goes. So a
//! process that no key and no signal but SIGKILL to itself ends does it. The job stands still until it is done: whoever traces it
//! is a process apart (see `cryonaut_engine::checkpoint::Tracer`), which goes on for that long when `cryo` is killed.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use cryonaut_sys::terminal::pseudo::{Switch, open_slave_with};
use prost::Message;

use super::content::{Content, Sides};
use crate::{Result, finisher};

/// A pseudo-terminal to look into.
#[derive(Debug)]
pub(super) struct Subject {
    /// Its master.
    pub master: OwnedFd,
    /// Its slave, where the job has it open; exclusive mode can be lifted by it only.
    pub slave: Option<OwnedFd>,
}

/// What was found.
#[derive(Clone, PartialEq, Message)]
struct Answers {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Answer>,
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    content: Option<Content>,
    /// Why there is none.
    #[prost(string, tag = "2")]
    error: String,
}

/// What is in each of these; the reason where one could not be looked into.
///
/// # Errors
/// When no process can be started, or it was killed.
pub(super) fn look(subjects: &[Subject]) -> Result<Vec<std::result::Result<Content, String>>> {
    let what = "looking into the job's pseudo-terminals";
    let answer = finisher::ask(c"cryo-terminals", what, |link| {
        let answers = Answers {
            all: subjects.iter().map(answer).collect(),
        };
        i32::from(link.write_all(&answers.encode_to_vec()).is_err())
    })?;
    let _ = answer.await_end(what);
    let answers = Answers::decode(answer.bytes.as_slice()).ok();
    let answers = answers.filter(|answers| answers.all.len() == subjects.len());
    let Some(answers) = answers else {
        return Err(finisher::killed(what));
    };
    let all = answers.all.into_iter();
    Ok(all
        .map(|answer| answer.content.ok_or(answer.error))
        .collect())
}

fn answer(subject: &Subject) -> Answer {
    match subject.content() {
        Ok(content) => Answer {
            content: Some(content),
            error: String::new(),
        },
        Err(error) => Answer {
            content: None,
            error: error.to_string(),
        },
    }
}

impl Subject {
    fn content(&self) -> std::io::Result<Content> {
        let master = self.master.as_fd();
        let locked = Switch::Lock.is_on(master)?;
        let exclusive = match &self.slave {
            Some(slave) if Switch::Exclusive.is_on(slave.as_fd())? => Some(slave),
            _ => None,
        };
        if locked {
            Switch::Lock.turn_off(master)?;
        }
        if let Some(slave) = exclusive {
            Switch::Exclusive.turn_off(slave.as_fd())?;
        }
        let opened = open_slave_with(master, libc::O_RDWR | libc::O_NONBLOCK);
        if let Some(slave) = exclusive {
            Switch::Exclusive.turn_on(slave.as_fd())?;
        }
        if locked {
            Switch::Lock.turn_on(master)?;
        }
        let slave = opened?;
        Content::copy_of(Sides {
            master,
            slave: slave.as_fd(),
        })
    }
}
