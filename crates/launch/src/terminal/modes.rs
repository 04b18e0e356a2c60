//! Which modes of a terminal a job has changed by what it printed, and what brings them back.
//!
//! What is not undone: the title, tab stops, what is on the screen.

use std::collections::BTreeSet;

use super::escape::{Piece, Splitter};

/// Private modes that a terminal begins without and that disturb whoever uses it next: keys and keypad, other screens, reverse
/// video, places counted from margins, mouse, focus, bracketed paste, pictures, reports that nobody asked for, output that is
/// held back.
const USUALLY_OFF: [u16; 25] = [
    1, 5, 6, 9, 45, 47, 66, 69, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1048,
    1049, 2004, 2026, 2027, 2031, 2048,
];
/// More of these, in which keys come as Windows tells them.
const KEYS_OF_WINDOWS: u16 = 9001;
/// Private modes that a terminal begins with: lines that go on in the next, keys that repeat, the cursor.
const USUALLY_ON: [u16; 3] = [7, 8, 25];
/// Those of the second screen.
const SECOND_SCREEN: [u16; 3] = [47, 1047, 1049];
/// Other modes that a terminal begins without: a locked keyboard, insertion, new lines; and with: no echo of its own.
const OTHERS: [(u16, Usual); 4] = [
    (2, Usual::Off),
    (4, Usual::Off),
    (12, Usual::On),
    (20, Usual::Off),
];
/// A terminal keeps no more of what says how keys are told.
const MOST_PUSHED: usize = 16;

/// How a terminal begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usual {
    On,
    Off,
}

/// The modes that a terminal was put into.
#[derive(Debug, Clone, Default)]
pub(crate) struct Modes {
    splitter: Splitter,
    /// Private modes that are on although a terminal begins with them off, and the other way round.
    private: BTreeSet<u16>,
    /// Other modes of these.
    others: BTreeSet<u16>,
    keypad: bool,
    /// How keys are told (CSI u), on each of the two screens.
    keyboards: [Keyboard; 2],
    /// What modified keys send, and in which form (XTMODKEYS, XTFMTKEYS): numbers that were set.
    key_modifiers: BTreeSet<u16>,
    key_formats: BTreeSet<u16>,
    /// Lines scroll within a part of the screen.
    scroll_region: bool,
    cursor_shape: bool,
    coloured: bool,
    /// Letters are drawn as others.
    letters: bool,
    shifted: bool,
    /// What is printed goes to a printer.
    printing: bool,
    link: bool,
    /// Colours of the terminal that were set, by the number of their sequence.
    colours: BTreeSet<u16>,
    /// A string has begun that is longer than sequences are looked at.
    string: bool,
}

/// How keys are told, as programs have put it one upon the other.
#[derive(Debug, Clone, Default)]
struct Keyboard {
    pushed: Vec<u16>,
    set: u16,
}

impl Modes {
    /// Takes notice of what is printed.
    pub(crate) fn note(&mut self, printed: impl IntoIterator<Item = u8>) {
        const BELL: u8 = 0x07;
        for byte in printed {
            match self.splitter.next(byte) {
                Piece::Plain(0x0e) => self.shifted = true,
                Piece::Plain(0x0f) => self.shifted = false,
                Piece::Plain(BELL) => self.string = false,
                Piece::Plain(_) | Piece::Held => {}
                Piece::Sequence(sequence) => self.note_sequence(&sequence),
            }
        }
    }

    fn note_sequence(&mut self, sequence: &[u8]) {
        self.string = false;
        match sequence {
            b"\x1b=" => self.keypad = true,
            b"\x1b>" => self.keypad = false,
            // A reset of all (RIS).
            b"\x1bc" => *self = Modes::default(),
            [0x1b, b'(', set] => self.letters = *set != b'B',
            [0x1b, b'[', body @ .., end] => self.note_control(body, *end),
            [0x1b, b']', body @ ..] => self.note_command(body),
            [0x1b, b'P' | b'X' | b'^' | b'_', .., last] => {
                self.string = !matches!(last, b'\\' | 0x07);
            }
            _ => {}
        }
    }

