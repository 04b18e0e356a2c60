//! The image container, through its public interface.

mod atomic;
mod damage;
mod hostile;
mod properties;
mod round_trip;
mod sample;
