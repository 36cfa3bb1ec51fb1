//! Another process acts between two calls of administration.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use torchcache_faults::cases::{Counter, eventually, seen, series};
use torchcache_faults::compaction::{acting_at, during_a_compaction, wait_within_whole_seconds};
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::roles::directory::content;
use torchcache_faults::rows::manual_flush;
use torchcache_faults::sim::{Locks, Sim};
use torchcache_store::admin::{
    Cache, Keep, Root, SegmentRepair, SegmentState, check, clear, prune, repair,
};
use torchcache_store::fs::{FileSystem, Os};
use torchcache_store::manifest::{self, Manifest};

use crate::common::{
    HOUR, age, before, bytes, dir, is_segment, is_there, name, only, opened, put, root, segments,
    store,
};

/// However long it takes to sync the name of its result.
#[test]
fn a_compaction_that_stalls_does_not_count_twice() {
    let sim = root();
    put(&store(sim.clone(), "old"), 100..110);
    age(&sim, "old", HOUR);
    let (renamed, pruned) = (Counter::default(), Arc::new(Counter::default()));
    let decide = {
        let (sim, pruned) = (sim.clone(), pruned.clone());
        move |call: Call, name: &OsStr| {
            if call == Call::Rename && is_segment(name) {
                renamed.next();
            }
            // Eight segments, and then the one that they are compacted into: all nine are there.
            if call == Call::SyncDir && renamed.get() == 9 && pruned.next() == 1 {
                let result = segments(&sim).pop().expect("it is the newest");
                let limit = bytes(&sim, "old") + bytes(&sim, "c") - sim.bytes(&result).len() as u64;
                let done = prune(&opened(sim.clone()), Keep::MaxBytes(limit), false);
                let done = done.expect("it can be pruned");
                assert!(done.caches.is_empty(), "{done:?}");
            }
            Fate::Done
        }
    };
    let compacting = store(Faulty::new(sim.clone(), decide), "c");
    (0..8).for_each(|n| put(&compacting, n..n + 1));
    assert!(pruned.get() > 0 && compacting.stats().compacted_segments > 0);
    assert_eq!(compacting.stats().faults.total(), 0, "nothing panicked");
    assert!(is_there(&sim, "old", 100..110) && is_there(&sim, "c", 0..8));
}

/// The result of a compaction has all rows that are removed with its sources. It counts before the `nth` call.
#[test]
fn pruning_removes_the_result_of_a_compaction_that_ends_meanwhile() {
    const CALLS: u64 = 12;
    for nth in 1..=CALLS {
        let (sim, mut is_reached) = (root(), false);
        let sources_checked = 10; // and the directory synced
        during_a_compaction(&sim, "/root/c", manual_flush(), sources_checked, |paused| {
            let (fs, calls) = paused.finish_before(&sim, nth);
            let pruned = prune(&opened(fs), Keep::MaxBytes(0), false);
            pruned.expect("it can be pruned");
            is_reached = calls.get() >= nth;
        });
        assert!(is_reached, "it waits for the compaction");
        assert!(segments(&sim).is_empty(), "before call {nth}");
    }
    seen("a compaction ends while it is pruned", CALLS);
}

/// It is no result of a compaction.
#[test]
fn a_file_of_another_name_that_is_locked_is_pruned() {
    let (sim, copy) = (root(), Path::new("/root/c/copy.tcs"));
    put(&store(sim.clone(), "from"), 0..5);
    put(&store(sim.clone(), "c"), 5..10);
    sim.add(copy, sim.bytes(&sim.files(Path::new("/root/from"))[0]));
    let file = dir(&sim).open(name(copy)).expect("it is there");
    assert!(file.try_lock().expect("it has locks"));
    let pruned = prune(&opened(sim.clone()), Keep::MaxBytes(0), false);
    assert_eq!(pruned.expect("it can be pruned").remaining_bytes, 0);
    assert_eq!(segments(&sim), Vec::<std::path::PathBuf>::new());
    drop(file);
}

