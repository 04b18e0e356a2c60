//! What waits in a pseudo-terminal, in both directions: taken out, and put in.
//!
//! The kernel shows none of it, so it has to be read as the job would read it. A slave that takes lines hands over one line for
//! each read; what was typed of the next one comes out only without ICANON. What is typed is passed on to the line discipline by
//! a thread of the kernel (`flush_to_ldisc`), later: settings must not change before that has happened, which nothing tells but
//! that a stop key typed before and a start key typed behind it have had their effect.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use cryonaut_sys::descriptor::{poll_for, poll_now, readable_bytes};
use cryonaut_sys::terminal::pseudo::{Flow, Switch, set_flow};
use cryonaut_sys::terminal::{Keys, Settings, read_some, write_some};

/// How long the kernel may take to pass on what was written.
const PATIENCE: Duration = Duration::from_secs(5);
/// No read gives more: the size of a line discipline's buffer (N_TTY_BUF_SIZE).
const ROOM: usize = 4096;
/// So much that was typed fits into the line discipline; the rest waits before it (n_tty_receive_buf_common in n_tty.c).
const MOST_TYPED: usize = ROOM - 1;
/// How long it takes until what has been typed is surely with the line discipline, if there is room.
const SETTLED: Duration = Duration::from_millis(20);
/// One write to a master, which may not be O_NONBLOCK: it fits whenever poll(2) shows room (the kernel takes 256 bytes at least).
const PIECE: usize = 128;
/// The stop key while a terminal that keys have stopped is put back.
const STOP_KEY: u8 = 0x13;

/// What waits in a pseudo-terminal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Content {
    /// What was printed and the master has not read.
    #[prost(bytes = "vec", tag = "1")]
    pub output: Vec<u8>,
    /// Whole lines that were typed and not read, of a terminal that takes lines.
    #[prost(message, repeated, tag = "2")]
    pub lines: Vec<Line>,
    /// What was typed of the next line; all that was typed, of a terminal that does not take lines.
    #[prost(bytes = "vec", tag = "3")]
    pub rest: Vec<u8>,
    /// Whether its output is held back, and by what: see `Held`.
    #[prost(enumeration = "Held", tag = "4")]
    pub held: i32,
    /// What was typed behind all that, for which the line discipline had no room: as it was typed. What it means (lines, echoes,
    /// signals) is decided by the settings there are when it gets its turn.
    #[prost(bytes = "vec", tag = "5")]
    pub behind: Vec<u8>,
}

/// A line that was typed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Line {
    /// Its bytes, with the newline that ends it.
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
    /// Whether it was handed over by the key for the end of file, which is no part of it.
    #[prost(bool, tag = "2")]
    pub handed_over: bool,
}

/// Whether a terminal's output is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Held {
    /// It goes on.
    No = 0,
    /// The stop key (Ctrl-S) was typed.
    ByKey = 1,
    /// A program called tcflow(3).
    ByCall = 2,
}

/// Both sides of a pseudo-terminal: the slave is O_NONBLOCK here, and nobody else moves anything meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// The master.
    pub master: BorrowedFd<'a>,
    /// The slave.
    pub slave: BorrowedFd<'a>,
}

impl Content {
    /// Bytes that wait.
    pub fn length(&self) -> usize {
        let lines = self.lines.iter().map(|line| line.bytes.len());
        self.output.len() + lines.sum::<usize>() + self.rest.len() + self.behind.len()
    }

    /// Everything typed that the line discipline has looked at.
    fn input(&self) -> impl Iterator<Item = u8> {
        let lines = self.lines.iter().flat_map(|line| line.bytes.iter());
        lines.chain(&self.rest).copied()
    }

    /// Keys that are nowhere in what was typed; 0 where every byte is.
    fn free_keys(&self) -> Keys {
        let mut used = [false; 256];
        for byte in self.input() {
            used[usize::from(byte)] = true;
        }
        let mut free = (1..=255).filter(|byte| !used[usize::from(*byte)]);
        Keys {
            stop: free.next().unwrap_or(0),
            start: free.next().unwrap_or(0),
            end_of_file: free.next().unwrap_or(0),
        }
    }

