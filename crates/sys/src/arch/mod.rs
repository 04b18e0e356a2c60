//! Everything that depends on the processor.

mod x86_64;

pub use x86_64::*;
