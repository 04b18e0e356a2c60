//! Message queues (msgget(2)) with their messages, which are read as copies (MSG_COPY) and so stay where they are.

use std::fmt;

use cryonaut_image::{Kind, Record};
use cryonaut_tracee::CallList;

use super::limits::{self, IpcLimit};
use super::{Identity, NAMESPACE, NEW, QUEUES, check_identities, damaged, make_object};
use crate::Result;
use crate::error::Attempt;
use crate::plan::{Action, Plan, Stage, Token};
use crate::rebuild::Rebuild;

/// What a fresh IPC namespace allows: `MSGMAX` and `MSGMNB` (include/uapi/linux/msg.h).
const LONGEST_MESSAGE: u64 = 8192;
const LARGEST_QUEUE: u64 = 16384;
/// Where `msg_qbytes` is in `struct msqid64_ds` (include/uapi/asm-generic/msgbuf.h), and how long that is.
const CAPACITY: usize = 88;
const STATE: usize = 120;

/// A message queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MessageQueue {
    /// Id, key, owners and permissions.
    #[prost(message, optional, tag = "1")]
    pub identity: Option<Identity>,
    /// How many bytes it may hold (`msg_qbytes`).
    #[prost(uint64, tag = "2")]
    pub capacity: u64,
    /// What is in it, the oldest first.
    #[prost(message, repeated, tag = "3")]
    pub messages: Vec<TypedMessage>,
}

/// A message of a queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypedMessage {
    /// Its type, greater than 0.
    #[prost(int64, tag = "1")]
    pub kind: i64,
    /// Its text.
    #[prost(bytes = "vec", tag = "2")]
    pub text: Vec<u8>,
}

impl Record for MessageQueue {
    const KIND: Kind = Kind {
        name: "ipc.message-queue",
        version: 1,
    };
}

impl MessageQueue {
    fn bytes(&self) -> u64 {
        self.messages.iter().map(|one| one.text.len() as u64).sum()
    }

    /// What it must be allowed to hold while its messages are put into it: its capacity may have been lowered since.
    fn room(&self) -> u64 {
        // As many messages as bytes: also empty ones count (`msg_fits_inqueue` in ipc/msg.c).
        self.capacity
            .max(self.bytes())
            .max(self.messages.len() as u64)
    }
}

/// Plans the queues; `known` limits are set already.
pub(super) fn plan(queues: Vec<MessageQueue>, known: &[IpcLimit], plan: &mut Plan) -> Result<()> {
    let what = "a message queue";
    check_identities(queues.iter().map(|own| own.identity.as_ref()), what)?;
    let messages = || queues.iter().flat_map(|queue| &queue.messages);
    if messages().any(|message| message.kind <= 0) {
        return Err(damaged(what));
    }
    let longest = messages().map(|message| message.text.len() as u64).max();
    let largest = queues.iter().map(MessageQueue::room).max();
    // What the job's own namespace allows is said; a shared one may allow more than a fresh one.
    let mut raised = unusual(longest.unwrap_or(0), largest.unwrap_or(0));
    raised.retain(|limit| !known.iter().any(|known| known.name == limit.name));
    limits::plan(raised, plan)?;
    for queue in queues {
        let needs = vec![Token::Process(0), NAMESPACE];
        plan.linked_step(Stage::Objects, 0, needs, Vec::new(), MakeQueue { queue });
    }
    Ok(())
}

/// Limits that must be raised for messages of `longest` bytes and queues of `largest`.
fn unusual(longest: u64, largest: u64) -> Vec<IpcLimit> {
    let limits = [
        ("kernel/msgmax", longest, LONGEST_MESSAGE),
        ("kernel/msgmnb", largest, LARGEST_QUEUE),
    ];
    let unusual = limits.iter().filter(|(_, wanted, usual)| wanted > usual);
    let raised = unusual.map(|(name, wanted, _)| IpcLimit {
        name: (*name).into(),
        value: wanted.to_string(),
    });
    raised.collect()
}

/// Makes a queue and puts its messages into it.
struct MakeQueue {
    queue: MessageQueue,
}

impl fmt::Display for MakeQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identifier = self.queue.identity.as_ref().map_or(0, |own| own.identifier);
        write!(
            f,
            "make the System V message queue {identifier} with {} messages",
            self.queue.messages.len()
        )
    }
}

impl Action for MakeQueue {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let queue = &self.queue;
        let identity = queue
            .identity
            .as_ref()
            .ok_or_else(|| damaged("a message queue"))?;
        let flags = (identity.mode & 0o777) as i32 | NEW;
        let arguments = [identity.key.into(), flags.into()];
        let make = (libc::SYS_msgget, &arguments[..]);
        make_object(rebuild, QUEUES, identity, make, state(queue.room()))?;
        let what = || format!("filling the message queue {}", identity.identifier);
        for message in &queue.messages {
            let mut bytes = message.kind.to_ne_bytes().to_vec();
            bytes.extend_from_slice(&message.text);
            let mut list = CallList::new();
            let buffer = list.bytes(&bytes);
            let arguments = [
                identity.identifier.into(),
                buffer.into(),
                (message.text.len() as u64).into(),
                libc::IPC_NOWAIT.into(),
            ];
            let call = list.call(libc::SYS_msgsnd, &arguments);
            rebuild.run(0, &list)?.result(call).attempt(what)?;
        }
        if queue.room() == queue.capacity {
            return Ok(());
        }
        let mut lowered = state(queue.capacity);
        for (at, word) in [(4, identity.user), (8, identity.group), (20, identity.mode)] {
            lowered[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        let mut list = CallList::new();
        let lowered = list.bytes(&lowered);
        let arguments = [
            identity.identifier.into(),
            libc::IPC_SET.into(),
            lowered.into(),
        ];
        let call = list.call(libc::SYS_msgctl, &arguments);
        rebuild.run(0, &list)?.result(call).attempt(what).map(drop)
    }
}

/// `struct msqid64_ds` with nothing in it but the capacity.
fn state(capacity: u64) -> Vec<u8> {
    let mut state = vec![0; STATE];
    state[CAPACITY..CAPACITY + 8].copy_from_slice(&capacity.to_ne_bytes());
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_raised_only_where_they_must_be() {
        assert!(unusual(8192, 16384).is_empty());
        assert_eq!(unusual(8193, 1).len(), 1);
        assert_eq!(unusual(8193, 16385).len(), 2);
    }

    #[test]
    fn a_queue_whose_capacity_was_lowered_has_room_for_what_is_in_it() {
        let message = TypedMessage {
            kind: 1,
            text: vec![0; 100],
        };
        let queue = MessageQueue {
            capacity: 50,
            messages: vec![message],
            ..MessageQueue::default()
        };
        assert_eq!(queue.room(), 100);
    }
}