    /// A control sequence (CSI).
    fn note_control(&mut self, body: &[u8], end: u8) {
        let (kind, body) = match body {
            [kind @ (b'?' | b'>' | b'<' | b'='), rest @ ..] => (*kind, rest),
            body => (0, body),
        };
        let numbers = || numbers(body);
        let first = || numbers().next().unwrap_or(0);
        match (kind, end) {
            (b'?', b'h' | b'l') => {
                for number in numbers() {
                    self.set_private(number, if end == b'h' { Usual::On } else { Usual::Off });
                }
            }
            (0, b'h' | b'l') => {
                for (number, usual) in OTHERS {
                    if numbers().any(|found| found == number) {
                        keep_if(
                            &mut self.others,
                            number,
                            (usual == Usual::Off) == (end == b'h'),
                        );
                    }
                }
            }
            (0, b'r') => self.scroll_region = !body.is_empty(),
            (0, b'm') => {
                self.coloured = !matches!(body, b"" | b"0");
            }
            (0, b'i') => match first() {
                5 => self.printing = true,
                4 => self.printing = false,
                _ => {}
            },
            (0, b'q') if body.ends_with(b" ") => self.cursor_shape = first() > 0,
            // A small reset (DECSTR).
            (0, b'p') if body == b"!" => self.reset_some(),
            (b'>', b'm' | b'f') => {
                let set = numbers().nth(1).is_some_and(|value| value > 0);
                let which = match end {
                    b'm' => &mut self.key_modifiers,
                    _ => &mut self.key_formats,
                };
                match numbers().next() {
                    Some(number) => keep_if(which, number, set),
                    None => which.clear(),
                }
            }
            (b'>' | b'<' | b'=', b'u') => {
                let times = usize::from(first().max(1));
                let keyboard = self.keyboard();
                match kind {
                    b'>' if keyboard.pushed.len() < MOST_PUSHED => keyboard.pushed.push(first()),
                    b'<' => {
                        let left = keyboard.pushed.len().saturating_sub(times);
                        keyboard.pushed.truncate(left);
                    }
                    b'=' => *keyboard.pushed.last_mut().unwrap_or(&mut keyboard.set) = first(),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// A command to the terminal (OSC), with what ends it.
    fn note_command(&mut self, body: &[u8]) {
        let text = body.strip_suffix(b"\x07");
        let Some(text) = text.or_else(|| body.strip_suffix(b"\x1b\\")) else {
            self.string = true;
            return;
        };
        let mut parts = text.splitn(3, |byte| *byte == b';');
        let Some(number) = parts.next().and_then(number) else {
            return;
        };
        match number {
            8 => self.link = parts.nth(1).is_some_and(|target| !target.is_empty()),
            4 | 5 | 10..=19 if !text.ends_with(b";?") => drop(self.colours.insert(number)),
            104 | 105 | 110..=119 => drop(self.colours.remove(&(number - 100))),
            _ => {}
        }
    }

    fn set_private(&mut self, number: u16, now: Usual) {
        let usual = match number {
            number if USUALLY_ON.contains(&number) => Usual::On,
            KEYS_OF_WINDOWS => Usual::Off,
            number if USUALLY_OFF.contains(&number) => Usual::Off,
            _ => return,
        };
        keep_if(&mut self.private, number, now != usual);
    }

    fn reset_some(&mut self) {
        for number in [1, 5, 6, 7, 25, 66] {
            self.private.remove(&number);
        }
        self.others.clear();
        (self.keypad, self.scroll_region, self.coloured) = (false, false, false);
        (self.letters, self.shifted) = (false, false);
    }

    fn second_screen(&self) -> bool {
        SECOND_SCREEN.iter().any(|mode| self.private.contains(mode))
    }

    fn keyboard(&mut self) -> &mut Keyboard {
        let place = usize::from(self.second_screen());
        &mut self.keyboards[place]
    }

    /// What brings a fresh terminal into these modes.
    pub(crate) fn enter(&self) -> Vec<u8> {
        let mut text = self.keyboards[0].enter();
        for number in &self.private {
            let end = if USUALLY_ON.contains(number) {
                'l'
            } else {
                'h'
            };
            text.push_str(&format!("\x1b[?{number}{end}"));
        }
        if self.second_screen() {
            text.push_str(&self.keyboards[1].enter());
        }
        for (number, usual) in OTHERS
            .iter()
            .filter(|(number, _)| self.others.contains(number))
        {
            let end = if *usual == Usual::On { 'l' } else { 'h' };
            text.push_str(&format!("\x1b[{number}{end}"));
        }
        if self.keypad {
            text.push_str("\x1b=");
        }
        text.into_bytes()
    }

    /// What brings a terminal in these modes back to how it began; empty if it is so.
    pub(crate) fn leave(&self) -> Vec<u8> {
        let mut text = String::new();
        if self.scroll_region {
            // It moves the cursor.
            text.push_str("\x1b7\x1b[r\x1b8");
        }
        if self.second_screen() {
            text.push_str(&self.keyboards[1].leave());
        }
        for number in self.private.iter().rev() {
            let end = if USUALLY_ON.contains(number) {
                'h'
            } else {
                'l'
            };
            text.push_str(&format!("\x1b[?{number}{end}"));
        }
        text.push_str(&self.keyboards[0].leave());
        for (number, usual) in OTHERS
            .iter()
            .filter(|(number, _)| self.others.contains(number))
        {
            let end = if *usual == Usual::On { 'h' } else { 'l' };
            text.push_str(&format!("\x1b[{number}{end}"));
        }
        for number in &self.key_modifiers {
            text.push_str(&format!("\x1b[>{number}m"));
        }
        for number in &self.key_formats {
            text.push_str(&format!("\x1b[>{number}f"));
        }
        for number in &self.colours {
            text.push_str(&format!("\x1b]{}\x1b\\", number + 100));
        }
        let others = [
            (self.keypad, "\x1b>"),
            (self.cursor_shape, "\x1b[0 q"),
            (self.letters, "\x1b(B"),
            (self.shifted, "\x0f"),
            (self.printing, "\x1b[4i"),
            (self.link, "\x1b]8;;\x1b\\"),
        ];
        for (_, undo) in others.iter().filter(|(changed, _)| *changed) {
            text.push_str(undo);
        }
        if !text.is_empty() || self.coloured {
            text.push_str("\x1b[0m");
        }
        if self.string || self.splitter.is_inside() {
            // First of all, what is unfinished ends.
            text.insert_str(0, "\x1b\\");
        }
        text.into_bytes()
    }
}

impl Keyboard {
    fn enter(&self) -> String {
        let set = (self.set > 0).then(|| format!("\x1b[={}u", self.set));
        let pushed = self.pushed.iter().map(|flags| format!("\x1b[>{flags}u"));
        set.into_iter().chain(pushed).collect()
    }

    fn leave(&self) -> String {
        let mut text = match self.pushed.len() {
            0 => String::new(),
            count => format!("\x1b[<{count}u"),
        };
        if self.set > 0 {
            text.push_str("\x1b[=0u");
        }
        text
    }
}

fn keep_if(among: &mut BTreeSet<u16>, number: u16, condition: bool) {
    match condition {
        true => among.insert(number),
        false => among.remove(&number),
    };
}

fn number(text: &[u8]) -> Option<u16> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn numbers(body: &[u8]) -> impl Iterator<Item = u16> {
    let digits = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b';' | b':');
    let end = body.iter().position(|byte| !digits(byte));
    let body = &body[..end.unwrap_or(body.len())];
    body.split(|byte| *byte == b';').filter_map(number)
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
            b"\x1b[?1h\x1b[?25l\x1b[?1049h\x1b[?2004h\x1b="
        );
        assert_eq!(
            modes.leave(),
            b"\x1b[?2004l\x1b[?1049l\x1b[?25h\x1b[?1l\x1b>\x1b[0m"
        );
        modes.note(*b"\x1b[?2004l\x1b[?10");
        modes.note(*b"49;1l\x1b[?25h\x1b>\x1b[m");
        assert_eq!(modes.leave(), b"");
        modes.note(*b"\x1b[?1049h\x1bc");
        assert_eq!(modes.leave(), b"");
    }

    #[test]
    fn everything_that_would_disturb_the_next_is_undone() {
        for (printed, undone) in [
            (&b"\x1b[>4;2m"[..], &b"\x1b[>4m\x1b[0m"[..]),
            (b"\x1b[>4;1f", b"\x1b[>4f\x1b[0m"),
            (b"\x1b[>1u\x1b[>5u", b"\x1b[<2u\x1b[0m"),
            (b"\x1b[=3u", b"\x1b[=0u\x1b[0m"),
            (b"\x1b[2;20r", b"\x1b7\x1b[r\x1b8\x1b[0m"),
            (b"\x1b[?1016;1003h", b"\x1b[?1016l\x1b[?1003l\x1b[0m"),
            (b"\x1b[?2026h", b"\x1b[?2026l\x1b[0m"),
            (b"\x1b[?7l", b"\x1b[?7h\x1b[0m"),
            (b"\x1b[4h", b"\x1b[4l\x1b[0m"),
            (b"\x1b[12l", b"\x1b[12h\x1b[0m"),
            (b"\x1b[5 q", b"\x1b[0 q\x1b[0m"),
            (b"\x1b(0", b"\x1b(B\x1b[0m"),
            (b"\x0e", b"\x0f\x1b[0m"),
            (b"\x1b[5i", b"\x1b[4i\x1b[0m"),
            (b"\x1b[38;5;0m", b"\x1b[0m"),
            (b"\x1b]8;;file:///x\x1b\\", b"\x1b]8;;\x1b\\\x1b[0m"),
            (b"\x1b]11;#123456\x07", b"\x1b]111\x1b\\\x1b[0m"),
            (b"\x1b]0;a title, cut o", b"\x1b\\"),
            (b"\x1b[?10", b"\x1b\\"),
            // On the second screen keys may be told in another way.
            (
                b"\x1b[>1u\x1b[?1049h\x1b[>7u",
                b"\x1b[<1u\x1b[?1049l\x1b[<1u\x1b[0m",
            ),
        ] {
            let mut modes = Modes::default();
            modes.note(printed.iter().copied());
            assert_eq!(modes.leave(), undone, "{:?}", printed.escape_ascii());
            modes.note(modes.leave());
            assert_eq!(modes.leave(), b"", "{:?}", printed.escape_ascii());
        }
    }

    #[test]
    fn what_programs_undo_themselves_is_left_alone() {
        for printed in [
            &b"\x1b[>4;2m\x1b[>4;0m"[..],
            b"\x1b[>4;2m\x1b[>4m",
            b"\x1b[>1u\x1b[<u",
            b"\x1b[=3u\x1b[=0u",
            b"\x1b[2;20r\x1b[r",
            b"\x1b[5 q\x1b[ q",
            b"\x1b(0qqq\x1b(B",
            b"\x1b[?7l\x1b[4h\x1b[1m\x1b[!p",
            b"\x1b]8;;file:///x\x1b\\text\x1b]8;;\x07",
            b"\x1b]11;?\x07",
            b"\x1b]10;red\x07\x1b]110\x07",
            b"\x1b]0;title\x07",
        ] {
            let mut modes = Modes::default();
            modes.note(printed.iter().copied());
            assert_eq!(modes.leave(), b"", "{:?}", printed.escape_ascii());
        }
    }

    #[test]
    fn a_picture_that_is_cut_off_is_ended() {
        let mut modes = Modes::default();
        modes.note(b"\x1bPq".iter().copied().chain([b'~'; 10_000]));
        assert_eq!(modes.leave(), b"\x1b\\");
        modes.note(*b"\x1b\\");
        assert_eq!(modes.leave(), b"");
    }
}
