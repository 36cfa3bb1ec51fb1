//! What was planned from one listing is carried out, and read only once.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{self, manual_flush, put_flushed};
use torchcache_faults::sim::Sim;
use torchcache_store::Store;
use torchcache_store::admin::{CacheRows, Keep, PrunePlan, prune};

use crate::common::{
    HOUR, age, bytes, dir, is_there, name, only, opened, put, root, segments, store,
};

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

/// One that cannot be removed is replaced by another. Of those that would replace it, the first is read or removed
/// meanwhile.
#[test]
fn another_is_pruned_for_a_replacement_that_was_read_after_the_plan() {
    for is_read in [true, false] {
        let sim = root();
        // They are not compacted.
        let config = manual_flush().with_segment_bytes(2 << 10);
        let writer = Store::open_on(Arc::new(sim.clone()), "/root/c", config).unwrap();
        (0..3).for_each(|n| put_flushed(&writer, n..n + 1, 1000));
        drop(writer);
        let all = segments(&sim);
        let set_read = |path: &Path, ago| {
            let file = dir(&sim).open(name(path)).unwrap();
            file.set_modified(SystemTime::now() - ago).unwrap();
        };
        for (path, hours) in all.iter().zip([3, 2, 1]) {
            set_read(path, hours * HOUR);
        }
        sim.age_dir(Path::new("/root/c"), HOUR);
        let stays = name(&all[0]).to_os_string();
        let faulty = Faulty::new(sim.clone(), move |call: Call, name: &_| {
            match call == Call::Remove && name == stays {
                true => Fate::Fails(Errno::PERM),
                false => Fate::Done,
            }
        });
        let limit = bytes(&sim, "c") - 1;
        let root = opened(faulty);
        let plan = PrunePlan::new(&root, Keep::MaxBytes(limit)).unwrap();
        match is_read {
            true => set_read(&all[1], Duration::ZERO),
            false => dir(&sim).remove(name(&all[1])).unwrap(),
        }
        let report = plan.carry_out();
        assert!(report.remaining_bytes <= limit, "{is_read}: {report:?}");
        assert_eq!(segments(&sim).len(), 2, "{is_read}: {report:?}");
    }
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

/// A dry run lists what is removed, also where a directory must not be written to.
#[test]
fn a_dry_run_leaves_out_what_permissions_keep() {
    for keep in [Keep::MaxBytes(1000), Keep::ReadWithin(HOUR / 2)] {
        let sim = root();
        for (cache, first) in [("closed", 0), ("open", 100)] {
            let writer = store(sim.clone(), cache);
            (0..4).for_each(|n| put(&writer, first + n..first + n + 1));
            age(&sim, cache, HOUR);
            sim.age_dir(&Path::new("/root").join(cache), HOUR);
        }
        let closed = files(&sim, "closed");
        let faulty = Faulty::new(sim.clone(), move |call: Call, name: &_| match call {
            Call::CheckWritable if name == "closed" => Fate::Fails(Errno::ROFS),
            Call::Remove if closed.contains(name) => Fate::Fails(Errno::ROFS),
            _ => Fate::Done,
        });
        let root = opened(faulty);
        let pruned = |is_dry| {
            let report = prune(&root, keep, is_dry).unwrap();
            let segments = report.caches.iter().map(|it| it.segments.clone());
            let segments: Vec<_> = segments.collect();
            let failed = report.failed.iter().map(|(path, _)| path.clone());
            (segments, failed.collect::<Vec<_>>(), report.remaining_bytes)
        };
        let announced = pruned(true);
        assert_eq!(pruned(false), announced, "{keep:?}");
        assert_eq!(files(&sim, "closed").len(), 4);
    }
}

fn files(sim: &Sim, cache: &str) -> HashSet<OsString> {
    let files = sim.files(&Path::new("/root").join(cache)).into_iter();
    files.map(|path| name(&path).to_os_string()).collect()
}

/// Every other segment cannot be removed, and is larger than the one after it that is removed in its place.
#[test]
fn others_are_pruned_for_segments_that_stay_in_one_pass() {
    const SEGMENTS: u64 = 40;
    let sim = root();
    // They are not compacted.
    let config = manual_flush().with_segment_bytes(2 << 10);
    let writer = Store::open_on(Arc::new(sim.clone()), "/root/c", config).unwrap();
    (0..SEGMENTS).for_each(|n| put_flushed(&writer, n..n + 1, 1000 - n as usize % 2));
    drop(writer);
    age(&sim, "c", HOUR);
    sim.age_dir(Path::new("/root/c"), HOUR);
    let stays: HashSet<OsString> = {
        let all = segments(&sim).into_iter().step_by(2);
        all.map(|path| name(&path).to_os_string()).collect()
    };
    let calls = Arc::new(Mutex::new(HashMap::<Call, u64>::new()));
    let decide = {
        let calls = calls.clone();
        move |call: Call, name: &_| {
            *calls.lock().unwrap().entry(call).or_default() += 1;
            match call == Call::Remove && stays.contains(name) {
                true => Fate::Fails(Errno::PERM),
                false => Fate::Done,
            }
        }
    };
    let limit = bytes(&sim, "c") - 1;
    let report = prune(
        &opened(Faulty::new(sim.clone(), decide)),
        Keep::MaxBytes(limit),
        false,
    );
    let report = report.unwrap();
    assert!(report.remaining_bytes <= limit, "{report:?}");
    assert!(!report.failed.is_empty(), "some stay");
    let calls = calls.lock().unwrap();
    assert!(
        calls[&Call::SyncDir] <= 2 && calls[&Call::List] <= 8,
        "{calls:?}"
    );
}