/// It stalled for so long that its directory has come to rest, or for as long as its end may give the directory the
/// same time; and it ends before the `nth` call.
#[test]
fn a_compaction_that_ends_while_pruning_lists_does_not_count_twice() {
    const CALLS: u64 = 120; // of two listings
    for (nth, whole_seconds) in (1..=CALLS).flat_map(|nth| [(nth, false), (nth, true)]) {
        let (sim, mut is_reached) = (root(), false);
        put(&store(sim.clone(), "old"), 100..110);
        age(&sim, "old", HOUR);
        if whole_seconds {
            sim.set_whole_seconds();
            wait_within_whole_seconds();
        }
        during_a_compaction(&sim, "/root/c", manual_flush(), 1, |paused| {
            sim.age_dir(Path::new("/root/old"), HOUR);
            if !whole_seconds {
                sim.age_dir(Path::new("/root/c"), HOUR);
            }
            let result = segments(&sim).pop().expect("it is the newest");
            let limit = bytes(&sim, "old") + bytes(&sim, "c") - sim.bytes(&result).len() as u64;
            let (fs, calls) = paused.finish_before(&sim, nth);
            let done = prune(&opened(fs), Keep::MaxBytes(limit), false);
            let done = done.expect("it can be pruned");
            assert!(done.caches.is_empty(), "{done:?}");
            is_reached = calls.get() >= nth;
        });
        assert!(is_reached, "it waits for the compaction");
    }
    seen("a compaction ends while pruning lists", 2 * CALLS);
}

/// It ends after pruning, which does not wait any longer, removed its sources.
#[test]
fn the_result_of_a_compaction_that_stalls_is_pruned() {
    let sim = root();
    let sources_checked = 10; // and the directory synced
    during_a_compaction(&sim, "/root/c", manual_flush(), sources_checked, |paused| {
        let fs = Faulty::new(sim.clone(), move |call: Call, _: &_| {
            if call == Call::SyncDir {
                paused.finish();
            }
            Fate::Done
        });
        let pruned = prune(&opened(fs), Keep::MaxBytes(0), false);
        pruned.expect("it can be pruned");
    });
    assert!(
        segments(&sim).is_empty(),
        "its rows are those of the sources"
    );
}

/// The same where there are no locks, until the directories have come to rest.
#[test]
fn a_compaction_under_way_does_not_count_twice() {
    let sim = root();
    sim.set_locks(Locks::None);
    put(&store(sim.clone(), "old"), 100..110);
    age(&sim, "old", HOUR);
    let [is_merging, is_counted, is_merged] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
    let wait_for = |flag: &AtomicBool| {
        let is_set = || flag.load(Ordering::SeqCst);
        assert!(eventually(Duration::from_secs(60), is_set));
    };
    let renamed = Counter::default();
    let decide = {
        let (is_merging, is_counted) = (is_merging.clone(), is_counted.clone());
        move |call: Call, name: &OsStr| {
            if call == Call::Rename && is_segment(name) {
                renamed.next();
            }
            // Eight segments, and then the one that they are compacted into: all nine are there.
            if call == Call::SyncDir && renamed.get() == 9 {
                is_merging.store(true, Ordering::SeqCst);
                wait_for(&is_counted);
            }
            Fate::Done
        }
    };
    let compacting = store(Faulty::new(sim.clone(), decide), "c");
    for n in 0..7 {
        put(&compacting, n..n + 1);
    }
    let roots = Counter::default();
    let looking = {
        let (is_counted, is_merged) = (is_counted.clone(), is_merged.clone());
        Faulty::new(sim.clone(), move |call: Call, name: &OsStr| {
            // After it was opened and listed once, with all nine segments.
            if call == Call::OpenDir && name == "root" && roots.next() == 3 {
                is_counted.store(true, Ordering::SeqCst);
                wait_for(&is_merged);
            }
            Fate::Done
        })
    };
    let limit = bytes(&sim, "old") + bytes(&sim, "c") / 7 * 8;
    thread::scope(|scope| {
        let pruned = scope.spawn(|| {
            wait_for(&is_merging);
            let pruned = prune(&opened(looking), Keep::MaxBytes(limit), false);
            is_counted.store(true, Ordering::SeqCst); // also where it was listed once only
            pruned.expect("it can be pruned")
        });
        put(&compacting, 7..8);
        is_merged.store(true, Ordering::SeqCst);
        let pruned = pruned.join().expect("it does not panic");
        assert!(pruned.caches.is_empty(), "{pruned:?}");
    });
    assert!(compacting.stats().compacted_segments > 0);
    assert!(is_there(&sim, "old", 100..110) && is_there(&sim, "c", 0..8));
}

