//! A row that keeps the flusher busy, as a disk does that does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use torchcache_store::{RowBatch, RowValues, Store};

use crate::cases::eventually;
use crate::rows::key;

/// The flusher asks for the row within this time.
const ASKED_WITHIN: Duration = Duration::from_secs(15);

/// Puts a row that cannot be read, and waits until the flusher tries to.
pub(super) fn put_endless(store: &Store) {
    struct Endless(Arc<AtomicBool>);

    impl RowValues for Endless {
        fn row(&self, _: usize) -> &[u8] {
            self.0.store(true, Ordering::SeqCst);
            loop {
                thread::park();
            }
        }
    }

    let asked = Arc::new(AtomicBool::new(false));
    let values = Arc::new(Endless(asked.clone()));
    let rows = RowBatch::shared(vec![key(u64::MAX)], b"".as_slice().into(), values, 1);
    store.put(rows.unwrap());
    let is_asked = || asked.load(Ordering::SeqCst);
    assert!(
        eventually(ASKED_WITHIN, is_asked),
        "the flusher tries to write it"
    );
}
