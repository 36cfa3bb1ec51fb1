//! Uses a cache of a container image, and adds to it.

use std::ops::Range;
use std::path::Path;

use torchcache_store::{Config, Store};

use crate::process::say;
use crate::rows::{batch, expect_all, expect_no_faults, manual_flush, put_flushed};

/// The directory of the cache in a layer.
pub const DIR: &str = "cache";

/// The rows of the image.
pub const ROWS: Range<u64> = 0..50;

/// Their length.
pub const LEN: usize = 1000;

/// The argument: whether files are mapped.
pub fn run(root: &Path, args: &[String]) {
    say("STARTED");
    let dir = root.join("merged").join(DIR);
    let config = || -> Config { manual_flush().with_mmap(args == ["true"]) };
    let store = Store::open(&dir, config()).unwrap();
    expect_all(&store, ROWS, LEN);
    // Rows that are skipped, since the image has them.
    assert_eq!(store.put(batch(ROWS, LEN)).len(), 50);
    store.flush().unwrap();
    put_flushed(&store, 100..110, LEN);
    expect_no_faults(&store);
    drop(store);
    let store = Store::open(&dir, config()).unwrap();
    expect_all(&store, ROWS, LEN);
    expect_all(&store, 100..110, LEN);
    expect_no_faults(&store);
}