#[test]
fn prune_leaves_a_cache_alone_that_it_cannot_stat() {
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
        let pruned = prune(&root, Keep::ReadWithin(HOUR / 2), false).expect("it can be pruned");
        assert!(pruned.caches.is_empty(), "{pruned:?}");
        assert_eq!(pruned.skipped[0].0, Path::new("/root/c"));
        assert!(is_there(&sim, "c", 0..6));
    }
}

#[test]
fn a_segment_that_cannot_be_stat_is_unknown_not_missing() {
    let sim = root();
    put(&store(sim.clone(), "c"), 0..3);
    for (errno, known) in [(Errno::IO, 1), (Errno::NOENT, 0)] {
        let decide = move |call: Call, name: &OsStr| {
            let is_segment = name.to_string_lossy().ends_with(".tcs");
            match call == Call::Stat && is_segment {
                true => Fate::Fails(errno),
                false => Fate::Done,
            }
        };
        let cache = only(Faulty::new(sim.clone(), decide));
        let report = check(std::slice::from_ref(&cache), &()).remove(0);
        let unknown = |segment: &torchcache_store::admin::SegmentCheck| {
            segment.state.is_unknown() && !segment.state.is_corrupt()
        };
        assert_eq!(report.segments.len(), known, "{errno}");
        assert!(report.segments.iter().all(unknown), "{report:?}");
        let summary = cache.summary().expect("its directory can be listed");
        assert_eq!(summary.segments.len(), known, "{errno}");
        assert!(summary.segments.iter().all(|it| it.contents.is_err()));
    }
}

/// One cache with one segment, whose record of row 2 is bad, last read an hour ago.
fn damaged() -> Sim {
    let sim = root();
    put(&store(sim.clone(), "c"), 0..5);
    sim.damage(&segments(&sim)[0], |bytes| bytes[16 + 2 * 108 + 9] ^= 1);
    age(&sim, "c", HOUR);
    sim
}

/// What removes all rows.
const REMOVALS: [fn(&Sim); 3] = [
    |sim| store(sim.clone(), "c").clear(),
    |sim| drop(clear(&only(sim.clone()), false)),
    |sim| {
        drop(prune(
            &opened(sim.clone()),
            Keep::ReadWithin(Duration::ZERO),
            false,
        ))
    },
];

/// At any moment of a repair or a compaction.
#[test]
fn removed_rows_do_not_come_back_by_files_that_replace_them() {
    let mut caused = 0;
    for (number, remove) in REMOVALS.into_iter().enumerate() {
        caused += series(format_args!("repair, removal {number}"), |nth| {
            let sim = damaged();
            let (is_on, calls) = (
                Arc::new(AtomicBool::new(false)),
                Arc::new(Counter::default()),
            );
            let decide = {
                let (sim, is_on, calls) = (sim.clone(), is_on.clone(), calls.clone());
                move |_: Call, _: &_| {
                    if is_on.load(Ordering::SeqCst) && calls.next() == nth {
                        remove(&sim);
                    }
                    Fate::Done
                }
            };
            let report = check(&[only(Faulty::new(sim.clone(), decide))], &()).remove(0);
            is_on.store(true, Ordering::SeqCst);
            repair(&report);
            let is_reached = calls.get() >= nth;
            assert!(!is_reached || segments(&sim).is_empty());
            is_reached
        });
        caused += series(format_args!("compaction, removal {number}"), |nth| {
            let sim = root();
            let is_reached = acting_at(&sim, "/root/c", nth, Fate::Done, remove);
            assert!(!is_reached || segments(&sim).is_empty());
            is_reached
        });
    }
    seen("rows are removed while files replace segments", caused);
}

/// Pruning removes another segment of the cache, and the copy with it.
#[test]
fn a_repair_whose_copy_is_removed_reports_that_it_has_to_be_repeated() {
    let sim = damaged();
    let source = segments(&sim).remove(0);
    put(&store(sim.clone(), "c"), 5..10);
    age(&sim, "c", HOUR);
    let file = dir(&sim).open(name(&source)).expect("it is there");
    let set = file.set_modified(SystemTime::now());
    set.expect("its time can be set");
    let is_renamed = |call: Call, _: &OsStr| call == Call::Rename;
    let (fs, happened) = before(&sim, is_renamed, |sim| {
        let pruned = prune(&opened(sim.clone()), Keep::ReadWithin(HOUR / 2), false);
        let pruned = pruned.expect("it can be pruned");
        assert_eq!(pruned.caches[0].segments.len(), 1);
    });
    let repairs = repair(&check(&[only(fs)], &()).remove(0));
    let error = repairs.segments[0].1.as_ref();
    let error = error.expect_err("the segment is still corrupt");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    assert_eq!((segments(&sim), happened.get()), (vec![source], 1));
    let repairs = repair(&check(&[only(sim.clone())], &()).remove(0));
    let done = repairs.segments[0].1.as_ref().expect("nothing fails");
    assert!(matches!(done, SegmentRepair::Rewritten { .. }), "{done:?}");
}

