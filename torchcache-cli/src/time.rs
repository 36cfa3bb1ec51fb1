//! Times and ages: as people write them, as they read them, and for programs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// The age that `12h` means.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "write a whole number and a unit: s, m, h, d or w, as in `30d`";
    let text = text.trim();
    let unit = text.chars().last().ok_or(EXPECTED)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => DAY,
        'w' => 7 * DAY,
        _ => return Err(EXPECTED.to_owned()),
    };
    let number = text[..text.len() - 1].trim_end();
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| is_plain).ok_or(EXPECTED)?;
    let seconds = number.checked_mul(seconds).ok_or("it is too long ago")?;
    Ok(Duration::from_secs(seconds))
}

/// How long ago a time is: `3 days ago`.
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

/// A time as RFC 3339 has it, in UTC, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, of_day) = (seconds / DAY, seconds % DAY);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a number of days since 1970. Counted from 1 March of the year 0, so that a
/// leap day is the last of its year, in eras of 400 years, which are alike.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_in_each_unit_and_nothing_else_is() {
        for (text, seconds) in [
            ("90s", 90),
            ("5m", 300),
            ("12h", 43_200),
            ("30d", 30 * DAY),
            ("4 w", 28 * DAY),
            ("0s", 0),
        ] {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "d",
            "30",
            "1.5d",
            "-3d",
            "+3d",
            "30 days",
            "3é",
            "99999999999999999999w",
        ] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn how_long_ago_is_told_in_one_unit() {
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
    fn times_are_written_as_the_rfc_says() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), text);
        }
    }
}
