//! `/proc/PID/cmdline` and `/proc/PID/environ`: strings that end with a NUL byte, as they are in
//! the process's memory, which the process may have changed in any way.

/// The strings of `cmdline` or `environ`. Empty strings count; a missing final NUL does not matter.
pub fn split(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let body = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    // An empty file has no strings, but one NUL is one empty string.
    let some = !bytes.is_empty();
    body.split(|&byte| byte == 0).filter(move |_| some)
}

/// [`split`], collected.
pub fn parse(bytes: &[u8]) -> Vec<Vec<u8>> {
    split(bytes).map(<[u8]>::to_vec).collect()
}
