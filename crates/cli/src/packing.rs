//! How an image is packed for its way.

use clap::Args;
use cryonaut_engine::checkpoint::Packing;
use cryonaut_image::LEVELS;

/// How an image is packed.
#[derive(Args, Debug, Clone, Default)]
pub struct PackingArguments {
    /// Compress the memory in the image, with zstd at this level (1, the fastest, to 19, the smallest); this is done once the
    /// processes run on, from a temporary file
    #[arg(long, value_name = "LEVEL", value_parser = level, num_args = 0..=1, require_equals = true, default_missing_value = "3")]
    compress: Option<i32>,
}

/// Reads `9`, `zstd` or `zstd:9`.
fn level(text: &str) -> Result<i32, String> {
    let number = match text.strip_prefix("zstd") {
        Some("") => "3",
        Some(rest) => rest.strip_prefix(':').unwrap_or(rest),
        None => text,
    };
    match number.parse() {
        Ok(level) if LEVELS.contains(&level) => Ok(level),
        _ => Err(format!(
            "levels go from {} to {}, as in --compress=9 or --compress=zstd:9",
            LEVELS.start(),
            LEVELS.end()
        )),
    }
}

impl PackingArguments {
    /// As the engine has it.
    pub fn chosen(&self) -> Packing {
        Packing {
            compress: self.compress,
            envelope: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read() {
        assert_eq!(level("9"), Ok(9));
        assert_eq!(level("zstd"), Ok(3));
        assert_eq!(level("zstd:19"), Ok(19));
        for wrong in ["0", "20", "lz4", "zstd:", "-1", ""] {
            assert!(level(wrong).is_err(), "{wrong}");
        }
    }
}
