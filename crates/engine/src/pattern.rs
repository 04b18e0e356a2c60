//! Patterns for paths, as users give them.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A path, or a path with `*` (any characters, `/` among them), `?` (any one but `/`). What names a directory stands for all
/// that lies below it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// A pattern from a user's text; one that does not begin with `/` or `*` is relative to the working directory.
    ///
    /// # Errors
    /// When it is empty, or the working directory is unknown.
    pub fn parse(text: &std::ffi::OsStr) -> std::io::Result<Self> {
        let bytes = text.as_bytes();
        let anchored = bytes.starts_with(b"/") || bytes.starts_with(b"*");
        let path = match anchored {
            true => PathBuf::from(text),
            false => std::path::absolute(text)?,
        };
        let mut whole = path.as_os_str().as_bytes().to_vec();
        while whole.len() > 1 && whole.ends_with(b"/") {
            whole.pop();
        }
        Ok(Self(whole))
    }

    /// Whether it stands for a path.
    pub fn matches(&self, path: &[u8]) -> bool {
        if self.0 == b"/" {
            return true;
        }
        matches(&self.0, path)
            || path
                .iter()
                .enumerate()
                .any(|(end, &byte)| byte == b'/' && end > 0 && matches(&self.0, &path[..end]))
    }

    /// The longest directory (or the path itself) in which all that it stands for lies; nothing where it begins with a `*`.
    pub fn beginning(&self) -> Option<&Path> {
        let wild = self.0.iter().position(|byte| b"*?".contains(byte));
        let sure = match wild {
            None => &self.0[..],
            Some(wild) => {
                let end = self.0[..wild].iter().rposition(|&byte| byte == b'/')?;
                &self.0[..end.max(1)]
            }
        };
        Some(Path::new(std::ffi::OsStr::from_bytes(sure)))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Matches with one step back to the last `*`, in time proportional to the product of the lengths at most.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&letter) if letter == text[from] || (letter == b'?' && text[from] != b'/') => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((place, taken)) = star else {
                    return false;
                };
                star = Some((place, taken + 1));
                at = place + 1;
                from = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(std::ffi::OsStr::new(text)).unwrap()
    }

    #[test]
    fn patterns_stand_for_files_and_all_below_directories() {
        for (text, path, whether) in [
            ("/usr/lib", "/usr/lib/a/b.so", true),
            ("/usr/lib/", "/usr/lib", true),
            ("/usr/lib", "/usr/library", false),
            ("/", "/anything", true),
            ("*.py", "/home/x/y.py", true),
            ("*.py", "/home/x/y.pyc", false),
            ("/home/*/lib", "/home/ada/lib/z", true),
            ("/a/?", "/a/b", true),
            ("/a/?", "/a//", false),
            (
                "*a*a*a*a*b",
                "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                false,
            ),
        ] {
            assert_eq!(
                pattern(text).matches(path.as_bytes()),
                whether,
                "{text} {path}"
            );
        }
        assert_eq!(pattern("/a/b*/c").beginning(), Some(Path::new("/a")));
        assert_eq!(pattern("/*").beginning(), Some(Path::new("/")));
        assert_eq!(pattern("/a/b").beginning(), Some(Path::new("/a/b")));
        assert_eq!(pattern("*x").beginning(), None);
        assert!(
            pattern("x.py").matches(
                std::env::current_dir()
                    .unwrap()
                    .join("x.py")
                    .as_os_str()
                    .as_bytes()
            )
        );
    }
}
