//! One bound over all caches of a root: the least recently read segments go first, whichever cache has them.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use torchcache_store::fs::Os;
use torchcache_store::segment::VERSION;
use torchcache_store::{Config, Eviction, Store};

use crate::common::{batch, count_right, keys, manual_flush, segments};

const LEN: usize = 1000;

/// Holds sixty rows or so.
const BOUND: u64 = 64 << 10;

fn config() -> Config {
    manual_flush()
        .with_segment_bytes(4096)
        .with_max_root_bytes(Some(BOUND))
}

fn open(root: &Path, name: &str) -> Store {
    Store::open(root.join(name), config()).expect("it opens")
}

fn put(store: &Store, rows: Range<u64>) {
    store.put(batch(&keys(rows), "a", LEN));
    store.flush().expect("it is written");
}

fn present(store: &Store, rows: Range<u64>) -> usize {
    count_right(store, &keys(rows), LEN)
}

/// The bytes of all segments of all caches.
fn bytes(root: &Path) -> u64 {
    let caches = fs::read_dir(root).expect("it is there").flatten();
    let paths = caches.flat_map(|cache| segments(&cache.path()));
    paths
        .map(|path| fs::metadata(path).map_or(0, |file| file.len()))
        .sum()
}

#[test]
fn all_caches_of_a_root_share_its_bound() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut stores = Vec::new();
    for n in 0..20u64 {
        let store = open(root.path(), &format!("{n}"));
        put(&store, 0..25);
        assert!(bytes(root.path()) <= BOUND, "{n}: {}", bytes(root.path()));
        assert_eq!(present(&store, 0..25), 25, "the newest rows stay");
        assert_eq!(store.stats().faults.total(), 0);
        // Some stay open, and the others are those of earlier weights.
        if n % 3 == 0 {
            stores.push(store);
        }
    }
    assert!(
        bytes(root.path()) > BOUND / 2,
        "no more is removed than need be"
    );
    for store in &stores {
        present(store, 0..25);
        assert_eq!(
            store.stats().faults.total(),
            0,
            "what was evicted is no fault"
        );
    }
}

#[test]
fn without_a_bound_of_the_root_each_cache_has_its_own() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let config = config().with_max_root_bytes(None).with_max_bytes(BOUND);
    let stores = ["a", "b", "c"].map(|name| {
        let store = Store::open(root.path().join(name), config.clone()).expect("it opens");
        put(&store, 0..40);
        store
    });
    assert_eq!(stores.map(|store| present(&store, 0..40)), [40; 3]);
}

#[test]
fn the_least_recently_read_cache_is_evicted_first() {
    for are_closed in [false, true] {
        let root = tempfile::tempdir().expect("a temporary directory");
        let [a, b] = ["a", "b"].map(|name| open(root.path(), name));
        put(&a, 0..25);
        put(&b, 0..25);
        assert_eq!(present(&a, 0..25), 25);
        let open = if are_closed { Vec::new() } else { vec![a, b] };
        let c = self::open(root.path(), "c");
        put(&c, 0..25);
        assert_eq!(c.stats().evicted_rows, 0, "rows of another cache");
        let [a, b] = ["a", "b"].map(|name| present(&self::open(root.path(), name), 0..25));
        assert!(a == 25 && b < 25, "{a} and {b} rows, closed: {are_closed}");
        if let [_, evicted] = &*open {
            assert_eq!(evicted.stats().evicted_rows, 25 - b as u64);
        }
        drop(open);
    }
}

#[test]
fn caches_of_other_processes_count() {
    let root = tempfile::tempdir().expect("a temporary directory");
    // On its own file system, a store is as foreign as that of another process.
    let open = |name: &str| {
        let store = Store::open_on(Arc::new(Os), root.path().join(name), config());
        store.expect("it opens")
    };
    let [a, b] = ["a", "b"].map(open);
    let slack = BOUND / 16;
    for n in 0..30 {
        put(&a, 4 * n..4 * n + 4);
        put(&b, 4 * n..4 * n + 4);
        let bytes = bytes(root.path());
        assert!(bytes <= BOUND + 2 * slack, "{n}: {bytes}");
    }
    assert_eq!(present(&a, 116..120) + present(&b, 116..120), 8);
}

#[test]
fn the_largest_bound_of_a_live_store_holds() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let open = |name: &str, bound| {
        let config = config().with_max_root_bytes(bound);
        Store::open(root.path().join(name), config).expect("it opens")
    };
    let [small, large, none] = [
        open("small", Some(BOUND / 4)),
        open("large", Some(BOUND)),
        open("none", None),
    ];
    let again = open("small", Some(BOUND / 8));
    put(&small, 0..20);
    put(&large, 0..20);
    assert_eq!(present(&small, 0..20) + present(&large, 0..20), 40);
    drop(large);
    put(&none, 0..2);
    assert!(bytes(root.path()) <= BOUND / 4, "{}", bytes(root.path()));
    drop(small);
    put(&none, 2..4);
    assert!(bytes(root.path()) <= BOUND / 8, "{}", bytes(root.path()));
    again.reconfigure(config());
    put(&again, 100..140);
    assert!(present(&again, 100..140) == 40);
    again.reconfigure(config().with_max_root_bytes(Some(BOUND / 8)));
    again.flush().expect("nothing is queued");
    assert!(bytes(root.path()) <= BOUND / 8, "lowered while it is open");
}

#[test]
fn a_full_root_refuses_rows_where_nothing_is_evicted() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let config = config().with_eviction(Eviction::Never);
    let open = |name: &str| Store::open(root.path().join(name), config.clone()).expect("it opens");
    let [a, b] = ["a", "b"].map(open);
    put(&a, 0..40);
    put(&b, 0..40);
    assert_eq!(present(&a, 0..40), 40);
    let kept = present(&b, 0..40) as u64;
    assert!((10..25).contains(&kept), "{kept}");
    assert_eq!(b.stats().refused_rows, 40 - kept);
    assert!(bytes(root.path()) <= BOUND);
}

#[test]
fn only_own_segments_of_other_caches_are_removed() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let old = root.path().join("old");
    put(&open(root.path(), "old"), 0..30);
    let segment = segments(&old).remove(0);
    let age = |path: &Path| {
        let file = fs::File::options()
            .append(true)
            .open(path)
            .expect("it is there");
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(hour_ago).expect("it is ours");
    };
    // One of a newer version, and files of other programs.
    let mut newer = fs::read(&segment).expect("it is there");
    newer[8] = VERSION as u8 + 1;
    let named = "0123456789abcdef-1-0123456789abcdef.tcs";
    let kept = [
        (old.join(named), newer),
        (old.join("weights.tcs"), vec![1; 5000]),
        (old.join("notes.txt"), vec![2; 5000]),
        (root.path().join("data.tcs"), vec![3; 5000]),
    ];
    for (path, bytes) in &kept {
        fs::write(path, bytes).expect("it can be written");
    }
    segments(&old).iter().for_each(|path| age(path));
    put(&open(root.path(), "new"), 0..50);
    assert!(!segment.exists(), "the others are removed");
    for (path, bytes) in &kept {
        assert_eq!(fs::read(path).expect("it stays"), *bytes, "{path:?}");
    }
}
