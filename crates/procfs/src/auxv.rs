//! `/proc/PID/auxv`: the auxiliary vector, getauxval(3). As the process would be told by the kernel;
//! it is what `PR_SET_MM_AUXV` and `PR_SET_MM_MAP` set.

use crate::error::ParseError;

/// `AT_NULL`, which ends the vector.
pub const AT_NULL: u64 = 0;
/// `AT_SYSINFO_EHDR`: address of the vDSO.
pub const AT_SYSINFO_EHDR: u64 = 33;

/// One entry of the auxiliary vector of a 64-bit process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuxiliaryEntry {
    /// `AT_*`.
    pub key: u64,
    /// Its value.
    pub value: u64,
}

/// Parses the `auxv` file of a 64-bit process up to and without `AT_NULL`. Kernel threads and
/// zombies have an empty one.
///
/// # Errors
/// If entries end before `AT_NULL`, as in the file of a 32-bit process.
pub fn parse(bytes: &[u8]) -> Result<Vec<AuxiliaryEntry>, ParseError> {
    let mut entries = Vec::new();
    if bytes.is_empty() {
        return Ok(entries);
    }
    let (words, _) = bytes.as_chunks::<8>();
    for pair in words.chunks_exact(2) {
        let &[key, value] = pair else { break };
        let entry = AuxiliaryEntry {
            key: u64::from_ne_bytes(key),
            value: u64::from_ne_bytes(value),
        };
        if entry.key == AT_NULL {
            return Ok(entries);
        }
        entries.push(entry);
    }
    Err(ParseError::new("auxv", 1, "no AT_NULL at the end", bytes))
}

/// The value of `key`, if the vector has it.
pub fn value(entries: &[AuxiliaryEntry], key: u64) -> Option<u64> {
    entries
        .iter()
        .find(|entry| entry.key == key)
        .map(|entry| entry.value)
}
