//! Segments of every version so far, and of a newer one.

use std::fs;
use std::time::{Duration, SystemTime};

use torchcache_faults::cases::seen;
use torchcache_faults::rows::{count_right, expect_all, manual_flush, put_flushed};
use torchcache_store::segment::VERSION;
use torchcache_store::{Fault, Store};

/// The golden segment of each version: rows 1, 2 and 5 are rows as in these tests, of 16 bytes.
pub(super) const FIXTURES: [&[u8]; 2] = [
    include_bytes!("../../../../torchcache-store/tests/fixtures/v1.tcs"),
    include_bytes!("../../../../torchcache-store/tests/fixtures/v2.tcs"),
];

const LEN: usize = 16;

#[test]
fn older_versions_are_read_and_newer_ones_left_alone() {
    assert_eq!(FIXTURES.len() as u32, VERSION, "each version has a fixture");
    for bytes in FIXTURES {
        version(bytes);
    }
    newer();
    seen(
        "segments of older and newer versions",
        FIXTURES.len() as u64 + 1,
    );
}

fn version(bytes: &[u8]) {
    let root = tempfile::tempdir().unwrap();
    let written = fs::write(root.path().join("0.tcs"), bytes);
    written.unwrap();
    let store = Store::open(root.path(), manual_flush()).unwrap();
    let rows = store.stats().rows;
    let known = |store: &Store| {
        for row in [1..3, 5..6] {
            expect_all(store, row, LEN);
        }
    };
    known(&store);
    // Compacted with new segments of about its size, its rows are the same.
    let len = bytes.len() - 200;
    for n in 100..107 {
        put_flushed(&store, n..n + 1, len);
    }
    let stats = store.stats();
    assert!(
        stats.compacted_segments == 8,
        "it was not compacted: {stats:?}"
    );
    assert!(stats.rows == rows + 7, "rows got lost: {stats:?}");
    known(&store);
    assert!(stats.faults.total() == 0, "faults: {stats:?}");
}

fn newer() {
    // A name that torchcache gives, and one of a copy.
    for name in ["0000000000000001-1-1.tcs", "0.tcs"] {
        newer_named(name);
    }
}

fn newer_named(name: &str) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(name);
    let mut bytes = FIXTURES[FIXTURES.len() - 1].to_vec();
    bytes[8] = VERSION as u8 + 1;
    fs::write(&path, &bytes).unwrap();
    // It is no copy under way.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600))
        .unwrap();
    let tight = manual_flush().with_max_bytes(20_000);
    let store = Store::open(root.path(), tight).unwrap();
    for n in 0..40 {
        put_flushed(&store, 10 * n..10 * n + 10, 100);
        count_right(&store, 10 * n..10 * n + 10, 100);
    }
    let stats = store.stats();
    assert!(stats.evicted_rows > 0, "nothing had to go: {stats:?}");
    assert!(stats.faults.get(Fault::FutureVersion) == 1, "{stats:?}");
    let left = fs::read(&path).unwrap();
    assert!(left == bytes, "it was not left alone");
}
