//! A sink that reads back what it was given: for a job that is killed on the strength of its image.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::Result;
use crate::error::Attempt;

/// How much is read back at a time: little enough to be in the processor's cache still.
const PIECE: usize = 256 << 10;

/// A file that is written front to back, from its beginning, and where wanted read back piece by piece.
#[derive(Debug)]
pub struct ReadBack<W> {
    sink: W,
    check: Option<Check>,
}

#[derive(Debug)]
struct Check {
    file: File,
    offset: u64,
    piece: Vec<u8>,
}

impl<W: Write + AsFd> ReadBack<W> {
    /// One whose every byte is read back and compared before the next is written.
    ///
    /// # Errors
    /// When the file's descriptor cannot be copied.
    pub fn checked(sink: W) -> Result<Self> {
        let copy = sink.as_fd().try_clone_to_owned();
        let file = File::from(copy.attempt(|| "reading the image back".into())?);
        Ok(Self {
            sink,
            check: Some(Check {
                file,
                offset: 0,
                piece: vec![0; PIECE],
            }),
        })
    }

    /// One that is believed.
    pub fn trusted(sink: W) -> Self {
        Self { sink, check: None }
    }

    /// The file.
    pub fn into_inner(self) -> W {
        self.sink
    }
}

impl<W: Write> Write for ReadBack<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(check) = &mut self.check else {
            return self.sink.write(bytes);
        };
        let count = self.sink.write(&bytes[..bytes.len().min(PIECE)])?;
        check.compare(&bytes[..count])?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl Check {
    fn compare(&mut self, written: &[u8]) -> io::Result<()> {
        let found = &mut self.piece[..written.len()];
        self.file.read_exact_at(found, self.offset)?;
        if found != written {
            return Err(io::Error::other(format!(
                "the file system gave back other bytes than were written at {}",
                self.offset
            )));
        }
        self.offset += written.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;

    use super::*;

    /// A file that loses a bit of what it takes.
    struct Forgetful(File);

    impl AsFd for Forgetful {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl Write for Forgetful {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut bytes = bytes.to_vec();
            if let Some(byte) = bytes.get_mut(70_000) {
                *byte ^= 1;
            }
            self.0.write(&bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    fn file() -> File {
        crate::checkpoint::temporary_file().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let content: Vec<u8> = (0..3 * PIECE + 17).map(|byte| byte as u8).collect();
        let mut sink = ReadBack::checked(file()).unwrap();
        sink.write_all(&content).unwrap();
        sink.write_all(b"end").unwrap();
        let mut found = vec![0; content.len() + 3];
        sink.into_inner().read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, [content.as_slice(), b"end"].concat());
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut sink = ReadBack::checked(Forgetful(file())).unwrap();
        sink.write_all(&vec![0; 60_000]).unwrap();
        let error = sink.write_all(&vec![0; 90_000]).unwrap_err();
        assert!(error.to_string().contains("other bytes"), "{error}");
        let mut trusting = ReadBack::trusted(Forgetful(file()));
        trusting.write_all(&vec![0; 90_000]).unwrap();
    }
}
