//! What the benches share: tables for people or for a page, times, and places for files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use torchcache_store::Key;

pub(crate) mod footers;

/// Prints rows of cells as they are measured.
pub(crate) struct Table {
    markdown: bool,
    /// How wide, and whether numbers.
    columns: Vec<(usize, bool)>,
}

impl Table {
    /// A table with these headings. Columns whose heading begins with a blank are numbers.
    pub(crate) fn new(headings: &[&str], markdown: bool) -> Table {
        let is_number = |heading: &str| heading.starts_with(' ');
        let column = |heading: &&str| (heading.chars().count().max(9), is_number(heading));
        let columns = headings.iter().map(column).collect();
        let table = Table { markdown, columns };
        table.row(headings);
        if markdown {
            let align = |heading: &&str| {
                if is_number(heading) {
                    " ---: |"
                } else {
                    " --- |"
                }
            };
            println!("|{}", headings.iter().map(align).collect::<String>());
        }
        table
    }

    pub(crate) fn row(&self, cells: &[impl AsRef<str>]) {
        let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
        if self.markdown {
            let trimmed: Vec<&str> = cells.iter().map(|cell| cell.trim()).collect();
            println!("| {} |", trimmed.join(" | "));
        } else {
            let pad = |(cell, (width, number)): (&&str, &(usize, bool))| match number {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            };
            let padded: Vec<_> = cells.iter().zip(&self.columns).map(pad).collect();
            println!("{}", padded.join("  "));
        }
    }
}

/// Whether this program was started with a flag.
pub(crate) fn has(flag: &str) -> bool {
    std::env::args().any(|argument| argument == flag)
}

/// Whether only to see that it runs. (`cargo test --benches` says `--test`.)
pub(crate) fn is_quick() -> bool {
    has("--quick") || has("--test")
}

/// A key as callers make them.
pub(crate) fn key(n: u64) -> Key {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

/// A directory for one measurement; `TORCHCACHE_BENCH_DIR` says where.
pub(crate) fn scratch_dir() -> tempfile::TempDir {
    let root = std::env::var_os("TORCHCACHE_BENCH_DIR");
    let root = root.map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(root).expect("a temporary directory")
}

/// The segment files of a directory.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("it is there");
    let paths = entries.map(|entry| entry.expect("it is there").path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "tcs"))
        .collect();
    paths.sort();
    paths
}

pub(crate) fn timed(run: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    run();
    begin.elapsed()
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
