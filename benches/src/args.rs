//! The command line of the benchmarks.

use std::path::PathBuf;

use clap::Parser;

/// Arguments of every benchmark, which prints Markdown.
#[derive(Debug, Parser)]
pub struct Args {
    /// Use little data, once
    #[arg(long, alias = "test")]
    pub quick: bool,
    /// Write the figures of the chart into this file
    #[arg(long, value_name = "FILE")]
    pub figures: Option<PathBuf>,
    /// Added by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}
