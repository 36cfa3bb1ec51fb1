//! Fills a directory that has little room, and makes room again.

use std::path::Path;

use torchcache_store::{Fault, FlushError, Store};

use crate::process::say;
use crate::rows::{batch, count_right, expect_all, manual_flush, put_flushed};

const LEN: usize = 3000;

/// No arguments.
pub fn run(dir: &Path, _: &[String]) {
    say("STARTED");
    let config = manual_flush().with_segment_bytes(100_000);
    let store = Store::open(dir, config.clone()).unwrap();
    for n in 0..10 {
        put_flushed(&store, 20 * n..20 * n + 20, LEN);
    }
    // More in one segment than fits.
    store.reconfigure(config.with_segment_bytes(10_000_000));
    store.put(batch(1000..1400, LEN));
    let lost = store.flush().expect_err("this one does not");
    assert!(matches!(lost, FlushError::Lost { .. }), "{lost}");
    let stats = store.stats();
    assert!(stats.faults.get(Fault::NoSpace) > 0, "{stats:?}");
    assert_eq!(
        stats.faults.total(),
        stats.faults.get(Fault::NoSpace),
        "{stats:?}"
    );
    expect_all(&store, 0..200, LEN);
    count_right(&store, 1000..1400, LEN);
    store.clear();
    put_flushed(&store, 2000..2020, LEN);
    expect_all(&store, 2000..2020, LEN);
}
