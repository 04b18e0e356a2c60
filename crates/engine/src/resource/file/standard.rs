//! Standard streams that lead out of the job by a pipe or a unix socket: replaced at a restart by those of `cryo restart`.
//!
//! A pipe whose other end is outside the job cannot come back, but what a program reads from its input and writes to its output
//! has a place in its next life as well: the input, output or error output of the restart. Every slot that shared the pipe gets
//! the same. What was in flight to the job is read before anything that the new input has. Not preserved: O_NONBLOCK and O_APPEND,
//! since the new stream belongs to others, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use cryonaut_image::{Kind, Record, RecordSet};

use super::DescriptorKind;
use super::external::{fed, in_flight};
use super::facts::{Description, FdFacts, Job, Peer};
use super::pipe::Queue;
use crate::collect::Collection;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::{Level, Support};
use crate::{Error, Refusals, Result};

/// An end of a pipe that is a standard stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StandardStream {
    /// Its number among the open file descriptions.
    #[prost(uint64, tag = "1")]
    pub object: u64,
    /// `O_*` flags.
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    /// Which stream: 0 input, 1 output, 2 error output.
    #[prost(uint32, tag = "3")]
    pub stream: u32,
    /// What the job had not read yet, at the pipe's first reading end.
    #[prost(message, optional, tag = "4")]
    pub queue: Option<Queue>,
    /// The pipe's name, where something was in flight: its ends have it in common.
    #[prost(bytes = "vec", tag = "5")]
    pub pipe: Vec<u8>,
}

impl Record for StandardStream {
    const KIND: Kind = Kind {
        name: "file.standard-stream",
        version: 1,
    };
}

/// The kind.
pub(super) struct StandardStreams;

impl DescriptorKind for StandardStreams {
    fn kinds(&self) -> &'static [Kind] {
        const { &[StandardStream::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn claims(&self, facts: &FdFacts) -> bool {
        (facts.is_pipe() || facts.is_socket()) && !facts.is_place() && facts.peer == Peer::Standard
    }

    fn inspect(&self, _description: &Description, _job: &Job<'_>, _refusals: &mut Refusals) {}

    fn collect(
        &self,
        descriptions: &[&Description],
        job: &Job<'_>,
        collection: &mut Collection,
    ) -> Result<()> {
        let numbers =
            |description: &Description| description.slots.iter().map(|slot| slot.number).min();
        for ends in Job::by_link(descriptions).into_values() {
            // A description opened again by way of /proc/self/fd is the same stream as its origin.
            let lowest = ends
                .iter()
                .filter_map(|end| numbers(end))
                .min()
                .unwrap_or(0);
            let name = ends[0].facts.link.clone();
            let mut queue = in_flight(&ends, job)?;
            let pipe = if queue.is_some() { name } else { Vec::new() };
            for end in ends {
                let own = numbers(end).filter(|number| (0..3).contains(number));
                collection.put(&StandardStream {
                    object: end.object,
                    flags: end.facts.flags(),
                    stream: own.unwrap_or(lowest) as u32,
                    queue: if end.facts.reads() {
                        queue.take()
                    } else {
                        None
                    },
                    pipe: pipe.clone(),
                })?;
            }
        }
        Ok(())
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let mut fed: BTreeMap<Vec<u8>, Vec<StandardStream>> = BTreeMap::new();
        for stream in records.all::<StandardStream>()? {
            if stream.pipe.is_empty() {
                let streams = vec![stream];
                plan.step(Stage::Objects, 0, Take { streams });
            } else {
                fed.entry(stream.pipe.clone()).or_default().push(stream);
            }
        }
        for streams in fed.into_values() {
            plan.step(Stage::Objects, 0, Take { streams });
        }
        Ok(())
    }
}

/// The standard streams that led out of a job: 0 input, 1 output, 2 error output.
///
/// # Errors
/// When their records are damaged.
pub fn leading_out(records: &RecordSet) -> Result<BTreeSet<u32>> {
    let streams = records.all::<StandardStream>()?;
    Ok(streams.iter().map(|stream| stream.stream).collect())
}

struct Take {
    /// Ends of one pipe.
    streams: Vec<StandardStream>,
}

impl fmt::Display for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ["input", "output", "error output"]
            .get(self.streams[0].stream as usize)
            .unwrap_or(&"stream");
        write!(f, "take the standard {name} of the restart")?;
        let queue = self.streams.iter().find_map(|stream| stream.queue.as_ref());
        queue.map_or(Ok(()), |queue| write!(f, ", after {queue}"))
    }
}

impl Action for Take {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let what = || "taking a standard stream".into();
        let first = &self.streams[0];
        let taken = standard_stream(rebuild, first.stream)?;
        let queue = self.streams.iter().find_map(|stream| stream.queue.as_ref());
        let taken = match queue {
            Some(queue) => fed(rebuild, taken, queue, first.flags)?,
            None => taken,
        };
        for stream in &self.streams {
            let copy = taken.try_clone().attempt(what)?;
            rebuild.objects.insert(stream.object, copy);
        }
        Ok(())
    }
}

fn standard_stream(rebuild: &Rebuild<'_>, number: u32) -> Result<OwnedFd> {
    let given = rebuild
        .standard
        .get(number as usize)
        .and_then(Option::as_ref);
    let taken = match (given, number) {
        (Some(given), _) => given.as_fd().try_clone_to_owned(),
        (None, 0) => std::io::stdin().as_fd().try_clone_to_owned(),
        (None, 1) => std::io::stdout().as_fd().try_clone_to_owned(),
        (None, 2) => std::io::stderr().as_fd().try_clone_to_owned(),
        _ => {
            return Err(Error::Failed(format!(
                "the image is damaged: standard stream {number}"
            )));
        }
    };
    taken.attempt(|| format!("taking standard stream {number}"))
}

const SUPPORT: &[Support] = &[Support {
    what: "Standard input, output and error output that are pipes or unix sockets to outside the job",
    level: Level::Partly,
    how: "replaced by those of cryo restart; what was in flight to the job is read first; flags are those of the new stream",
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_comes_back_from_its_record() {
        let mut records = RecordSet::new();
        let stream = StandardStream {
            object: 3,
            flags: 1,
            stream: 2,
            ..StandardStream::default()
        };
        records.push(&stream).unwrap();
        assert_eq!(records.all::<StandardStream>().unwrap(), [stream]);
    }
}
