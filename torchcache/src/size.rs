//! Sizes in bytes, as people write them: `5e9`, `5_000_000_000`, `"5 GB"`.

/// A number of bytes, or the text that could not be read as one.
///
/// Options keep an unreadable size until they are validated, so that the builder stays a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Size(pub(crate) Result<u64, String>);

/// What a size may be written as.
pub(crate) const EXPECTED: &str = "bytes as a number, or text such as \"5 GB\" or \"512 MiB\" (B, KB, MB, GB, TB, KiB, MiB, GiB, TiB)";

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Size(Ok(bytes))
    }
}

impl From<f64> for Size {
    fn from(bytes: f64) -> Self {
        Size(from_float(bytes).ok_or_else(|| bytes.to_string()))
    }
}

impl From<&str> for Size {
    fn from(text: &str) -> Self {
        Size(parse(text).ok_or_else(|| format!("{text:?}")))
    }
}

impl From<String> for Size {
    fn from(text: String) -> Self {
        Size::from(text.as_str())
    }
}

impl From<&String> for Size {
    fn from(text: &String) -> Self {
        Size::from(text.as_str())
    }
}

fn from_float(bytes: f64) -> Option<u64> {
    // Every f64 below 2^64 converts without saturating.
    (0.0..18_446_744_073_709_551_616.0)
        .contains(&bytes)
        .then_some(bytes as u64)
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim().replace('_', "");
    let digits = text.find(|c: char| c.is_ascii_alphabetic() && c != 'e' && c != 'E');
    // `5e9` holds a letter that is part of the number: take the longest prefix that is one.
    let split = (0..=text.len())
        .rev()
        .filter(|&end| text.is_char_boundary(end) && digits.is_none_or(|digits| end <= digits))
        .find(|&end| text[..end].trim().parse::<f64>().is_ok())?;
    let number: f64 = text[..split].trim().parse().ok()?;
    let scale = match text[split..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    from_float(number * scale)
}

/// Bytes for people: `1.5 GB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("5 GB", 5_000_000_000),
            ("5e9", 5_000_000_000),
            ("512MiB", 512 << 20),
            ("1.5 kb", 1500),
            ("5_000", 5000),
            ("7 B", 7),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "GB", "5 parsecs", "-1", "inf", "nan", "1e40", "5 G B"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(Size::from(-1.0).0.is_err());
        assert!(Size::from(f64::NAN).0.is_err());
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(human(999), "999 B");
        assert_eq!(human(1_500_000_000), "1.5 GB");
    }
}
