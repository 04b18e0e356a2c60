//! Where jobs are born, and how a foreground command lives beside its job.
//!
//! A [`Nursery`] starts processes: [`Direct`] as children of the calling process, or [`Namespaces`]
//! as children of a minimal init in fresh namespaces, where any pid is free and an ordinary user may
//! ask for it. A [`ChildSpec`] says what to start. A [`Supervisor`] then forwards signals, carries a
//! terminal ([`terminal`]) and learns how the job's root ends. [`registry`] remembers which jobs run.
//!
//! This crate holds no unsafe code: everything that touches the kernel lies in `cryonaut_sys`.
#![forbid(unsafe_code)]

mod birth;
mod child;
mod error;
mod init;
mod namespace;
mod nursery;
mod order;
pub mod registry;
mod supervise;
pub mod terminal;

pub use child::{
    Child, ChildSpec, Ended, Privilege, Program, Role, Session, StopBeforeExec,
    inherited_descriptors,
};
pub use error::LaunchError;
pub use namespace::{
    HELD_TERMINAL, Lifetime, NamespaceRequest, Namespaces, Terminals, TimeOffset, TimeOffsets,
    UserNamespace, WITHOUT_USER_NAMESPACE, enter_private_mounts, held_status, held_terminal,
};
pub use nursery::{Direct, Nursery};
pub use supervise::{Event, Outcome, Supervisor, WatchedSignals};
