//! What was put is what is read: queued, on disk, after reopening, however it is stored.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{
    batch, count_right, fetch, fetch_all, key, keys, manual_flush, segments, value,
};
use torchcache_store::{Compression, Config, RowBatch, Store, StoreError};

fn configs() -> Vec<Config> {
    let zstd = Some(Compression::new(3, 1));
    let all_cores = Some(Compression::new(1, 0));
    vec![
        manual_flush(),
        manual_flush().with_compression(zstd),
        manual_flush().with_compression(all_cores).with_mmap(true),
        manual_flush().with_mmap(true),
    ]
}

#[test]
fn rows_come_back_queued_written_and_reopened() {
    for config in configs() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path(), config.clone()).expect("it opens");
        let all = keys(0..1500);
        store.put(batch(&all[..700], "a", 300));
        store.put(batch(&all[700..], "a", 300));
        assert_eq!(store.stats().pending_rows, 1500);
        assert_eq!(
            segments(dir.path()).len(),
            0,
            "nothing is written without need"
        );
        assert_eq!(count_right(&store, &all, 300), 1500, "queued rows are hits");

        store.flush().expect("it is written");
        assert_eq!(
            (store.stats().pending_rows, store.stats().pending_bytes),
            (0, 0)
        );
        assert_eq!(store.stats().rows, 1500);
        assert_eq!(count_right(&store, &all, 300), 1500);
        let mut shuffled = all.clone();
        shuffled.sort();
        shuffled.extend_from_within(..100); // one key twice in a call
        assert_eq!(count_right(&store, &shuffled, 300), 1600);
        drop(store);

        let store = Store::open(dir.path(), config).expect("it opens again");
        assert_eq!(store.stats().rows, 1500);
        assert_eq!(count_right(&store, &all, 300), 1500);
        assert_eq!(fetch(&store, &key(9999)), None);
        assert_eq!(store.stats().faults.total(), 0);
    }
}

#[test]
fn rows_are_read_under_any_configuration() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    for (n, config) in configs().into_iter().enumerate() {
        store.reconfigure(config);
        let n = n as u64;
        store.put(batch(&keys(n * 50..(n + 1) * 50), "a", 4000));
        store.flush().expect("it is written");
        assert_eq!(
            count_right(&store, &keys(0..(n + 1) * 50), 4000),
            (n as usize + 1) * 50
        );
    }
    let sizes: Vec<_> = segments(dir.path())
        .iter()
        .map(|path| path.metadata().expect("it exists").len())
        .collect();
    assert!(
        sizes[1] < sizes[0] * 2 / 3,
        "half of a value compresses away: {sizes:?}"
    );
}

#[test]
fn schemas_and_lengths_are_kept_apart_in_one_segment() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    let kinds = [("f32", 16), ("f16", 16), ("f32", 0), ("", 7), ("f32", 16)];
    for (n, (schema, len)) in kinds.iter().enumerate() {
        store.put(batch(&[key(n as u64)], schema, *len));
    }
    for _ in ["queued", "written"] {
        for (n, (schema, len)) in kinds.iter().enumerate() {
            let found = store
                .locate(&[key(n as u64)])
                .pop()
                .flatten()
                .expect("a hit");
            assert_eq!((found.schema(), found.len), (schema.as_bytes(), *len));
            assert_eq!(
                fetch(&store, &key(n as u64)),
                Some(value(&key(n as u64), *len))
            );
        }
        store.flush().expect("it is written");
    }
    assert_eq!(segments(dir.path()).len(), 1);
}

#[test]
fn the_first_value_of_a_key_wins() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    let put = |values: &[u8]| {
        let keys = vec![key(1); values.len()];
        store.put(RowBatch::new(keys, b"u8"[..].into(), values.to_vec(), 1).expect("it fits"));
    };
    put(&[10, 11]);
    put(&[12]);
    assert_eq!(store.stats().pending_rows, 1);
    store.flush().expect("it is written");
    put(&[13]);
    assert_eq!(
        store.stats().pending_rows,
        0,
        "what is on disk is not queued"
    );
    assert_eq!(fetch(&store, &key(1)), Some(vec![10]));
    assert_eq!(store.stats().stored_rows, 1);
}

#[test]
fn empty_batches_and_empty_calls_work() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    store.put(batch(&[], "f32", 16));
    store.flush().expect("nothing to write");
    assert!(store.locate(&[]).is_empty());
    assert!(fetch_all(&store, &[]).is_empty());
    assert_eq!(segments(dir.path()).len(), 0);
}

#[test]
fn a_batch_of_contradicting_parts_is_an_error() {
    let message = |keys: Vec<_>, schema: &[u8], values, len| {
        RowBatch::new(keys, schema.into(), values, len)
            .expect_err("misuse")
            .to_string()
    };
    let wrong = message(keys(0..2), b"", vec![0; 7], 4);
    assert!(
        wrong.contains("7 bytes of values for 2 rows of 4 bytes"),
        "{wrong}"
    );
    let long = message(vec![], &[0; 4097], vec![], 4);
    assert!(long.contains("4097") && long.contains("4096"), "{long}");
    assert!(RowBatch::new(keys(0..2), Arc::from([]), vec![], usize::MAX).is_err());
}

#[test]
fn an_unusable_directory_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "not a directory").expect("it can be written");
    for path in [file.clone(), file.join("below")] {
        let error = Store::open(&path, manual_flush()).expect_err("misuse");
        assert!(matches!(&error, StoreError::Directory { path: named, .. } if *named == path));
        assert!(error.to_string().contains("file"), "{error}");
        let source = std::error::Error::source(&error).expect("the error of the system");
        assert!(!error.to_string().contains(&source.to_string()), "{error}");
    }
}

#[test]
fn one_process_has_one_store_for_a_directory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let missing = dir.path().join("a/b");
    let one = Store::open(&missing, manual_flush()).expect("parents are made");
    let two = Store::open(
        dir.path().join("a/../a/b/."),
        manual_flush().with_mmap(true),
    );
    let two = two.expect("it opens");
    one.put(batch(&keys(0..3), "a", 8));
    assert_eq!(
        count_right(&two, &keys(0..3), 8),
        3,
        "queued rows are shared"
    );
    assert!(one.config().mmap, "the latest configuration counts");
    drop(one);
    assert_eq!(
        segments(&missing).len(),
        0,
        "the store lives on in its other handle"
    );
    drop(two);
    assert_eq!(
        segments(&missing).len(),
        1,
        "dropping the last handle writes"
    );
}

#[test]
fn a_partial_segment_is_written_after_the_batch_delay() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = Config::default().with_batch_delay(Duration::from_millis(30));
    let store = Store::open(dir.path(), config).expect("it opens");
    store.put(batch(&keys(0..3), "a", 8));
    for _ in 0..1000 {
        if !segments(dir.path()).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the rows were never written");
}

#[test]
fn more_segments_than_may_be_open_are_all_readable() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // Each batch fills a segment, so that nothing is compacted.
    let config = manual_flush().with_segment_bytes(4096);
    let store = Store::open(dir.path(), config).expect("it opens");
    for n in 0..300 {
        store.put(batch(&[key(n)], "a", 5000));
    }
    store.flush().expect("it is written");
    assert!(store.stats().segments >= 300, "{:?}", store.stats());
    for _ in 0..2 {
        assert_eq!(count_right(&store, &keys(0..300), 5000), 300);
    }
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    assert!(open < 300, "{open} descriptors are open");
}
