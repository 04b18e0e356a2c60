//! Looking into message queues, by a process that finishes whatever becomes of `cryo`.
//!
//! The messages of a queue can only be read by taking them out. So a process that no key and no signal but SIGKILL to itself ends
//! takes them all and puts them back in the same order: that of their priorities, and within one that of their age. The job stands
//! still until it is done: whoever traces it is a process apart (see `cryonaut_engine::checkpoint::Tracer`), which goes on for that
//! long when `cryo` is killed. None of the job's tasks waits in the kernel for a message or for room meanwhile: a task that stands
//! still has left the queue's lists, and comes back to them when it goes on. Nobody is to be told of messages (mq_notify(3)) either:
//! such queues are refused before.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use cryonaut_sys::message_queue::{self, Attributes};
use cryonaut_sys::spawn;
use prost::Message as _;

use super::Message;
use crate::{Error, Result, finisher};

/// How long messages may be on their way back until somebody is told. Only a process outside the job could stand in the way.
const PATIENCE: Duration = Duration::from_secs(2);
/// The time between two tries.
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

/// A queue to look into.
#[derive(Debug)]
pub(super) struct Subject {
    /// A description by which it can be read.
    pub(super) reader: OwnedFd,
    /// A description by which it can be written to.
    pub(super) writer: OwnedFd,
    /// What it may hold and holds.
    pub(super) attributes: Attributes,
}

/// What was found.
#[derive(Clone, PartialEq, prost::Message)]
struct Answers {
    /// For each queue.
    #[prost(message, repeated, tag = "1")]
    all: Vec<Answer>,
    /// Whether messages are still to be put back.
    #[prost(bool, tag = "2")]
    late: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, repeated, tag = "1")]
    messages: Vec<Message>,
    /// Why there are none.
    #[prost(string, tag = "2")]
    error: String,
}

/// What is in each of these queues, the next to be received first.
///
/// # Errors
/// When no process can be started, it was killed, or a queue cannot be read.
pub(super) fn look(subjects: &[Subject]) -> Result<Vec<Vec<Message>>> {
    let what = "looking into the job's message queues";
    let answer = finisher::ask(c"cryo-queues", what, |link| {
        let mut late = false;
        let mut answers = Answers::default();
        for subject in subjects {
            answers.all.push(subject.answer(|| {
                let unfinished = Answers {
                    all: Vec::new(),
                    late: true,
                };
                if !std::mem::replace(&mut late, true) {
                    let _ = link.write_all(&unfinished.encode_to_vec());
                    let _ = spawn::close_number(link.as_raw_fd());
                }
            }));
        }
        if late {
            return 1;
        }
        i32::from(link.write_all(&answers.encode_to_vec()).is_err())
    })?;
    let answers = Answers::decode(answer.bytes.as_slice()).ok();
    if answers.as_ref().is_some_and(|answers| answers.late) {
        return Err(Error::Failed(format!(
            "{what}: a process outside the job has filled one meanwhile; its messages come back as soon as there is room"
        )));
    }
    let _ = answer.await_end(what);
    let Some(answers) = answers.filter(|answers| answers.all.len() == subjects.len()) else {
        return Err(finisher::killed(what));
    };
    let all = answers.all.into_iter();
    all.map(|answer| match answer.error.is_empty() {
        true => Ok(answer.messages),
        false => Err(Error::Failed(format!("{what}: {}", answer.error))),
    })
    .collect()
}

impl Subject {
    /// Takes everything out and puts it back; `late` is called when that takes long.
    fn answer(&self, late: impl FnMut()) -> Answer {
        let mut answer = Answer::default();
        // Nothing is taken before there is room for it.
        let most = self.attributes.messages as usize;
        let mut room = vec![0; self.attributes.longest as usize];
        let mut messages: Vec<Message> = Vec::with_capacity(most);
        while messages.len() < most {
            match message_queue::receive(self.reader.as_fd(), &mut room) {
                Ok((length, priority)) => messages.push(Message {
                    priority,
                    text: room[..length].to_vec(),
                }),
                Err(error) => {
                    answer.error = error.to_string();
                    break;
                }
            }
        }
        self.put_back(&messages, late);
        answer.messages = messages;
        answer
    }

    /// Never gives up: they are the job's.
    fn put_back(&self, messages: &[Message], mut late: impl FnMut()) {
        let start = Instant::now();
        for Message { priority, text } in messages {
            while message_queue::send(self.writer.as_fd(), text, *priority).is_err() {
                if start.elapsed() > PATIENCE {
                    late();
                }
                std::thread::sleep(BETWEEN_TRIES);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// A queue of our own that has no name, filled with messages of two priorities.
    fn subject(messages: u32) -> Subject {
        let attributes = Attributes {
            capacity: 10,
            longest: 100,
            messages: 0,
        };
        let queue = message_queue::unnamed(&attributes).unwrap();
        for number in 0..messages {
            let priority = if number < messages / 2 { 8 } else { 3 };
            message_queue::send(queue.as_fd(), &[number as u8; 100], priority).unwrap();
        }
        Subject {
            attributes: message_queue::attributes(queue.as_fd()).unwrap(),
            writer: queue.try_clone().unwrap(),
            reader: queue,
        }
    }

    fn numbers(messages: &[Message]) -> Vec<u8> {
        messages.iter().map(|message| message.text[0]).collect()
    }

    #[test]
    fn a_look_changes_nothing() {
        let subjects = [subject(10), subject(0), subject(1)];
        for _ in 0..2 {
            let found = look(&subjects).unwrap();
            assert_eq!(numbers(&found[0]), (0..10).collect::<Vec<u8>>());
            assert_eq!(found[0][9].priority, 3);
            assert!(found[1].is_empty());
            assert_eq!(found[2].len(), 1);
        }
    }

    #[test]
    fn a_kill_leaves_no_trace() {
        for round in 0..60_u64 {
            let subjects: Vec<Subject> = (0..20).map(|_| subject(10)).collect();
            finisher::kill_after(Duration::from_micros(round * 20), || {
                look(&subjects).map(drop)
            });
            for subject in &subjects {
                let mut room = [0; 100];
                for number in 0..10 {
                    let found = message_queue::receive(subject.reader.as_fd(), &mut room);
                    assert_eq!(found.unwrap().0, 100, "round {round}");
                    assert_eq!(room[0], number, "round {round}");
                }
                assert!(message_queue::receive(subject.reader.as_fd(), &mut room).is_err());
            }
        }
    }

    #[test]
    fn what_is_no_queue_is_an_error() {
        let null = || File::open("/dev/null").unwrap().into();
        let wrong = Subject {
            reader: null(),
            writer: null(),
            attributes: Attributes {
                capacity: 1,
                longest: 1,
                messages: 1,
            },
        };
        assert!(look(&[wrong]).is_err());
    }
}
