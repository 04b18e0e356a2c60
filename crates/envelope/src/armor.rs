//! An armour of letters around bytes: base64 (RFC 4648) in lines between two marks, as PEM (RFC 7468) and age have it.
//!
//! An image that is not encrypted has a line with its length and checksum before the last mark. A reader takes what mail makes of
//! it: text before and after, quoting marks in front of each line, other line ends, lines folded elsewhere.

use std::io::{self, BufRead, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::EnvelopeError;

/// Bytes that one line of 64 letters stands for.
const LINE: usize = 48;
/// A longer line is no armour.
const LONGEST: u64 = 4096;
/// So much text may come before.
const SEARCHED: u64 = 1 << 20;

/// What the armour is around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    Image,
    Encrypted,
}

impl Label {
    fn text(self) -> &'static str {
        match self {
            Label::Image => "CRYONAUT IMAGE",
            Label::Encrypted => "AGE ENCRYPTED FILE",
        }
    }
}

fn checksum() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi)
}

fn check_line(length: u64, crc: &crc_fast::Digest) -> String {
    format!("Check: {length} bytes, crc32c {:08x}", crc.finalize())
}

/// Puts an armour around what it is given.
pub(crate) struct Armor<W: Write> {
    sink: W,
    label: Label,
    waiting: Vec<u8>,
    length: u64,
    crc: crc_fast::Digest,
}

impl<W: Write> Armor<W> {
    pub(crate) fn begin(mut sink: W, label: Label) -> io::Result<Self> {
        writeln!(sink, "-----BEGIN {}-----", label.text())?;
        Ok(Self {
            sink,
            label,
            waiting: Vec::new(),
            length: 0,
            crc: checksum(),
        })
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.waiting);
        self.lines(&rest)?;
        if self.label == Label::Image {
            writeln!(self.sink, "{}", check_line(self.length, &self.crc))?;
        }
        writeln!(self.sink, "-----END {}-----", self.label.text())?;
        self.sink.flush()
    }

    fn lines(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut text = String::with_capacity(bytes.len() * 3 / 2);
        for line in bytes.chunks(LINE) {
            STANDARD.encode_string(line, &mut text);
            text.push('\n');
        }
        self.sink.write_all(text.as_bytes())
    }
}

impl<W: Write> Write for Armor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(64 << 10)];
        self.waiting.extend_from_slice(bytes);
        self.length += bytes.len() as u64;
        self.crc.update(bytes);
        let whole = self.waiting.len() / LINE * LINE;
        let ready: Vec<u8> = self.waiting.drain(..whole).collect();
        self.lines(&ready)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Takes the armour off.
pub(crate) struct Dearmor<R: BufRead> {
    reader: R,
    label: Label,
    /// What stands before each line, where a mail was quoted.
    prefix: Vec<u8>,
    line: u64,
    /// Letters that are not four yet.
    letters: Vec<u8>,
    bytes: Vec<u8>,
    given: usize,
    length: u64,
    crc: crc_fast::Digest,
    checked: bool,
    padded: bool,
    done: bool,
}

impl<R: BufRead> Dearmor<R> {
    /// Finds the first mark.
    pub(crate) fn find(mut reader: R) -> Result<(Self, Label), EnvelopeError> {
        let (mut line, mut searched) = (0, 0);
        while searched < SEARCHED {
            let text = next_line(&mut reader).map_err(EnvelopeError::of_reading)?;
            let Some(text) = text else {
                break;
            };
            line += 1;
            searched += text.len() as u64;
            for label in [Label::Image, Label::Encrypted] {
                let mark = format!("-----BEGIN {}-----", label.text());
                let place = text
                    .windows(mark.len())
                    .position(|window| window == mark.as_bytes());
                if let Some(place) = place {
                    let dearmor = Self {
                        reader,
                        label,
                        prefix: text[..place].trim_ascii().to_vec(),
                        line,
                        letters: Vec::new(),
                        bytes: Vec::new(),
                        given: 0,
                        length: 0,
                        crc: checksum(),
                        checked: false,
                        padded: false,
                        done: false,
                    };
                    return Ok((dearmor, label));
                }
            }
        }
        Err(EnvelopeError::NoImage)
    }

    /// Reads on to the last mark, before which nothing may stand any more.
    pub(crate) fn finish(&mut self) -> Result<(), EnvelopeError> {
        let mut rest = [0];
        match self.read(&mut rest).map_err(EnvelopeError::of_reading)? {
            0 => Ok(()),
            _ => Err(self.damaged("something follows the encrypted image")),
        }
    }

    fn damaged(&self, what: impl Into<String>) -> EnvelopeError {
        EnvelopeError::Text {
            line: self.line,
            what: what.into(),
        }
    }

    /// The last line.
    fn mark(&self) -> String {
        format!("-----END {}-----", self.label.text())
    }

    /// Takes lines until they give bytes, or end.
    fn fill(&mut self) -> Result<(), EnvelopeError> {
        self.bytes.clear();
        self.given = 0;
        while !self.done && self.bytes.len() < 64 << 10 {
            let text = next_line(&mut self.reader).map_err(EnvelopeError::of_reading)?;
            let text = text.unwrap_or_default();
            // The last line, or a part of it; or a part of a very long one.
            let is_last = !text.ends_with(b"\n") && (text.len() as u64) < LONGEST;
            let text = text.trim_ascii();
            let text = text.strip_prefix(self.prefix.as_slice()).unwrap_or(text);
            let text = text.trim_ascii();
            if is_last && text != self.mark().as_bytes() {
                return Err(EnvelopeError::CutOff {
                    line: self.line,
                    label: self.label.text(),
                });
            }
            self.line += 1;
            self.take(text)?;
        }
        Ok(())
    }

    fn take(&mut self, text: &[u8]) -> Result<(), EnvelopeError> {
        if text == self.mark().as_bytes() {
            return self.end();
        }
        if self.label == Label::Image && text.starts_with(b"Check:") {
            if text != check_line(self.length, &self.crc).as_bytes() || !self.letters.is_empty() {
                return Err(self.damaged("length or checksum do not match what came before"));
            }
            self.checked = true;
            return Ok(());
        }
        if text.is_empty() {
            return Ok(());
        }
        if self.padded || self.checked {
            return Err(self.damaged("there is something after the end of the data"));
        }
        self.letters.extend_from_slice(text);
        let whole = self.letters.len() / 4 * 4;
        let letters: Vec<u8> = self.letters.drain(..whole).collect();
        let bytes = STANDARD
            .decode(&letters)
            .map_err(|_| self.damaged("this is no base64"))?;
        self.padded = letters.ends_with(b"=");
        self.length += bytes.len() as u64;
        self.crc.update(&bytes);
        self.bytes.extend(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), EnvelopeError> {
        self.done = true;
        if !self.letters.is_empty() {
            return Err(self.damaged("letters are missing before it"));
        }
        if self.label == Label::Image && !self.checked {
            return Err(self.damaged("the line with the checksum is missing before it"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Dearmor<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.given == self.bytes.len() && !self.done {
            self.fill()?;
        }
        let count = room.len().min(self.bytes.len() - self.given);
        room[..count].copy_from_slice(&self.bytes[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// The next line, or a part of an endless one; `None` at the end.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(LONGEST).read_until(b'\n', &mut line)?;
    Ok((!line.is_empty()).then_some(line))
}
