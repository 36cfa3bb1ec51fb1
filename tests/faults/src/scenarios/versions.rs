//! Segments of every version that there ever was, and of one that is yet to come.

use std::fs;

use torchcache_store::segment::VERSION;
use torchcache_store::{Config, Fault, Store};

use crate::rows::{batch, patient};
use crate::tally::{Plan, Tally, ensure};

/// A segment of each version, as the store's tests pin them: rows 1, 2 and 5 are like all rows here,
/// of 16 bytes.
pub(super) const FIXTURES: [&[u8]; 2] = [
    include_bytes!("../../../../torchcache-store/tests/fixtures/v1.tcs"),
    include_bytes!("../../../../torchcache-store/tests/fixtures/v2.tcs"),
];

const LEN: usize = 16;

pub(super) fn run(_: &Plan) -> Tally {
    let mut tally = Tally::default();
    assert_eq!(
        FIXTURES.len() as u32,
        VERSION,
        "each version has its fixture"
    );
    for (place, bytes) in FIXTURES.iter().enumerate() {
        tally.round(&format!("version {}", place + 1), |tally| {
            version(tally, bytes)
        });
    }
    tally.round("a version to come", newer);
    tally
}

fn version(tally: &mut Tally, bytes: &[u8]) -> Result<(), String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let written = fs::write(root.path().join("0.tcs"), bytes);
    written.map_err(|error| error.to_string())?;
    let store = Store::open(root.path(), patient()).map_err(|error| error.to_string())?;
    tally.caused += 1;
    let rows = store.stats().rows;
    let known = |tally: &mut Tally, store: &Store| {
        for row in [1..3, 5..6] {
            tally.all_there(store, row, LEN);
        }
    };
    known(tally, &store);
    // Merged with segments of today of about its size, its rows are the same.
    let len = bytes.len() - 200;
    for n in 100..107 {
        store.put(batch(n..n + 1, len));
        store.flush().map_err(|error| error.to_string())?;
    }
    let stats = store.stats();
    ensure(stats.merged_segments == 8, || {
        format!("it was not merged: {stats:?}")
    })?;
    ensure(stats.rows == rows + 7, || {
        format!("rows got lost: {stats:?}")
    })?;
    known(tally, &store);
    ensure(stats.faults.total() == 0, || format!("faults: {stats:?}"))
}

fn newer(tally: &mut Tally) -> Result<(), String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = root.path().join("0.tcs");
    let mut bytes = FIXTURES[FIXTURES.len() - 1].to_vec();
    bytes[8] = VERSION as u8 + 1;
    fs::write(&path, &bytes).map_err(|error| error.to_string())?;
    let tight = Config {
        max_bytes: 20_000,
        ..patient()
    };
    let store = Store::open(root.path(), tight).map_err(|error| error.to_string())?;
    tally.caused += 1;
    for n in 0..40 {
        store.put(batch(10 * n..10 * n + 10, 100));
        store.flush().map_err(|error| error.to_string())?;
        tally.right_or_missing(&store, 10 * n..10 * n + 10, 100);
    }
    let stats = store.stats();
    ensure(stats.evicted_rows > 0, || {
        format!("nothing had to go: {stats:?}")
    })?;
    ensure(stats.faults.get(Fault::FutureVersion) == 1, || {
        format!("{stats:?}")
    })?;
    let left = fs::read(&path).map_err(|error| error.to_string())?;
    ensure(left == bytes, || "it was not left alone".into())
}
