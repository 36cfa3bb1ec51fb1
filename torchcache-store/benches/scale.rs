//! Growth with the number of rows: the time of a call, the time to open, memory, the number of files, and
//! the cost of eviction.
//!
//! `cargo bench -p torchcache-store --bench scale -- 1000 10000000` takes sizes as arguments; `--quick`
//! uses small ones. Each size is filled by one process and measured by another, so that memory is that of
//! opening alone. `TORCHCACHE_BENCH_DIR` is the folder of the stores; 10^7 rows take 1.2 GB.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use torchcache_store::{Config, Key, RowBatch, Store};

use crate::common::footers::read_footers;
use crate::common::{Table, is_quick, key, micros, scratch_dir, segments, timed};

mod common;

/// Bytes of a value.
const ROW_LEN: usize = 64;

/// Rows of a call.
const CALL: usize = 64;

/// Rows of a `put`.
const PUT: usize = 1024;

const SIZES: [u64; 4] = [1_000, 100_000, 1_000_000, 10_000_000];
const QUICK: [u64; 2] = [1_000, 20_000];

/// Sizes at which rows are stored into a full directory.
const FULL: [u64; 2] = [100_000, 1_000_000];
const QUICK_FULL: [u64; 2] = [5_000, 20_000];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["child-fill", dir, rows] => fill(Path::new(dir), number(rows)),
        ["child-open", dir, rows] => println!("{}", opened(Path::new(dir), number(rows))),
        ["child-full", dir, rows] => println!("{}", stored(Path::new(dir), number(rows))),
        _ => report(&arguments),
    }
}

fn report(arguments: &[String]) {
    let quick = is_quick();
    let mut sizes: Vec<u64> = arguments
        .iter()
        .filter_map(|size| size.parse().ok())
        .collect();
    if sizes.is_empty() {
        sizes.extend(if quick { &QUICK[..] } else { &SIZES[..] });
    }
    let headings = [
        " rows",
        " call of 64, µs",
        " pread of 64, µs",
        " ratio",
        " open, ms",
        " read of the footers, ms",
        " ratio",
        " memory, B/row",
        " at its peak",
        " segments",
    ];
    let table = Table::new(&headings);
    for rows in sizes {
        let dir = scratch_dir();
        child("child-fill", dir.path(), rows);
        table.row(&cells(rows, &child("child-open", dir.path(), rows)));
    }
    println!();
    let headings = [
        " rows in the directory",
        " stored below the limit, µs/row",
        " at the limit, µs/row",
        " ratio",
        " evicted of those stored",
    ];
    let table = Table::new(&headings);
    for rows in if quick { QUICK_FULL } else { FULL } {
        let dir = scratch_dir();
        table.row(&cells(rows, &child("child-full", dir.path(), rows)));
    }
}

