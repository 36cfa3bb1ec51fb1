//! Faults that are found on the flusher thread. A call there that waited for the flusher would wait
//! for itself.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{batch, count_right, expect_all, key, keys, put_flushed, value};
use torchcache_faults::sim::Sim;
use torchcache_store::{Fault, FlushError, RowBatch, RowValues, Store};

use crate::callers::{failing, open};
use crate::case::{Calls, Case, LEN, LIMIT, config, each, ends};

const HERE: &[Calls] = &[Calls::Here, Calls::Clearing];

#[test]
fn writing_fails() {
    each("writing", HERE, |case| {
        let (fs, is_on) = failing(&Sim::new(), Call::Write, Errno::NOSPC);
        let store = open(fs, case);
        put_flushed(&store, 0..4, LEN);
        is_on.store(true, Ordering::SeqCst);
        store.put(batch(4..8, LEN));
        let flushed = store.flush();
        assert!(
            matches!(flushed, Err(FlushError::Lost { .. })),
            "{flushed:?}"
        );
        assert!(store.stats().faults.get(Fault::NoSpace) > 0);
        assert_eq!(store.stats().faults.get(Fault::Stalled), 0);
        is_on.store(false, Ordering::SeqCst);
        let _ = store.flush();
        put_flushed(&store, 4..8, LEN);
        expect_all(&store, 4..8, LEN);
    });
}

#[test]
fn the_queue_is_full_when_writing_fails() {
    each("full", HERE, |case| {
        let (fs, is_on) = failing(&Sim::new(), Call::Write, Errno::NOSPC);
        let store = open(fs, case);
        // Room for one batch at a time.
        store.reconfigure(config().with_queue_bytes(1));
        put_flushed(&store, 0..4, LEN);
        is_on.store(true, Ordering::SeqCst);
        store.put(batch(4..8, LEN));
        store.put(batch(8..12, LEN)); // it waits for the flusher
        let flushed = store.flush();
        assert!(
            matches!(flushed, Err(FlushError::Lost { .. })),
            "{flushed:?}"
        );
        is_on.store(false, Ordering::SeqCst);
        let _ = store.flush();
        put_flushed(&store, 4..8, LEN);
        expect_all(&store, 4..8, LEN);
    });
}

#[test]
fn removing_fails_while_evicting() {
    each("evicting", HERE, |case| {
        let (fs, is_on) = failing(&Sim::new(), Call::Remove, Errno::IO);
        let store = open(fs, case);
        for n in 0..3 {
            put_flushed(&store, 4 * n..4 * n + 4, LEN);
        }
        is_on.store(true, Ordering::SeqCst);
        store.reconfigure(config().with_max_bytes(2000));
        store.flush().expect("nothing is queued");
        assert!(store.stats().evicted_rows > 0);
        assert!(store.stats().faults.get(Fault::Write) > 0);
    });
}

#[test]
fn compaction_finds_a_corrupt_row_and_cannot_remove() {
    each("compacting", HERE, |case| {
        let sim = Sim::new();
        let (fs, is_on) = failing(&sim, Call::Remove, Errno::IO);
        let store = open(fs, case);
        for n in 0..7 {
            put_flushed(&store, 4 * n..4 * n + 4, LEN);
        }
        let path = sim.files(&case.dir).pop().expect("a segment");
        sim.damage(&path, |bytes| bytes[16 + 40] ^= 1);
        is_on.store(true, Ordering::SeqCst);
        put_flushed(&store, 28..32, LEN);
        assert!(store.stats().compacted_segments >= 8);
        let faults = store.stats().faults;
        assert!(faults.get(Fault::Write) > 0 && faults.get(Fault::Corrupt) > 0);
        assert_eq!(case.events.get(), 2, "one event for each kind");
        if case.calls == Calls::Here {
            assert_eq!(count_right(&store, 0..32, LEN), 31);
        }
    });
}

