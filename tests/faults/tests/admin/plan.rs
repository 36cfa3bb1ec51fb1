//! What was planned from one listing is carried out, and read only once.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{self, put_flushed};
use torchcache_faults::sim::Sim;
use torchcache_store::admin::{CacheRows, Keep, PrunePlan};

use crate::common::{HOUR, age, dir, is_there, name, only, opened, put, root, segments, store};

type Counts = Arc<Mutex<HashMap<(Call, OsString), u64>>>;

/// Counts the calls of each kind by name.
fn counted(sim: &Sim) -> (Faulty, Counts) {
    let counts = Counts::default();
    let counting = counts.clone();
    let faulty = Faulty::new(sim.clone(), move |call: Call, name: &_| {
        let mut counts = counting.lock().unwrap();
        *counts.entry((call, name.to_os_string())).or_default() += 1;
        Fate::Done
    });
    (faulty, counts)
}

#[test]
fn a_plan_is_carried_out_without_another_listing() {
    let sim = root();
    let writer = store(sim.clone(), "c");
    for n in 0..4 {
        put(&writer, 3 * n..3 * n + 3);
    }
    age(&sim, "c", HOUR);
    let (faulty, counts) = counted(&sim);
    let root = opened(faulty);
    counts.lock().unwrap().clear();
    let plan = PrunePlan::new(&root, Keep::ReadWithin(HOUR / 2)).unwrap();
    let planned = plan.report();
    let done = plan.carry_out();
    assert_eq!(planned.caches[0].segments, done.caches[0].segments);
    assert_eq!(planned.removed_bytes(), done.removed_bytes());
    assert!(planned.caches[0].directory_removed && done.caches[0].directory_removed);
    let counts = counts.lock().unwrap();
    let listed = counts.get(&(Call::OpenDir, "root".into()));
    assert_eq!(listed, Some(&1), "{counts:?}");
    let of_segments = counts
        .iter()
        .filter(|((_, name), _)| name.to_string_lossy().ends_with(".tcs"));
    for ((call, name), times) in of_segments {
        let most = match call {
            Call::Open => 1,
            Call::Remove => 1,
            _ => continue,
        };
        assert!(*times <= most, "{call:?} of {name:?}: {times}");
    }
}

#[test]
fn what_changed_after_the_plan_stays() {
    let sim = root();
    let writer = store(sim.clone(), "c");
    for n in 0..3 {
        put(&writer, 3 * n..3 * n + 3);
    }
    age(&sim, "c", HOUR);
    let root = opened(sim.clone());
    let plan = PrunePlan::new(&root, Keep::ReadWithin(HOUR / 2)).unwrap();
    let read = segments(&sim).remove(1);
    let file = dir(&sim).open(name(&read)).unwrap();
    file.set_modified(SystemTime::now()).unwrap();
    put(&writer, 100..103);
    let done = plan.carry_out();
    assert_eq!(done.caches[0].segments.len(), 2, "{done:?}");
    assert!(!done.caches[0].directory_removed);
    drop(writer);
    assert!(is_there(&sim, "c", 3..6) && is_there(&sim, "c", 100..103));
    assert!(!is_there(&sim, "c", 0..3) && !is_there(&sim, "c", 6..9));
}

#[test]
fn row_tables_are_read_once_to_choose_among_copies() {
    let sim = root();
    // Two processes wrote a third of the rows each, and both the third in between.
    let (one, other) = (
        store(sim.clone(), "c"),
        rows::opened(sim.clone(), "/other/c"),
    );
    put_flushed(&one, 0..100_000, 1);
    put_flushed(&other, 50_000..150_000, 1);
    for path in sim.files("/other/c".as_ref()) {
        sim.add(&Path::new("/root/c").join(name(&path)), sim.bytes(&path));
    }
    let (faulty, counts) = counted(&sim);
    let reads = || {
        let counts = counts.lock().unwrap();
        let reads = counts.iter().filter(|((call, _), _)| *call == Call::Read);
        reads.map(|(_, count)| count).sum::<u64>()
    };
    let cache = only(faulty);
    let before = reads();
    let rows = CacheRows::open(&cache).unwrap();
    let opening = reads() - before;
    let distinct = rows.distinct(0).unwrap();
    let choosing = reads() - before - opening;
    assert_eq!(distinct.count(), 150_000);
    assert_eq!(rows.groups()[0].rows, 200_000);
    assert!(
        choosing <= opening,
        "{choosing} reads, and {opening} to open"
    );
}
