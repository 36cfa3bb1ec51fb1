//! [`Size`], the type of size options: `5e9`, `5_000_000_000` or `"5 GB"`.

use torchcache_store::size;

/// A number of bytes, made from a number or from text such as `"5 GB"`.
///
/// Text that is not a size is kept: [`OptionsBuilder::build`](crate::OptionsBuilder::build) reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct Size(pub(crate) Result<u64, String>);

/// The accepted forms, for messages.
pub(crate) const EXPECTED: &str = "bytes as a number, or text such as \"5 GB\" or \"512 MiB\" (B, KB, MB, GB, TB, KiB, MiB, GiB, TiB)";

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Size(Ok(bytes))
    }
}

impl From<f64> for Size {
    fn from(bytes: f64) -> Self {
        Size(size::whole(bytes).ok_or_else(|| bytes.to_string()))
    }
}

impl From<&str> for Size {
    fn from(text: &str) -> Self {
        Size(size::parse(text).map_err(|_| format!("{text:?}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_or_text() {
        let five = Ok(5_000_000_000);
        assert_eq!(Size::from(5_000_000_000).0, five);
        assert_eq!(Size::from(5e9).0, five);
        assert_eq!(Size::from("5 GB").0, five);
        assert_eq!(Size::from(String::from("5e9")).0, five);
    }

    #[test]
    fn text_that_is_not_a_size_is_kept() {
        assert_eq!(Size::from("5 parsecs").0, Err("\"5 parsecs\"".to_owned()));
        assert_eq!(Size::from(-1.0).0, Err("-1".to_owned()));
        assert_eq!(Size::from(f64::NAN).0, Err("NaN".to_owned()));
    }
}
