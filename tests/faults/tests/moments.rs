//! Something happens during one call of the file system.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use fastrand::Rng;
use rustix::io::Errno;
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::report::Counter;
use torchcache_faults::rows::{batch, fetch, keys, manual_flush};
use torchcache_faults::sim::Sim;
use torchcache_store::fs::{FileSystem, Os};
use torchcache_store::{Eviction, Fault, Store};

const LEN: usize = 100;

#[test]
fn rows_cleared_while_they_are_written_do_not_come_back() {
    static STORES: [OnceLock<Store>; 3] = [const { OnceLock::new() }; 3];
    for (store, call) in STORES.iter().zip([Call::Create, Call::Write, Call::Sync]) {
        let calls = Arc::new(Counter::default());
        let decide = {
            let calls = calls.clone();
            move |this: Call, _: &_| {
                let is_writer = thread::current().name() == Some("torchcache-store");
                if this == call && is_writer && calls.next() == 1 {
                    store.get().expect("it is open").clear();
                }
                Fate::Done
            }
        };
        let fs = Arc::new(Faulty::new(Sim::new(), decide));
        let opened = Store::open_on(fs, "/cache", manual_flush()).expect("it opens");
        let store = store.get_or_init(|| opened);
        store.put(batch(0..5, LEN));
        store.flush().expect("cleared rows are not lost rows");
        assert!(calls.get() > 0, "{call:?} came to pass");
        let there = fetch(store, &keys(0..5));
        assert!(there.iter().all(Option::is_none), "cleared at {call:?}");
        let stats = store.stats();
        assert_eq!((stats.rows, stats.stored_rows, stats.lost_rows), (0, 0, 0));
        store.put(batch(0..5, LEN));
        store.flush().expect("it is written");
        assert!(fetch(store, &keys(0..5)).iter().all(Option::is_some));
    }
}

#[test]
fn cleared_rows_do_not_come_back_after_a_power_cut() {
    for seed in 0..50 {
        let (sim, mut rng) = (Sim::new(), Rng::with_seed(seed));
        let open =
            || Store::open_on(Arc::new(sim.clone()), "/cache", manual_flush()).expect("it opens");
        let store = open();
        store.put(batch(0..5, LEN));
        store.flush().expect("it is written");
        store.clear();
        sim.cut_power(&mut rng);
        drop(store);
        assert!(fetch(&open(), &keys(0..5)).iter().all(Option::is_none));
    }
}

#[test]
fn compaction_does_not_revive_cleared_segments() {
    let sim = Sim::new();
    let other = Store::open_on(Arc::new(sim.clone()), "/cache", manual_flush()).expect("it opens");
    let renamed = Arc::new(Counter::default());
    let decide = {
        let renamed = renamed.clone();
        move |call: Call, _: &_| {
            // Eight segments of a row each, and then the one that they are compacted into.
            if call == Call::Rename && renamed.next() == 9 {
                other.clear();
            }
            Fate::Done
        }
    };
    let fs = Arc::new(Faulty::new(sim.clone(), decide));
    let store = Store::open_on(fs, "/cache", manual_flush()).expect("it opens");
    for n in 0..8 {
        store.put(batch(n..n + 1, LEN));
        store.flush().expect("it is written");
    }
    assert_eq!(renamed.get(), 9, "they were compacted");
    store.refresh();
    assert!(fetch(&store, &keys(0..8)).iter().all(Option::is_none));
    let reopened = Store::open_on(Arc::new(sim), "/cache", manual_flush()).expect("it opens");
    assert!(fetch(&reopened, &keys(0..8)).iter().all(Option::is_none));
    assert_eq!(store.stats().faults.total(), 0);
}

#[test]
fn a_segment_that_turns_into_a_link_is_not_followed() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (dir, away) = (root.path().join("cache"), root.path().join("away"));
    for place in [&dir, &away] {
        let store = Store::open(place, manual_flush()).expect("it opens");
        store.put(batch(0..5, LEN));
        store.flush().expect("it is written");
    }
    let segment = |dir| {
        let mut entries = fs::read_dir(dir).expect("it is there");
        let entry = entries.next().expect("one segment");
        entry.expect("it can be read").path()
    };
    let (here, there) = (segment(&dir), segment(&away));
    let opened = Arc::new(Counter::default());
    let decide = {
        let opened = opened.clone();
        move |call: Call, _: &_| {
            if call == Call::Open && opened.next() == 1 {
                fs::remove_file(&here).expect("it is there");
                symlink(&there, &here).expect("it can be made");
            }
            Fate::Done
        }
    };
    let fs = Arc::new(Faulty::new(Os, decide));
    let store = Store::open_on(fs, &dir, manual_flush()).expect("it opens");
    assert!(opened.get() > 0, "it was opened");
    assert!(fetch(&store, &keys(0..5)).iter().all(Option::is_none));
    assert!(store.stats().faults.total() > 0);
}