fn cells(rows: u64, figures: &str) -> Vec<String> {
    let mut cells = vec![rows.to_string()];
    cells.extend(figures.trim().split('|').map(str::to_owned));
    cells
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// Runs this program for the figures of one size, in another process.
fn child(task: &str, dir: &Path, rows: u64) -> String {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .arg(task)
        .arg(dir)
        .arg(rows.to_string())
        .output()
        .expect("it starts");
    assert!(
        output.status.success(),
        "{task} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("figures")
}

fn config(max_bytes: u64) -> Config {
    Config::default()
        .with_max_bytes(max_bytes)
        .with_batch_delay(Duration::from_secs(3600))
}

fn fill(dir: &Path, rows: u64) {
    let store = Store::open(dir, config(u64::MAX)).expect("it opens");
    put(&store, batches(0..rows));
}

/// Batches of these rows, created on demand.
fn batches(rows: Range<u64>) -> impl Iterator<Item = RowBatch> {
    let end = rows.end;
    rows.step_by(PUT).map(move |first| {
        let keys: Vec<Key> = (first..end.min(first + PUT as u64)).map(key).collect();
        let values = keys
            .iter()
            .flat_map(|key| [*key; ROW_LEN / 32])
            .flatten()
            .collect();
        let schema = b"u8[64]".as_slice().into();
        RowBatch::new(keys, schema, values, ROW_LEN).expect("the parts fit")
    })
}

fn put(store: &Store, batches: impl IntoIterator<Item = RowBatch>) {
    for batch in batches {
        store.put(batch);
    }
    store.flush().expect("it is written");
}

/// Opens a filled store, and calls it.
fn opened(dir: &Path, rows: u64) -> String {
    // Before anything else whose memory the store could reuse.
    let before = memory("VmRSS");
    let begin = Instant::now();
    let store = Store::open(dir, config(u64::MAX)).expect("it opens");
    let first_open = begin.elapsed();
    let (after, peak) = (memory("VmRSS"), memory("VmHWM"));
    drop(store);
    let files = segments(dir);
    let read = best(5, || read_footers(&files));
    let again = best(4, || {
        drop(Store::open(dir, config(u64::MAX)).expect("it opens"))
    });
    let open = first_open.min(again);

    let store = Store::open(dir, config(u64::MAX)).expect("it opens");
    let mut random = fastrand::Rng::with_seed(rows);
    let (mut call, mut plain) = (Vec::new(), Vec::new());
    let sources: Vec<File> = files
        .iter()
        .map(|path| File::open(path).expect("it opens"))
        .collect();
    for _ in 0..400 {
        let keys: Vec<Key> = (0..CALL).map(|_| key(random.u64(..rows))).collect();
        call.push(timed(|| call_store(&store, &keys)));
        let mut buffer = [0; ROW_LEN + 8];
        let places: Vec<_> = (0..CALL).map(|_| place(&mut random, &sources)).collect();
        plain.push(timed(|| {
            for (file, at) in &places {
                file.read_exact_at(&mut buffer, *at).expect("it exists");
            }
        }));
    }
    let (call, plain) = (median(call), median(plain));
    let each = |bytes: u64| bytes as f64 / rows as f64;
    format!(
        "{:.1}|{:.1}|{:.2}|{:.1}|{:.1}|{:.1}|{:.1}|{:.1}|{}",
        micros(call),
        micros(plain),
        micros(call) / micros(plain),
        micros(open) / 1e3,
        micros(read) / 1e3,
        micros(open) / micros(read),
        each(after.saturating_sub(before)),
        each(peak.saturating_sub(before)),
        store.stats().segments,
    )
}

fn call_store(store: &Store, keys: &[Key]) {
    let found: Vec<_> = store.locate(keys).into_iter().flatten().collect();
    assert_eq!(found.len(), keys.len(), "every row is found");
    let mut values = [0; CALL * ROW_LEN];
    let mut out: Vec<&mut [u8]> = values.chunks_exact_mut(ROW_LEN).collect();
    assert!(store.read(&found, &mut out).into_iter().all(|read| read));
    for (value, key) in values.chunks_exact(ROW_LEN).zip(keys) {
        assert_eq!(value[..32], *key);
    }
}

/// Stores twice as many rows again, first below the limit and then at it.
fn stored(dir: &Path, rows: u64) -> String {
    let per_row = |dir: &Path, max_bytes| {
        let store = Store::open(dir, config(max_bytes)).expect("it opens");
        put(&store, batches(0..rows));
        let more: Vec<RowBatch> = batches(rows..3 * rows).collect();
        let time = timed(|| put(&store, more));
        (micros(time) / (2 * rows) as f64, store.stats())
    };
    let (below, _) = per_row(&dir.join("below"), u64::MAX);
    let (full, stats) = per_row(&dir.join("full"), rows * (ROW_LEN as u64 + 48));
    format!(
        "{below:.3}|{full:.3}|{:.2}|{:.2}",
        full / below,
        stats.evicted_rows as f64 / stats.stored_rows as f64
    )
}

/// A field of this process's status, in bytes.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux system");
    let line = status
        .lines()
        .find(|line| line.starts_with(field))
        .expect("the field");
    let kib = line.split_whitespace().nth(1).expect("a number");
    number(kib) << 10
}

/// A random place of a row in one of the files.
fn place<'f>(random: &mut fastrand::Rng, files: &'f [File]) -> (&'f File, u64) {
    let file = &files[random.usize(..files.len())];
    let len = file.metadata().expect("it exists").len();
    (file, random.u64(..len - (ROW_LEN as u64 + 8)))
}

fn best(times: usize, mut run: impl FnMut()) -> Duration {
    (0..times)
        .map(|_| timed(&mut run))
        .min()
        .expect("at least once")
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