/// Other processes would count the copy next to the damaged segment.
#[test]
fn repair_replaces_nothing_where_its_lock_is_refused() {
    let sim = damaged();
    let before = segments(&sim);
    let fs = Faulty::new(sim.clone(), |call: Call, name: &OsStr| {
        match call == Call::Lock && !is_segment(name) {
            true => Fate::Fails(Errno::IO),
            false => Fate::Done,
        }
    });
    let repairs = repair(&check(&[only(fs)], &()).remove(0));
    let failed = repairs.segments[0].1.as_ref();
    failed.expect_err("others do not see that it has a writer");
    assert_eq!(segments(&sim), before);
    let repairs = repair(&check(&[only(sim.clone())], &()).remove(0));
    let done = repairs.segments[0].1.as_ref().expect("nothing fails");
    assert!(matches!(done, SegmentRepair::Rewritten { .. }), "{done:?}");
}

#[test]
fn repair_keeps_a_segment_that_grew_meanwhile() {
    let sim = damaged();
    let path = segments(&sim).remove(0);
    let whole = sim.bytes(&path);
    sim.damage(&path, |bytes| bytes.truncate(100));
    let report = check(&[only(sim.clone())], &()).remove(0);
    sim.damage(&path, |bytes| *bytes = whole[..200].to_vec());
    let repairs = repair(&report);
    let done = repairs.segments[0].1.as_ref().expect("nothing fails");
    assert_eq!(done, &SegmentRepair::Superseded);
    assert_eq!(segments(&sim), [path]);
}

/// Prunes segments not read for half an hour, while something happens between the listing and the removal. Returns how many caches lost something.
fn pruned_while(sim: &Sim, happens: impl Fn(&Sim) + Send + Sync + 'static) -> usize {
    let keep = Keep::ReadWithin(HOUR / 2);
    let (looking, stats) = Faulty::counting(sim.clone(), Call::Stat);
    let dry = prune(&opened(looking), keep, true);
    assert_eq!(dry.expect("it can be listed").caches.len(), 1);
    // After the listing.
    let (looks, seen) = (stats.get(), Counter::default());
    let when = move |call: Call, _: &OsStr| call == Call::Stat && seen.next() > looks;
    let (fs, happened) = before(sim, when, happens);
    let pruning = prune(&opened(fs), keep, false).expect("it can be listed");
    assert_eq!((happened.get(), pruning.failed.len()), (1, 0));
    pruning.caches.len()
}

#[test]
fn prune_keeps_a_segment_that_is_read_meanwhile() {
    let sim = root();
    put(&store(sim.clone(), "c"), 0..3);
    age(&sim, "c", HOUR);
    let pruned = pruned_while(&sim, |sim| age(sim, "c", Duration::ZERO));
    assert_eq!(pruned, 0);
    assert!(is_there(&sim, "c", 0..3));
}

#[test]
fn prune_removes_a_segment_compacted_meanwhile() {
    let sim = root();
    put(&store(sim.clone(), "c"), 0..3);
    age(&sim, "c", HOUR);
    let pruned = pruned_while(&sim, |sim| {
        let from = segments(sim).remove(0);
        let renamed = dir(sim).rename(name(&from), "compacted.tcs".as_ref());
        renamed.expect("it is there");
    });
    assert_eq!(pruned, 1);
    let left = sim.open_dir(Path::new("/root/c"), false);
    assert!(left.is_err(), "nothing is left of it");
}

#[test]
fn clear_removes_the_result_of_a_running_compaction() {
    let sim = root();
    put(&store(sim.clone(), "c"), 0..3);
    let when = |call: Call, _: &OsStr| call == Call::Remove;
    let (fs, happened) = before(&sim, when, |sim| {
        let bytes = sim.bytes(&segments(sim)[0]);
        sim.add(Path::new("/root/c/compacted.tcs"), bytes);
    });
    let cleared = clear(&only(fs), false).expect("it can be cleared");
    assert_eq!((cleared.segments, happened.get()), (2, 1));
    assert!(cleared.directory_removed);
}

