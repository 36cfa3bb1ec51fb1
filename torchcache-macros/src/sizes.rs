//! Sizes written as text: `5 GB`. Apart, because it is a small language of its own; the runtime
//! reads the same one.

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

/// `bytes` as a whole number, if it is one that fits.
pub(crate) fn in_u64(bytes: f64) -> Option<u64> {
    // 2^64 itself is the first that does not fit; `u64::MAX as f64` rounds up to it.
    (bytes >= 0.0 && bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// The bytes that a size string such as `5 GB` means.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
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
    in_u64(number * *factor as f64).ok_or_else(|| "it must be from 0 B to below 16 EiB".to_owned())
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

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_are_read_with_any_unit_case_and_spacing() {
        for (text, bytes) in [
            ("5 GB", 5_000_000_000),
            ("5gb", 5_000_000_000),
            ("512 MiB", 512 << 20),
            ("1.5e9", 1_500_000_000),
            ("1.5e3 kb", 1_500_000),
            (" 64 KiB ", 65_536),
            ("1_000", 1_000),
            ("0", 0),
            ("2 TiB", 2 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "", "GB", "five GB", "5 XB", "-5 GB", "1e30", "5 GB 3", "NaN", "inf",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_is_the_same_here_and_where_the_program_runs() {
        for number in [
            "5",
            "1.5",
            "1_000",
            "5e9",
            "1.5e3",
            "-5",
            "0",
            "five",
            "",
            "1e30",
            "18446744073709551616",
        ] {
            for unit in [
                "", "B", " kb", "MB", " GB", "tb", "KiB", " mib", "GiB", " TiB", "XB", " G B",
            ] {
                let text = format!("{number}{unit}");
                assert_eq!(parse(&text), torchcache_store::size::parse(&text), "{text}");
            }
        }
    }
}
