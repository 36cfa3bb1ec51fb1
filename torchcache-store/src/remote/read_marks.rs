//! Read marks: which segments a process read rows of, so that pruning keeps what is used. A process puts one a day, and
//! one when it ends; a machine that may not write leaves none.

use std::fmt::{self, Display};
use std::time::{SystemTime, UNIX_EPOCH};

use super::name_list;

const SECONDS_OF_DAY: u64 = 86_400;

/// The key of a read mark within its cache, without `r/`: `<yyyymmdd>/<rand64>`, the day in UTC and 16 hexadecimal
/// digits.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use torchcache_store::remote::ReadMark;
///
/// let mark = ReadMark::new(UNIX_EPOCH + Duration::from_secs(1_800_000_000), 0xbeef);
/// assert_eq!(mark.to_string(), "20270115/000000000000beef");
/// assert_eq!(ReadMark::parse("20270115/000000000000beef"), Some(mark));
///
/// let content = ReadMark::content(["a.tcs", "b.tcs"]);
/// assert_eq!(ReadMark::names(content.as_bytes()), Some(vec!["a.tcs", "b.tcs"]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadMark {
    /// The decimal digits of year, month and day.
    day: u32,
    random: u64,
}

impl ReadMark {
    /// One with these random bits on the day of this time. Times outside the years 1970 to 9999 count as the nearest in them.
    pub fn new(time: SystemTime, random: u64) -> ReadMark {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let day = date(since.as_secs() / SECONDS_OF_DAY);
        ReadMark { day, random }
    }

    /// The mark whose key is exactly this.
    pub fn parse(key: &str) -> Option<ReadMark> {
        let (day, random) = key.split_once('/')?;
        let parsed = ReadMark {
            day: day.parse().ok()?,
            random: u64::from_str_radix(random, 16).ok()?,
        };
        let (month, day) = (parsed.day / 100 % 100, parsed.day % 100);
        let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
        (is_date && parsed.to_string() == key).then_some(parsed)
    }

    /// The content: the names of the objects that rows were read of, one a line, and a checksum.
    pub fn content(names: impl IntoIterator<Item = impl Display>) -> String {
        name_list::write(names)
    }

    /// The names in a content; `None` if it is damaged.
    pub fn names(content: &[u8]) -> Option<Vec<&str>> {
        name_list::parse(content)
    }
}

impl Display for ReadMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}/{:016x}", self.day, self.random)
    }
}

/// The date so many days after 1970-01-01, as the decimal number `yyyymmdd`.
fn date(days: u64) -> u32 {
    /// 9999-12-31.
    const LAST: u64 = 2_932_896;
    // Years begin in March, so that a leap day is the last of its year.
    let days = days.min(LAST) + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    (year * 10_000 + month * 100 + day) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        for (days, expected) in [
            (0, 19_700_101),
            (58, 19_700_228),
            (59, 19_700_301),
            (11_016, 20_000_229),
            (20_514, 20_260_302),
            (47_540, 21_000_228),
            (47_541, 21_000_301),
            (2_932_896, 99_991_231),
            (u64::MAX, 99_991_231),
        ] {
            assert_eq!(date(days), expected, "{days}");
        }
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_no_others_are() {
        assert!(ReadMark::parse("20260302/0123456789abcdef").is_some());
        for bad in [
            "",
            "20260302",
            "2026032/0123456789abcdef",
            "20261302/0123456789abcdef",
            "20260300/0123456789abcdef",
            "+2026032/0123456789abcdef",
            "20260302/0123456789ABCDEF",
            "20260302/123456789abcdef",
            "20260302/0123456789abcdef/x",
        ] {
            assert_eq!(ReadMark::parse(bad), None, "{bad}");
        }
    }
}
