//! Directories that keep what they have when they are full: nothing goes for what is written, only
//! for a lower limit.

use std::fs;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::common::{batch, count_right, key, keys, manual_flush, segments};
use crate::limits::{LEN, bytes, put_each, tight};
use torchcache_store::{Compression, Config, Eviction, Store};

fn keeping(max_bytes: u64) -> Config {
    tight(max_bytes).with_eviction(Eviction::Never)
}

#[test]
fn a_full_directory_without_eviction_takes_no_rows() {
    let zstd = Compression::new(1, 1);
    for compression in [None, Some(zstd)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = keeping(20 * 9_500).with_compression(compression);
        let store = Store::open(dir.path(), config).expect("it opens");
        put_each(&store, 0..50);
        let full = store.stats();
        let free = (20 * 9_500u64).checked_sub(bytes(dir.path()));
        assert!(free.is_some_and(|free| free < 9_500), "{full:?}");
        assert_eq!((full.evicted_rows, full.lost_rows), (0, 0), "{full:?}");
        assert_eq!(full.stored_rows + full.refused_rows, 50, "{full:?}");
        let first = keys(0..full.rows);
        assert_eq!(count_right(&store, &first, LEN), first.len());

        // With room again it takes more.
        store.clear();
        put_each(&store, 50..55);
        assert_eq!(store.stats().rows, 5);
        // And a lower limit holds here too.
        store.reconfigure(store.config().with_max_bytes(2 * 9_500));
        store.flush().expect("eviction is waited for");
        assert!(bytes(dir.path()) <= 2 * 9_500);
    }
}

#[test]
fn rows_stay_when_another_process_exceeds_the_limit() {
    let (here, there) = (tempfile::tempdir(), tempfile::tempdir());
    let (here, there) = (here.expect("a directory"), there.expect("a directory"));
    let store = Store::open(here.path(), keeping(10 * 9_500)).expect("it opens");
    put_each(&store, 0..10);
    // Another process looked for room at the same moment, or is about to remove what it compacted.
    let other = Store::open(there.path(), manual_flush()).expect("it opens");
    other.put(batch(&keys(10..15), "a", LEN));
    other.flush().expect("it is written");
    let theirs = segments(there.path()).remove(0);
    let name = theirs.file_name().expect("a name");
    fs::copy(&theirs, here.path().join(name)).expect("it is copied");

    put_each(&store, 20..21);
    store.reconfigure(store.config().with_batch_delay(Duration::from_secs(60)));
    put_each(&store, 21..22);
    let stats = store.stats();
    assert!(stats.bytes > 10 * 9_500, "{stats:?}");
    assert_eq!((stats.evicted_rows, stats.refused_rows), (0, 2));
    assert_eq!(count_right(&store, &keys(0..15), LEN), 15);
}

#[test]
fn a_directory_above_its_limit_is_evicted_at_opening() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), keeping(1 << 30)).expect("it opens");
    put_each(&store, 0..10);
    drop(store);
    let store = Store::open(dir.path(), keeping(4 * 9_500)).expect("it opens");
    store.flush().expect("eviction is waited for");
    assert!(bytes(dir.path()) <= 4 * 9_500);
    assert_eq!(store.stats().evicted_rows, 6);
    assert_eq!(count_right(&store, &keys(6..10), LEN), 4);
}

#[test]
fn a_lower_limit_does_not_wait_for_queued_rows() {
    for eviction in [Eviction::LeastRecentlyRead, Eviction::Never] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = |max_bytes| tight(max_bytes).with_eviction(eviction);
        let store = Store::open(dir.path(), config(1 << 30)).expect("it opens");
        put_each(&store, 0..5);
        store.put(batch(&[key(5)], "a", 100));
        store.reconfigure(config(3 * 9_500));
        let begin = Instant::now();
        while bytes(dir.path()) > 3 * 9_500 {
            assert!(begin.elapsed() < Duration::from_secs(10), "nothing goes");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(store.stats().pending_rows, 1);
    }
}

#[test]
fn unreadable_segments_stay_while_there_is_room() {
    for (junk, room) in [(50_000, 5), (95_000, 0)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("0123456789abcdef-1-0123456789abcdef.tcs");
        fs::write(&path, vec![0; junk]).expect("it can be written");
        // No copy under way.
        let file = fs::File::options().write(true).open(&path);
        let aged = file.and_then(|file| file.set_modified(UNIX_EPOCH));
        aged.expect("its time can be set");
        let store = Store::open(dir.path(), keeping(100_000)).expect("it opens");
        put_each(&store, 0..room);
        assert!(path.exists(), "there is room next to {junk} bytes");
        put_each(&store, room..10);
        assert!(!path.exists());
        let stats = store.stats();
        assert_eq!((stats.rows, stats.refused_rows), (10, 0), "{stats:?}");
        assert_eq!(count_right(&store, &keys(0..10), LEN), 10);
    }
}

#[test]
fn no_limit_removes_files_of_other_programs() {
    let content = [
        vec![],
        vec![0; 4],
        vec![0; 50_000],
        b"a description".repeat(4000),
    ];
    for config in [keeping(30_000), tight(30_000)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = |number: usize| dir.path().join(format!("mesh-{number}.tcs"));
        for (number, bytes) in content.iter().enumerate() {
            fs::write(path(number), bytes).expect("it can be written");
        }
        let store = Store::open(dir.path(), config).expect("it opens");
        put_each(&store, 0..10);
        assert!((1..10).contains(&store.stats().rows), "{:?}", store.stats());
        for (number, bytes) in content.iter().enumerate() {
            let present = fs::read(path(number)).expect("it stays");
            assert!(present == *bytes, "{number}");
        }
    }
}
