//! The keys that take a viewer off a terminal.

use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long the beginning of the keys is held back for the rest.
const PATIENCE: Duration = Duration::from_secs(1);

/// The keys that detach: all of them, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKey(Vec<u8>);

impl Default for DetachKey {
    /// Ctrl-\ and then d.
    fn default() -> DetachKey {
        DetachKey(vec![0x1c, b'd'])
    }
}

impl DetachKey {
    /// No keys detach.
    pub const NONE: DetachKey = DetachKey(Vec::new());

    /// Whether any keys detach.
    pub fn is_some(&self) -> bool {
        !self.0.is_empty()
    }
}

impl std::fmt::Display for DetachKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self
            .0
            .iter()
            .map(|byte| match byte {
                0..0x20 => format!("Ctrl-{}", char::from(byte + 0x40).to_ascii_lowercase()),
                0x7f => "Ctrl-?".into(),
                byte => char::from(*byte).to_string(),
            })
            .collect();
        formatter.write_str(&names.join(" "))
    }
}

impl FromStr for DetachKey {
    type Err = String;

    /// Keys with commas between them, such as `ctrl-\,d`; `none` for no keys.
    fn from_str(text: &str) -> Result<DetachKey, String> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(DetachKey::NONE);
        }
        let keys: Result<Vec<u8>, String> = text.split(',').map(key).collect();
        Ok(DetachKey(keys?))
    }
}

fn key(text: &str) -> Result<u8, String> {
    let wrong = || {
        format!(
            "{text:?} is no key: keys are single characters and ctrl-X, with commas between them, such as ctrl-\\,d; or none"
        )
    };
    let control = text
        .get(..5)
        .filter(|start| start.eq_ignore_ascii_case("ctrl-"));
    let letter = match control {
        Some(_) => &text[5..],
        None => text,
    };
    match (control, letter.as_bytes()) {
        (None, [byte @ 0x21..=0x7e]) => Ok(*byte),
        (Some(_), [byte]) => match byte.to_ascii_uppercase() {
            upper @ 0x40..=0x5f => Ok(upper - 0x40),
            b'?' => Ok(0x7f),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub(crate) struct KeyWatch {
    keys: Vec<u8>,
    /// How many of them have been typed, and when the last one was.
    matched: usize,
    since: Instant,
}

impl KeyWatch {
    pub(crate) fn new(DetachKey(keys): DetachKey) -> KeyWatch {
        KeyWatch {
            keys,
            matched: 0,
            since: Instant::now(),
        }
    }

    /// What of this is meant for the job; the second part says whether all keys have been typed, and then what follows them is lost.
    pub(crate) fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, Typed) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.matched) != Some(byte) {
                passed.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                self.since = Instant::now();
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (passed, Typed::DetachKey);
                }
            } else {
                passed.push(*byte);
            }
        }
        (passed, Typed::Ordinary)
    }

    /// How long until a beginning that was held back is meant for the job after all.
    pub(crate) fn patience(&self) -> Option<Duration> {
        (self.matched > 0).then(|| PATIENCE.saturating_sub(self.since.elapsed()))
    }

    /// The beginning that was held back, once it has been for long enough.
    pub(crate) fn give_up(&mut self) -> Vec<u8> {
        match self.patience() {
            Some(Duration::ZERO) => {
                let held = self.keys[..self.matched].to_vec();
                self.matched = 0;
                held
            }
            _ => Vec::new(),
        }
    }
}

/// What was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Typed {
    Ordinary,
    DetachKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_named() {
        let key: DetachKey = "ctrl-\\,d".parse().unwrap();
        assert_eq!(key, DetachKey::default());
        assert_eq!(key.to_string(), "Ctrl-\\ d");
        let docker: DetachKey = "Ctrl-P,ctrl-q".parse().unwrap();
        assert_eq!(docker.to_string(), "Ctrl-p Ctrl-q");
        assert!(!"none".parse::<DetachKey>().unwrap().is_some());
        for wrong in ["", "dd", "ctrl-", "ctrl-ab", "ctrl-1", "ü", "d,,d", " "] {
            assert!(wrong.parse::<DetachKey>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_all_keys_detach() {
        let mut watch = KeyWatch::new(DetachKey::default());
        assert_eq!(watch.pass(b"add"), (b"add".to_vec(), Typed::Ordinary));
        assert_eq!(watch.pass(b"x\x1c"), (b"x".to_vec(), Typed::Ordinary));
        assert_eq!(watch.pass(b"y"), (b"\x1cy".to_vec(), Typed::Ordinary));
        assert_eq!(watch.pass(b"\x1c\x1c"), (b"\x1c".to_vec(), Typed::Ordinary));
        assert_eq!(watch.pass(b"drest"), (Vec::new(), Typed::DetachKey));
        let mut none = KeyWatch::new(DetachKey::NONE);
        assert_eq!(none.pass(b"\x1cd"), (b"\x1cd".to_vec(), Typed::Ordinary));
        assert_eq!(none.patience(), None);
    }

    #[test]
    fn a_lone_first_key_reaches_the_job_a_little_later() {
        let mut watch = KeyWatch::new(DetachKey::default());
        watch.pass(b"\x1c");
        assert_eq!(watch.give_up(), b"");
        watch.since = Instant::now() - 2 * PATIENCE;
        assert_eq!(watch.patience(), Some(Duration::ZERO));
        assert_eq!(watch.give_up(), b"\x1c");
        assert_eq!(watch.patience(), None);
    }
}
