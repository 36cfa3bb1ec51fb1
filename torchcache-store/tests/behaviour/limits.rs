//! Bounds: of the directory (eviction), of the number of files (compaction), of the queue.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::common::{batch, count_right, key, keys, manual_flush, segments};
use torchcache_store::{Config, Store};

/// Rows of this length make a segment each: it is above every target used here.
pub(crate) const LEN: usize = 9_000;

pub(crate) fn tight(max_bytes: u64) -> Config {
    manual_flush()
        .with_max_bytes(max_bytes)
        .with_segment_bytes(4096)
}

pub(crate) fn bytes(dir: &Path) -> u64 {
    segments(dir)
        .iter()
        .map(|path| path.metadata().expect("it exists").len())
        .sum()
}

/// Puts single rows, each into a segment of its own.
pub(crate) fn put_each(store: &Store, range: std::ops::Range<u64>) {
    for n in range {
        store.put(batch(&[key(n)], "a", LEN));
        store.flush().expect("it is written");
    }
}

#[test]
fn the_least_recently_read_segments_go_first() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), tight(10 * 9_500)).expect("it opens");
    put_each(&store, 0..10);
    assert_eq!(count_right(&store, &keys(0..10), LEN), 10);
    assert_eq!(
        count_right(&store, &keys(0..3), LEN),
        3,
        "0, 1 and 2 are the last read"
    );
    put_each(&store, 10..15);
    assert!(bytes(dir.path()) <= 10 * 9_500);
    let stats = store.stats();
    assert_eq!(
        (stats.segments, stats.rows, stats.evicted_rows),
        (10, 10, 5)
    );
    assert_eq!(count_right(&store, &keys(0..3), LEN), 3);
    assert_eq!(count_right(&store, &keys(3..8), LEN), 0);
    assert_eq!(count_right(&store, &keys(8..15), LEN), 7);
    assert_eq!(stats.faults.total(), 0, "eviction is no fault");
}

#[test]
fn the_limit_counts_what_earlier_runs_left() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), tight(1 << 30)).expect("it opens");
    put_each(&store, 0..10);
    drop(store);
    // The time that another process sets when it reads the segment.
    let oldest = segments(dir.path()).remove(0);
    let file = fs::File::options()
        .append(true)
        .open(&oldest)
        .expect("it opens");
    file.set_modified(SystemTime::now() + Duration::from_secs(5))
        .expect("the time can be set");

    let store = Store::open(dir.path(), tight(4 * 9_500)).expect("it opens");
    store.flush().expect("eviction is waited for");
    assert!(bytes(dir.path()) <= 4 * 9_500);
    assert_eq!(store.stats().segments, 4);
    assert_eq!(
        count_right(&store, &[key(0)], LEN),
        1,
        "the one read elsewhere stays"
    );
    assert_eq!(count_right(&store, &keys(1..7), LEN), 0);
}

#[test]
fn reads_update_the_file_time_for_other_processes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    put_each(&store, 0..1);
    drop(store);
    let path = segments(dir.path()).remove(0);
    let modified = || {
        path.metadata()
            .and_then(|meta| meta.modified())
            .expect("it has a time")
    };
    let file = fs::File::options()
        .append(true)
        .open(&path)
        .expect("it opens");
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    file.set_modified(long_ago).expect("the time can be set");

    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    assert_eq!(modified(), long_ago, "opening is not reading");
    assert_eq!(count_right(&store, &[key(0)], LEN), 1);
    let first = modified();
    assert!(
        first
            .elapsed()
            .is_ok_and(|age| age < Duration::from_secs(60))
    );
    assert_eq!(count_right(&store, &[key(0)], LEN), 1);
    assert_eq!(modified(), first, "written at most once a minute");
}

#[test]
fn a_lower_limit_holds_soon_after_it_is_set() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), tight(1 << 30)).expect("it opens");
    put_each(&store, 0..10);
    store.reconfigure(tight(3 * 9_500));
    store.flush().expect("eviction is waited for");
    assert!(bytes(dir.path()) <= 3 * 9_500);
    store.reconfigure(tight(0));
    store.put(batch(&keys(20..21), "a", LEN));
    store.flush().expect("nothing is kept");
    assert_eq!((bytes(dir.path()), store.stats().refused_rows), (0, 1));
}

