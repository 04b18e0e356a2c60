//! Whole reads and writes of a process' memory.

use cryonaut_sys::{RemotePtr, memory};

use crate::{Error, Result, at};

/// Fills `buffer` from process `pid`.
///
/// # Errors
/// When any byte of it cannot be read.
pub fn read_exact(pid: i32, address: RemotePtr, buffer: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let from = address.offset(done as u64);
        match at(
            pid,
            "reading its memory",
            memory::read(pid, from, &mut buffer[done..]),
        )? {
            0 => {
                return Err(Error::Unexpected(
                    pid,
                    format!("memory at {from} cannot be read"),
                ));
            }
            count => done += count,
        }
    }
    Ok(())
}

/// Writes all of `bytes` to process `pid`.
///
/// # Errors
/// When any byte of it cannot be written.
pub fn write_all(pid: i32, address: RemotePtr, bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let to = address.offset(done as u64);
        match at(
            pid,
            "writing its memory",
            memory::write(pid, to, &bytes[done..]),
        )? {
            0 => {
                return Err(Error::Unexpected(
                    pid,
                    format!("memory at {to} cannot be written"),
                ));
            }
            count => done += count,
        }
    }
    Ok(())
}
