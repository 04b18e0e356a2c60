//! Control sequences in what a job prints (ECMA-48, and what xterm made of it), and which of them ask the terminal something.

/// A longer sequence, such as a picture, passes as plain bytes.
const LONGEST: usize = 4096;

/// Splits what is printed into plain bytes and whole sequences.
#[derive(Debug, Clone, Default)]
pub(super) struct Splitter {
    held: Vec<u8>,
}

/// What the splitter has found at a byte.
pub(super) enum Piece {
    /// The byte stands for itself.
    Plain(u8),
    /// More of a sequence is to come.
    Held,
    /// A whole sequence, or what turned out to be none.
    Sequence(Vec<u8>),
}

impl Splitter {
    /// Whether a sequence has begun and not ended.
    pub(super) fn is_inside(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the next byte.
    pub(super) fn next(&mut self, byte: u8) -> Piece {
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
