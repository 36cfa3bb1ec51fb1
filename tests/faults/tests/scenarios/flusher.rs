//! The flusher panics at any call, or the disk does not answer it. Callers go on.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use torchcache_faults::cases::{Counter, case, eventually, seen, series};
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{
    batch, count_right, expect_all, keys, manual_flush, opened, put_flushed,
};
use torchcache_faults::sim::Sim;
use torchcache_store::{Compression, Fault, FlushError, Store};

const LEN: usize = 900;

/// The name that the thread has.
const FLUSHER: &str = "torchcache-store";

#[test]
fn a_flusher_that_panics_loses_only_what_it_wrote() {
    // The panics are expected.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| {
        if !is_flusher() {
            eprintln!("{panic}");
        }
    }));
    let mut panics = 0;
    // It maps no file.
    for call in Call::ALL.into_iter().filter(|call| *call != Call::Map) {
        panics += series(format_args!("{call:?} panics"), |nth| panics_at(call, nth));
    }
    std::panic::set_hook(hook);
    seen("the flusher panics at any call", panics);
}

#[test]
fn a_disk_that_does_not_answer_hangs_no_caller() {
    let calls = [
        Call::Create,
        Call::Write,
        Call::Sync,
        Call::Rename,
        Call::SyncDir,
    ];
    for call in calls {
        case(format_args!("{call:?} hangs"), || hangs_at(call));
    }
    seen("the disk does not answer", calls.len() as u64);
}

/// The disk takes a few megabytes at a time, and hangs at more.
#[test]
fn a_disk_that_is_slow_loses_no_rows() {
    const MOST: usize = 6 << 20;
    let zstd = Compression::new(1, 2);
    for (rows, len, compression) in [
        (0..40, 700_000, None),
        (0..40, 700_000, Some(zstd)),
        (0..1, 24 << 20, None),
        (0..1, 24 << 20, Some(zstd)),
    ] {
        let sim = Sim::new();
        sim.set_most_at_once(Some(MOST));
        let config = manual_flush()
            .with_stall_timeout(GRACE)
            .with_compression(compression);
        let store = Store::open_on(Arc::new(sim.clone()), "/cache", config).unwrap();
        store.put(batch(rows.clone(), len));
        let flushed = store.flush();
        sim.set_most_at_once(None);
        assert_eq!(flushed, Ok(()), "{rows:?} of {len} bytes");
        expect_all(&store, rows, len);
    }
    seen("the disk is slow", 4);
}

/// Compressing takes longer than a caller waits for a disk.
#[test]
fn a_row_that_takes_long_to_compress_is_flushed() {
    let timeout = 2 * LONG;
    let config = manual_flush()
        .with_stall_timeout(timeout)
        .with_compression(Some(Compression::new(19, 1)));
    let store = Store::open_on(Arc::new(Sim::new()), "/cache", config).unwrap();
    let (mut row, mut took) = (0, Duration::ZERO);
    while took <= timeout {
        let (len, begin) = ((8 << 20) << row, Instant::now());
        store.put(batch(row..row + 1, len));
        assert_eq!(store.flush(), Ok(()), "a row of {len} bytes");
        took = begin.elapsed();
        expect_all(&store, row..row + 1, len);
        row += 1;
    }
    assert_eq!(store.stats().faults.total(), 0);
}

/// Each segment of another process takes less than the stall timeout, and all of them take longer.
#[test]
fn a_flush_over_many_segments_on_a_slow_disk_succeeds() {
    let sim = Sim::new();
    let other = opened(sim.clone(), "/cache");
    (0..3).for_each(|n| put_flushed(&other, n..n + 1, LEN));
    let is_on = Arc::new(AtomicBool::new(false));
    let decide = {
        let is_on = is_on.clone();
        move |call: Call, _: &OsStr| match call == Call::Open && is_on.load(Ordering::SeqCst) {
            true if is_flusher() => {
                thread::sleep(2 * LONG);
                Fate::Done
            }
            // They are left to the flusher.
            true => Fate::Fails(Errno::MFILE),
            false => Fate::Done,
        }
    };
    let fs = Arc::new(Faulty::new(sim, decide));
    let store = Store::open_on(fs, "/cache", manual_flush().with_stall_timeout(GRACE)).unwrap();
    is_on.store(true, Ordering::SeqCst);
    assert_eq!(store.put(batch(0..3, LEN)).len(), 3, "they were skipped");
    assert_eq!(store.flush(), Ok(()));
    is_on.store(false, Ordering::SeqCst);
    expect_all(&store, 0..3, LEN);
}

