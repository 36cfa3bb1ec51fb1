//! The program beside stores that put, merge, evict and clear: no error, and no row that is wrong.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use torchcache_store::fs::Os;
use torchcache_store::schema::ElementKind;
use torchcache_store::{Config, RowBatch, Store};

use crate::support::{json, key, manifest, run_in, single, text, value};

const LEN: usize = 400;

/// A store as strange to others of this directory as one of another process.
fn store(dir: &Path, max_bytes: u64) -> Store {
    let config = Config {
        batch_delay: Duration::from_millis(1),
        segment_bytes: 300_000,
        max_bytes,
        ..Config::default()
    };
    Store::open_on(Arc::new(Os), dir, config).expect("it opens")
}

fn put(store: &Store, keys: std::ops::Range<u64>) {
    let schema = single(ElementKind::Float, &[100]).encode().into();
    let values = keys.clone().flat_map(|n| value(&key(n), LEN)).collect();
    let batch = RowBatch::new(keys.map(key).collect(), schema, values, LEN);
    store.put(batch.expect("the parts fit"));
    store.flush().expect("it is written");
}

/// Looks at the directory with every command that reads, until told to stop. Returns how many rows an
/// export had at least.
fn look(root: &Path, flushed: &AtomicU64, stop: &AtomicBool) -> u64 {
    let mut exports = 0;
    while !stop.load(Ordering::Relaxed) || exports == 0 {
        for args in [
            &["ls", ".", "--json"][..],
            &["show", ".", "cache", "--json"],
        ] {
            let least = flushed.load(Ordering::SeqCst);
            let output = run_in(root, args);
            let complaint = text(&output.stderr);
            assert!(
                output.status.success() && complaint.is_empty(),
                "{complaint}"
            );
            let told: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
            let rows = told["rows"].as_u64().expect("a number");
            assert!(rows >= least, "{args:?}: {rows} of {least} flushed rows");
        }
        let sound = json(root, &["verify", ".", "--repair"], 0);
        assert_eq!(sound["sound"], json!(true));
        json(root, &["prune", ".", "--older-than", "1h"], 0);
        let least = flushed.load(Ordering::SeqCst);
        if least == 0 {
            continue;
        }
        let args = ["export", ".", "cache", "-o", "x.npy", "--force"];
        let rows = json(root, &args, 0)["rows"].as_u64().expect("a number");
        assert!(rows >= least, "{rows} of {least} flushed rows");
        check(&root.join("x.npy"), rows);
        exports += 1;
    }
    exports
}

/// Every record of the file is a row as it was put.
fn check(path: &Path, rows: u64) {
    let bytes = std::fs::read(path).expect("it was written");
    let begin = bytes.len() - rows as usize * (32 + LEN);
    assert_eq!(begin % 64, 0);
    for record in bytes[begin..].chunks(32 + LEN) {
        let (key, row) = record.split_first_chunk().expect("it has a key");
        assert!(row == value(key, LEN), "a wrong row");
    }
}

#[test]
fn nothing_is_wrong_or_missing_beside_stores_that_write_and_merge() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("cache");
    manifest(&dir, "m::Module", Vec::new(), 0);
    let (flushed, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let looking = scope.spawn(|| look(root.path(), &flushed, &stop));
        let store = store(&dir, u64::MAX);
        let since = Instant::now();
        let mut next = 0;
        while since.elapsed() < Duration::from_secs(4) {
            put(&store, next..next + 15);
            next += 15;
            flushed.store(next, Ordering::SeqCst);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(looking.join().expect("it does not panic") > 0);
        let stats = store.stats();
        assert!(stats.compacted_segments > 0, "{stats:?}");
        assert_eq!((stats.lost_rows, stats.faults.total()), (0, 0), "{stats:?}");
        let keys: Vec<_> = (0..next).map(key).collect();
        assert!(store.locate(&keys).iter().all(Option::is_some));
    });
}

#[test]
fn nothing_is_wrong_beside_stores_that_evict_and_clear() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("cache");
    manifest(&dir, "m::Module", Vec::new(), 0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) || rounds == 0 {
                assert_eq!(json(root.path(), &["verify", "."], 0)["sound"], json!(true));
                json(root.path(), &["prune", ".", "--max-size", "100KB"], 0);
                let output = run_in(
                    root.path(),
                    &["export", ".", "cache", "-o", "x.npy", "--force"],
                );
                // It may have been empty just then.
                match output.status.code() {
                    Some(0) => {
                        let said = text(&output.stdout);
                        let rows = said.split(' ').next().map(|rows| rows.replace(',', ""));
                        check(
                            &root.path().join("x.npy"),
                            rows.and_then(|rows| rows.parse().ok()).expect("a number"),
                        );
                    }
                    code => assert_eq!(code, Some(1), "{}", text(&output.stderr)),
                }
                rounds += 1;
            }
        });
        let store = store(&dir, 200_000);
        let since = Instant::now();
        let mut next = 0;
        while since.elapsed() < Duration::from_secs(3) {
            put(&store, next..next + 15);
            next += 15;
            if next % 600 == 0 {
                store.clear();
            }
        }
        stop.store(true, Ordering::Relaxed);
        looking.join().expect("it does not panic");
        let stats = store.stats();
        assert_eq!((stats.lost_rows, stats.faults.total()), (0, 0), "{stats:?}");
    });
}
