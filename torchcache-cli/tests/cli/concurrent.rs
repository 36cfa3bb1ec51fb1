//! The program next to stores that put, compact, evict and clear: no error and no wrong row.

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

/// A store that shares no state with others of its directory, like one in another process.
fn store(dir: &Path, max_bytes: u64) -> Store {
    let config = Config::default()
        .with_batch_delay(Duration::from_millis(1))
        .with_segment_bytes(300_000)
        .with_max_bytes(max_bytes);
    Store::open_on(Arc::new(Os), dir, config).unwrap()
}

fn put(store: &Store, keys: std::ops::Range<u64>) {
    let schema = single(ElementKind::Float, &[100]).encode().into();
    let values = keys.clone().flat_map(|n| value(&key(n), LEN)).collect();
    let batch = RowBatch::new(keys.map(key).collect(), schema, values, LEN);
    store.put(batch.unwrap());
    store.flush().unwrap();
}

/// Runs every command that reads until `stop`. Returns the number of exports.
fn run_commands(root: &Path, flushed: &AtomicU64, stop: &AtomicBool) -> u64 {
    let mut exports = 0;
    while !stop.load(Ordering::Relaxed) || exports == 0 {
        for args in [
            &["ls", ".", "--json"][..],
            &["show", ".", "cache", "--json"],
        ] {
            let least = flushed.load(Ordering::SeqCst);
            let output = run_in(root, args);
            let errors = text(&output.stderr);
            assert!(output.status.success() && errors.is_empty(), "{errors}");
            let document: Value = serde_json::from_slice(&output.stdout).unwrap();
            let rows = document["rows"].as_u64().unwrap();
            assert!(rows >= least, "{args:?}: {rows} of {least} flushed rows");
        }
        let checked = json(root, &["check", ".", "--repair"], 0);
        assert_eq!(checked["intact"], json!(true));
        json(root, &["prune", ".", "--older-than", "1h"], 0);
        let least = flushed.load(Ordering::SeqCst);
        if least == 0 {
            continue;
        }
        let args = ["export", ".", "cache", "-o", "x.npy", "--force"];
        let rows = json(root, &args, 0)["rows"].as_u64().unwrap();
        assert!(rows >= least, "{rows} of {least} flushed rows");
        assert_rows(&root.join("x.npy"), rows);
        exports += 1;
    }
    exports
}

/// Asserts that every record of the file is a row as it was put.
fn assert_rows(path: &Path, rows: u64) {
    let bytes = std::fs::read(path).unwrap();
    let begin = bytes.len() - rows as usize * (32 + LEN);
    assert_eq!(begin % 64, 0);
    for record in bytes[begin..].chunks(32 + LEN) {
        let (key, row) = record.split_first_chunk().unwrap();
        assert!(row == value(key, LEN), "a wrong row");
    }
}

#[test]
fn commands_see_every_flushed_row_during_compaction() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("cache");
    manifest(&dir, "m::Module", Vec::new(), 0);
    let (flushed, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let commands = scope.spawn(|| run_commands(root.path(), &flushed, &stop));
        let store = store(&dir, u64::MAX);
        let since = Instant::now();
        let mut next = 0;
        while since.elapsed() < Duration::from_secs(4) {
            put(&store, next..next + 15);
            next += 15;
            flushed.store(next, Ordering::SeqCst);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(commands.join().unwrap() > 0);
        let stats = store.stats();
        assert!(stats.compacted_segments > 0, "{stats:?}");
        assert_eq!((stats.lost_rows, stats.faults.total()), (0, 0), "{stats:?}");
        let keys: Vec<_> = (0..next).map(key).collect();
        assert!(store.locate(&keys).iter().all(Option::is_some));
    });
}

#[test]
fn commands_see_no_wrong_row_during_eviction_and_clearing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("cache");
    manifest(&dir, "m::Module", Vec::new(), 0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let commands = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) || rounds == 0 {
                assert_eq!(json(root.path(), &["check", "."], 0)["intact"], json!(true));
                json(
                    root.path(),
                    &["prune", ".", "--max-size", "100KB", "--yes"],
                    0,
                );
                let output = run_in(
                    root.path(),
                    &["export", ".", "cache", "-o", "x.npy", "--force"],
                );
                // The cache may be empty at that moment.
                match output.status.code() {
                    Some(0) => {
                        let printed = text(&output.stdout);
                        let rows = printed.split(' ').next().map(|rows| rows.replace(',', ""));
                        assert_rows(
                            &root.path().join("x.npy"),
                            rows.and_then(|rows| rows.parse().ok()).unwrap(),
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
        commands.join().unwrap();
        let stats = store.stats();
        assert_eq!((stats.lost_rows, stats.faults.total()), (0, 0), "{stats:?}");
    });
}