/// The same for the locks of segments that may be compacted.
#[test]
fn a_compaction_of_many_segments_on_a_slow_disk_stops_no_writes() {
    let sim = Sim::new();
    let other = opened(sim.clone(), "/cache");
    (0..7).for_each(|n| put_flushed(&other, n..n + 1, LEN));
    let looks = Arc::new(Counter::default());
    let decide = {
        let looks = looks.clone();
        move |call: Call, name: &OsStr| {
            if call == Call::Lock && !name.as_encoded_bytes().starts_with(b".tmp-") {
                looks.next();
                thread::sleep(LONG);
            }
            Fate::Done
        }
    };
    let fs = Arc::new(Faulty::new(sim, decide));
    let store = Store::open_on(fs, "/cache", manual_flush().with_stall_timeout(GRACE)).unwrap();
    put_flushed(&store, 7..8, LEN);
    assert!(looks.get() >= 7, "the locks are looked at");
    expect_all(&store, 0..8, LEN);
}

fn is_flusher() -> bool {
    thread::current().name() == Some(FLUSHER)
}

/// Returns whether the flusher makes that many calls.
fn panics_at(call: Call, nth: u64) -> bool {
    let caused = Arc::new(Counter::default());
    let decide = {
        let (caused, calls) = (caused.clone(), Counter::default());
        move |this: Call, _: &OsStr| {
            if this == call && is_flusher() && calls.next() == nth {
                caused.next();
                Fate::Panics
            } else {
                Fate::Done
            }
        }
    };
    let sim = Sim::new();
    let store = opened(Faulty::new(sim.clone(), decide), "/cache");
    let mut flushed = Vec::new();
    // Enough for a compaction.
    for n in 0..10 {
        store.put(batch(2 * n..2 * n + 2, LEN));
        if store.flush().is_ok() {
            flushed.push(2 * n..2 * n + 2);
        }
        count_right(&store, 0..2 * n + 2, LEN);
    }
    let stats = store.stats();
    let panics = stats.faults.get(Fault::Panic);
    assert!(panics == caused.get(), "{panics} counted");
    assert!(
        (stats.pending_rows, stats.pending_bytes) == (0, 0),
        "{} rows are still queued",
        stats.pending_rows
    );
    for rows in &flushed {
        expect_all(&store, rows.clone(), LEN);
    }
    put_flushed(&store, 0..20, LEN);
    expect_all(&store, 0..20, LEN);
    drop(store);
    let store = opened(sim, "/cache");
    expect_all(&store, 0..20, LEN);
    caused.get() > 0
}

/// A gate at which calls wait while the disk does not answer.
#[derive(Default)]
struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let shut = self.is_shut.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = self.opened.wait_while(shut, |is_shut| *is_shut);
        drop(passed.unwrap_or_else(PoisonError::into_inner));
    }

    fn set(&self, is_shut: bool) {
        *self.is_shut.lock().unwrap_or_else(PoisonError::into_inner) = is_shut;
        self.opened.notify_all();
    }
}

/// The delay that a busy machine may add.
const GRACE: Duration = Duration::from_secs(5);

/// Long enough to distinguish a wait from the delays of a busy machine.
const LONG: Duration = Duration::from_secs(1);

/// The longest time of a call that knows that the disk is stalled, and so only looks at memory.
const AT_ONCE: Duration = Duration::from_millis(400);

/// For waits whose length does not matter.
const SHORT: Duration = Duration::from_millis(200);