#[test]
fn the_flusher_panics() {
    each("panicking", HERE, |case| {
        let is_on = Arc::new(AtomicBool::new(false));
        let switch = is_on.clone();
        let decide = move |call: Call, _: &OsStr| match call == Call::Sync
            && switch.swap(false, Ordering::SeqCst)
        {
            true => Fate::Panics,
            false => Fate::Done,
        };
        let store = open(Faulty::new(Sim::new(), decide), case);
        put_flushed(&store, 0..4, LEN);
        is_on.store(true, Ordering::SeqCst);
        store.put(batch(4..8, LEN));
        let flushed = store.flush();
        assert!(
            matches!(flushed, Err(FlushError::Lost { .. })),
            "{flushed:?}"
        );
        assert_eq!(store.stats().faults.get(Fault::Panic), 1);
        put_flushed(&store, 4..8, LEN);
    });
}

#[test]
fn the_disk_does_not_answer() {
    each("stalling", HERE, |case| {
        let gate = Arc::new(Mutex::new(()));
        let passed = gate.clone();
        let decide = move |call: Call, _: &OsStr| {
            if call == Call::Sync {
                drop(passed.lock().unwrap_or_else(PoisonError::into_inner));
            }
            Fate::Done
        };
        let store = open(Faulty::new(Sim::new(), decide), case);
        put_flushed(&store, 0..4, LEN);
        let timeout = Duration::from_millis(300);
        store.reconfigure(config().with_stall_timeout(timeout).with_queue_bytes(1));
        let shut = gate.lock().unwrap_or_else(PoisonError::into_inner);
        store.put(batch(4..8, LEN));
        store.put(batch(8..12, LEN));
        assert!(store.stats().faults.get(Fault::Stalled) > 0);
        drop(shut);
        store.reconfigure(config());
        let _ = store.flush(); // reports the dropped rows
        store.flush().expect("it is written");
    });
}

#[test]
fn two_flushers_may_flush_the_other_store() {
    ends("/one", Calls::Here, |one| {
        let two = Case::register("/two".into(), Calls::Here);
        let both = Arc::new(Barrier::new(2));
        let stores = [one, &*two].map(|case| {
            let (both, is_first) = (both.clone(), AtomicBool::new(true));
            let decide = move |call: Call, _: &OsStr| {
                let fails = call == Call::Sync && is_first.swap(false, Ordering::SeqCst);
                match fails {
                    true => {
                        both.wait();
                        Fate::Fails(Errno::IO)
                    }
                    false => Fate::Done,
                }
            };
            open(Faulty::new(Sim::new(), decide), case)
        });
        // Each flusher finds rows in the queue of the other one.
        let [first, second] = &stores;
        one.set_store(second);
        two.set_store(first);
        thread::scope(|scope| {
            for store in &stores {
                scope.spawn(|| {
                    store.put(batch(4..8, LEN));
                    store.flush().expect_err("writing fails once")
                });
            }
        });
        assert_eq!((one.events.get(), two.events.get()), (1, 1));
        two.unregister();
    });
}

/// Rows that call their store when they are dropped, on the flusher thread.
struct Calling {
    bytes: Vec<u8>,
    store: Store,
    flushed: Mutex<mpsc::Sender<Result<(), FlushError>>>,
}

impl RowValues for Calling {
    fn row(&self, _: usize) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        self.store.put(batch(10..12, LEN));
        self.store.put(batch(12..14, LEN));
        let flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = flushed.send(self.store.flush());
    }
}

#[test]
fn dropped_rows_may_call_their_store() {
    let (results, flushed) = mpsc::channel();
    let run = thread::spawn(move || {
        let config = config().with_queue_bytes(1);
        let store = Store::open_on(Arc::new(Sim::new()), "/dropped", config).expect("it opens");
        let values = Calling {
            bytes: value(&key(0), LEN),
            store: store.clone(),
            flushed: Mutex::new(results),
        };
        let rows = RowBatch::shared(
            keys(0..1),
            b"bytes".as_slice().into(),
            Arc::new(values),
            LEN,
        );
        store.put(rows.expect("the parts fit"));
        let _ = store.flush();
        store
    });
    let flushed = flushed
        .recv_timeout(LIMIT)
        .expect("the drop waits for itself");
    assert!(
        matches!(flushed, Err(FlushError::FlusherThread { rows: 2, .. })),
        "{flushed:?}"
    );
    let store = run.join().expect("the flush ends");
    let _ = store.flush();
    expect_all(&store, 10..12, LEN);
    assert_eq!(
        store.stats().lost_rows,
        2,
        "those of the second batch found no room"
    );
    assert_eq!(
        store.stats().faults.get(Fault::Stalled),
        0,
        "the disk answers"
    );
}
