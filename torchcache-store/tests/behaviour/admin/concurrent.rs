//! Administration while stores put, compact, evict and clear: no row is wrong, no flushed row is missing
//! unless it was removed, and a segment that vanishes is not an error.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use torchcache_store::admin::{CacheRows, Keep, Root, SegmentRepair, check, prune, repair};
use torchcache_store::segment::SegmentReader;
use torchcache_store::{Config, Key, Store};

use super::{LEN, caches};
use crate::common::{batch, count_right, keys, segments, value};

/// A handle that shares no state with others on the directory, like one in another process.
fn independent_store(dir: &Path, max_bytes: u64) -> Store {
    let config = Config::default()
        .with_batch_delay(Duration::from_millis(1))
        .with_segment_bytes(400_000)
        .with_max_bytes(max_bytes);
    let fs = std::sync::Arc::new(torchcache_store::fs::Os);
    Store::open_on(fs, dir, config).expect("it opens")
}

/// Whether a test has run for so many seconds, and what it is about has happened. A busy machine has
/// a minute for that.
fn is_over(since: Instant, seconds: u64, has_happened: bool) -> bool {
    let seconds = if has_happened { seconds } else { 60 };
    since.elapsed() > Duration::from_secs(seconds)
}

/// Runs every administration function in turns until `stop`. Returns how often.
fn administrate(root: &Path, stop: &AtomicBool) -> u64 {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) || rounds == 0 {
        for cache in caches(root) {
            let summary = cache.summary().expect("it can be summed up");
            for segment in &summary.segments {
                assert!(segment.contents.is_ok(), "{segment:?}");
            }
        }
        let reports = check(&caches(root), &());
        for report in &reports {
            assert!(report.is_intact(), "{report:?}");
            let repairs = repair(report);
            assert!(repairs.segments.is_empty() && repairs.error.is_none());
        }
        let opened = Root::open(root).expect("it is there");
        let keep = Keep::ReadWithin(Duration::from_secs(3600));
        let pruning = prune(&opened, keep, false).expect("it can be pruned");
        assert!(pruning.failed.is_empty(), "{pruning:?}");
        assert!(
            pruning.caches.is_empty(),
            "nothing is that old: {pruning:?}"
        );
        rounds += 1;
    }
    rounds
}

#[test]
fn admin_loses_nothing_during_compaction() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("cache");
    let stop = AtomicBool::new(false);
    // Prune removes the directory of a cache without rows, also of one that is just opened.
    {
        let store = independent_store(&dir, u64::MAX);
        store.put(batch(&keys(0..20), "s", LEN));
        store.flush().expect("it is written");
    }
    let flushed = Mutex::new(20);
    let compacted = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let store = independent_store(&dir, u64::MAX);
                    let since = Instant::now();
                    while !is_over(since, 3, compacted.load(Ordering::Relaxed)) {
                        let mut next = flushed.lock().expect("no writer panicked");
                        store.put(batch(&keys(*next..*next + 20), "s", LEN));
                        store.flush().expect("it is written");
                        *next += 20;
                        if store.stats().compacted_segments > 0 {
                            compacted.store(true, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        let looking = scope.spawn(|| administrate(temp.path(), &stop));
        let reading = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) || rounds == 0 {
                let expected = *flushed.lock().expect("no writer panicked");
                let Some(cache) = caches(temp.path()).pop() else {
                    continue;
                };
                let rows = CacheRows::open(&cache).expect("they can be read");
                assert!(rows.skipped().is_empty(), "{:?}", rows.skipped());
                if rows.groups().is_empty() {
                    continue;
                }
                let mut distinct = rows.distinct(0).expect("they can be read");
                assert!(distinct.count() >= expected, "a flushed row is missing");
                let complete = distinct.for_each(|key, bytes| {
                    assert!(*bytes == value(key, LEN), "a wrong row");
                    Ok(())
                });
                assert!(complete.expect("they can be read"));
                rounds += 1;
            }
            rounds
        });
        for writer in writers {
            writer.join().expect("it does not panic");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(
            compacted.load(Ordering::Relaxed),
            "compaction was under way"
        );
        assert!(looking.join().expect("it does not panic") > 0);
        assert!(reading.join().expect("it does not panic") > 0);
    });
    let all = *flushed.lock().expect("no writer panicked");
    let store = independent_store(&dir, u64::MAX);
    assert_eq!(count_right(&store, &keys(0..all), LEN) as u64, all);
}

