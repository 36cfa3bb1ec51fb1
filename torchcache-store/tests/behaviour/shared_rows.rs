//! Rows that the caller keeps in memory of its own: they are read where they lie, and let go as
//! soon as the store needs them no more.

use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{count_right, key, keys, manual_flush, value};
use torchcache_store::{Compression, Config, Fault, Key, RowBatch, RowValues, Store};

const LEN: usize = 300;

/// Rows scattered over a buffer. Letting them go asks the store for statistics, which would
/// never return if a lock were held then.
struct Pinned {
    slab: Vec<u8>,
    order: Vec<usize>,
    store: Store,
    let_go: Arc<AtomicUsize>,
}

impl RowValues for Pinned {
    fn row(&self, row: usize) -> &[u8] {
        &self.slab[self.order[row] * LEN..][..LEN]
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.store.stats();
        self.store.locate(&keys(0..10));
        self.let_go.fetch_add(1, Ordering::SeqCst);
    }
}

/// A batch of these keys whose values lie in the opposite order.
fn pinned(store: &Store, keys: &[Key], let_go: &Arc<AtomicUsize>) -> RowBatch {
    let values = Pinned {
        slab: keys.iter().rev().flat_map(|key| value(key, LEN)).collect(),
        order: (0..keys.len()).rev().collect(),
        store: store.clone(),
        let_go: let_go.clone(),
    };
    let schema = b"u8[300]".as_slice().into();
    RowBatch::shared(keys.to_vec(), schema, Arc::new(values), LEN).expect("the parts fit")
}

fn opened(config: Config) -> (tempfile::TempDir, Store, Arc<AtomicUsize>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), config).expect("it opens");
    (dir, store, Arc::default())
}

#[test]
fn shared_values_are_dropped_once_they_are_written() {
    let (_dir, store, let_go) = opened(manual_flush());
    let rows = keys(0..50);
    assert!(store.put(pinned(&store, &rows, &let_go)).is_empty());
    let pending = store.stats().pending_bytes;
    assert!(
        pending >= 50 * LEN as u64,
        "the queue's bound counts their {pending} bytes"
    );
    assert_eq!(count_right(&store, &rows, LEN), 50);
    assert_eq!(let_go.load(Ordering::SeqCst), 0, "they are still needed");
    store.flush().expect("it is written");
    assert_eq!(let_go.load(Ordering::SeqCst), 1);
    assert_eq!(count_right(&store, &rows, LEN), 50);
    assert_eq!(store.stats().pending_bytes, 0);
}

#[test]
fn values_that_are_not_queued_are_dropped_at_once() {
    let (_dir, store, let_go) = opened(manual_flush());
    store.put(pinned(&store, &keys(0..20), &let_go));
    assert_eq!(store.put(pinned(&store, &keys(5..15), &let_go)).len(), 10);
    assert_eq!(let_go.load(Ordering::SeqCst), 1, "queued already");
    store.flush().expect("it is written");
    assert_eq!(store.put(pinned(&store, &keys(5..15), &let_go)).len(), 10);
    assert_eq!(let_go.load(Ordering::SeqCst), 3, "on disk already");
    store.reconfigure(manual_flush().with_max_bytes(0));
    assert!(store.put(pinned(&store, &keys(30..40), &let_go)).is_empty());
    assert_eq!(let_go.load(Ordering::SeqCst), 4, "refused");
}

#[test]
fn clear_drops_queued_values_without_a_lock() {
    let (_dir, store, let_go) = opened(manual_flush());
    store.put(pinned(&store, &keys(0..20), &let_go));
    store.put(pinned(&store, &keys(20..40), &let_go));
    store.clear();
    assert_eq!(let_go.load(Ordering::SeqCst), 2);
    assert_eq!(store.stats().pending_rows, 0);
}

#[test]
fn values_that_cannot_be_written_are_dropped() {
    let (dir, store, let_go) = opened(manual_flush());
    store.put(pinned(&store, &keys(0..20), &let_go));
    // Where the directory was, there is a file now.
    std::fs::remove_dir_all(dir.path()).expect("it is removed");
    std::fs::write(dir.path(), "in the way").expect("it can be written");
    store.flush().expect_err("20 rows are lost");
    assert_eq!(let_go.load(Ordering::SeqCst), 1);
    assert_eq!(store.stats().lost_rows, 20);
    assert_eq!(count_right(&store, &keys(0..20), LEN), 0);
    std::fs::remove_file(dir.path()).expect("it is removed");
}

