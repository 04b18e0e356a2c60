//! `/proc/cpuinfo`: kernel arch/x86/kernel/cpu/proc.c.

use std::collections::BTreeSet;

use crate::error::ParseError;
use crate::scan;

/// The first processor of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Processor {
    /// For example `GenuineIntel`.
    pub vendor: String,
    /// Model name for people.
    pub model_name: String,
    /// CPU family.
    pub family: Option<u32>,
    /// Model number.
    pub model: Option<u32>,
    /// Stepping.
    pub stepping: Option<u32>,
    /// Features the kernel uses or offers, for example `avx2`.
    pub flags: BTreeSet<String>,
}

/// Parses the first processor of `cpuinfo`.
///
/// # Errors
/// If it has no line `flags`.
pub fn parse(text: &[u8]) -> Result<Processor, ParseError> {
    let mut processor = Processor::default();
    let mut has_flags = false;
    for (_, line) in scan::Lines::new(text) {
        if line.is_empty() {
            break;
        }
        let Some((key, value)) = scan::cut(line, b':') else {
            continue;
        };
        let value = value.trim_ascii();
        let words = || String::from_utf8_lossy(value).into_owned();
        match key.trim_ascii() {
            b"vendor_id" => processor.vendor = words(),
            b"model name" => processor.model_name = words(),
            b"cpu family" => processor.family = scan::decimal(value),
            b"model" => processor.model = scan::decimal(value),
            b"stepping" => processor.stepping = scan::decimal(value),
            b"flags" => {
                processor.flags = scan::words(value)
                    .map(|flag| String::from_utf8_lossy(flag).into_owned())
                    .collect();
                has_flags = true;
            }
            _ => {}
        }
    }
    if has_flags {
        Ok(processor)
    } else {
        Err(ParseError::new("cpuinfo", 1, "no line 'flags'", text))
    }
}
