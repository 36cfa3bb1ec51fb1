//! What the benchmarks share: tables, times, keys and folders.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use torchcache_store::Key;

pub(crate) mod footers;
mod table;

pub(crate) use table::Table;

/// Whether this program was started with a flag.
pub(crate) fn has(flag: &str) -> bool {
    std::env::args().any(|argument| argument == flag)
}

/// Whether to use little data. (`cargo test --benches` passes `--test`.)
pub(crate) fn is_quick() -> bool {
    has("--quick") || has("--test")
}

/// A key like those of callers.
pub(crate) fn key(n: u64) -> Key {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

/// A directory for one measurement, in `TORCHCACHE_BENCH_DIR` or the system's temporary folder.
pub(crate) fn scratch_dir() -> tempfile::TempDir {
    let root = std::env::var_os("TORCHCACHE_BENCH_DIR");
    let root = root.map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(root).expect("a temporary directory")
}

/// The segment files of a directory.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("it exists");
    let paths = entries.map(|entry| entry.expect("it exists").path());
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
