//! The hash of a file's content (BLAKE3, 32 bytes).

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::StateOfFile;

/// Bytes read at once: they stay in a processor's cache.
const PIECE: usize = 1 << 18;

/// Hashes by the state that their files were in.
static KNOWN: LazyLock<Mutex<HashMap<StateOfFile, [u8; 32]>>> = LazyLock::new(Mutex::default);

/// The hash of the content of the regular file at `path`; none if it cannot be read, or changes meanwhile. A file that has not
/// changed since it was hashed last is not read again.
pub fn content_hash(path: &Path) -> Option<[u8; 32]> {
    let (file, metadata) = super::open(path)?;
    let state = StateOfFile::of(&metadata);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(hash) = known().get(&state) {
        return Some(*hash);
    }
    let hash = hash(&file, metadata.len())?;
    if StateOfFile::of(&file.metadata().ok()?) != state {
        return None;
    }
    known().insert(state, hash);
    Some(hash)
}

/// The hash of the first `length` bytes of the file at `path`; none if it has fewer or cannot be read.
pub fn beginning_hash(path: &Path, length: u64) -> Option<[u8; 32]> {
    let (file, _) = super::open(path)?;
    hash(&file, length)
}

fn hash(mut file: &File, length: u64) -> Option<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; PIECE];
    let mut left = length;
    while left > 0 {
        let piece = &mut buffer[..left.min(PIECE as u64) as usize];
        file.read_exact(piece).ok()?;
        hasher.update(piece);
        left -= piece.len() as u64;
    }
    Some(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_content() {
        let path = std::env::temp_dir().join(format!("cryonaut-hash-{}", std::process::id()));
        let content: Vec<u8> = (0..=255).cycle().take(PIECE * 2 + 5).collect();
        std::fs::write(&path, &content).unwrap();
        assert_eq!(
            content_hash(&path).unwrap(),
            *blake3::hash(&content).as_bytes()
        );
        assert_eq!(
            beginning_hash(&path, 300).unwrap(),
            *blake3::hash(&content[..300]).as_bytes()
        );
        assert_eq!(beginning_hash(&path, content.len() as u64 + 1), None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(content_hash(&path).unwrap(), *blake3::hash(b"").as_bytes());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(content_hash(&path), None);
    }
}
