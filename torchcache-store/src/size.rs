//! Sizes in bytes, as people write and read them: in the options of torchcache and on its command line.
//!
//! ```
//! use torchcache_store::size;
//!
//! assert_eq!(size::parse("1.5 GB"), Ok(1_500_000_000));
//! assert_eq!(size::human(1_500_000_000), "1.5 GB");
//! ```

/// The units of a size, and the bytes in each.
const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// The bytes that a size such as `5 GB`, `512 MiB` or `5e9` means.
///
/// # Errors
/// What of the text is no size, and what would be.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = unit_start(text);
    let (number, unit) = (text[..end].trim_end(), &text[end..]);
    let unit = if unit.is_empty() { "B" } else { unit };
    let factor = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit));
    let Some((_, factor)) = factor else {
        let known: Vec<_> = UNITS.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "there is no unit `{unit}`; the units are {}",
            known.join(", ")
        ));
    };
    let number: f64 = number
        .replace('_', "")
        .parse()
        .map_err(|_| "write a number and a unit, as in `5 GB`")?;
    whole(number * *factor as f64).ok_or_else(|| "it must be from 0 B to below 16 EiB".to_owned())
}

/// A number of bytes without its fraction, if it is one that fits.
pub fn whole(bytes: f64) -> Option<u64> {
    // 2^64 itself is the first that does not fit; `u64::MAX as f64` rounds up to it.
    (bytes >= 0.0 && bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// Where the unit begins. The `e` of `1.5e9` belongs to the number.
fn unit_start(text: &str) -> usize {
    let exponent = |rest: &str| {
        let rest = rest
            .trim_start_matches(['e', 'E'])
            .trim_start_matches(['+', '-']);
        rest.starts_with(|digit: char| digit.is_ascii_digit())
    };
    text.char_indices()
        .find(|(at, letter)| {
            letter.is_alphabetic() && !(letter.eq_ignore_ascii_case(&'e') && exponent(&text[*at..]))
        })
        .map_or(text.len(), |(at, _)| at)
}

/// A sum that ends where no more can be counted: files with holes are as long as somebody says.
pub fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// Bytes for people: `1.5 GB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // What would be printed as 1000.0 is 1.0 of the next.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_any_unit_case_and_spacing() {
        for (text, bytes) in [
            ("50GB", 50_000_000_000),
            ("5 gb", 5_000_000_000),
            ("5e9", 5_000_000_000),
            ("512 MiB", 512 << 20),
            ("1.5e3 kb", 1_500_000),
            (" 64 KiB ", 65_536),
            ("5_000", 5_000),
            ("0", 0),
            ("2 TiB", 2 << 40),
            ("1.5 kb", 1500),
            ("7 B", 7),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "", "GB", "five GB", "5 XB", "-5 GB", "1e30", "5 GB 3", "NaN", "inf", "5 G B",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(whole(-1.0), None);
        assert_eq!(whole(f64::NAN), None);
        assert_eq!(whole(18_446_744_073_709_551_616.0), None);
        assert_eq!(whole(7.9), Some(7));
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(human(999), "999 B");
        assert_eq!(human(1_000), "1.0 KB");
        assert_eq!(human(999_970), "1.0 MB");
        assert_eq!(human(1_500_000_000), "1.5 GB");
        assert_eq!(human(5_000_000_000_000_000), "5000.0 TB");
    }

    #[test]
    fn a_sum_ends_at_the_most_that_can_be_counted() {
        assert_eq!(sum([1, 2, 3].into_iter()), 6);
        let longest = u64::MAX / 2;
        assert_eq!(sum([longest, longest, longest].into_iter()), u64::MAX);
    }
}
