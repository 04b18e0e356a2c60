//! Lists of system calls for a tracee to run in one go.
//!
//! In the tracee's memory a list is: entries of 64 bytes (number, addresses of six argument values, result), then the values,
//! then buffers. See the code in `cryonaut_sys::arch` that runs it.

use cryonaut_sys::RemotePtr;

const ENTRY: usize = 64;
const RESULT: usize = 56;

/// A call of a [`CallList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId(usize);

/// A buffer of a [`CallList`], in the tracee's memory while the list runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId {
    offset: usize,
    length: usize,
}

impl BufferId {
    /// The part of it from byte `offset` on, `length` bytes long.
    ///
    /// # Panics
    /// When it does not lie within the buffer.
    #[must_use]
    pub fn part(self, offset: usize, length: usize) -> Self {
        assert!(
            offset + length <= self.length,
            "the part lies within its buffer"
        );
        Self {
            offset: self.offset + offset,
            length,
        }
    }
}

/// An argument of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A plain number, or an address that means something in the tracee.
    Value(u64),
    /// The address of a buffer of the list.
    Buffer(BufferId),
    /// What an earlier call of the list returns.
    ResultOf(CallId),
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Argument::Value(value)
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Argument::Value(i64::from(value) as u64)
    }
}

impl From<BufferId> for Argument {
    fn from(buffer: BufferId) -> Self {
        Argument::Buffer(buffer)
    }
}

impl From<CallId> for Argument {
    fn from(call: CallId) -> Self {
        Argument::ResultOf(call)
    }
}

impl From<RemotePtr> for Argument {
    fn from(address: RemotePtr) -> Self {
        Argument::Value(address.address())
    }
}

/// A list of system calls with their buffers. Every call of a list is made, whatever those before it returned.
#[derive(Clone, Debug, Default)]
pub struct CallList {
    calls: Vec<(u64, [Argument; 6])>,
    buffers: Vec<u8>,
    pointers: Vec<(usize, usize)>,
}

impl CallList {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a call; missing arguments are 0.
    ///
    /// # Panics
    /// With more than six arguments.
    pub fn call(&mut self, number: i64, arguments: &[Argument]) -> CallId {
        let mut all = [Argument::Value(0); 6];
        all[..arguments.len()].copy_from_slice(arguments);
        self.calls.push((number as u64, all));
        CallId(self.calls.len() - 1)
    }

    /// Adds the calls that write `text` to the file at `path`, in one write as files of /proc want it: the one that opens the file,
    /// and the one that writes. It is closed then.
    pub fn write_file(&mut self, path: &[u8], text: &[u8]) -> [CallId; 2] {
        let (path, bytes) = (self.path(path), self.bytes(text));
        let mode = libc::O_WRONLY | libc::O_CLOEXEC;
        let arguments = [libc::AT_FDCWD.into(), path.into(), mode.into()];
        let open = self.call(libc::SYS_openat, &arguments);
        let arguments = [open.into(), bytes.into(), (text.len() as u64).into()];
        let write = self.call(libc::SYS_write, &arguments);
        self.call(libc::SYS_close, &[open.into()]);
        [open, write]
    }

    /// Adds a zeroed buffer of `length` bytes.
    pub fn space(&mut self, length: usize) -> BufferId {
        let offset = self.buffers.len().next_multiple_of(16);
        self.buffers.resize(offset + length, 0);
        BufferId { offset, length }
    }

    /// Adds a buffer that holds `bytes`.
    pub fn bytes(&mut self, bytes: &[u8]) -> BufferId {
        let buffer = self.space(bytes.len());
        self.buffers[buffer.offset..][..bytes.len()].copy_from_slice(bytes);
        buffer
    }

    /// Adds a buffer that holds `path` and a final zero byte.
    pub fn path(&mut self, path: &[u8]) -> BufferId {
        let buffer = self.space(path.len() + 1);
        self.buffers[buffer.offset..][..path.len()].copy_from_slice(path);
        buffer
    }

    /// Puts a 64-bit number at byte `offset` of a buffer.
    ///
    /// # Panics
    /// When eight bytes do not fit there.
    pub fn set_word(&mut self, buffer: BufferId, offset: usize, word: u64) {
        assert!(
            offset + 8 <= buffer.length,
            "the number lies within its buffer"
        );
        self.buffers[buffer.offset + offset..][..8].copy_from_slice(&word.to_le_bytes());
    }

    /// Puts the address of buffer `to` at byte `offset` of buffer `at`, for structures that point to others.
    ///
    /// # Panics
    /// When eight bytes do not fit there.
    pub fn point(&mut self, at: BufferId, offset: usize, to: BufferId) {
        assert!(
            offset + 8 <= at.length,
            "the pointer lies within its buffer"
        );
        self.pointers.push((at.offset + offset, to.offset));
    }

