//! Times and ages: parsed from the command line, and printed for people and for programs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// Parses an age such as `12h` or `30d`. A number without a unit is refused, `0` too, which humantime
/// accepts.
pub(crate) fn parse_age(text: &str) -> Result<Duration, &'static str> {
    let age = humantime::parse_duration(text).ok();
    age.filter(|_| text.ends_with(char::is_alphabetic))
        .ok_or("write a number and a unit: s, m, h, d or w, as in `30d`")
}

/// Formats how long ago a time is, rounded down to one unit: `3 days ago`. Rounding down keeps it in step
/// with `--older-than`; the crates for this round to the nearest unit, so that 12 days become 2 weeks.
pub(crate) fn ago(time: SystemTime, now: SystemTime) -> String {
    let Ok(age) = now.duration_since(time) else {
        // Clocks of machines that share a directory may differ.
        return "just now".to_owned();
    };
    let age = age.as_secs();
    let (number, unit) = match age {
        0..60 => return "just now".to_owned(),
        60..3600 => return format!("{} min ago", age / 60),
        3600..DAY => (age / 3600, "hour"),
        _ if age < 60 * DAY => (age / DAY, "day"),
        _ if age < 730 * DAY => (age / (30 * DAY), "month"),
        _ => (age / (365 * DAY), "year"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural} ago")
}

/// Formats a time in UTC as RFC 3339, to the second. The times of files may lie outside its years.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let time = time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_SECOND);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_need_a_unit() {
        for (text, seconds) in [
            ("90s", 90),
            ("5m", 300),
            ("12h", 43_200),
            ("30d", 30 * DAY),
            ("4 w", 28 * DAY),
            ("1d 12h", 36 * 3600),
        ] {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "d",
            "0",
            "30",
            "-3d",
            "+3d",
            "3é",
            "99999999999999999999w",
        ] {
            let error = parse_age(text).expect_err(text);
            assert!(error.contains("`30d`"), "{error}");
        }
    }

    #[test]
    fn ages_are_rounded_down_to_one_unit() {
        let now = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        for (seconds, text) in [
            (0, "just now"),
            (61, "1 min ago"),
            (7_199, "1 hour ago"),
            (3 * DAY, "3 days ago"),
            (90 * DAY, "3 months ago"),
            (800 * DAY, "2 years ago"),
        ] {
            assert_eq!(ago(now - Duration::from_secs(seconds), now), text);
        }
        assert_eq!(ago(now + Duration::from_secs(9), now), "just now");
    }

    #[test]
    fn times_outside_rfc_3339_are_clamped() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(rfc3339(at(951_782_400)), "2000-02-29T00:00:00Z");
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339(before), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(at(300_000_000_000)), "9999-12-31T23:59:59Z");
    }
}
