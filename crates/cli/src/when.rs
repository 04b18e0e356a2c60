//! Moments as people and file names want them, and durations.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment given in seconds since 1970, as `2031-05-06 07:08:09 UTC`.
pub fn moment(seconds: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
        // humantime formats up to the year 9999.
        Some(time) if seconds < 253_402_300_800 => humantime::format_rfc3339_seconds(time)
            .to_string()
            .replace('T', " ")
            .replace('Z', " UTC"),
        _ => format!("{seconds} s after 1970"),
    }
}

/// Now, as it stands in file names: `20310506T070809.123Z`. Later ones sort after earlier ones.
pub fn stamp() -> String {
    humantime::format_rfc3339_millis(SystemTime::now())
        .to_string()
        .replace(['-', ':'], "")
}

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A short time with three significant digits: `1.23 ms`.
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (value, unit) = match seconds {
        _ if seconds >= 100.0 => {
            return humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
        }
        _ if seconds >= 1.0 => (seconds, "s"),
        _ if seconds >= 1e-3 => (seconds * 1e3, "ms"),
        _ => (seconds * 1e6, "µs"),
    };
    let digits = match value {
        _ if value >= 100.0 => 0,
        _ if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_times_read_well() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(u64::MAX), format!("{} s after 1970", u64::MAX));
        assert_eq!(short(Duration::from_micros(1234)), "1.23 ms");
        assert_eq!(short(Duration::from_millis(123)), "123 ms");
        assert_eq!(short(Duration::from_secs(3700)), "1h 1m 40s");
        assert_eq!(stamp().len(), "20310506T070809.123Z".len());
    }
}
