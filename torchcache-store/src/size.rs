//! Sizes in bytes as text: `5 GB`, `512 MiB`, `1.5e9`. One grammar for the options of the
//! attribute, which are read while a program is compiled, the option builder and the command line.
//!
//! ```
//! use torchcache_store::size;
//!
//! const BOUND: u64 = match size::parse("1.5 GB") {
//!     Ok(bytes) => bytes,
//!     Err(_) => panic!("not a size"),
//! };
//! assert_eq!(BOUND, 1_500_000_000);
//! assert_eq!(size::human(BOUND), "1.5 GB");
//! ```

use std::fmt;

/// The units of a size, the decimal ones first, and the bytes in each.
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

/// Why a text is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SizeError {
    /// There is no number.
    Number,
    /// The number is followed by something other than a unit.
    Unit,
    /// The size is negative, or does not fit 64 bits.
    Range,
}

impl SizeError {
    /// The text of the error, which a `const` evaluation can panic with.
    pub const fn message(self) -> &'static str {
        match self {
            SizeError::Number => "expected a number of bytes or a number and a unit, as in `5 GB`",
            SizeError::Unit => "unknown unit; expected B, KB, MB, GB, TB, KiB, MiB, GiB or TiB",
            SizeError::Range => "expected a size from 0 B to below 16 EiB",
        }
    }
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for SizeError {}

/// The number of bytes that a size such as `5 GB`, `512 MiB` or `5e9` stands for, rounded down.
///
/// The number may have a fraction, an exponent and `_` between digits. The unit may be in any case
/// and follow after spaces; without one the number is bytes.
///
/// # Errors
/// [`SizeError`] where `text` is not a size or the size does not fit.
pub const fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.as_bytes().trim_ascii();
    let Some((mut value, mut power, rest)) = number(text) else {
        return Err(match text {
            [b'-', digits @ ..] if number(digits).is_some() => SizeError::Range,
            _ => SizeError::Number,
        });
    };
    let Some(factor) = factor(rest.trim_ascii_start()) else {
        return Err(SizeError::Unit);
    };
    // At most 10^26 * 2^40, which is less than 2^127.
    value *= factor as u128;
    while power < 0 && value > 0 {
        value /= 10;
        power += 1;
    }
    while power > 0 && value > 0 {
        if value > u64::MAX as u128 {
            return Err(SizeError::Range);
        }
        value *= 10;
        power -= 1;
    }
    if value > u64::MAX as u128 {
        return Err(SizeError::Range);
    }
    Ok(value as u64)
}

/// The decimal number that `text` starts with, as digits below 10^26 and a power of ten, and the
/// text after it.
const fn number(text: &[u8]) -> Option<(u128, i32, &[u8])> {
    // More digits than these cannot change a size that fits 64 bits by a whole byte of any unit.
    const ENOUGH: u128 = 10u128.pow(25);
    let (mut value, mut power) = (0, 0i32);
    let (mut has_digits, mut in_fraction) = (false, false);
    let mut rest = match text {
        [b'+', rest @ ..] => rest,
        text => text,
    };
    loop {
        match rest {
            [digit @ b'0'..=b'9', after @ ..] => {
                has_digits = true;
                if value < ENOUGH {
                    value = value * 10 + (*digit - b'0') as u128;
                    power -= in_fraction as i32;
                } else {
                    power = power.saturating_add(!in_fraction as i32);
                }
                rest = after;
            }
            [b'.', after @ ..] if !in_fraction => {
                in_fraction = true;
                rest = after;
            }
            [b'_', after @ ..] if has_digits => rest = after,
            _ => break,
        }
    }
    if !has_digits {
        return None;
    }
    match exponent(rest) {
        Some((exponent, after)) => Some((value, power.saturating_add(exponent), after)),
        None => Some((value, power, rest)),
    }
}

/// The exponent that `text` starts with, such as `e9` or `E-3`, and the text after it.
const fn exponent(text: &[u8]) -> Option<(i32, &[u8])> {
    let (is_negative, mut rest) = match text {
        [b'e' | b'E', b'-', rest @ ..] => (true, rest),
        [b'e' | b'E', b'+', rest @ ..] | [b'e' | b'E', rest @ ..] => (false, rest),
        _ => return None,
    };
    let [b'0'..=b'9', ..] = rest else {
        return None;
    };
    let mut exponent = 0i32;
    while let [digit @ (b'0'..=b'9' | b'_'), after @ ..] = rest {
        if *digit != b'_' {
            exponent = exponent.saturating_mul(10);
            exponent = exponent.saturating_add((*digit - b'0') as i32);
        }
        rest = after;
    }
    let exponent = if is_negative { -exponent } else { exponent };
    Some((exponent, rest))
}