    /// Takes out everything that waits, and puts it back: the terminal is then as it was, and this is what is in it. Packet mode
    /// must have no message waiting.
    ///
    /// # Errors
    /// When a side cannot be read or written, or the kernel does not pass something on within seconds.
    pub fn copy_of(sides: Sides<'_>) -> Result<Self> {
        let settings = Settings::of(sides.master)?;
        let packets = Switch::PacketMode.is_on(sides.master)?;
        if packets {
            Switch::PacketMode.turn_off(sides.master)?;
        }
        let (content, taken) = Self::take(sides, &settings);
        // Whatever went wrong: what was taken goes back.
        let back = content.put(sides, &settings);
        if packets {
            Switch::PacketMode.turn_on(sides.master)?;
        }
        taken.and(back).map(|()| content)
    }

    /// Takes out everything that waits, and lets output go on.
    fn take(sides: Sides<'_>, settings: &Settings) -> (Self, Result<()>) {
        let mut content = Self::default();
        let outcome = content.take_in(sides, settings);
        (content, outcome)
    }

    fn take_in(&mut self, sides: Sides<'_>, settings: &Settings) -> Result<()> {
        drain_master(sides.master, &mut self.output)?;
        let overflow = self.take_typed(sides, settings)?;
        if !is_writable(sides.slave)? {
            set_flow(sides.slave, Flow::On)?;
            self.held = if is_writable(sides.slave)? {
                Held::ByCall
            } else {
                Held::ByKey
            } as i32;
        }
        // Taking IXON away lets go what the stop key holds back. What is printed is translated as before.
        settings.without_flow_keys().apply(sides.master)?;
        // Echoes for which there was no room come before anything that is written, even nothing.
        let _ = write_some(sides.slave, &[]);
        drain_master(sides.master, &mut self.output)?;
        overflow.map_or(Ok(()), |at| self.split_behind(at))
    }

    /// Takes out what was typed. Where that is more than the line discipline has room for, it gives where what has only then been
    /// passed on to it begins: so many bytes and ends of file come before.
    fn take_typed(&mut self, sides: Sides<'_>, settings: &Settings) -> Result<Option<usize>> {
        let full = is_full(sides.slave, settings)?;
        if full {
            // Reading makes room for what has no meaning yet, and is not to get one now.
            settings.literal(Keys::default()).apply(sides.master)?;
        }
        if settings.takes_lines() {
            let mut room = [0; ROOM];
            while let Some(length) = read_now(sides.slave, &mut room)? {
                let bytes = room[..length].to_vec();
                let whole = bytes.last().is_some_and(|last| settings.ends_line(*last));
                self.lines.push(Line {
                    bytes,
                    handed_over: !whole,
                });
            }
            // Keys with a meaning would have it a second time, and IXON keeps what is held back.
            let now = match full {
                true => settings.literal(Keys::default()),
                false => *settings,
            };
            now.without_lines().apply(sides.master)?;
        }
        drain(sides.slave, &mut self.rest)?;
        Ok(full.then_some(MOST_TYPED))
    }

    /// Everything from this place on was taken as it had been typed.
    fn split_behind(&mut self, place: usize) -> Result<()> {
        let mut left = place;
        for index in 0..self.lines.len() {
            let line = &mut self.lines[index];
            let length = line.bytes.len() + usize::from(line.handed_over);
            if length <= left {
                left -= length;
                continue;
            }
            // No line of these was handed over: there was no key for that.
            let later = self.lines.split_off(index);
            let mut bytes = later.into_iter().flat_map(|line| line.bytes);
            let rest = std::mem::take(&mut self.rest);
            self.rest = bytes.by_ref().take(left).collect();
            self.behind = bytes.chain(rest).collect();
            return Ok(());
        }
        self.behind = self.rest.split_off(left.min(self.rest.len()));
        Ok(())
    }

    /// Puts it into a terminal in which nothing waits and whose output is not held back, and gives that these settings.
    ///
    /// # Errors
    /// As for [`Content::copy_of`].
    pub fn put(&self, sides: Sides<'_>, settings: &Settings) -> Result<()> {
        let keys = self.free_keys();
        let literal = settings.literal(keys);
        let read_by_bytes = literal.apply(sides.master);
        let typed = self.typed(keys);
        let typed = typed.split_at(typed.len().min(MOST_TYPED));
        let room = Room::after(typed.0);
        let mut behind = typed.1.to_vec();
        behind.extend_from_slice(&self.behind);
        let mut done = match room.first.is_empty() {
            true => Ok(()),
            false => type_in(sides, &literal, keys, room.first),
        };
        // Whatever has failed: what was printed goes back too, and the settings are those of the program.
        if done.is_err() {
            // The stop key may have been typed, and not the start key.
            done = done.and(settings.without_flow_keys().apply(sides.master));
        }
        let printed = print_back(sides, &self.output);
        let held = match self.held() {
            Held::No => Ok(()),
            Held::ByCall => set_flow(sides.slave, Flow::Off),
            Held::ByKey => hold_by_key(sides, settings),
        };
        let last = match room.last {
            Some(last) => literal
                .apply(sides.master)
                .and_then(|()| type_last(sides, &literal, last)),
            None => Ok(()),
        };
        let set = settings.apply(sides.master);
        let behind = write_behind(sides.master, &behind);
        read_by_bytes
            .and(done)
            .and(printed)
            .and(held)
            .and(last)
            .and(set)
            .and(behind)
    }