#[test]
fn a_manifest_is_put_back_when_a_writer_comes_in_between() {
    let sim = root();
    put(&store(sim.clone(), "c"), 0..3);
    let manifest = Manifest::new("m::Module", "5eed", Vec::new());
    manifest.write(&dir(&sim)).expect("it can be written");
    age(&sim, "c", HOUR);
    let written = || {
        dir(&sim)
            .stat(manifest::FILE.as_ref())
            .expect("it is there")
    };
    let before_it = written().modified;
    let tried = Counter::default();
    let when = move |call: Call, _: &OsStr| call == Call::RemoveDir && tried.next() == 2;
    let (fs, happened) = before(&sim, when, |sim| {
        sim.add(
            Path::new("/root/c/.tmp-0000000000000001-1-0000000000000001.tcs"),
            Vec::new(),
        );
    });
    let cleared = clear(&only(fs), false).expect("it can be cleared");
    assert_eq!((cleared.directory_removed, happened.get()), (false, 1));
    let there = Manifest::read(&*dir(&sim)).expect("it is there");
    assert_eq!(there, manifest);
    assert_eq!(written().modified, before_it, "it is as old as it was");
}

#[test]
fn a_manifest_stays_where_its_directory_cannot_be_removed() {
    let sim = root();
    put(&store(sim.clone(), "c"), 0..3);
    let manifest = Manifest::new("m::Module", "5eed", Vec::new());
    manifest.write(&dir(&sim)).expect("it can be written");
    let decide = |call: Call, name: &OsStr| match call {
        Call::RemoveDir => Fate::Fails(Errno::ACCESS),
        Call::Remove if name == manifest::FILE => panic!("it was removed"),
        _ => Fate::Done,
    };
    let cleared = clear(&only(Faulty::new(sim.clone(), decide)), false);
    let cleared = cleared.expect("it can be cleared");
    assert_eq!((cleared.segments, cleared.directory_removed), (1, false));
    assert!(cleared.failed.is_empty(), "{cleared:?}");
}

#[test]
fn check_follows_rows_compacted_meanwhile() {
    let sim = root();
    put(&store(sim.clone(), "c"), 0..3);
    let when = |call: Call, name: &OsStr| call == Call::Open && is_segment(name);
    let (fs, happened) = before(&sim, when, |sim| {
        let from = segments(sim).remove(0);
        let renamed = dir(sim).rename(name(&from), "compacted.tcs".as_ref());
        renamed.expect("it is there");
    });
    let report = check(&[only(fs)], &()).remove(0);
    let rows = report.segments.iter().map(|it| match it.state {
        SegmentState::Intact { rows } => rows,
        _ => 0,
    });
    assert_eq!((rows.sum::<u64>(), happened.get()), (3, 1));
}

#[test]
fn rows_compacted_while_counted_count_once() {
    let sim = root();
    put(&store(sim.clone(), "c"), 0..3);
    put(&store(sim.clone(), "c"), 3..6);
    // Both, while the first of them is opened, or the second.
    for at in 1..=2 {
        let sim = sim.copy();
        let opened = Counter::default();
        let when = move |call: Call, name: &OsStr| {
            call == Call::Open && is_segment(name) && opened.next() == at
        };
        let (fs, happened) = before(&sim, when, |sim| {
            let compacted = store(sim.clone(), "d");
            put(&compacted, 0..6);
            let compacted = sim.files(Path::new("/root/d")).remove(0);
            let sources = segments(sim);
            sim.add(Path::new("/root/c/compacted.tcs"), sim.bytes(&compacted));
            for source in sources {
                dir(sim).remove(name(&source)).expect("it is there");
            }
        });
        let summary = only(fs).summary().expect("it can be listed");
        assert_eq!((summary.rows(), happened.get()), (6, 1), "{summary:?}");
    }
}

#[test]
fn a_store_recreates_its_directory_while_writing() {
    let sim = root();
    let failed = Arc::new(Counter::default());
    let decide = {
        let failed = failed.clone();
        move |call: Call, _: &_| {
            let is_writer = thread::current().name() == Some("torchcache-store");
            match call == Call::Create && is_writer && failed.next() == 1 {
                true => Fate::Fails(Errno::NOENT),
                false => Fate::Done,
            }
        }
    };
    let store = store(Faulty::new(sim.clone(), decide), "c");
    put(&store, 0..3);
    let stats = store.stats();
    assert_eq!(
        (stats.lost_rows, stats.faults.total(), failed.get()),
        (0, 0, 2)
    );
    assert!(is_there(&sim, "c", 0..3));
}