#[test]
fn rows_are_right_during_pruning_and_eviction() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("cache");
    let stop = AtomicBool::new(false);
    let pruned = AtomicUsize::new(0);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let store = independent_store(&dir, 300_000);
            let since = Instant::now();
            let mut next = 0;
            let mut hits = 0;
            while !is_over(since, 2, pruned.load(Ordering::Relaxed) > 0) {
                store.put(batch(&keys(next..next + 20), "s", LEN));
                store.flush().expect("it is written");
                hits += count_right(&store, &keys(next.saturating_sub(400)..next + 20), LEN);
                next += 20;
            }
            assert!(hits > 0);
            store.stats()
        });
        let pruner = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let root = Root::open(temp.path()).expect("it is there");
                let pruning = prune(&root, Keep::MaxBytes(150_000), false);
                let pruning = pruning.expect("it can be pruned");
                assert!(pruning.failed.is_empty(), "{pruning:?}");
                let caches = pruning.caches.iter();
                let segments = caches.map(|cache| cache.segments.len()).sum();
                pruned.fetch_add(segments, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let reports = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for report in check(&caches(temp.path()), &()) {
                    assert!(report.is_intact(), "{report:?}");
                }
            }
        });
        let stats = writer.join().expect("it does not panic");
        stop.store(true, Ordering::Relaxed);
        pruner.join().expect("it does not panic");
        assert!(pruned.load(Ordering::Relaxed) > 0);
        reports.join().expect("it does not panic");
        assert_eq!(stats.faults.get(torchcache_store::Fault::Corrupt), 0);
        assert_eq!(stats.lost_rows, 0);
    });
}

/// Corrupts a record of some segment, and returns its key.
fn corrupt_one(dir: &Path, turn: usize) -> Option<Key> {
    let paths = segments(dir);
    let path = paths.get(turn % paths.len().max(1))?;
    let reader = SegmentReader::open(path, false).ok()?;
    let row = reader.rows().nth(turn % 7)?.ok()?;
    let open = OpenOptions::new().write(true).open(path);
    open.and_then(|open| open.write_all_at(b"corrupt", row.offset))
        .ok()?;
    Some(row.key)
}

#[test]
fn repair_loses_only_corrupt_rows_during_compaction() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("cache");
    let stop = AtomicBool::new(false);
    let (all, compacted) = thread::scope(|scope| {
        let repairing = scope.spawn(|| {
            let (mut corrupted, mut rewritten, mut turn) = (HashSet::new(), 0, 0);
            while !stop.load(Ordering::Relaxed) || rewritten == 0 {
                corrupted.extend(corrupt_one(&dir, turn));
                turn += 1;
                for report in check(&caches(temp.path()), &()) {
                    let repairs = repair(&report);
                    assert!(repairs.error.is_none(), "{repairs:?}");
                    for (_, done) in repairs.segments {
                        let done = done.expect("nothing fails");
                        rewritten += u64::from(matches!(done, SegmentRepair::Rewritten { .. }));
                    }
                }
            }
            corrupted
        });
        let store = independent_store(&dir, u64::MAX);
        let since = Instant::now();
        let mut next = 0;
        while !is_over(since, 3, store.stats().compacted_segments > 0) {
            store.put(batch(&keys(next..next + 20), "s", LEN));
            store.flush().expect("it is written");
            next += 20;
        }
        stop.store(true, Ordering::Relaxed);
        let corrupted = repairing.join().expect("it does not panic");
        let mut all = keys(0..next);
        all.retain(|key| !corrupted.contains(key));
        (all, store.stats().compacted_segments)
    });
    assert!(compacted > 0, "compaction was under way");
    let store = independent_store(&dir, u64::MAX);
    assert_eq!(count_right(&store, &all, LEN), all.len());
}
