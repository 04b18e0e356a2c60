//! What the tests of the `cryo` command stand on: users, directories, processes that are watched and always cleaned
//! up, victims compiled when they are first needed, and the command itself run with a time-out.
//!
//! A test is a call of [`fn@test`] with a closure over a [`Scene`]. It fails with a text that contains everything a
//! reader needs: what the program under test printed, what each `cryo` said, and how the processes stood.
//! What this machine or user cannot show is skipped with a printed reason, and counted.
//!
//! | Environment variable | Means |
//! |---|---|
//! | `CRYO_BIN` | the `cryo` to test; otherwise the one built beside the tests |
//! | `CRYONAUT_SKIPS` | a file to which every skipped test appends one line |
//! | `CRYONAUT_KEEP` | set: the directories of failed tests are kept, and named |
//! | `CRYONAUT_SEED` | the seed of random times, printed by every test that has them |

#![forbid(unsafe_code)]

pub mod blcr;
pub mod checksum;
pub mod huge_pages;
pub mod lines;
pub mod machine;
pub mod mount;
pub mod name;
pub mod outcome;
pub mod participant;
pub mod place;
pub mod processes;
pub mod program;
pub mod random;
pub mod scene;
pub mod screen;
pub mod swap;
pub mod victim;

pub use huge_pages::HugePages;
pub use mount::{Mounted, leave_mount_namespace};
pub use outcome::{Outcome, Stop, failed, skip, test};
pub use program::Program;
pub use random::{Random, kill_rounds};
pub use scene::{CryoCall, CryoResult, Running, Scene, User};
pub use screen::Screen;
pub use victim::{Mode, Victim};
