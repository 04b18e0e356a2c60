//! Control sequences in what a job prints (ECMA-48, and what xterm made of it): which modes of the terminal they have changed,
//! and which of them ask the terminal something.

use std::collections::BTreeSet;

/// A longer sequence, such as a picture, passes as plain bytes.
const LONGEST: usize = 4096;

/// Splits what is printed into plain bytes and whole sequences.
#[derive(Debug, Default)]
struct Splitter {
    held: Vec<u8>,
}

/// What the splitter has found at a byte.
enum Piece {
    /// The byte stands for itself.
    Plain(u8),
    /// More of a sequence is to come.
    Held,
    /// A whole sequence, or what turned out to be none.
    Sequence(Vec<u8>),
}

impl Splitter {
    fn next(&mut self, byte: u8) -> Piece {
        const ESCAPE: u8 = 0x1b;
        if self.held.is_empty() {
            if byte != ESCAPE {
                return Piece::Plain(byte);
            }
            self.held.push(byte);
            return Piece::Held;
        }
        self.held.push(byte);
        let whole = match self.held.get(1) {
            Some(b'[') => self.held.len() > 2 && !matches!(byte, 0x20..=0x3f),
            // Strings end with ESC \ or, some of them, with BEL.
            Some(b']' | b'P' | b'X' | b'^' | b'_') => {
                byte == 0x07 || self.held.len() > 3 && self.held.ends_with(b"\x1b\\")
            }
            Some(0x20..=0x2f) => !matches!(byte, 0x20..=0x2f),
            _ => true,
        };
        if whole || self.held.len() >= LONGEST {
            return Piece::Sequence(std::mem::take(&mut self.held));
        }
        Piece::Held
    }
}

/// The modes that a terminal was put into.
#[derive(Debug, Default)]
pub(crate) struct Modes {
    splitter: Splitter,
    /// Private modes that are on although a terminal begins with them off.
    on: BTreeSet<u16>,
    cursor_hidden: bool,
    keypad: bool,
}

/// Private modes that a terminal begins without and that disturb whoever uses it next: keys and keypad, mouse, focus, other
/// screens, bracketed paste.
const UNUSUAL: [u16; 16] = [
    1, 9, 47, 66, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1048, 1049, 2004,
];

impl Modes {
    /// Takes notice of what is printed.
    pub(crate) fn note(&mut self, printed: impl IntoIterator<Item = u8>) {
        for byte in printed {
            if let Piece::Sequence(sequence) = self.splitter.next(byte) {
                self.note_sequence(&sequence);
            }
        }
    }