    /// The keys that bring it about, in a terminal with these.
    fn typed(&self, keys: Keys) -> Vec<u8> {
        let mut typed = Vec::with_capacity(self.length());
        for line in &self.lines {
            typed.extend_from_slice(&line.bytes);
            if line.handed_over {
                typed.push(keys.end_of_file);
            }
        }
        typed.extend_from_slice(&self.rest);
        typed
    }
}

/// What is typed into a line discipline, whose last place must be free as long as a key is to reach it.
struct Room<'a> {
    first: &'a [u8],
    last: Option<u8>,
}

impl<'a> Room<'a> {
    fn after(typed: &'a [u8]) -> Self {
        match typed.split_last() {
            Some((last, first)) if typed.len() == MOST_TYPED => Room {
                first,
                last: Some(*last),
            },
            _ => Room {
                first: typed,
                last: None,
            },
        }
    }
}

/// Whether so much was typed that the line discipline may be full, and more waits before it.
fn is_full(slave: BorrowedFd<'_>, settings: &Settings) -> Result<bool> {
    if !settings.takes_lines() {
        return Ok(readable_bytes(slave)? >= MOST_TYPED);
    }
    // Of lines only whole ones are counted.
    if readable_bytes(slave)? < MOST_TYPED / 2 {
        return Ok(false);
    }
    let mut counted = 0;
    loop {
        let now = readable_bytes(slave)?;
        if now == counted {
            return Ok(true);
        }
        counted = now;
        std::thread::sleep(SETTLED);
    }
}

fn type_in(sides: Sides<'_>, literal: &Settings, keys: Keys, typed: &[u8]) -> Result<()> {
    if !literal.takes_lines() {
        write_all(sides.master, typed)?;
        return wait_until(|| Ok(readable_bytes(sides.slave)? >= typed.len()));
    }
    // Of lines only whole ones are counted; keys tell how far it has come.
    let told = keys.start != 0;
    if told {
        write_all(sides.master, &[keys.stop])?;
        wait_until(|| Ok(!is_writable(sides.slave)?))?;
    }
    write_all(sides.master, typed)?;
    if told {
        write_all(sides.master, &[keys.start])?;
        return wait_until(|| is_writable(sides.slave));
    }
    // Every byte is among them, so none can be a key.
    let lines = typed.iter().rposition(|byte| *byte == b'\n');
    let expected = lines.map_or(0, |last| last + 1);
    wait_until(|| Ok(readable_bytes(sides.slave)? >= expected))
}

/// Types what fills the line discipline. No key behind it would reach that any more, but a whole line is counted.
fn type_last(sides: Sides<'_>, literal: &Settings, last: u8) -> Result<()> {
    let before = readable_bytes(sides.slave)?;
    write_all(sides.master, &[last])?;
    if !literal.takes_lines() || last == b'\n' {
        return wait_until(|| Ok(readable_bytes(sides.slave)? > before));
    }
    // Nothing shows that it has come.
    std::thread::sleep(SETTLED);
    Ok(())
}

