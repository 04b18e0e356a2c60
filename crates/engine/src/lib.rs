//! The engine: freeze, collect, plan, rebuild, release; with one file for each kernel resource, both sides in it.
//!
//! Each arrow consumes its input: a [`target::Target`] is frozen into [`freeze::Frozen`], collected into a
//! [`collect::Collection`], and released; an image and a [`host::Host`] give a [`plan::Plan`], which a [`rebuild::Rebuild`]
//! carries out and releases.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod collect;
pub mod copy_in;
pub mod copy_out;
pub mod dialogue;
mod error;
pub mod extract;
mod feeder;
mod finisher;
mod firewall;
pub mod freeze;
pub mod guardian;
pub mod host;
pub mod notify;
mod participants;
pub mod pattern;
pub mod plan;
pub mod processor;
pub mod rebuild;
pub mod reference;
pub mod relocate;
pub mod resource;
pub mod restart;
pub mod show;
pub mod suspend;
pub mod target;
pub mod view;

pub use error::{Error, Refusal, Refusals, Result};

/// How many threads share work that is worth `most` of them: no more than there are processors, nor than help on a busy machine.
pub(crate) fn workers(most: usize) -> usize {
    std::thread::available_parallelism()
        .map_or(1, |processors| processors.get().min(8))
        .min(most)
}
