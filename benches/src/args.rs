//! The command line of the benchmarks.

use std::path::PathBuf;

/// Follows the output of Criterion and precedes a benchmark's part of the page.
pub const PAGE_BEGINS: &str = "<!-- the page begins here -->";

/// Parsed arguments.
#[derive(Debug, Default, PartialEq)]
pub struct Args {
    /// Little data, once.
    pub quick: bool,
    /// The file for the figures of the chart.
    pub figures: Option<PathBuf>,
}

impl Args {
    /// Parses the arguments of this process.
    ///
    /// # Panics
    ///
    /// On unknown arguments.
    pub fn read() -> Self {
        Self::parse(std::env::args().skip(1)).unwrap_or_else(|unknown| {
            panic!("unknown argument `{unknown}`; expected --quick, --markdown or --figures FILE")
        })
    }

    fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut found = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" | "--test" => found.quick = true,
                "--figures" => found.figures = args.next().map(PathBuf::from),
                // cargo adds the first; the output is always Markdown.
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
    fn arguments_of_cargo_are_accepted_and_unknown_ones_rejected() {
        assert_eq!(parse("--markdown --bench"), Ok(Args::default()));
        let args = parse("--quick --figures x.json --bench").unwrap();
        assert!(args.quick);
        assert_eq!(args.figures, Some("x.json".into()));
        assert_eq!(parse("--quik"), Err("--quik".into()));
    }
}