/// The bytes of a unit; no unit is bytes.
const fn factor(unit: &[u8]) -> Option<u64> {
    if unit.is_empty() {
        return Some(1);
    }
    let mut index = 0;
    while index < UNITS.len() {
        let (name, factor) = UNITS[index];
        if name.as_bytes().eq_ignore_ascii_case(unit) {
            return Some(factor);
        }
        index += 1;
    }
    None
}

/// `bytes` rounded down, if it is at least 0 and fits 64 bits.
pub const fn whole(bytes: f64) -> Option<u64> {
    // `u64::MAX as f64` rounds up to 2^64, the first number that does not fit.
    if bytes >= 0.0 && bytes < u64::MAX as f64 {
        Some(bytes as u64)
    } else {
        None
    }
}

/// The sum of `sizes`, at most `u64::MAX`: a file with holes may claim any length.
pub fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// A size with one decimal in the largest unit below it: `1.5 GB`.
pub fn human(bytes: u64) -> String {
    const DECIMAL: usize = 5;
    let mut value = bytes as f64;
    let mut unit = 0;
    // A value that would print as `1000.0` is `1.0` of the next unit.
    while value >= 999.95 && unit + 1 < DECIMAL {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit].0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_accepts_any_unit_case_and_spacing() {
        for (text, bytes) in [
            ("50GB", 50_000_000_000),
            ("5 gb", 5_000_000_000),
            ("5e9", 5_000_000_000),
            ("512 MiB", 512 << 20),
            ("1.5e3 kb", 1_500_000),
            (" 64 KiB ", 65_536),
            ("5_000", 5_000),
            ("0", 0),
            ("0e99999999999", 0),
            ("2 TiB", 2 << 40),
            ("1.5 kb", 1500),
            ("7 B", 7),
            ("+5.", 5),
            (".5 KB", 500),
            ("25E-1", 2),
            ("1e-99999999999 TB", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn parse_is_exact_where_a_float_is_not() {
        assert_eq!((8.2 * 1e9) as u64, 8_199_999_999);
        assert_eq!(parse("8.2 GB"), Ok(8_200_000_000));
        let zeros = "0".repeat(60);
        assert_eq!(parse(&format!("{zeros}5 KB")), Ok(5_000));
        assert_eq!(parse(&format!("1.{zeros}1 KB")), Ok(1_000));
        assert_eq!(parse(&format!("1{zeros}e-60")), Ok(1));
    }

    #[test]
    fn parse_agrees_with_floats_on_short_numbers() {
        for number in ["5", "1.5", "5e9", "1.5e3", "0", "123456", "2.25", "8e-1"] {
            for (unit, factor) in UNITS {
                let float = number.parse::<f64>().unwrap() * factor as f64;
                assert_eq!(parse(&format!("{number} {unit}")).ok(), whole(float));
            }
        }
    }

    #[test]
    fn parse_refuses_other_text_with_the_reason() {
        for (reason, texts) in [
            (
                SizeError::Number,
                &[
                    "", "GB", "five GB", "NaN", "inf", ".", "_1", "-", "--5", "e9",
                ][..],
            ),
            (
                SizeError::Unit,
                &["5 XB", "5 GB 3", "5 G B", "5 e", "1.5.5", "5 \u{fc}"],
            ),
            (
                SizeError::Range,
                &[
                    "-5 GB",
                    "1e30",
                    "18446744073709551616",
                    "1e99999999999",
                    "17e6 TiB",
                ],
            ),
        ] {
            for text in texts {
                assert_eq!(parse(text), Err(reason), "{text}");
            }
        }
    }

    #[test]
    fn a_float_is_a_size_where_it_fits() {
        assert_eq!(whole(-1.0), None);
        assert_eq!(whole(f64::NAN), None);
        assert_eq!(whole(18_446_744_073_709_551_616.0), None);
        assert_eq!(whole(7.9), Some(7));
    }

    #[test]
    fn human_shows_one_decimal() {
        assert_eq!(human(999), "999 B");
        assert_eq!(human(1_000), "1.0 KB");
        assert_eq!(human(999_970), "1.0 MB");
        assert_eq!(human(1_500_000_000), "1.5 GB");
        assert_eq!(human(5_000_000_000_000_000), "5000.0 TB");
    }

    #[test]
    fn sum_saturates() {
        assert_eq!(sum([1, 2, 3].into_iter()), 6);
        let longest = u64::MAX / 2;
        assert_eq!(sum([longest, longest, longest].into_iter()), u64::MAX);
    }
}
