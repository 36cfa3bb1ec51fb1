//! How costs grow: bytes on disk for each row, and the time to open a large store.

use std::time::Instant;

use crate::common::{batch, key, keys, manual_flush, segments};
use torchcache_store::{Config, RowBatch, Store};

#[test]
fn a_row_costs_at_most_64_bytes_on_disk_beyond_its_value() {
    for len in [0, 4, 512, 3072] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path(), manual_flush()).expect("it opens");
        let rows = 1000;
        store.put(batch(&keys(0..rows), "kind=f32 shape=[768]", len));
        store.flush().expect("it is written");
        let size: u64 = segments(dir.path())
            .iter()
            .map(|path| path.metadata().expect("it exists").len())
            .sum();
        let overhead = (size - rows * len as u64) as f64 / rows as f64;
        assert!(
            overhead <= 64.0,
            "{overhead} bytes a row beyond {len} bytes of value"
        );
        assert_eq!(store.stats().bytes, size);
    }
}

#[test]
#[ignore = "a measurement: run it with --release and --nocapture"]
fn a_million_rows_open_in_a_fifth_of_a_second() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = Config::default().with_max_bytes(100 << 30);
    let rows = 1_000_000;
    let begin = Instant::now();
    let store = Store::open(dir.path(), config.clone()).expect("it opens");
    let schema: std::sync::Arc<[u8]> = b"schema".as_slice().into();
    let len = 1024;
    for n in 0..rows / 256 {
        let keys = keys(n * 256..(n + 1) * 256);
        let values = vec![n as u8; 256 * len];
        store.put(RowBatch::new(keys, schema.clone(), values, len).expect("the parts fit"));
    }
    let queued = begin.elapsed();
    drop(store);
    println!("stored in {:?} ({queued:?} to queue)", begin.elapsed());
    for _ in 0..3 {
        let begin = Instant::now();
        let store = Store::open(dir.path(), config.clone()).expect("it opens");
        let opened = begin.elapsed();
        println!("opened in {opened:?}: {:?}", store.stats());
        let wanted: Vec<_> = (0..256u64).map(|n| key(n * 3889 % rows)).collect();
        for _ in 0..3 {
            let begin = Instant::now();
            let found: Vec<_> = store.locate(&wanted).into_iter().flatten().collect();
            let located = begin.elapsed();
            let mut buffer = vec![0; len * found.len()];
            let mut out: Vec<_> = buffer.chunks_mut(len).collect();
            let begin = Instant::now();
            let ok = store.read(&found, &mut out);
            println!(
                "{} of 256 scattered rows located in {located:?}, read in {:?}",
                ok.len(),
                begin.elapsed()
            );
        }
        assert!(opened.as_millis() < 1000);
    }
}