#[test]
fn a_segment_that_failed_to_open_is_opened_later() {
    let sim = Sim::new();
    let first = Store::open_on(Arc::new(sim.clone()), "/cache", manual_flush()).expect("it opens");
    first.put(batch(0..3, LEN));
    first.flush().expect("it is written");
    drop(first);
    let dir = sim
        .open_dir(Path::new("/cache"), false)
        .expect("it is there");
    let segment = sim.files(Path::new("/cache")).remove(0);
    sim.add(&segment.with_file_name("zzz.tcs"), sim.bytes(&segment));

    let (fails, failed) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Counter::default()),
    );
    let decide = {
        let (fails, failed) = (fails.clone(), failed.clone());
        move |call: Call, _: &_| match call == Call::Open && fails.load(Ordering::SeqCst) {
            true => {
                failed.next();
                Fate::Fails(Errno::MFILE)
            }
            false => Fate::Done,
        }
    };
    let fs = Arc::new(Faulty::new(sim.clone(), decide));
    let store = Store::open_on(fs, "/cache", manual_flush()).expect("it opens");
    assert_eq!(store.stats().segments, 2);
    fails.store(true, Ordering::SeqCst);
    dir.remove(segment.file_name().expect("it has a name"))
        .expect("it can be removed");
    store.refresh();
    assert_eq!(
        (failed.get(), store.stats().faults.get(Fault::Read)),
        (1, 1)
    );
    assert_eq!(store.stats().rows, 0);
    for _ in 0..3 {
        store.refresh();
    }
    assert_eq!(
        (failed.get(), store.stats().faults.total()),
        (4, 1),
        "warned of once"
    );
    fails.store(false, Ordering::SeqCst);
    store.refresh();
    assert!(fetch(&store, &keys(0..3)).iter().all(Option::is_some));
}

/// A store of a directory that holds about 64 KB, in segments of about 4 KB.
fn small(fs: impl FileSystem + 'static, eviction: Eviction) -> Store {
    let config = manual_flush()
        .with_max_bytes(64 << 10)
        .with_segment_bytes(4 << 10)
        .with_eviction(eviction);
    Store::open_on(Arc::new(fs), "/cache", config).expect("it opens")
}

fn put(store: &Store, numbers: Range<u64>) {
    store.put(batch(numbers, LEN));
    store.flush().expect("it is written");
}

#[test]
fn making_room_lists_the_directory_once_per_batch() {
    for eviction in [Eviction::LeastRecentlyRead, Eviction::Never] {
        let lists = Arc::new(Counter::default());
        let decide = {
            let lists = lists.clone();
            move |call: Call, _: &_| {
                if call == Call::List {
                    lists.next();
                }
                Fate::Done
            }
        };
        let store = small(Faulty::new(Sim::new(), decide), eviction);
        for n in 0..4 {
            let before = lists.get();
            put(&store, 300 * n..300 * (n + 1));
            assert_eq!(lists.get() - before, 1, "batch {n}, {eviction:?}");
        }
        let stats = store.stats();
        assert!(stats.segments > 8 && stats.bytes <= 64 << 10, "{stats:?}");
        assert!(stats.evicted_rows + stats.refused_rows > 500, "{stats:?}");
    }
}

#[test]
fn what_another_process_evicted_is_not_evicted_again() {
    let sim = Sim::new();
    let [store, other] = [(); 2].map(|()| small(sim.clone(), Eviction::LeastRecentlyRead));
    put(&store, 0..400);
    put(&other, 1000..1400);
    assert!(other.stats().evicted_rows > 200, "{:?}", other.stats());
    put(&store, 2000..2010);
    let stats = store.stats();
    assert!(
        stats.bytes <= 64 << 10 && stats.evicted_rows < 100,
        "{stats:?}"
    );
    assert!(fetch(&store, &keys(2000..2010)).iter().all(Option::is_some));
}
