//! CRC-32C, to make a changed header of an image pass its checksum. Written out so that the tests share no code with
//! what they test.

/// The checksum of these bytes: CRC-32/ISCSI, as docs/image-format.md defines it.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn has_the_documented_check_value() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
    }
}
