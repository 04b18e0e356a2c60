//! The last bytes that were printed on a terminal.

use std::collections::VecDeque;

use super::modes::Modes;

/// How many bytes are kept.
pub const KEPT: usize = 256 * 1024;

/// The last bytes, by their place in all that was ever printed.
#[derive(Debug, Default)]
pub(crate) struct Scrollback {
    bytes: VecDeque<u8>,
    /// The place of the first byte that is kept.
    start: u64,
    /// The modes of the terminal there.
    modes: Modes,
}

impl Scrollback {
    pub(crate) fn print(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let dropped = self.bytes.len().saturating_sub(KEPT);
        self.modes.note(self.bytes.drain(..dropped));
        self.start += dropped as u64;
    }

    /// The place behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Where to begin showing: at a line's beginning if something has been dropped before it; and what brings a terminal into the
    /// modes that it must be in there.
    pub(crate) fn beginning(&self) -> (u64, Vec<u8>) {
        if self.start == 0 {
            return (0, Vec::new());
        }
        let line_end = self.bytes.iter().take(8192).position(|byte| *byte == b'\n');
        (
            self.start + line_end.map_or(0, |place| place as u64 + 1),
            self.modes.enter(),
        )
    }

    /// Up to `most` bytes from this place on; the place is moved ahead where its bytes are no longer kept.
    pub(crate) fn read(&self, place: &mut u64, most: usize) -> Vec<u8> {
        *place = (*place).max(self.start);
        let skipped = usize::try_from(*place - self.start).unwrap_or(usize::MAX);
        let bytes: Vec<u8> = self
            .bytes
            .iter()
            .skip(skipped)
            .take(most)
            .copied()
            .collect();
        *place += bytes.len() as u64;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_kept_from_a_line_on() {
        let mut kept = Scrollback::default();
        kept.print(b"\x1b[?1049hfirst\n");
        assert_eq!(kept.beginning(), (0, Vec::new()));
        let line = [vec![b'x'; 99], b"\n".to_vec()].concat();
        for _ in 0..3000 {
            kept.print(&line);
        }
        let (mut place, modes) = kept.beginning();
        assert_eq!(modes, b"\x1b[?1049h");
        assert_eq!(
            kept.read(&mut place, 150),
            [line.clone(), line[..50].to_vec()].concat()
        );
        let mut lost = 0;
        assert_eq!(kept.read(&mut lost, 10).len(), 10);
        assert!(kept.end() - lost < KEPT as u64);
        let mut all = 0;
        assert_eq!(kept.read(&mut all, usize::MAX).len(), KEPT);
        assert_eq!(all, kept.end());
        assert!(kept.read(&mut all, 10).is_empty());
    }
}