#[test]
fn queued_rows_may_hold_the_last_handle_of_their_store() {
    // The flusher must not wait for itself, which would be a panic of its own.
    static JOINED_ITSELF: AtomicBool = AtomicBool::new(false);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let joining = info.to_string().contains("join");
        JOINED_ITSELF.fetch_or(joining, Ordering::SeqCst);
        before(info);
    }));
    let (dir, store, let_go) =
        opened(Config::default().with_batch_delay(Duration::from_millis(20)));
    store.put(pinned(&store, &keys(0..20), &let_go));
    drop(store);
    wait_until(|| let_go.load(Ordering::SeqCst) == 1);
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    assert_eq!(count_right(&store, &keys(0..20), LEN), 20);
    assert_eq!(let_go.load(Ordering::SeqCst), 1);
    assert!(!JOINED_ITSELF.load(Ordering::SeqCst));
}

/// Rows that the flusher gets only once the gate is open, as if the disk were slow.
#[derive(Default)]
struct Slow {
    writing: AtomicBool,
    gate: AtomicBool,
}

impl RowValues for Slow {
    fn row(&self, _row: usize) -> &[u8] {
        if thread::current().name() == Some("torchcache-store") {
            self.writing.store(true, Ordering::SeqCst);
            wait_until(|| self.gate.load(Ordering::SeqCst));
        }
        &[9; LEN]
    }
}

fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn callers_do_not_wait_for_the_flusher() {
    let compression = Some(Compression::new(1, 1));
    for compression in [None, compression] {
        let (_dir, store, let_go) = opened(manual_flush().with_compression(compression));
        store.put(pinned(&store, &keys(0..5), &let_go));
        store.flush().expect("it is written");
        let slow = Arc::new(Slow::default());
        let schema = b"u8[300]".as_slice().into();
        let rows = RowBatch::shared(keys(5..10), schema, slow.clone(), LEN);
        store.put(rows.expect("the parts fit"));
        thread::scope(|scope| {
            let flush = scope.spawn(|| store.flush());
            wait_until(|| slow.writing.load(Ordering::SeqCst));
            // On disk, being written, and new.
            assert_eq!(count_right(&store, &keys(0..5), LEN), 5);
            let found: Vec<_> = store.locate(&keys(5..10)).into_iter().flatten().collect();
            let mut row = [0; LEN];
            assert_eq!(store.read(&found[..1], &mut [&mut row]), [true]);
            assert_eq!(row, [9; LEN]);
            store.put(pinned(&store, &keys(10..15), &let_go));
            assert_eq!(store.stats().pending_rows, 10);
            assert!(!flush.is_finished() && !slow.gate.load(Ordering::SeqCst));
            slow.gate.store(true, Ordering::SeqCst);
            flush.join().expect("no panic").expect("it is written");
        });
    }
}

/// Breaks its word: one row is a byte short.
struct Short;

impl RowValues for Short {
    fn row(&self, row: usize) -> &[u8] {
        &[7; LEN][..LEN - usize::from(row == 2)]
    }
}

impl Drop for Short {
    fn drop(&mut self) {
        panic!("and panics when it is let go");
    }
}

#[test]
fn values_of_a_wrong_length_are_a_fault_and_stop_no_call() {
    let (_dir, store, _) = opened(manual_flush());
    let schema = || Arc::from(b"u8[300]".as_slice());
    let short = RowBatch::shared(keys(0..5), schema(), Arc::new(Short), LEN);
    store.put(short.expect("it cannot be known yet"));
    store.flush().expect_err("the rows are given up");
    let stats = store.stats();
    assert_eq!((stats.lost_rows, stats.pending_rows), (5, 0));
    assert_eq!(stats.faults.get(Fault::Panic), 2);
    let right = RowBatch::new(vec![key(9)], schema(), value(&key(9), LEN), LEN);
    store.put(right.expect("it fits"));
    store.flush().expect("the flusher goes on");
    assert_eq!(count_right(&store, &[key(9)], LEN), 1);
}