    fn note_sequence(&mut self, sequence: &[u8]) {
        match sequence {
            b"\x1b=" => self.keypad = true,
            b"\x1b>" => self.keypad = false,
            // A reset of all (RIS).
            b"\x1bc" => *self = Modes::default(),
            [0x1b, b'[', b'?', numbers @ .., end @ (b'h' | b'l')] => {
                for number in numbers.split(|byte| *byte == b';') {
                    let number = std::str::from_utf8(number).ok();
                    let Some(number) = number.and_then(|text| text.parse::<u16>().ok()) else {
                        continue;
                    };
                    match (number, end) {
                        (25, end) => self.cursor_hidden = *end == b'l',
                        (number, b'h') if UNUSUAL.contains(&number) => {
                            self.on.insert(number);
                        }
                        (number, _) => {
                            self.on.remove(&number);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// What brings a fresh terminal into these modes.
    pub(crate) fn enter(&self) -> Vec<u8> {
        let mut text = String::new();
        for number in &self.on {
            text.push_str(&format!("\x1b[?{number}h"));
        }
        if self.cursor_hidden {
            text.push_str("\x1b[?25l");
        }
        if self.keypad {
            text.push_str("\x1b=");
        }
        text.into_bytes()
    }

    /// What brings a terminal in these modes back to how it began; empty if it is so.
    pub(crate) fn leave(&self) -> Vec<u8> {
        let mut text = String::new();
        for number in self.on.iter().rev() {
            text.push_str(&format!("\x1b[?{number}l"));
        }
        if self.cursor_hidden {
            text.push_str("\x1b[?25h");
        }
        if self.keypad {
            text.push_str("\x1b>");
        }
        if !text.is_empty() {
            text.push_str("\x1b[0m");
        }
        text.into_bytes()
    }
}

/// Whether a viewer's terminal is to answer what the job asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Questions {
    Pass,
    /// Nobody waits for the answer any more, or another terminal gives it: it would reach the job as something typed.
    Leave,
}

/// Takes questions out of what is printed.
#[derive(Debug, Default)]
pub(crate) struct QuestionFilter {
    splitter: Splitter,
}

impl QuestionFilter {
    /// What of this is to be shown. The beginning of a sequence is held back until the rest has come.
    pub(crate) fn pass(
        &mut self,
        printed: impl IntoIterator<Item = u8>,
        questions: Questions,
    ) -> Vec<u8> {
        const ENQUIRY: u8 = 0x05;
        let mut shown = Vec::new();
        for byte in printed {
            match self.splitter.next(byte) {
                Piece::Plain(ENQUIRY) if questions == Questions::Leave => {}
                Piece::Plain(byte) => shown.push(byte),
                Piece::Held => {}
                Piece::Sequence(sequence)
                    if questions == Questions::Leave && is_question(&sequence) => {}
                Piece::Sequence(sequence) => shown.extend(sequence),
            }
        }
        shown
    }
}

/// Whether a terminal answers this sequence.
fn is_question(sequence: &[u8]) -> bool {
    match sequence {
        // Which terminal it is (DECID).
        b"\x1bZ" => true,
        [0x1b, b'[', body @ .., end] => {
            let number = body
                .split(|byte| *byte == b';')
                .next()
                .and_then(|first| std::str::from_utf8(first).ok()?.parse::<u16>().ok());
            match (end, body) {
                // Which terminal it is (DA1 to DA3), which an answer has with a question mark.
                (b'c', body) => body.first() != Some(&b'?'),
                // Its status, the cursor's place (DSR); with `>` it sets something.
                (b'n', body) => body.first() != Some(&b'>'),
                // Its parameters (DECREQTPARM), a mode (DECRQM), its version, its keyboard.
                (b'x', [] | [b'0'..=b'9', ..]) => true,
                (b'p', body) => body.ends_with(b"$"),
                (b'q', body) => body.first() == Some(&b'>'),
                (b'u', body) => body.first() == Some(&b'?'),
                // Its window (XTWINOPS).
                (b't', _) => matches!(number, Some(11 | 13..=16 | 18..=21)),
                _ => false,
            }
        }
        // A colour or the selection.
        [0x1b, b']', body @ ..] => body.windows(2).any(|pair| pair == b";?"),
        // A setting (DECRQSS) or a capability (XTGETTCAP).
        [0x1b, b'P', b'$' | b'+', b'q', ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_noted_entered_and_left() {
        let mut modes = Modes::default();
        modes.note(*b"text\x1b[?1049h\x1b[?1;2004h\x1b[?25l\x1b=\x1b[1;31m\x1b[?12h");
        assert_eq!(
            modes.enter(),
            b"\x1b[?1h\x1b[?1049h\x1b[?2004h\x1b[?25l\x1b="
        );
        assert_eq!(
            modes.leave(),
            b"\x1b[?2004l\x1b[?1049l\x1b[?1l\x1b[?25h\x1b>\x1b[0m"
        );
        modes.note(*b"\x1b[?2004l\x1b[?10");
        modes.note(*b"49;1l\x1b[?25h\x1b>");
        assert_eq!(modes.leave(), b"");
        modes.note(*b"\x1b[?1049h\x1bc");
        assert_eq!(modes.leave(), b"");
    }

    #[test]
    fn questions_are_left_out_and_nothing_else() {
        let quiet = b"plain\r\n\x1b[1;31mred\x1b[0m\x1b[2J\x1b]0;title\x07\x1b(B\x1b[?1049h\x1b[>4;2m\x1b[22;0;0t\x1b[8;24;80t\xc3\xa4";
        let asking: &[&[u8]] = &[
            b"\x1b[c",
            b"\x1b[>c",
            b"\x1b[0c",
            b"\x1b[6n",
            b"\x1b[?996n",
            b"\x1bZ",
            b"\x05",
            b"\x1b]11;?\x07",
            b"\x1b]4;1;?\x1b\\",
            b"\x1b[?2026$p",
            b"\x1b[>0q",
            b"\x1b[?u",
            b"\x1b[18t",
            b"\x1bP+q544e\x1b\\",
            b"\x1bP$qm\x1b\\",
            b"\x1b[x",
        ];
        let mut filter = QuestionFilter::default();
        assert_eq!(filter.pass(*quiet, Questions::Leave), quiet);
        for question in asking {
            let printed = [b"a", *question, b"b"].concat();
            assert_eq!(
                filter.pass(printed.clone(), Questions::Leave),
                b"ab",
                "{question:?}"
            );
            assert_eq!(filter.pass(printed.clone(), Questions::Pass), printed);
            // In two pieces.
            let mut shown = filter.pass(printed[..2].to_vec(), Questions::Leave);
            shown.extend(filter.pass(printed[2..].to_vec(), Questions::Leave));
            assert_eq!(shown, b"ab", "{question:?}");
        }
    }

    #[test]
    fn endless_sequences_are_let_go() {
        let picture = [
            b"\x1bPq".to_vec(),
            vec![b'~'; 3 * LONGEST],
            b"\x1b\\end".to_vec(),
        ]
        .concat();
        let mut filter = QuestionFilter::default();
        assert_eq!(filter.pass(picture.clone(), Questions::Leave), picture);
    }
}
