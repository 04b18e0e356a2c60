//! Random times whose seed is printed, so that a failure can be repeated.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A small generator (xorshift64*); nothing here needs a better one.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by `CRYONAUT_SEED` if that is set, else by the clock; prints the seed.
    ///
    /// # Panics
    ///
    /// If `CRYONAUT_SEED` is no number.
    #[must_use]
    pub fn new() -> Self {
        let seed = match std::env::var("CRYONAUT_SEED") {
            Ok(text) => text.parse().expect("CRYONAUT_SEED is a number"),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |since| since.as_nanos() as u64),
        };
        println!("seed: CRYONAUT_SEED={seed}");
        Self(seed | 1)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % limit
    }

    /// A time between two others, to the microsecond.
    pub fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = high.saturating_sub(low).as_micros() as u64;
        low + Duration::from_micros(self.below(span + 1))
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

/// How often a test kills `cryo` at random instants: `usual`, or with `CRYONAUT_KILL_ROUNDS` in proportion, which is the number for
/// the quickest of these tests, that has 50.
///
/// # Panics
///
/// If `CRYONAUT_KILL_ROUNDS` is no number.
#[must_use]
pub fn kill_rounds(usual: u32) -> u32 {
    let quickest = std::env::var("CRYONAUT_KILL_ROUNDS").map_or(50, |text| {
        text.parse().expect("CRYONAUT_KILL_ROUNDS is a number")
    });
    (quickest * usual / 50).max(1)
}