fn hangs_at(call: Call) {
    let (gate, waiting) = (Arc::new(Gate::default()), Arc::new(Counter::default()));
    let asked = Arc::new(Counter::default());
    let decide = {
        let (gate, waiting, asked) = (gate.clone(), waiting.clone(), asked.clone());
        move |this: Call, _: &OsStr| {
            if !is_flusher() {
                asked.next();
            } else if this == call {
                waiting.next();
                gate.pass();
            }
            Fate::Done
        }
    };
    let timeout = |stall_timeout| {
        manual_flush()
            .with_queue_bytes(40_000)
            .with_stall_timeout(stall_timeout)
            .with_batch_delay(Duration::ZERO)
    };
    let sim = Sim::new();
    let fs = Arc::new(Faulty::new(sim.clone(), decide));
    let store = Store::open_on(fs, "/cache", timeout(GRACE)).unwrap();
    put_flushed(&store, 0..8, LEN);
    expect_all(&store, 0..8, LEN);

    store.reconfigure(timeout(LONG));
    gate.set(true);
    let before = waiting.get();
    let mut queued = Vec::new();
    let mut is_known = false;
    for n in 1..20u64 {
        let rows = 8 * n..8 * n + 8;
        let (lost, begin) = (store.stats().lost_rows, Instant::now());
        store.put(batch(rows.clone(), LEN));
        let took = begin.elapsed();
        // The first call without room waits; later ones know of the stall and do not.
        let most = if is_known { AT_ONCE } else { LONG + GRACE };
        assert!(took < most, "call {n} took {took:?}");
        if store.stats().lost_rows == lost {
            queued.push(rows);
        } else {
            is_known = true;
            does_not_ask(&store, &asked);
        }
        // Rows on disk and queued rows are hits all the time.
        expect_all(&store, 0..8, LEN);
        for rows in &queued {
            expect_all(&store, rows.clone(), LEN);
        }
    }
    assert!(waiting.get() > before, "the disk was never asked");
    assert!(
        is_known && !queued.is_empty(),
        "of 19 batches, {} were queued",
        queued.len()
    );
    let stalled = store.stats().faults.get(Fault::Stalled);
    assert!(stalled > 0, "the fault was not counted");
    store.reconfigure(timeout(SHORT));
    let flushed = store.flush();
    assert!(
        matches!(flushed, Err(FlushError::Stalled { .. })),
        "the flush said {flushed:?}"
    );

    store.reconfigure(timeout(GRACE));
    gate.set(false);
    // The dropped rows are reported, and the queued ones are written.
    let flushed = store.flush();
    assert!(
        matches!(flushed, Err(FlushError::Lost { .. })),
        "the flush said {flushed:?}"
    );
    store.flush().unwrap();
    for rows in &queued {
        expect_all(&store, rows.clone(), LEN);
    }

    // Dropping a store does not wait without a bound either; the flusher goes on.
    store.reconfigure(timeout(SHORT));
    gate.set(true);
    store.put(batch(1000..1008, LEN));
    let begin = Instant::now();
    drop(store);
    let took = begin.elapsed();
    assert!(took < SHORT + GRACE, "the end took {took:?}");
    gate.set(false);
    let written = eventually(GRACE, || {
        let store = opened(sim.clone(), "/cache");
        count_right(&store, 1000..1008, LEN) == 8
    });
    assert!(written, "the thread did not go on");
}

/// Looks up rows that do not exist: a stalled disk is not asked for them.
fn does_not_ask(store: &Store, asked: &Counter) {
    let (before, begin) = (asked.get(), Instant::now());
    let found = store.locate(&keys(5000..5008));
    let (took, asked) = (begin.elapsed(), asked.get() - before);
    assert!(
        found.iter().all(Option::is_none),
        "rows that were not put were found: {found:?}"
    );
    assert!(
        took < AT_ONCE && asked == 0,
        "a lookup took {took:?}, and asked the disk {asked} times"
    );
}
