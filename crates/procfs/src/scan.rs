//! Byte-level reading of numbers, words, lines and escapes. Nothing here can panic.

use std::io::BufRead;

/// A decimal number with an optional minus sign, all of `text`, that fits `T`.
pub(crate) fn decimal<T: TryFrom<i128>>(text: &[u8]) -> Option<T> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let magnitude = i128::from(unsigned(digits, 10)?);
    T::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// A number of bare digits in `radix` (2 to 16), all of `text`.
pub(crate) fn unsigned(text: &[u8], radix: u64) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for &byte in text {
        value = value.checked_mul(radix)?.checked_add(digit(byte, radix)?)?;
    }
    Some(value)
}

/// A hexadecimal number, all of `text`, that fits `T`.
pub(crate) fn hexadecimal<T: TryFrom<u64>>(text: &[u8]) -> Option<T> {
    T::try_from(unsigned(text, 16)?).ok()
}

/// The value of one digit in `radix`.
pub(crate) fn digit(byte: u8, radix: u64) -> Option<u64> {
    let value = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ => return None,
    };
    let value = u64::from(value);
    (value < radix).then_some(value)
}

/// The words of `text` between blanks (space and tab).
pub(crate) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b' ' || byte == b'\t')
        .filter(|word| !word.is_empty())
}

/// All words of `text` as decimal numbers; `None` if one is not.
pub(crate) fn numbers<T: TryFrom<i128>>(text: &[u8]) -> Option<Vec<T>> {
    words(text).map(decimal).collect()
}

/// Cuts `text` at the first `separator`, which is in neither part.
pub(crate) fn cut(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// The part of `text` before its final newline, if it has one.
pub(crate) fn without_newline(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// Lines with their numbers from 1. A final newline does not start another line.
#[derive(Debug, Clone)]
pub(crate) struct Lines<'text> {
    rest: &'text [u8],
    number: usize,
}

impl<'text> Lines<'text> {
    /// All lines of `text`.
    pub(crate) fn new(text: &'text [u8]) -> Self {
        Self {
            rest: text,
            number: 0,
        }
    }

    /// The first byte of the line that comes next.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The number of the line that `next` gave last.
    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

impl<'text> Iterator for Lines<'text> {
    type Item = (usize, &'text [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let all = self.rest;
        // `skip_until` on a slice is the C library's vectorised memchr, without copying; it cannot fail.
        let length = self.rest.skip_until(b'\n').unwrap_or(all.len());
        self.number += 1;
        Some((self.number, without_newline(all.get(..length)?)))
    }
}

/// Undoes `\ooo`, the three-digit octal escapes of the kernel's `mangle_path` and `seq_escape`
/// (fs/seq_file.c). Only right where the kernel escapes the backslash too, as in `mountinfo`.
pub(crate) fn unescape_octal(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\'
            && let Some(digits) = tail.get(..3)
            && let Some(value) = unsigned(digits, 8)
            && let Ok(value) = u8::try_from(value)
        {
            plain.push(value);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    plain
}

/// Undoes `\012`, the one escape in files where the kernel escapes newlines and nothing else. A
/// backslash is not escaped there, so any other `\ooo` is part of the name.
pub(crate) fn unescape_newline(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    plain
}
