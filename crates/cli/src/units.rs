//! Sizes and numbers as people read them.

/// A size with three significant digits: `8.12 MiB`, `312 KiB`, `17 B`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 of one unit would be shown with four digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 || value >= 99.95 => 0,
        _ if value >= 9.995 => 1,
        _ => 2,
    };
    let number = format!("{value:.digits$}");
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => &number,
    };
    format!("{number} {}", UNITS[unit])
}

/// A size as users give it: bytes, or with K, M, G or T for 1024, 1024² and so on.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let said = || format!("{text} is no size: give bytes, or a number with K, M, G or T behind it");
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        Some((at, 'T' | 't')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| said())?;
    number.checked_mul(1 << shift).ok_or_else(said)
}

/// A number with its thousands apart: `10,000`.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many of something: `1 thread`, `1,000 threads`.
pub fn count(value: usize, one: &str, several: &str) -> String {
    let noun = if value == 1 { one } else { several };
    format!("{} {noun}", number(value as u64))
}

/// Numbers in their order, runs of them shortened: `7, 10–19`; at most `most` parts of it.
pub fn ranges(values: &[i32], most: usize) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for value in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last == value => {}
            Some((_, last)) if last.checked_add(1) == Some(value) => *last = value,
            _ => runs.push((value, value)),
        }
    }
    let left = runs.len().saturating_sub(most);
    let mut parts: Vec<String> = runs
        .iter()
        .take(most)
        .map(|&(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}–{last}"),
        })
        .collect();
    if left > 0 {
        parts.push(format!("and {left} more runs"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_users_give_them() {
        assert_eq!(parse_size("17"), Ok(17));
        assert_eq!(parse_size("2K"), Ok(2048));
        assert_eq!(parse_size("3g"), Ok(3 << 30));
        for text in ["", "K", "-1", "1.5G", "1X", "99999999T", "é"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1024, "1 KiB"),
            (4096, "4 KiB"),
            (1536, "1.5 KiB"),
            (319_488, "312 KiB"),
            (1_048_064, "1 MiB"),
            (8_514_437, "8.12 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn numbers_are_apart_and_runs_together() {
        assert_eq!(number(0), "0");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(count(1, "thread", "threads"), "1 thread");
        assert_eq!(count(1000, "thread", "threads"), "1,000 threads");
        assert_eq!(ranges(&[7, 12, 10, 11, 7], 9), "7, 10–12");
        assert_eq!(ranges(&[1, 3, 5, i32::MAX], 2), "1, 3, and 2 more runs");
    }
}
