//! Something happens at the very moment at which a cache is looked after from outside.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{batch, fetch, keys, patient};
use torchcache_faults::sim::Sim;
use torchcache_faults::tally::Counter;
use torchcache_store::Store;
use torchcache_store::fs::FileSystem;
use torchcache_store::maintain::{Cache, Keep, Root, prune, verify};

const LEN: usize = 100;

const HOUR: Duration = Duration::from_secs(3600);

/// A root on a medium, which holds the cache `c`.
fn root() -> Sim {
    let sim = Sim::new();
    sim.open_dir(Path::new("/root"), true)
        .expect("it can be made");
    sim
}

/// A store on a cache of the root.
fn store(fs: impl FileSystem + 'static, cache: &str) -> Store {
    Store::open_on(Arc::new(fs), Path::new("/root").join(cache), patient()).expect("it opens")
}

/// Puts rows on disk, as one segment.
fn put(store: &Store, numbers: std::ops::Range<u64>) {
    store.put(batch(numbers, LEN));
    store.flush().expect("it is written");
}

fn is_there(sim: &Sim, cache: &str, numbers: std::ops::Range<u64>) -> bool {
    let store = store(sim.clone(), cache);
    fetch(&store, &keys(numbers)).iter().all(Option::is_some)
}

/// Makes all segments of a cache look as if they were last read so long ago.
fn age(sim: &Sim, cache: &str, age: Duration) {
    let path = Path::new("/root").join(cache);
    let dir = sim.open_dir(&path, false).expect("it is there");
    for file in sim.files(&path) {
        let file = dir.open(file.file_name().expect("it has one"));
        let set = file.and_then(|file| file.set_modified(SystemTime::now() - age));
        set.expect("its time can be set");
    }
}

fn opened(fs: impl FileSystem + 'static) -> Root {
    Root::open_on(Arc::new(fs), Path::new("/root")).expect("it is there")
}

/// The one cache of a root.
fn only(fs: impl FileSystem + 'static) -> Cache {
    let listing = opened(fs).list().expect("it can be listed");
    let [cache] = &listing.caches[..] else {
        panic!("{listing:?}")
    };
    cache.clone()
}

fn bytes(sim: &Sim, cache: &str) -> u64 {
    let files = sim.files(&Path::new("/root").join(cache));
    files.iter().map(|path| sim.bytes(path).len() as u64).sum()
}

#[test]
fn a_merge_under_way_does_not_count_twice() {
    let sim = root();
    put(&store(sim.clone(), "old"), 100..110);
    age(&sim, "old", HOUR);
    let (renamed, is_merging, looks) = (
        Arc::new(Counter::default()),
        Arc::new(AtomicBool::new(false)),
        Arc::new(Counter::default()),
    );
    let decide = {
        let (is_merging, looks) = (is_merging.clone(), looks.clone());
        move |call: Call, _: &_| {
            if call == Call::Rename {
                renamed.next();
            }
            // Eight segments, and then the one that they are merged into: all nine are there.
            if call == Call::SyncDir && renamed.get() == 9 {
                is_merging.store(true, Ordering::SeqCst);
                while looks.get() < 2 {
                    thread::yield_now();
                }
                thread::sleep(Duration::from_millis(50));
            }
            Fate::Done
        }
    };
    let merging = store(Faulty::new(sim.clone(), decide), "c");
    for n in 0..7 {
        put(&merging, n..n + 1);
    }
    let limit = bytes(&sim, "old") + bytes(&sim, "c") / 7 * 8;
    thread::scope(|scope| {
        let pruned = scope.spawn(|| {
            while !is_merging.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            let count = {
                let looks = looks.clone();
                move |call: Call, _: &_| {
                    if call == Call::List {
                        looks.next();
                    }
                    Fate::Done
                }
            };
            let root = opened(Faulty::new(sim.clone(), count));
            prune(&root, Keep::Bytes(limit), false).expect("it can be pruned")
        });
        put(&merging, 7..8);
        let pruned = pruned.join().expect("it does not panic");
        assert!(pruned.caches.is_empty(), "{pruned:?}");
    });
    assert!(merging.stats().merged_segments > 0);
    assert!(is_there(&sim, "old", 100..110) && is_there(&sim, "c", 0..8));
}

#[test]
fn nothing_of_a_cache_that_cannot_be_looked_through_is_taken_for_another_s() {
    let sim = root();
    let stores = [store(sim.clone(), "c"), store(sim.clone(), "d")];
    for store in &stores {
        put(store, 0..3);
        put(store, 3..6);
    }
    // The last that is listed of the first cache.
    let fails = sim.files(Path::new("/root/c")).remove(1);
    let decide = move |call: Call, name: &_| match (call, fails.file_name()) {
        (Call::Stat, Some(fails)) if *fails == *name => Fate::Fails(Errno::IO),
        _ => Fate::Done,
    };
    for caches in [&["c", "d"][..], &["c"]] {
        if caches.len() == 1 {
            let dir = sim.open_dir(Path::new("/root/d"), false).expect("there");
            for file in sim.files(Path::new("/root/d")) {
                dir.remove(file.file_name().expect("it has one"))
                    .expect("it is there");
            }
        }
        age(&sim, "c", HOUR);
        let root = opened(Faulty::new(sim.clone(), decide.clone()));
        let pruned = prune(&root, Keep::Newer(HOUR / 2), false).expect("it can be pruned");
        assert!(pruned.caches.is_empty(), "{pruned:?}");
        assert_eq!(pruned.left_alone[0].0, Path::new("/root/c"));
        assert!(is_there(&sim, "c", 0..6));
    }
}

#[test]
fn a_segment_that_the_system_will_not_tell_of_is_not_taken_for_gone() {
    let sim = root();
    put(&store(sim.clone(), "c"), 0..3);
    for (errno, known) in [(Errno::IO, 1), (Errno::NOENT, 0)] {
        let decide = move |call: Call, name: &std::ffi::OsStr| {
            let is_segment = name.to_string_lossy().ends_with(".tcs");
            match call == Call::Stat && is_segment {
                true => Fate::Fails(errno),
                false => Fate::Done,
            }
        };
        let cache = only(Faulty::new(sim.clone(), decide));
        let report = verify(std::slice::from_ref(&cache), &()).remove(0);
        let unknown = |segment: &torchcache_store::maintain::SegmentReport| {
            segment.outcome.is_unknown() && !segment.outcome.is_damage()
        };
        assert_eq!(report.segments.len(), known, "{errno}");
        assert!(report.segments.iter().all(unknown), "{report:?}");
        let summary = cache.summary().expect("its directory can be listed");
        assert_eq!(summary.segments.len(), known, "{errno}");
        assert!(summary.segments.iter().all(|it| it.contents.is_err()));
    }
}