#[test]
fn clear_reports_a_segment_that_cannot_be_removed() {
    let sim = root();
    for n in 0..3 {
        put(&store(sim.clone(), "c"), n..n + 1);
    }
    let stuck = segments(&sim).remove(0);
    let decide = {
        let stuck = stuck.clone();
        move |call: Call, removed: &OsStr| match call == Call::Remove && removed == name(&stuck) {
            true => Fate::Fails(Errno::ACCESS),
            false => Fate::Done,
        }
    };
    let cleared = clear(&only(Faulty::new(sim.clone(), decide)), false).expect("it can be listed");
    assert_eq!((cleared.segments, cleared.directory_removed), (2, false));
    assert_eq!(cleared.failed.len(), 1);
    assert_eq!(cleared.failed[0].0, stuck);
    assert_eq!(segments(&sim), [stuck]);
}

type Deed = (&'static str, fn(Root));

/// What administration does with all caches of a root.
const DEEDS: [Deed; 3] = [
    ("clear", |root| {
        in_each_cache(&root, |cache| drop(clear(cache, false)))
    }),
    ("prune", |root| {
        drop(prune(&root, Keep::ReadWithin(HOUR / 2), false));
    }),
    ("repair", |root| {
        in_each_cache(&root, |cache| {
            let checked = check(std::slice::from_ref(cache), &());
            checked.iter().for_each(|checked| drop(repair(checked)));
        });
    }),
];

fn in_each_cache(root: &Root, deed: impl Fn(&Cache)) {
    let listing = root.list().map(|listing| listing.caches);
    listing.unwrap_or_default().iter().for_each(deed);
}

/// A link takes the place of a directory above the caches, before the `nth` call of a kind, and leads to other
/// caches. Returns whether there were so many calls.
fn leads_elsewhere(segments: &[Vec<u8>], deed: fn(Root), call: Call, nth: u64, path: &str) -> bool {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let [place, victim] = ["place", "victim"].map(|name| temp.path().join(name));
    for dir in [&place, &victim].map(|above| above.join("root/c")) {
        fs::create_dir_all(&dir).expect("it can be made");
        for (n, bytes) in segments.iter().enumerate() {
            let path = dir.join(format!("{n}.tcs"));
            fs::write(&path, bytes).expect("it can be written");
            let file = fs::File::options().append(true).open(path);
            let file = file.expect("it is ours");
            let set = file.set_modified(SystemTime::now() - HOUR);
            set.expect("its time can be set");
        }
    }
    let before = content(&victim.join("root/c"));
    let (calls, is_open) = (
        Arc::new(Counter::default()),
        Arc::new(AtomicBool::new(false)),
    );
    let decide = {
        let (calls, is_open) = (calls.clone(), is_open.clone());
        let (place, victim, away) = (place.clone(), victim.clone(), temp.path().join("away"));
        move |this: Call, _: &OsStr| {
            if this == call && is_open.load(Ordering::SeqCst) && calls.next() == nth {
                fs::rename(&place, &away).expect("it is there");
                symlink(&victim, &place).expect("it can be made");
            }
            Fate::Done
        }
    };
    let fs = Arc::new(Faulty::new(Os, decide));
    let root = Root::open_on(fs, &place.join(path)).expect("it is there");
    is_open.store(true, Ordering::SeqCst);
    deed(root);
    let after = content(&victim.join("root/c"));
    assert!(before == after, "what the link leads to was changed");
    calls.get() >= nth
}

#[test]
fn a_link_above_the_caches_leads_nowhere_else() {
    let sim = root();
    put(&store(sim.clone(), "c"), 0..3);
    put(&store(sim.clone(), "c"), 3..5);
    sim.damage(&segments(&sim)[0], |bytes| bytes[20] ^= 1);
    let segments: Vec<_> = segments(&sim).iter().map(|path| sim.bytes(path)).collect();
    let mut caused = 0;
    for (name, deed) in DEEDS {
        for path in ["root", "root/c"] {
            for call in [Call::OpenDir, Call::List, Call::SyncDir] {
                caused += series(format_args!("{name} {path}, {call:?}"), |nth| {
                    leads_elsewhere(&segments, deed, call, nth, path)
                });
            }
        }
    }
    seen("a link takes the place of a directory above caches", caused);
}