#[test]
fn clearing_segments_during_compaction_is_no_fault() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    let (compacting, eight) = (AtomicBool::new(true), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            // Now and then just when the eighth segment set off a compaction.
            for share in (8..24).cycle() {
                let micros = eight.load(Ordering::Relaxed) * share / 16;
                thread::sleep(Duration::from_micros(micros));
                store.clear();
                if !compacting.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        for n in 0..250 {
            let begin = Instant::now();
            for m in 0..8 {
                store.put(batch(&[key(8 * n + m)], "a", 100));
                store.flush().expect("it is written or cleared");
            }
            eight.store(begin.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        compacting.store(false, Ordering::Relaxed);
    });
    let stats = store.stats();
    assert!(stats.compacted_segments > 0, "{stats:?}");
    assert_eq!(stats.faults.total(), 0, "{stats:?}");
}

#[test]
fn batches_that_fit_singly_are_not_refused_together() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), tight(7_000)).expect("it opens");
    store.put(batch(&keys(0..1), "a", 3_500));
    store.put(batch(&keys(1..2), "a", 3_600));
    store
        .flush()
        .expect("both are written, one after the other");
    let stats = store.stats();
    assert_eq!((stats.stored_rows, stats.refused_rows), (2, 0));
    assert!(bytes(dir.path()) <= 7_000);
}

#[test]
fn the_first_rows_of_a_batch_above_the_limit_are_kept() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), tight(5 * 9_500)).expect("it opens");
    store.put(batch(&keys(100..110), "a", LEN));
    store.flush().expect("what fits is written");
    let stats = store.stats();
    assert_eq!(stats.rows + stats.refused_rows, 10);
    assert!(stats.rows > 0 && stats.refused_rows > 0, "{stats:?}");
    assert!(bytes(dir.path()) <= 5 * 9_500);
    let found = store.locate(&keys(100..110));
    assert!(found.iter().take(stats.rows as usize).all(Option::is_some));
    assert_eq!(stats.faults.total(), 0);
}

#[test]
fn unreadable_segments_are_evicted_first_newer_ones_never() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), tight(1 << 30)).expect("it opens");
    put_each(&store, 0..4);
    drop(store);
    let paths = segments(dir.path());
    let mut future = fs::read(&paths[0]).expect("it can be read");
    future[8] = torchcache_store::segment::VERSION as u8 + 1;
    fs::write(&paths[0], future).expect("it can be written");
    fs::write(&paths[3], vec![0; 9_000]).expect("it can be written");
    // No copy under way.
    let file = fs::File::options().write(true).open(&paths[3]);
    let aged = file.and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH));
    aged.expect("its time can be set");
    let store = Store::open(dir.path(), tight(2 * 9_500)).expect("it opens");
    store.flush().expect("eviction is waited for");
    assert_eq!(segments(dir.path()), paths[..3]);
    assert_eq!(count_right(&store, &keys(1..3), LEN), 2);
}

#[test]
fn a_trickle_of_rows_is_compacted_into_few_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    for n in 0..200 {
        store.put(batch(&[key(n)], "a", 100));
        store.flush().expect("it is written");
    }
    let stats = store.stats();
    assert!(stats.segments <= 24, "{stats:?}");
    assert!(stats.compacted_segments >= 150, "{stats:?}");
    assert_eq!(segments(dir.path()).len() as u64, stats.segments);
    assert_eq!((stats.rows, stats.faults.total()), (200, 0));
    assert_eq!(count_right(&store, &keys(0..200), 100), 200);
    drop(store);
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    assert_eq!(count_right(&store, &keys(0..200), 100), 200);
}

#[test]
fn merging_drops_a_corrupt_record_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    for n in 0..7 {
        store.put(batch(&keys(2 * n..2 * n + 2), "a", 100));
        store.flush().expect("it is written");
    }
    let path = segments(dir.path()).remove(3);
    let mut bytes = fs::read(&path).expect("it can be read");
    bytes[20] ^= 1;
    fs::write(&path, bytes).expect("it can be written");
    store.put(batch(&keys(14..16), "a", 100));
    store.flush().expect("it is written");
    assert_eq!(store.stats().compacted_segments, 8);
    assert_eq!(store.stats().faults.total(), 1);
    assert_eq!(count_right(&store, &keys(0..16), 100), 15);
}