    /// Number of calls.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether the list has no call.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Bytes of tracee memory that the list needs.
    pub fn size(&self) -> usize {
        self.values_at() + self.calls.len() * 48 + 16 + self.buffers.len()
    }

    fn values_at(&self) -> usize {
        self.calls.len() * ENTRY
    }

    fn buffers_at(&self) -> usize {
        (self.values_at() + self.calls.len() * 48).next_multiple_of(16)
    }

    /// The list as bytes to be placed at `base` in the tracee.
    pub(crate) fn encode(&self, base: u64) -> Vec<u8> {
        let values_at = self.values_at();
        let buffers_at = self.buffers_at();
        let mut bytes = vec![0; buffers_at + self.buffers.len()];
        let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        for (index, (number, arguments)) in self.calls.iter().enumerate() {
            let entry = index * ENTRY;
            put(entry, *number);
            for (position, argument) in arguments.iter().enumerate() {
                let slot = values_at + index * 48 + position * 8;
                let (address, value) = match *argument {
                    Argument::Value(value) => (slot, value),
                    Argument::Buffer(buffer) => (slot, base + (buffers_at + buffer.offset) as u64),
                    Argument::ResultOf(call) => (call.0 * ENTRY + RESULT, 0),
                };
                put(slot, value);
                put(entry + 8 + position * 8, base + address as u64);
            }
        }
        bytes[buffers_at..].copy_from_slice(&self.buffers);
        for &(at, to) in &self.pointers {
            let address = base + (buffers_at + to) as u64;
            bytes[buffers_at + at..][..8].copy_from_slice(&address.to_le_bytes());
        }
        bytes
    }

    /// Reads the results from the bytes that came back.
    pub(crate) fn outcomes(&self, bytes: Vec<u8>) -> Outcomes {
        Outcomes {
            buffers_at: self.buffers_at(),
            bytes,
        }
    }
}

/// What the calls of a list returned, and what they left in its buffers.
#[derive(Clone, Debug)]
pub struct Outcomes {
    bytes: Vec<u8>,
    buffers_at: usize,
}

impl Outcomes {
    /// What a call returned.
    ///
    /// # Errors
    /// The call's errno.
    pub fn result(&self, call: CallId) -> std::io::Result<u64> {
        let at = call.0 * ENTRY + RESULT;
        let word: [u8; 8] = self.bytes[at..at + 8].try_into().expect("eight bytes");
        let value = i64::from_le_bytes(word);
        if (-4095..0).contains(&value) {
            Err(std::io::Error::from_raw_os_error(-value as i32))
        } else {
            Ok(value as u64)
        }
    }

    /// A buffer's content after the list ran.
    pub fn buffer(&self, buffer: BufferId) -> &[u8] {
        &self.bytes[self.buffers_at + buffer.offset..][..buffer.length]
    }

    /// The 64-bit number at the start of a buffer.
    pub fn word(&self, buffer: BufferId) -> u64 {
        let mut word = [0; 8];
        let bytes = self.buffer(buffer);
        let length = bytes.len().min(8);
        word[..length].copy_from_slice(&bytes[..length]);
        u64::from_le_bytes(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_point_to_values_buffers_and_results() {
        let mut list = CallList::new();
        let buffer = list.bytes(b"hello");
        let first = list.call(1, &[7_u64.into(), buffer.into()]);
        list.call(2, &[first.into()]);
        let base = 0x10_0000;
        let bytes = list.encode(base);
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(word(0), 1);
        assert_eq!(word((word(8) - base) as usize), 7);
        let buffer_at = (word((word(16) - base) as usize) - base) as usize;
        assert_eq!(&bytes[buffer_at..buffer_at + 5], b"hello");
        assert_eq!(word(64 + 8), base + RESULT as u64);
    }

    #[test]
    fn results_tell_errors_from_addresses() {
        let mut list = CallList::new();
        let failed = list.call(1, &[]);
        let high = list.call(1, &[]);
        let mut bytes = list.encode(0);
        bytes[RESULT..RESULT + 8].copy_from_slice(&(-2_i64).to_le_bytes());
        bytes[64 + RESULT..64 + RESULT + 8]
            .copy_from_slice(&0xffff_8000_0000_0000_u64.to_le_bytes());
        let outcomes = list.outcomes(bytes);
        assert_eq!(
            outcomes.result(failed).unwrap_err().raw_os_error(),
            Some(libc::ENOENT)
        );
        assert!(outcomes.result(high).is_ok());
    }
}