/// Types what waits before a line discipline that is full. See [`print_back`] for the sizes.
fn write_behind(master: BorrowedFd<'_>, behind: &[u8]) -> Result<()> {
    let mut left = behind;
    for size in [LARGE, SMALL] {
        while !left.is_empty() && is_writable(master)? {
            match write_some(master, &left[..left.len().min(size)]) {
                Ok(length) => left = &left[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    match left.is_empty() {
        true => Ok(()),
        false => Err(late()),
    }
}

/// What the kernel's small buffers hold.
const SMALL: usize = 256;
/// What its large ones hold, and more.
const LARGE: usize = 2048;

/// Prints what had been printed. A terminal that was full may not take all of it at once: how much lies in the kernel's buffers
/// depends on how it was written (drivers/tty/tty_buffer.c). Large ones are only made below a limit, which the last may pass;
/// small ones, once they were used, are kept and used again whatever the limit is. So all of it fits, and more than could be
/// there, in large pieces first and small ones then, after small ones have been used.
fn print_back(sides: Sides<'_>, output: &[u8]) -> Result<()> {
    const TIMES: usize = 8;
    if fill(sides, output, &[SMALL])? {
        return Ok(());
    }
    for _ in 0..TIMES {
        drain_master(sides.master, &mut Vec::new())?;
        if fill(sides, output, &[LARGE, SMALL])? {
            return Ok(());
        }
    }
    Err(late())
}

/// Prints into an empty terminal in pieces of these sizes, each as long as it fits, and says whether all of it fitted.
fn fill(sides: Sides<'_>, output: &[u8], sizes: &[usize]) -> Result<bool> {
    let (first, then) = output.split_at(output.len().min(ROOM - 1));
    write_all(sides.slave, first)?;
    // The line discipline takes that much, and no more.
    wait_until(|| Ok(readable_bytes(sides.master)? >= first.len()))?;
    let mut left = then;
    for &size in sizes {
        while !left.is_empty() {
            // poll(2) would look at the limit alone.
            match write_some(sides.slave, &left[..left.len().min(size)]) {
                Ok(length) => left = &left[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(left.is_empty())
}

/// Has the output held back as the stop key does, under settings that know such a key.
fn hold_by_key(sides: Sides<'_>, settings: &Settings) -> Result<()> {
    let keys = Keys {
        stop: STOP_KEY,
        ..Keys::default()
    };
    settings.literal(keys).apply(sides.master)?;
    let had_room = is_writable(sides.slave)?;
    write_all(sides.master, &[STOP_KEY])?;
    if had_room {
        return wait_until(|| Ok(!is_writable(sides.slave)?));
    }
    // Full of output: nothing shows the effect.
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}

fn is_writable(side: BorrowedFd<'_>) -> Result<bool> {
    Ok(poll_now(side, libc::POLLOUT)? & libc::POLLOUT != 0)
}

/// Reads all that a master can; never waits, whatever its flags are.
fn drain_master(master: BorrowedFd<'_>, into: &mut Vec<u8>) -> Result<()> {
    let mut room = [0; ROOM];
    while poll_now(master, libc::POLLIN)? & libc::POLLIN != 0 {
        let length = read_some(master, &mut room)?;
        into.extend_from_slice(&room[..length]);
    }
    Ok(())
}

/// Reads all that there is.
fn drain(side: BorrowedFd<'_>, into: &mut Vec<u8>) -> Result<()> {
    let mut room = [0; ROOM];
    while let Some(length) = read_now(side, &mut room)? {
        if length == 0 {
            break;
        }
        into.extend_from_slice(&room[..length]);
    }
    Ok(())
}

/// One read of what is non-blocking; nothing where there is nothing.
fn read_now(side: BorrowedFd<'_>, room: &mut [u8]) -> Result<Option<usize>> {
    loop {
        match read_some(side, room) {
            Ok(length) => return Ok(Some(length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn write_all(side: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    let start = Instant::now();
    let mut left = bytes;
    while !left.is_empty() {
        if poll_for(side, libc::POLLOUT, 100)? & libc::POLLOUT == 0 {
            if start.elapsed() > PATIENCE {
                return Err(late());
            }
            continue;
        }
        let piece = &left[..left.len().min(PIECE)];
        match write_some(side, piece) {
            Ok(length) => left = &left[length..],
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_until(mut happened: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !happened()? {
        if start.elapsed() > PATIENCE {
            return Err(late());
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

fn late() -> Error {
    Error::new(
        ErrorKind::TimedOut,
        "the kernel did not pass on what was written to it",
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use cryonaut_sys::terminal::open_master;
    use cryonaut_sys::terminal::pseudo::open_slave_with;

    use super::*;

    struct Pair {
        master: OwnedFd,
        slave: OwnedFd,
    }

    impl Pair {
        fn new() -> Self {
            let master = open_master().unwrap();
            let slave = open_slave_with(master.as_fd(), libc::O_RDWR | libc::O_NONBLOCK).unwrap();
            Pair { master, slave }
        }

        fn sides(&self) -> Sides<'_> {
            Sides {
                master: self.master.as_fd(),
                slave: self.slave.as_fd(),
            }
        }

        fn settings(&self) -> Settings {
            Settings::of(self.slave.as_fd()).unwrap()
        }

        fn type_in(&self, bytes: &[u8]) {
            write_all(self.master.as_fd(), bytes).unwrap();
            std::thread::sleep(Duration::from_millis(30));
        }

        fn reads(&self) -> Vec<Vec<u8>> {
            let mut room = [0; ROOM];
            let mut found = Vec::new();
            while let Some(length) = read_now(self.slave.as_fd(), &mut room).unwrap() {
                found.push(room[..length].to_vec());
            }
            found
        }
    }

    #[test]
    fn lines_and_what_follows_them_are_copied_and_stay() {
        let pair = Pair::new();
        let settings = pair.settings();
        pair.type_in(b"one\ntwo\x04\x04\x16\x04four\x16\x03\nhalf a li");
        write_all(pair.slave.as_fd(), b"printed\n").unwrap();
        for _ in 0..3 {
            let content = Content::copy_of(pair.sides()).unwrap();
            assert_eq!(pair.settings(), settings);
            let lines: Vec<_> = content
                .lines
                .iter()
                .map(|line| (line.bytes.as_slice(), line.handed_over))
                .collect();
            let expected: [(&[u8], bool); 4] = [
                (b"one\n", false),
                (b"two", true),
                (b"", true),
                (b"\x04four\x03\n", false),
            ];
            assert_eq!(lines, expected);
            assert_eq!(content.rest, b"half a li");
            assert!(content.output.ends_with(b"half a liprinted\r\n"));
            assert_eq!(content.held(), Held::No);
        }
        pair.type_in(b"ne\n");
        let reads = pair.reads();
        assert_eq!(reads[..3], [b"one\n".to_vec(), b"two".to_vec(), vec![]]);
        assert_eq!(
            reads[3..],
            [b"\x04four\x03\n".to_vec(), b"half a line\n".to_vec()]
        );
    }

    #[test]
    fn bytes_are_copied_and_stay_and_fill_another_terminal() {
        let pair = Pair::new();
        let raw = pair.settings().raw();
        raw.apply(pair.slave.as_fd()).unwrap();
        let all: Vec<u8> = (0..=255).cycle().take(3000).collect();
        pair.type_in(&all);
        write_all(pair.slave.as_fd(), &all).unwrap();
        let content = Content::copy_of(pair.sides()).unwrap();
        assert_eq!(Content::copy_of(pair.sides()).unwrap(), content);
        assert_eq!(
            (content.output.as_slice(), content.rest.as_slice()),
            (&all[..], &all[..])
        );
        let other = Pair::new();
        content.put(other.sides(), &raw).unwrap();
        assert_eq!(other.settings(), raw);
        assert_eq!(Content::copy_of(other.sides()).unwrap(), content);
        assert_eq!(other.reads().concat(), all);
    }

    #[test]
    fn more_than_the_line_discipline_holds_stays_as_it_is() {
        let lines: Vec<u8> = (0..900)
            .flat_map(|number| format!("line {number}x\x7f\n").into_bytes())
            .collect();
        let mut half = vec![b'q'; 3000];
        half.extend_from_slice(b"\n\x04\x04");
        half.extend_from_slice(&lines);
        half.extend_from_slice(b"not yet whole");
        let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let exact: Vec<u8> = (0..=255).cycle().take(MOST_TYPED).collect();
        let full_line = [vec![b'a'; MOST_TYPED - 1], b"\n".to_vec()].concat();
        let full_rest = [b"a\n".to_vec(), vec![b'b'; 5000]].concat();
        let full_end = [b"a\n".to_vec(), vec![b'b'; MOST_TYPED - 3], vec![4]].concat();
        let as_lines: fn(Settings) -> Settings = |settings| settings;
        let as_bytes: fn(Settings) -> Settings = |settings| settings.raw();
        let cases = [
            (&lines, as_lines),
            (&half, as_lines),
            (&full_line, as_lines),
            (&full_rest, as_lines),
            (&full_end, as_lines),
            (&bytes, as_bytes),
            (&exact, as_bytes),
        ];
        for (index, (typed, mode)) in cases.into_iter().enumerate() {
            for held in [Held::No, Held::ByKey] {
                let [plain, copied, other] = [Pair::new(), Pair::new(), Pair::new()];
                let settings = mode(plain.settings());
                if held == Held::ByKey && !settings.takes_lines() {
                    // Without IXON no key holds it back.
                    continue;
                }
                for pair in [&plain, &copied] {
                    settings.apply(pair.slave.as_fd()).unwrap();
                    if held == Held::ByKey {
                        hold_by_key(pair.sides(), &settings).unwrap();
                        settings.apply(pair.slave.as_fd()).unwrap();
                    }
                    pair.type_in(typed);
                }
                let content = Content::copy_of(copied.sides()).unwrap();
                let again = Content::copy_of(copied.sides()).unwrap();
                assert_eq!(content.typed(Keys::default()), again.typed(Keys::default()));
                assert_eq!(content.behind, again.behind);
                // A line so long that nothing shows how full it is: what had to wait is echoed twice.
                let long = index == 3;
                assert!(content == again || long, "case {index} {held:?}");
                assert_eq!(content.held(), held, "case {index} {held:?}");
                content.put(other.sides(), &settings).unwrap();
                let expected = plain.reads();
                for (pair, which) in [(&copied, "copied"), (&other, "other")] {
                    assert!(pair.reads() == expected, "case {index} {held:?} {which}");
                    assert_eq!(pair.settings(), settings);
                }
                // Echoes come once, also those of what had to wait; where they are held back the kernel keeps the last ones only.
                if held == Held::No && !long {
                    let echoed = |pair: &Pair| {
                        let mut echoes = Vec::new();
                        let _ = write_some(pair.slave.as_fd(), &[]);
                        drain_master(pair.master.as_fd(), &mut echoes).unwrap();
                        echoes
                    };
                    assert!(echoed(&plain) == echoed(&copied), "case {index}");
                }
            }
        }
    }

    #[test]
    fn output_that_is_held_back_stays_so() {
        for held in [Held::ByKey, Held::ByCall] {
            let pair = Pair::new();
            write_all(pair.slave.as_fd(), b"before").unwrap();
            match held {
                Held::ByKey => pair.type_in(b"\x13"),
                _ => set_flow(pair.slave.as_fd(), Flow::Off).unwrap(),
            }
            pair.type_in(b"typed\n");
            for _ in 0..2 {
                let content = Content::copy_of(pair.sides()).unwrap();
                assert_eq!(content.held(), held);
                assert!(content.output.starts_with(b"before"));
                assert_eq!(content.lines[0].bytes, b"typed\n");
                assert!(!is_writable(pair.slave.as_fd()).unwrap(), "{held:?}");
            }
            // Only what had stopped it lets it go.
            let content = Content::copy_of(pair.sides()).unwrap();
            let other = Pair::new();
            content.put(other.sides(), &pair.settings()).unwrap();
            for pair in [&pair, &other] {
                match held {
                    Held::ByKey => set_flow(pair.slave.as_fd(), Flow::On).unwrap(),
                    _ => pair.type_in(b"\x11"),
                }
                assert!(!is_writable(pair.slave.as_fd()).unwrap(), "{held:?}");
                match held {
                    Held::ByKey => pair.type_in(b"\x11"),
                    _ => set_flow(pair.slave.as_fd(), Flow::On).unwrap(),
                }
                assert!(is_writable(pair.slave.as_fd()).unwrap(), "{held:?}");
            }
        }
    }

    #[test]
    fn a_terminal_that_is_full_of_output_keeps_it() {
        let pair = Pair::new();
        let mut printed = 0;
        while is_writable(pair.slave.as_fd()).unwrap() {
            printed += write_some(pair.slave.as_fd(), b"abcdefghijklmnopqrstuvwxyz").unwrap();
            std::thread::sleep(Duration::from_micros(200));
        }
        let content = Content::copy_of(pair.sides()).unwrap();
        assert_eq!(content.output.len(), printed);
        assert_eq!(content.held(), Held::No);
        for size in [255, 1000, 1793, 70_000] {
            let pair = Pair::new();
            pair.settings().raw().apply(pair.slave.as_fd()).unwrap();
            // Its program goes on writing in between, as far as it can.
            for _ in 0..4 {
                let bytes = vec![b'x'; size];
                while is_writable(pair.slave.as_fd()).unwrap() {
                    let _ = write_some(pair.slave.as_fd(), &bytes);
                    std::thread::sleep(Duration::from_micros(50));
                }
                let content = Content::copy_of(pair.sides()).expect("it fits again");
                let length = content.output.len();
                let again = Content::copy_of(pair.sides()).expect("it fits again");
                assert!(again == content, "{length} bytes printed {size} at a time");
                let other = Pair::new();
                content
                    .put(other.sides(), &pair.settings())
                    .expect("it fits into another");
            }
        }
    }
}