#[test]
fn a_full_queue_makes_the_caller_wait_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = manual_flush().with_queue_bytes(64 << 10);
    let store = Store::open(dir.path(), config).expect("it opens");
    thread::scope(|scope| {
        for caller in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..40 {
                    let first = caller * 1000 + n * 8;
                    store.put(batch(&keys(first..first + 8), "a", 2000));
                    let pending = store.stats().pending_bytes;
                    assert!(pending <= 64 << 10, "{pending} bytes are queued");
                }
            });
        }
    });
    store.flush().expect("it is written");
    for caller in 0..4 {
        assert_eq!(
            count_right(&store, &keys(caller * 1000..caller * 1000 + 320), 2000),
            320
        );
    }
    store.put(batch(&keys(9000..9100), "a", 2000));
    store
        .flush()
        .expect("a batch larger than the queue passes when the queue is empty");
    assert_eq!(count_right(&store, &keys(9000..9100), 2000), 100);
}

#[test]
fn clear_drops_rows_on_disk_queued_and_being_written() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    fs::write(dir.path().join("manifest.json"), "{}").expect("it can be written");
    thread::scope(|scope| {
        // A thread that flushes keeps the flusher busy.
        let flusher = scope.spawn(|| {
            for _ in 0..200 {
                let _ = store.flush();
            }
        });
        for round in 0..50 {
            let rows = keys(round * 100..round * 100 + 100);
            store.put(batch(&rows, "a", 1000));
            store.clear();
            assert_eq!(count_right(&store, &rows, 1000), 0, "round {round}");
        }
        flusher.join().expect("it does not panic");
    });
    store.flush().expect("nothing is left");
    assert_eq!(store.stats().pending_bytes, 0);
    assert_eq!(segments(dir.path()).len(), 0, "nothing cleared comes back");
    assert!(dir.path().join("manifest.json").exists());
    store.put(batch(&keys(0..10), "a", 1000));
    store.flush().expect("it is written");
    assert_eq!(count_right(&store, &keys(0..10), 1000), 10);
    assert_eq!(store.stats().faults.total(), 0);
}

#[test]
fn threads_read_right_rows_while_segments_come_and_go() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = manual_flush()
        .with_max_bytes(400_000)
        .with_batch_delay(Duration::from_millis(1));
    let store = Store::open(dir.path(), config).expect("it opens");
    let hits: Vec<usize> = thread::scope(|scope| {
        let callers: Vec<_> = (0..4u64)
            .map(|caller| {
                let store = &store;
                scope.spawn(move || {
                    let mut hits = 0;
                    for round in 0..300 {
                        // The callers' ranges overlap, and wander so that old rows go.
                        let first = round * 3 + caller * 10;
                        let rows = keys(first..first + 24);
                        hits += count_right(store, &rows, 1000);
                        store.put(batch(&rows, "a", 1000));
                        if round == 50 && caller == 0 {
                            store.clear();
                        }
                    }
                    hits
                })
            })
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().expect("no panic"))
            .collect()
    });
    store.flush().expect("it is written");
    assert!(hits.iter().all(|hits| *hits > 1000), "{hits:?}");
    let stats = store.stats();
    assert!(
        stats.evicted_rows > 0 && stats.compacted_segments > 0,
        "{stats:?}"
    );
    assert_eq!(stats.faults.total(), 0, "{stats:?}");
    assert!(bytes(dir.path()) <= 400_000);
    assert_eq!(segments(dir.path()).len() as u64, stats.segments);
}

#[test]
fn rows_evicted_after_they_were_located_are_no_fault() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), tight(1 << 30)).expect("it opens");
    for evict in [true, false] {
        put_each(&store, 0..3);
        let found: Vec<_> = store.locate(&keys(0..3)).into_iter().flatten().collect();
        if evict {
            store.reconfigure(tight(9_500));
            store.flush().expect("eviction is waited for");
            store.reconfigure(tight(1 << 30));
        } else {
            store.clear();
        }
        let mut rows = vec![vec![0; LEN]; 3];
        let mut out: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
        let read = store.read(&found, &mut out);
        assert!(read.iter().filter(|read| **read).count() < 3, "{read:?}");
        assert_eq!(store.stats().faults.total(), 0, "evicted: {evict}");
    }
}
