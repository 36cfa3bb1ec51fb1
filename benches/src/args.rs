//! The command line that every benchmark of this package understands.

use std::path::PathBuf;

/// The line behind which a benchmark prints its part of the page, where something else, as Criterion,
/// prints before.
pub const PAGE_BEGINS: &str = "<!-- the page begins here -->";

/// What was asked for.
#[derive(Debug, Default, PartialEq)]
pub struct Args {
    /// A smoke run: little data, once.
    pub quick: bool,
    /// Where to write the figures of the chart.
    pub figures: Option<PathBuf>,
}

impl Args {
    /// Those of this process.
    ///
    /// # Panics
    ///
    /// On arguments that no benchmark knows.
    pub fn read() -> Self {
        Self::parse(std::env::args().skip(1)).unwrap_or_else(|unknown| {
            panic!("`{unknown}` is not known; there are --quick, --markdown and --figures FILE")
        })
    }

    fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut found = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" | "--test" => found.quick = true,
                "--figures" => found.figures = args.next().map(PathBuf::from),
                // cargo says the first; what is printed is Markdown in any case.
                "--bench" | "--markdown" => {}
                _ => return Err(arg),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_cargo_adds_is_no_mistake_and_what_nobody_knows_is() {
        assert_eq!(parse("--markdown --bench"), Ok(Args::default()));
        let args = parse("--quick --figures x.json --bench").unwrap();
        assert!(args.quick);
        assert_eq!(args.figures, Some("x.json".into()));
        assert_eq!(parse("--quik"), Err("--quik".into()));
    }
}
