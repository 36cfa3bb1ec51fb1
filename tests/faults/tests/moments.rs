//! Something happens during one call of the file system.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use rustix::io::Errno;
use torchcache_faults::cases::{Counter, cases, eventually, seen, series};
use torchcache_faults::compaction::{
    acting_at, bytes_of_one, during_a_compaction, wait_within_whole_seconds,
};
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{
    batch, count_right, expect_all, expect_no_faults, manual_flush, opened, put_flushed,
};
use torchcache_faults::sim::{Locks, Sim};
use torchcache_store::fs::{FileSystem, Os};
use torchcache_store::segment::Footer;
use torchcache_store::{Config, Eviction, Fault, FlushError, Store};

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
        let store = store.get_or_init(|| opened(Faulty::new(Sim::new(), decide), "/cache"));
        store.put(batch(0..5, LEN));
        store.flush().expect("cleared rows are not lost rows");
        assert!(calls.get() > 0, "{call:?} came to pass");
        assert_eq!(count_right(store, 0..5, LEN), 0, "cleared at {call:?}");
        let stats = store.stats();
        assert_eq!((stats.rows, stats.stored_rows, stats.lost_rows), (0, 0, 0));
        put_flushed(store, 0..5, LEN);
        expect_all(store, 0..5, LEN);
    }
}

#[test]
fn cleared_rows_do_not_come_back_after_a_power_cut() {
    for seed in 0..50 {
        let (sim, mut rng) = (Sim::new(), Rng::with_seed(seed));
        let store = opened(sim.clone(), "/cache");
        put_flushed(&store, 0..5, LEN);
        store.clear();
        sim.cut_power(&mut rng);
        drop(store);
        assert_eq!(count_right(&opened(sim, "/cache"), 0..5, LEN), 0);
    }
}

#[test]
fn compaction_does_not_revive_cleared_segments() {
    let sim = Sim::new();
    let other = opened(sim.clone(), "/cache");
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
    let store = opened(Faulty::new(sim.clone(), decide), "/cache");
    for n in 0..8 {
        put_flushed(&store, n..n + 1, LEN);
    }
    assert_eq!(renamed.get(), 9, "they were compacted");
    store.refresh();
    assert_eq!(count_right(&store, 0..8, LEN), 0);
    let reopened = opened(sim, "/cache");
    assert_eq!(count_right(&reopened, 0..8, LEN), 0);
    assert_eq!(store.stats().faults.total(), 0);
}

/// At any moment of a compaction, whose result has other segments to be compacted with then.
#[test]
fn rows_cleared_during_a_compaction_do_not_come_back() {
    let mut caused = 0;
    for locks in [Locks::Shared, Locks::None] {
        caused += series(format_args!("{locks:?}"), |nth| {
            let sim = Sim::new();
            sim.set_locks(locks);
            let is_reached = acting_at(&sim, "/cache", nth, Fate::Done, |sim| {
                let other = opened(sim.clone(), "/cache");
                other.clear();
                for n in 100..107 {
                    put_flushed(&other, 10 * n..10 * n + 8, LEN);
                }
            });
            let left = count_right(&opened(sim, "/cache"), 0..8, LEN);
            assert_eq!(left, if is_reached { 0 } else { 8 });
            is_reached
        });
    }
    seen("a directory is cleared during a compaction", caused);
}

/// The segments that have their names, in the order of these.
fn segments(sim: &Sim) -> Vec<PathBuf> {
    let mut files = sim.files(Path::new("/cache"));
    files.retain(|file| !file.to_string_lossy().contains(".tmp-"));
    files
}

/// Removes the oldest segment, as eviction does: a source, until the compaction removes it.
fn evict_oldest(sim: &Sim) {
    let dir = sim.open_dir(Path::new("/cache"), false);
    let oldest = &segments(sim)[0];
    let name = oldest.file_name().expect("it has one");
    let removed = dir.expect("it is there").remove(name);
    removed.expect("it is there");
}

/// Rows are removed at any moment of a compaction, and put again, by a process that may see them in its result. That
/// may fail afterwards.
#[test]
fn rows_flushed_during_a_compaction_stay() {
    let removals: [fn(&Sim); 2] = [evict_oldest, |sim| opened(sim.clone(), "/cache").clear()];
    let mut caused = 0;
    for (number, remove) in removals.into_iter().enumerate() {
        for (locks, sync) in [
            (Locks::Shared, Fate::Done),
            (Locks::Shared, Fate::Fails(Errno::IO)),
            (Locks::None, Fate::Fails(Errno::IO)),
        ] {
            let name = format_args!("removal {number}, {locks:?}, {sync:?}");
            caused += series(name, |nth| {
                let sim = Sim::new();
                sim.set_locks(locks);
                let is_reached = acting_at(&sim, "/cache", nth, sync, move |sim| {
                    remove(sim);
                    put_flushed(&opened(sim.clone(), "/cache"), 0..8, LEN);
                });
                expect_all(&opened(sim.clone(), "/cache"), 0..8, LEN);
                sim.cut_power(&mut Rng::with_seed(nth));
                expect_all(&opened(sim, "/cache"), 0..8, LEN);
                is_reached
            });
        }
    }
    seen("rows are flushed during a compaction", caused);
}

/// The rows that segments hold beyond one copy of each.
fn extra_rows(sim: &Sim) -> u64 {
    let files = segments(sim);
    let dir = sim.open_dir(Path::new("/cache"), false);
    let dir = dir.expect("it is there");
    let rows = files.iter().map(|file| {
        let footer = Footer::read(&*dir, file.file_name().expect("it has one"));
        footer.expect("it is sound").0.row_count() as u64
    });
    rows.sum::<u64>() - opened(sim.copy(), "/cache").stats().rows
}

/// Another process compacts the same segments at any moment before the result has its name. Both results stay only where
/// it does between the last look for the sources and the new name.
#[test]
fn segments_are_compacted_by_one_of_two_processes() {
    let mut twice = 0;
    let caused = series(format_args!("compacted by another"), |nth| {
        let sim = Sim::new();
        let is_reached = acting_at(&sim, "/cache", nth, Fate::Done, |sim| {
            // The result, next to its sources, is not there yet.
            if extra_rows(sim) == 0 {
                put_flushed(&opened(sim.clone(), "/cache"), 8..9, LEN);
            }
        });
        expect_all(&opened(sim.clone(), "/cache"), 0..8, LEN);
        twice += u64::from(extra_rows(&sim) > 0);
        is_reached
    });
    assert!(twice <= 1, "{twice} of {caused} left rows twice");
    seen("segments are compacted by two processes", caused);
}

/// At several turns, and then it can. The rows are in the sources and in one result until then.
#[test]
fn a_compaction_whose_name_cannot_be_synced_is_finished_later() {
    for all_fail in [false, true] {
        let (sim, fails) = (Sim::new(), Arc::new(AtomicBool::new(false)));
        let decide = {
            let (fails, is_result) = (fails.clone(), AtomicBool::new(false));
            move |call: Call, name: &OsStr| {
                if call == Call::Create {
                    let name = name.as_encoded_bytes();
                    is_result.store(name.starts_with(b".tmp-replacement-"), Ordering::SeqCst);
                }
                let fails = fails.load(Ordering::SeqCst)
                    && call == Call::SyncDir
                    && (all_fail || is_result.load(Ordering::SeqCst));
                match fails {
                    true => Fate::Fails(Errno::IO),
                    false => Fate::Done,
                }
            }
        };
        let store = opened(Faulty::new(sim.clone(), decide), "/cache");
        (0..7).for_each(|n| put_flushed(&store, n..n + 1, LEN));
        fails.store(true, Ordering::SeqCst);
        for n in 7..40 {
            store.put(batch(n..n + 1, LEN));
            assert!(store.flush().is_ok() || all_fail);
            assert!(
                extra_rows(&sim) <= 8,
                "{} rows are there twice",
                extra_rows(&sim)
            );
        }
        assert!(store.stats().faults.total() > 0, "it was caused");
        fails.store(false, Ordering::SeqCst);
        put_flushed(&store, 40..41, LEN);
        assert_eq!(extra_rows(&sim), 0);
        assert!(store.stats().compacted_segments >= 40);
        for store in [store, opened(sim, "/cache")] {
            expect_all(&store, 0..41, LEN);
        }
    }
    seen("a compaction cannot be synced", 2);
}

/// As on NFS without a lock service.
#[test]
fn segments_are_compacted_where_no_lock_can_be_had() {
    for errno in [Errno::NOLCK, Errno::NOSYS, Errno::NOTSUP] {
        let no_locks = move |call: Call, _: &OsStr| match call {
            Call::Lock => Fate::Fails(errno),
            _ => Fate::Done,
        };
        let store = opened(Faulty::new(Sim::new(), no_locks), "/cache");
        (0..16).for_each(|n| put_flushed(&store, n..n + 1, LEN));
        assert!(store.stats().compacted_segments >= 8, "{errno}");
        expect_no_faults(&store);
        expect_all(&store, 0..16, LEN);
    }
}

/// Other processes would count a result that is not locked next to its sources.
#[test]
fn a_compaction_whose_file_is_not_locked_is_put_off() {
    for errno in [Errno::IO, Errno::INTR] {
        let (sim, refuses) = (Sim::new(), Arc::new(AtomicBool::new(true)));
        let decide = {
            let refuses = refuses.clone();
            move |call: Call, name: &OsStr| {
                let is_temp = name.as_encoded_bytes().starts_with(b".tmp-");
                match call == Call::Lock && is_temp && refuses.load(Ordering::SeqCst) {
                    true => Fate::Fails(errno),
                    false => Fate::Done,
                }
            }
        };
        let store = opened(Faulty::new(sim.clone(), decide), "/cache");
        (0..9).for_each(|n| put_flushed(&store, n..n + 1, LEN));
        assert_eq!(store.stats().compacted_segments, 0, "{errno}");
        let faults = store.stats().faults.total();
        assert!(faults > 0, "{errno} is counted");
        expect_all(&store, 0..9, LEN);
        refuses.store(false, Ordering::SeqCst);
        (9..16).for_each(|n| put_flushed(&store, n..n + 1, LEN));
        assert!(store.stats().compacted_segments >= 8, "{errno}");
        assert_eq!(store.stats().faults.total(), faults, "{errno}");
        for store in [store, opened(sim, "/cache")] {
            expect_all(&store, 0..16, LEN);
        }
    }
}

/// A segment is copied into the directory while a store reads from it.
#[test]
fn a_segment_that_was_seen_half_copied_is_read_later() {
    for (part, name) in [
        (2, "copy.tcs"),
        (50, "copy.tcs"),
        (2, "0123456789abcdef-1-0123456789abcdef.tcs"),
        (1 << 20, "copy.tcs"),
    ] {
        let sim = Sim::new();
        put_flushed(&opened(sim.clone(), "/from"), 0..5, LEN);
        let whole = sim.bytes(&sim.files(Path::new("/from"))[0]);
        let store = small(sim.clone(), Eviction::LeastRecentlyRead);
        let copy = Path::new("/cache").join(name);
        sim.add(&copy, whole[..whole.len() / part].to_vec());
        store.refresh();
        assert_eq!(count_right(&store, 0..5, LEN), 0);
        let faults = store.stats().faults.total();
        let dir = sim
            .open_dir(Path::new("/cache"), false)
            .expect("it is there");
        sim.damage(&copy, |bytes| *bytes = whole.clone());
        let file = dir.open(name.as_ref()).expect("it is there");
        file.set_modified(SystemTime::now()).expect("it is ours");

        // Now it may be the first to be removed.
        put_flushed(&store, 100..400, LEN);
        assert!(!sim.bytes(&copy).is_empty(), "it is sound");
        store.refresh();
        expect_all(&store, 0..5, LEN);
        assert_eq!(store.stats().faults.total(), faults, "counted once");
    }
}

/// Another program copied the segment, and did not sync it.
#[test]
fn rows_that_are_skipped_over_a_copy_survive_a_power_cut() {
    for seed in 0..50 {
        let sim = Sim::new();
        put_flushed(&opened(sim.clone(), "/from"), 0..5, LEN);
        let whole = sim.bytes(&sim.files(Path::new("/from"))[0]);
        let store = opened(sim.clone(), "/cache");
        let dir = sim.open_dir(Path::new("/cache"), false);
        let copy = dir.and_then(|dir| dir.create("copy.tcs".as_ref()));
        let written = copy.and_then(|mut copy| copy.write_all(&whole));
        written.expect("there is room");
        store.refresh();
        put_flushed(&store, 0..5, LEN);
        assert_eq!(store.stats().stored_rows, 0, "they are skipped");
        drop(store);
        sim.cut_power(&mut Rng::with_seed(seed));
        expect_all(&opened(sim, "/cache"), 0..5, LEN);
    }
}

/// It is not the first to be removed while it pauses.
#[test]
fn a_copy_under_way_is_not_removed_for_other_rows() {
    for eviction in [Eviction::LeastRecentlyRead, Eviction::Never] {
        for name in ["copy.tcs", "0123456789abcdef-1-0123456789abcdef.tcs"] {
            let sim = Sim::new();
            put_flushed(&opened(sim.clone(), "/from"), 0..5, LEN);
            let whole = sim.bytes(&sim.files(Path::new("/from"))[0]);
            let store = small(sim.clone(), eviction);
            let copy = Path::new("/cache").join(name);
            sim.add(&copy, whole[..whole.len() / 2].to_vec());
            store.refresh();
            put_flushed(&store, 100..1000, LEN);
            let mut files = sim.files(Path::new("/cache"));
            files.retain(|file| *file != copy);
            let bytes: usize = files.iter().map(|it| sim.bytes(it).len()).sum();
            assert!(bytes as u64 <= store.config().max_bytes, "{bytes} bytes");
            sim.overwrite(&copy, whole);
            store.refresh();
            expect_all(&store, 0..5, LEN);
        }
    }
}

/// The same where times are whole seconds, for a copy that had its full length from the start.
#[test]
fn a_half_copied_segment_is_read_later_if_its_length_stays() {
    for name in ["copy.tcs", "0123456789abcdef-1-0123456789abcdef.tcs"] {
        let sim = Sim::new();
        sim.set_whole_seconds();
        put_flushed(&opened(sim.clone(), "/from"), 0..5, LEN);
        let whole = sim.bytes(&sim.files(Path::new("/from"))[0]);
        let store = small(sim.clone(), Eviction::LeastRecentlyRead);
        let copy = Path::new("/cache").join(name);
        let mut half = whole.clone();
        half[whole.len() / 2..].fill(0);
        sim.add(&copy, half);
        store.refresh();
        assert_eq!(count_right(&store, 0..5, LEN), 0);
        sim.overwrite(&copy, whole);
        put_flushed(&store, 100..400, LEN);
        assert!(!sim.bytes(&copy).is_empty(), "it is sound");
        expect_all(&store, 0..5, LEN);
        assert_eq!(store.stats().faults.total(), 1, "counted once");
    }
}

#[test]
fn without_locks_segments_of_others_are_compacted() {
    for name_of in [
        |n: u64| format!("0123456789abcde{n:x}-1-0123456789abcdef.tcs"),
        |n: u64| format!("copy{n}.tcs"),
        |n: u64| format!("{:016x}-1-{n:x}.tcs", nanoseconds()),
    ] as [fn(u64) -> String; 3]
    {
        let sim = Sim::new();
        sim.set_locks(Locks::None);
        let other = opened(sim.clone(), "/from");
        (0..7).for_each(|n| put_flushed(&other, n..n + 1, LEN));
        for (n, file) in (0..).zip(sim.files(Path::new("/from"))) {
            sim.add(&Path::new("/cache").join(name_of(n)), sim.bytes(&file));
        }
        let store = opened(sim, "/cache");
        put_flushed(&store, 7..8, LEN);
        assert_eq!(store.stats().compacted_segments, 8, "{}", name_of(0));
        expect_all(&store, 0..8, LEN);
    }
}

#[test]
fn locked_segments_of_others_do_not_block_compaction() {
    let sim = Sim::new();
    for first in [10, 20] {
        let other = opened(sim.clone(), "/cache");
        (first..first + 7).for_each(|n| put_flushed(&other, n..n + 1, LEN));
        // Kept until the end.
        let dir = sim.open_dir(Path::new("/cache"), false);
        let dir = dir.expect("it is there");
        for file in sim.files(Path::new("/cache")) {
            let file = dir.open(file.file_name().expect("it has a name"));
            let file = file.expect("it is there");
            file.try_lock().expect("it has locks");
            std::mem::forget(file);
        }
    }
    let from = opened(sim.clone(), "/from");
    (0..4).for_each(|n| put_flushed(&from, n..n + 1, LEN));
    for (n, file) in (0..).zip(sim.files(Path::new("/from"))) {
        sim.add(
            &Path::new("/cache").join(format!("fedcba987654321{n}-1-0123456789abcdef.tcs")),
            sim.bytes(&file),
        );
    }
    let asked = Arc::new(Counter::default());
    let decide = {
        let asked = asked.clone();
        move |call: Call, name: &OsStr| {
            if call == Call::Lock && name.as_encoded_bytes().starts_with(b"fedc") {
                asked.next();
            }
            Fate::Done
        }
    };
    let store = opened(Faulty::new(sim, decide), "/cache");
    // Its own are in the next class of sizes.
    (30..37).for_each(|n| put_flushed(&store, n..n + 1, 20 * LEN));
    assert_eq!(store.stats().compacted_segments, 0);
    assert_eq!(asked.get(), 4, "once each");
    put_flushed(&store, 37..38, 20 * LEN);
    assert_eq!(store.stats().compacted_segments, 8);
    expect_all(&store, 30..38, 20 * LEN);
    expect_all(&store, 0..4, LEN);
}

/// It has no sources.
#[test]
fn a_file_of_another_name_that_is_locked_counts() {
    let one = bytes_of_one();
    let (sim, copy) = (Sim::new(), Path::new("/cache/copy.tcs"));
    put_flushed(&opened(sim.clone(), "/from"), 200..201, LEN);
    sim.add(copy, sim.bytes(&sim.files(Path::new("/from"))[0]));
    let dir = sim.open_dir(Path::new("/cache"), false);
    let file = dir.expect("it is there").open("copy.tcs".as_ref());
    let file = file.expect("it is there");
    assert!(file.try_lock().expect("it has locks"));
    let store = nearly_full(sim.clone(), one, Eviction::LeastRecentlyRead);
    (0..7).for_each(|n| put_flushed(&store, n..n + 1, LEN));
    assert_eq!(store.stats().compacted_segments, 8, "it is one of them");
    (7..30).for_each(|n| put_flushed(&store, n..n + 1, LEN));
    let files = sim.files(Path::new("/cache"));
    let bytes: usize = files.iter().map(|file| sim.bytes(file).len()).sum();
    assert!(bytes as u64 <= 9 * one + one / 2, "{bytes} bytes");
    drop(file);
}

/// Since 1970.
fn nanoseconds() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("the clock is right").as_nanos()
}

/// The calls of finding segments, between which another process may compact them.
const FINDING: [Call; 3] = [Call::List, Call::Open, Call::LookDir];

/// Compacts eight rows in segments of one each at the `nth` call of a kind while another process looks for
/// them, which knows the first `known` of them. Returns whether it makes that many calls.
fn compacted_at(call: Call, nth: u64, known: u64, whole_seconds: bool) -> bool {
    let sim = Sim::new();
    if whole_seconds {
        sim.set_whole_seconds();
    }
    let writer = opened(sim.clone(), "/cache");
    (0..known).for_each(|n| put_flushed(&writer, n..n + 1, LEN));
    let (is_on, calls) = (Arc::new(AtomicBool::new(known == 0)), Counter::default());
    let decide = {
        let (is_on, writer) = (is_on.clone(), writer.clone());
        move |this: Call, _: &_| {
            if this == call && is_on.load(Ordering::SeqCst) && calls.next() == nth {
                put_flushed(&writer, 7..8, LEN);
            }
            Fate::Done
        }
    };
    let fs = Faulty::new(sim, decide);
    let reader = match known {
        0 => {
            (0..7).for_each(|n| put_flushed(&writer, n..n + 1, LEN));
            opened(fs, "/cache")
        }
        _ => {
            let reader = opened(fs, "/cache");
            (known..7).for_each(|n| put_flushed(&writer, n..n + 1, LEN));
            is_on.store(true, Ordering::SeqCst);
            reader.refresh();
            is_on.store(false, Ordering::SeqCst);
            reader
        }
    };
    let rows = reader.stats().rows;
    assert!(rows >= 7, "{rows} rows are found");
    expect_all(&reader, 0..7, LEN);
    assert_eq!(reader.stats().faults.total(), 0);
    writer.stats().compacted_segments > 0
}

#[test]
fn rows_compacted_while_they_are_looked_for_are_found() {
    let mut caused = 0;
    // When the directory is opened, and when it is known in part.
    for (known, whole_seconds) in [0, 1, 4]
        .into_iter()
        .flat_map(|it| [(it, false), (it, true)])
    {
        for call in FINDING {
            caused += series(
                format_args!("{call:?} with {known} known, whole seconds: {whole_seconds}"),
                |nth| compacted_at(call, nth, known, whole_seconds),
            );
        }
    }
    seen(
        "segments are compacted while another process looks for them",
        caused,
    );
}

#[test]
fn a_directory_that_always_changes_is_listed_to_an_end() {
    let sim = Sim::new();
    let (other, lists) = (opened(sim.clone(), "/cache"), Arc::new(Counter::default()));
    put_flushed(&other, 0..1, LEN);
    let decide = {
        let lists = lists.clone();
        move |call: Call, _: &_| {
            if call == Call::List {
                let row = lists.next();
                put_flushed(&other, row..row + 1, LEN);
            }
            Fate::Done
        }
    };
    let store = opened(Faulty::new(sim, decide), "/cache");
    let before = lists.get();
    store.refresh();
    assert!((2..100).contains(&(lists.get() - before)));
    expect_all(&store, 0..before, LEN);
}

#[test]
fn a_segment_that_turns_into_a_link_is_not_followed() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (dir, away) = (root.path().join("cache"), root.path().join("away"));
    for place in [&dir, &away] {
        let store = Store::open(place, manual_flush()).expect("it opens");
        put_flushed(&store, 0..5, LEN);
    }
    let segment = |dir| {
        let mut entries = fs::read_dir(dir).expect("it is there");
        let entry = entries.next().expect("one segment");
        entry.expect("it can be read").path()
    };
    let (here, there) = (segment(&dir), segment(&away));
    let opens = Arc::new(Counter::default());
    let decide = {
        let opens = opens.clone();
        move |call: Call, _: &_| {
            if call == Call::Open && opens.next() == 1 {
                fs::remove_file(&here).expect("it is there");
                symlink(&there, &here).expect("it can be made");
            }
            Fate::Done
        }
    };
    let store = opened(Faulty::new(Os, decide), &dir);
    assert!(opens.get() > 0, "it was opened");
    assert_eq!(count_right(&store, 0..5, LEN), 0);
    assert!(store.stats().faults.total() > 0);
}

#[test]
fn a_segment_that_failed_to_open_is_opened_later() {
    let sim = Sim::new();
    let first = opened(sim.clone(), "/cache");
    put_flushed(&first, 0..3, LEN);
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
    let store = opened(Faulty::new(sim.clone(), decide), "/cache");
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
    expect_all(&store, 0..3, LEN);
}

/// Another process puts the same rows while the first syncs their name, and then `then` happens to that sync.
/// Returns whether the other one's flush succeeded, and the file system.
fn skipped_over_unsynced(
    other_syncs: Fate,
    then: impl Fn(&Sim) -> Fate + Send + Sync + 'static,
) -> (bool, Sim) {
    let sim = Sim::new();
    let syncs = Arc::new(Counter::default());
    let flushed = Arc::new(AtomicBool::new(false));
    let decide = {
        let (sim, syncs, flushed) = (sim.clone(), syncs.clone(), flushed.clone());
        move |call: Call, _: &_| {
            if call != Call::SyncDir || syncs.next() > 1 {
                return Fate::Done;
            }
            let fs = Faulty::new(sim.clone(), move |call: Call, _: &_| match call {
                Call::SyncDir => other_syncs,
                _ => Fate::Done,
            });
            // The thread of a flusher cannot wait for a flush.
            let flush = thread::spawn(move || {
                let other = opened(fs, "/cache");
                let winners = other.put(batch(0..5, LEN)).len();
                (winners, other.flush().is_ok())
            });
            let (winners, is_ok) = flush.join().expect("it does not panic");
            assert_eq!(winners, 5, "they were skipped");
            flushed.store(is_ok, Ordering::SeqCst);
            then(&sim)
        }
    };
    let store = opened(Faulty::new(sim.clone(), decide), "/cache");
    store.put(batch(0..5, LEN));
    let _ = store.flush();
    assert!(syncs.get() > 0, "the directory was synced");
    (flushed.load(Ordering::SeqCst), sim)
}

#[test]
fn rows_flushed_over_an_unsynced_segment_survive_a_cut() {
    let seeds = cases(30, 2000);
    for seed in 0..seeds.into() {
        let (is_flushed, sim) = skipped_over_unsynced(Fate::Done, move |sim| {
            sim.cut_power(&mut Rng::with_seed(seed));
            Fate::Fails(Errno::IO)
        });
        assert!(is_flushed, "seed {seed}");
        expect_all(&opened(sim, "/cache"), 0..5, LEN);
    }
    seen(
        "power cut after rows were skipped over a segment that is not synced",
        seeds.into(),
    );
}

/// Another process flushes over a segment whose sync failed, before the `flush_at`th call of its writer after that.
/// From the `end_at`th one on, the writer does nothing more. Returns whether it makes that many calls.
fn skipped_after_a_failed_sync(errno: Errno, flush_at: u64, end_at: u64) -> bool {
    let (sim, is_failed) = (Sim::new(), Arc::new(AtomicBool::new(false)));
    let (calls, is_flushed) = (
        Arc::new(Counter::default()),
        Arc::new(AtomicBool::new(false)),
    );
    let decide = {
        let (sim, calls, is_flushed) = (sim.clone(), calls.clone(), is_flushed.clone());
        move |call: Call, _: &_| {
            if call == Call::SyncDir {
                is_failed.store(true, Ordering::SeqCst);
                return Fate::Fails(errno);
            }
            if !is_failed.load(Ordering::SeqCst) {
                return Fate::Done;
            }
            let number = calls.next();
            if number == flush_at {
                let sim = sim.clone();
                // The thread of a flusher cannot wait for a flush.
                let flush = thread::spawn(move || {
                    let other = opened(sim, "/cache");
                    assert_eq!(other.put(batch(0..5, LEN)).len(), 5, "they are skipped");
                    other.flush()
                });
                let flushed = flush.join().expect("it does not panic");
                assert_eq!(flushed, Ok(()), "its sync succeeds");
                is_flushed.store(true, Ordering::SeqCst);
            }
            match number >= end_at {
                true => Fate::Fails(Errno::IO),
                false => Fate::Done,
            }
        }
    };
    let store = opened(Faulty::new(sim.clone(), decide), "/cache");
    store.put(batch(0..5, LEN));
    store.flush().expect_err("its sync failed");
    drop(store);
    if is_flushed.load(Ordering::SeqCst) {
        sim.cut_power(&mut Rng::with_seed(flush_at * 100 + end_at));
        expect_all(&opened(sim, "/cache"), 0..5, LEN);
    }
    calls.get() >= end_at
}

/// Also if the process whose sync failed is killed at any moment after that.
#[test]
fn a_segment_whose_sync_failed_stays_for_others() {
    let mut caused = 0;
    for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT] {
        for flush_at in 1..4 {
            caused += series(
                format_args!("{errno}, flushed at call {flush_at}"),
                |end_at| skipped_after_a_failed_sync(errno, flush_at, end_at),
            );
        }
    }
    seen("rows are skipped over a segment whose sync failed", caused);
}

/// The process whose sync failed reports that, and finds its rows when they are put again.
#[test]
fn rows_whose_sync_failed_are_synced_by_the_next_flush() {
    let (sim, syncs) = (Sim::new(), Arc::new(Counter::default()));
    let decide = {
        let syncs = syncs.clone();
        move |call: Call, _: &_| match call == Call::SyncDir && syncs.next() <= 2 {
            true => Fate::Fails(Errno::IO),
            false => Fate::Done,
        }
    };
    let store = opened(Faulty::new(sim.clone(), decide), "/cache");
    for times in 1..3 {
        store.put(batch(0..5, LEN));
        let flushed = store.flush();
        assert!(
            matches!(flushed, Err(FlushError::Lost { rows: 5, .. })),
            "{flushed:?}"
        );
        assert_eq!((store.stats().segments, syncs.get()), (1, times));
    }
    put_flushed(&store, 0..5, LEN);
    assert_eq!((store.stats().segments, store.stats().stored_rows), (1, 0));
    sim.cut_power(&mut Rng::with_seed(1));
    drop(store);
    expect_all(&opened(sim, "/cache"), 0..5, LEN);
}

/// Whether its writer is through or not, and with and without locks.
#[test]
fn a_flush_over_a_segment_of_others_needs_nothing_of_them() {
    for (locks, errno) in [
        (Locks::Shared, Errno::PERM),
        (Locks::None, Errno::PERM),
        (Locks::Shared, Errno::NOTSUP),
    ] {
        let sim = Sim::new();
        sim.set_locks(locks);
        put_flushed(&opened(sim.clone(), "/from"), 0..5, LEN);
        let bytes = sim.bytes(&sim.files(Path::new("/from"))[0]);
        let name = format!("{:016x}-1-1.tcs", nanoseconds());
        let dir = sim.open_dir(Path::new("/cache"), true);
        let dir = dir.expect("it can be made");
        sim.add(&Path::new("/cache").join(&name), bytes);
        let publisher = dir.open(name.as_ref()).expect("it is there");
        let _ = publisher.try_lock();
        let decide = move |call: Call, _: &_| match call {
            Call::SetModified => Fate::Fails(errno),
            _ => Fate::Done,
        };
        let store = opened(Faulty::new(sim.clone(), decide), "/cache");
        assert_eq!(store.put(batch(0..5, LEN)).len(), 5, "they were skipped");
        assert_eq!(store.flush(), Ok(()), "{locks:?}, {errno}");
        sim.cut_power(&mut Rng::with_seed(1));
        expect_all(&opened(sim, "/cache"), 0..5, LEN);
    }
}

/// It is not known whether the segments of skipped rows exist.
#[test]
fn a_flush_that_cannot_see_skipped_rows_reports_them() {
    for errno in [Errno::IO, Errno::STALE, Errno::ACCESS] {
        for since_put in [true, false] {
            let sim = Sim::new();
            let other = opened(sim.clone(), "/cache");
            // Each in a segment of its own.
            (0..3).for_each(|n| put_flushed(&other, n..n + 1, LEN));
            let segment = sim.files(Path::new("/cache")).remove(1);
            let fails = Arc::new(AtomicBool::new(false));
            let decide = {
                let fails = fails.clone();
                move |call: Call, name: &OsStr| {
                    let is_segment = segment.file_name() == Some(name);
                    match call == Call::Stat && is_segment && fails.load(Ordering::SeqCst) {
                        true => Fate::Fails(errno),
                        false => Fate::Done,
                    }
                }
            };
            let store = opened(Faulty::new(sim.clone(), decide), "/cache");
            fails.store(since_put, Ordering::SeqCst);
            assert_eq!(store.put(batch(0..3, LEN)).len(), 3, "they were skipped");
            fails.store(true, Ordering::SeqCst);
            let flushed = store.flush();
            assert!(
                matches!(flushed, Err(FlushError::Lost { rows: 1, .. })),
                "{errno}: {flushed:?}"
            );
            assert_eq!(store.lost_rows(), 1, "the others are seen");
            fails.store(false, Ordering::SeqCst);
            put_flushed(&store, 0..3, LEN);
            expect_all(&store, 0..3, LEN);
        }
    }
}

/// What a process may do with the rows of another one.
const REMOVALS: [fn(&Sim, &Store); 5] = [
    |_, other| other.clear(),
    |_, other| {
        other.reconfigure(manual_flush().with_max_bytes(0));
        other.flush().expect("nothing is queued");
    },
    |sim, _| {
        let dir = sim.open_dir(Path::new("/cache"), false);
        let dir = dir.expect("it is there");
        for file in sim.files(Path::new("/cache")) {
            let name = file.file_name().expect("it has one");
            dir.remove(name).expect("it is there");
        }
    },
    |sim, other| {
        other.clear();
        sim.remove_dir(Path::new("/cache")).expect("it is empty");
    },
    // The rows are in another segment then, which is removed.
    |_, other| {
        (10..17).for_each(|n| put_flushed(other, n..n + 1, 5 * LEN));
        assert_eq!(other.stats().compacted_segments, 8);
        other.clear();
    },
];

#[test]
fn rows_removed_on_purpose_before_the_flush_are_not_lost() {
    for (number, remove) in REMOVALS.iter().enumerate() {
        let sim = Sim::new();
        let other = opened(sim.clone(), "/cache");
        put_flushed(&other, 0..5, LEN);
        let store = opened(sim.clone(), "/cache");
        assert_eq!(store.put(batch(0..5, LEN)).len(), 5, "they are skipped");
        remove(&sim, &other);
        assert_eq!(store.flush(), Ok(()), "removal {number}");
        assert_eq!(store.lost_rows(), 0, "removal {number}");
        // They are not skipped a second time.
        put_flushed(&store, 0..5, LEN);
        expect_all(&opened(sim, "/cache"), 0..5, LEN);
    }
}

/// The directory is cleared, removed or replaced before the `nth` call of the flush.
#[test]
fn rows_removed_during_the_flush_are_not_lost() {
    let replace: fn(&Sim, &Store) = |sim, other| {
        other.clear();
        sim.remove_dir(Path::new("/cache")).expect("it is empty");
        sim.add_unsynced_dir(Path::new("/cache"));
    };
    let mut caused = 0;
    for (number, remove) in REMOVALS.into_iter().chain([replace]).enumerate() {
        caused += series(format_args!("removal {number}"), |nth| {
            let (sim, is_on) = (Sim::new(), Arc::new(AtomicBool::new(false)));
            let other = opened(sim.clone(), "/cache");
            put_flushed(&other, 0..5, LEN);
            let calls = Arc::new(Counter::default());
            let decide = {
                let (sim, is_on, calls) = (sim.clone(), is_on.clone(), calls.clone());
                move |_: Call, _: &_| {
                    if is_on.load(Ordering::SeqCst) && calls.next() == nth {
                        let (sim, other) = (sim.clone(), other.clone());
                        // The thread of a flusher cannot wait for a flush.
                        let removal = thread::spawn(move || remove(&sim, &other));
                        removal.join().expect("it does not panic");
                    }
                    Fate::Done
                }
            };
            let store = opened(Faulty::new(sim.clone(), decide), "/cache");
            assert_eq!(store.put(batch(0..5, LEN)).len(), 5, "they are skipped");
            is_on.store(true, Ordering::SeqCst);
            assert_eq!(store.flush(), Ok(()), "removal {number}, call {nth}");
            is_on.store(false, Ordering::SeqCst);
            put_flushed(&store, 0..5, LEN);
            expect_all(&opened(sim, "/cache"), 0..5, LEN);
            calls.get() >= nth
        });
    }
    seen("rows are removed while they are confirmed", caused);
}

/// Another process replaces the segment of rows by one that is not synced, after the flush synced the directory. It
/// was not seen when they were put.
#[test]
fn rows_written_again_before_the_flush_are_synced() {
    for seed in 0..20 {
        let sim = Sim::new();
        put_flushed(&opened(sim.clone(), "/cache"), 0..5, LEN);
        let looks = Arc::new(Counter::default());
        let is_on = Arc::new(AtomicBool::new(false));
        let decide = {
            let (sim, is_on, looks) = (sim.clone(), is_on.clone(), looks.clone());
            move |call: Call, _: &_| {
                if call != Call::Stat {
                    return Fate::Done;
                }
                if !is_on.load(Ordering::SeqCst) {
                    return Fate::Fails(Errno::IO);
                }
                if looks.next() == 1 {
                    let old = sim.files(Path::new("/cache")).remove(0);
                    let bytes = sim.bytes(&old);
                    let dir = sim.open_dir(Path::new("/cache"), false);
                    let dir = dir.expect("it is there");
                    let file = dir.create("again.tcs".as_ref());
                    let mut file = file.expect("it is new");
                    file.write_all(&bytes).expect("there is room");
                    file.sync().expect("it can be synced");
                    let removed = dir.remove(old.file_name().expect("it has one"));
                    removed.expect("it is there");
                }
                Fate::Done
            }
        };
        let store = opened(Faulty::new(sim.clone(), decide), "/cache");
        assert_eq!(store.put(batch(0..5, LEN)).len(), 5, "they are skipped");
        is_on.store(true, Ordering::SeqCst);
        store.flush().expect("they are on disk");
        assert!(looks.get() > 0, "the flush looks for the segment");
        sim.cut_power(&mut Rng::with_seed(seed));
        drop(store);
        expect_all(&opened(sim, "/cache"), 0..5, LEN);
    }
}

#[test]
fn rows_that_are_gone_when_they_are_put_are_written() {
    for (number, remove) in REMOVALS.iter().enumerate() {
        for is_own in [false, true] {
            let sim = Sim::new();
            let [other, store] = [(); 2].map(|()| opened(sim.clone(), "/cache"));
            put_flushed(if is_own { &store } else { &other }, 0..5, LEN);
            [&other, &store].into_iter().for_each(Store::refresh);
            remove(&sim, &other);
            put_flushed(&store, 0..5, LEN);
            let reopened = opened(sim, "/cache");
            assert_eq!(
                count_right(&reopened, 0..5, LEN),
                5,
                "removal {number}, own rows: {is_own}"
            );
        }
    }
}

#[test]
fn the_name_of_a_directory_is_synced_once() {
    let sim = Sim::new();
    let (fs, syncs) = Faulty::counting(sim.clone(), Call::SyncParents);
    let store = opened(fs, "/cache");
    for n in 0..3 {
        put_flushed(&store, n..n + 1, LEN);
        put_flushed(&store, 0..n, LEN);
        assert_eq!(syncs.get(), 1, "flush {n}");
    }
    // One that another process makes after it was removed is another.
    store.clear();
    sim.remove_dir(Path::new("/cache")).expect("it is empty");
    sim.add_unsynced_dir(Path::new("/cache"));
    put_flushed(&store, 0..3, LEN);
    assert_eq!(syncs.get(), 2);
    // Skipped rows need it as well.
    let (fs, syncs) = Faulty::counting(sim, Call::SyncParents);
    put_flushed(&opened(fs, "/cache"), 0..3, LEN);
    assert_eq!(syncs.get(), 1);
}

/// Another process moves the directory away, or removes it, and makes it again before the `nth` call of a kind.
fn replaced_at(call: Call, nth: u64, replace: fn(&Path)) -> bool {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("cache");
    let (is_on, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Counter::default()),
    );
    let had_rows = Arc::new(AtomicBool::new(false));
    let decide = {
        let (dir, is_on, calls) = (dir.clone(), is_on.clone(), calls.clone());
        let had_rows = had_rows.clone();
        move |this: Call, _: &_| {
            if this == call && is_on.load(Ordering::SeqCst) && calls.next() == nth {
                let entries = fs::read_dir(&dir).expect("it is there").flatten();
                let mut names = entries.map(|entry| entry.file_name());
                let is_segment =
                    |name: std::ffi::OsString| !name.as_encoded_bytes().starts_with(b".");
                had_rows.store(names.any(is_segment), Ordering::SeqCst);
                replace(&dir);
            }
            Fate::Done
        }
    };
    let store = opened(Faulty::new(Os, decide), &dir);
    is_on.store(true, Ordering::SeqCst);
    store.put(batch(0..3, LEN));
    let flushed = store.flush();
    is_on.store(false, Ordering::SeqCst);
    // What had its name by then was moved or removed after it was written.
    if flushed.is_ok() && !had_rows.load(Ordering::SeqCst) {
        expect_all(&opened(Os, &dir), 0..3, LEN);
    }
    put_flushed(&store, 0..3, LEN);
    for store in [store, opened(Os, &dir)] {
        expect_all(&store, 0..3, LEN);
    }
    calls.get() >= nth
}

#[test]
fn rows_flushed_to_a_replaced_directory_are_reported() {
    let moved = |dir: &Path| {
        fs::rename(dir, dir.with_file_name("away")).expect("it is there");
        fs::create_dir(dir).expect("it can be made");
    };
    let removed = |dir: &Path| {
        fs::remove_dir_all(dir).expect("it is there");
        fs::create_dir(dir).expect("it can be made");
    };
    let mut caused = 0;
    for replace in [moved as fn(&Path), removed] {
        for call in [
            Call::OpenDir,
            Call::Create,
            Call::Lock,
            Call::Write,
            Call::Sync,
            Call::Rename,
            Call::SyncDir,
            Call::LookDir,
        ] {
            caused += series(format_args!("{call:?}"), |nth| {
                replaced_at(call, nth, replace)
            });
        }
    }
    seen("the directory is replaced before a call of a write", caused);
}

#[test]
fn a_flush_fails_until_the_name_of_the_directory_is_synced() {
    let sim = Sim::new();
    put_flushed(&opened(sim.clone(), "/cache"), 0..3, LEN);
    let fails = Arc::new(AtomicBool::new(true));
    let decide = {
        let fails = fails.clone();
        move |call: Call, _: &_| match call == Call::SyncParents && fails.load(Ordering::SeqCst) {
            true => Fate::Fails(Errno::IO),
            false => Fate::Done,
        }
    };
    let store = opened(Faulty::new(sim.clone(), decide), "/cache");
    // Those that are there already, and new ones.
    for rows in [0..3, 3..6] {
        store.put(batch(rows, LEN));
        let flushed = store.flush();
        assert!(
            matches!(flushed, Err(FlushError::Lost { rows: 3, .. })),
            "{flushed:?}"
        );
    }
    fails.store(false, Ordering::SeqCst);
    put_flushed(&store, 0..6, LEN);
    expect_all(&opened(sim, "/cache"), 0..6, LEN);
}

#[test]
fn rows_that_were_compacted_before_the_flush_are_not_lost() {
    let sim = Sim::new();
    let other = opened(sim.clone(), "/cache");
    (0..7).for_each(|n| put_flushed(&other, n..n + 1, LEN));
    let store = opened(sim.clone(), "/cache");
    assert_eq!(store.put(batch(0..7, LEN)).len(), 7, "they are skipped");
    put_flushed(&other, 7..8, LEN);
    assert_eq!(other.stats().compacted_segments, 8);
    store.flush().expect("they are in another segment");
    expect_all(&store, 0..8, LEN);
}

#[test]
fn a_flush_that_cannot_sync_skipped_rows_reports_them() {
    let (is_flushed, _) = skipped_over_unsynced(Fate::Fails(Errno::IO), |_| Fate::Done);
    assert!(!is_flushed, "their name may be lost");
}

#[test]
fn segments_of_others_are_synced_once() {
    let sim = Sim::new();
    let other = opened(sim.clone(), "/cache");
    for n in 0..3 {
        put_flushed(&other, n..n + 1, LEN);
    }
    let (fs, syncs) = Faulty::counting(sim, Call::SyncDir);
    let store = opened(fs, "/cache");
    for times in 1..4 {
        put_flushed(&store, 0..3, LEN);
        assert_eq!(syncs.get(), 1, "flush {times}");
    }
    put_flushed(&store, 3..4, LEN);
    put_flushed(&store, 3..4, LEN);
    assert_eq!(
        syncs.get(),
        2,
        "its own segment is synced as it is published"
    );
}

#[test]
fn many_skipped_rows_are_confirmed_without_a_flush() {
    const ROWS: u64 = 40_000;
    let sim = Sim::new();
    let other = opened(sim.clone(), "/cache");
    put_flushed(&other, 0..ROWS, 1);
    let (fs, syncs) = Faulty::counting(sim, Call::SyncDir);
    let store = opened(fs, "/cache");
    store.put(batch(0..ROWS, 1));
    assert_eq!(syncs.get(), 0, "a flush would");
    store.put(batch(0..ROWS, 1));
    let is_synced = eventually(Duration::from_secs(20), || syncs.get() == 1);
    assert!(is_synced, "{} syncs", syncs.get());
}

/// While a put looks at the disk, other rows are written, and one of its own.
#[test]
fn a_put_among_many_batches_looks_at_the_disk_once() {
    static STORE: OnceLock<Store> = OnceLock::new();
    let looks = Arc::new(Counter::default());
    let decide = {
        let looks = looks.clone();
        move |call: Call, _: &_| {
            let is_put = thread::current().name() == Some("puts");
            if call == Call::Stat && is_put && looks.next() < 10 {
                let row = 10 + looks.get();
                let store = STORE.get().expect("it is open").clone();
                let writes = thread::spawn(move || put_flushed(&store, row..row + 1, LEN));
                writes.join().expect("it does not panic");
            }
            Fate::Done
        }
    };
    let store = STORE.get_or_init(|| opened(Faulty::new(Sim::new(), decide), "/cache"));
    put_flushed(store, 0..5, LEN);
    let puts = thread::Builder::new().name("puts".to_owned());
    let puts = puts.spawn(|| STORE.get().expect("it is open").put(batch(0..12, LEN)));
    let skipped = puts.expect("it starts").join().expect("it does not panic");
    let skipped: Vec<usize> = skipped.iter().map(|(row, _)| *row).collect();
    assert_eq!(skipped, [0, 1, 2, 3, 4, 11], "those on disk");
    assert_eq!(looks.get(), 1);
    store.flush().expect("they are written");
    assert_eq!(store.stats().stored_rows, 12);
    expect_all(store, 0..12, LEN);
}

/// A store of a directory that holds about 64 KB, in segments of about 4 KB.
fn small(fs: impl FileSystem + 'static, eviction: Eviction) -> Store {
    let config = manual_flush()
        .with_max_bytes(64 << 10)
        .with_segment_bytes(4 << 10)
        .with_eviction(eviction);
    Store::open_on(Arc::new(fs), "/cache", config).expect("it opens")
}

#[test]
fn making_room_lists_the_directory_once_per_batch() {
    for eviction in [Eviction::LeastRecentlyRead, Eviction::Never] {
        let (fs, lists) = Faulty::counting(Sim::new(), Call::List);
        let store = small(fs, eviction);
        for n in 0..4 {
            let before = lists.get();
            put_flushed(&store, 300 * n..300 * (n + 1), LEN);
            assert_eq!(lists.get() - before, 1, "batch {n}, {eviction:?}");
        }
        let stats = store.stats();
        assert!(stats.segments > 8 && stats.bytes <= 64 << 10, "{stats:?}");
        assert!(stats.evicted_rows + stats.refused_rows > 500, "{stats:?}");
    }
}

/// A store on a directory with about room for its rows, and for half a row more.
fn nearly_full(fs: impl FileSystem + 'static, one: u64, eviction: Eviction) -> Store {
    let config = nearly_full_config(one, eviction);
    Store::open_on(Arc::new(fs), "/cache", config).expect("it opens")
}

fn nearly_full_config(one: u64, eviction: Eviction) -> Config {
    manual_flush()
        .with_max_bytes(9 * one + one / 2)
        .with_eviction(eviction)
}

/// For a moment, the rows are in the result of a compaction and in its sources.
#[test]
fn rows_that_another_process_compacts_count_once() {
    let mut caused = 0;
    let one = bytes_of_one();
    for eviction in [Eviction::LeastRecentlyRead, Eviction::Never] {
        caused += series(format_args!("{eviction:?}"), |nth| {
            let sim = Sim::new();
            let is_reached = during_a_compaction(&sim, "/cache", manual_flush(), nth, |_| {
                let store = nearly_full(sim.clone(), one, eviction);
                put_flushed(&store, 100..101, LEN);
                let stats = store.stats();
                assert_eq!(
                    (stats.evicted_rows, stats.refused_rows),
                    (0, 0),
                    "{stats:?}"
                );
                expect_all(&store, 100..101, LEN);
            });
            expect_all(&opened(sim, "/cache"), 0..8, LEN);
            is_reached
        });
    }
    seen("a bound is enforced while another process compacts", caused);
}

#[test]
fn a_segment_counts_once_it_is_unlocked() {
    for eviction in [Eviction::LeastRecentlyRead, Eviction::Never] {
        let sim = Sim::new();
        let other = opened(sim.clone(), "/cache");
        put_flushed(&other, 0..1, LEN);
        let one = sim.bytes(&sim.files(Path::new("/cache"))[0]).len() as u64;
        put_flushed(&other, 10..20, LEN);
        let dir = sim.open_dir(Path::new("/cache"), false);
        let segment = sim.files(Path::new("/cache")).pop().expect("two segments");
        let segment = dir
            .expect("it is there")
            .open(segment.file_name().expect("a name"));
        let segment = segment.expect("it is there");
        assert!(segment.try_lock().expect("it has locks"));
        let store = nearly_full(sim.clone(), one, eviction);
        let not_kept = || store.stats().evicted_rows + store.stats().refused_rows;
        // With it, they would be above the limit.
        (100..104).for_each(|n| put_flushed(&store, n..n + 1, LEN));
        assert_eq!(not_kept(), 0, "{eviction:?}");
        drop(segment);
        put_flushed(&store, 104..105, LEN);
        assert!(not_kept() > 0, "{eviction:?}");
    }
}

/// As far as one process knows, the result of a compaction was read long ago, and the sources just now.
#[test]
fn a_result_whose_sources_are_there_is_not_evicted() {
    let one = bytes_of_one();
    series(format_args!("evicted"), |nth| {
        let sim = Sim::new();
        let is_reached = during_a_compaction(&sim, "/cache", manual_flush(), nth, |_| {
            let store = nearly_full(sim.clone(), one, Eviction::LeastRecentlyRead);
            expect_all(&store, 0..8, LEN);
            put_flushed(&store, 100..102, LEN);
            assert!(store.stats().evicted_rows <= 2, "{:?}", store.stats());
        });
        let kept = count_right(&opened(sim, "/cache"), 0..8, LEN);
        assert!(kept >= 6, "{kept} of 8 rows are left");
        is_reached
    });
}

/// The result counts for no process until its sources are gone, which others evict.
#[test]
fn a_result_whose_sources_are_evicted_is_within_the_bound() {
    let (one, mut caused) = (bytes_of_one(), 0);
    series(format_args!("evicted"), |nth| {
        let (sim, config) = (
            Sim::new(),
            nearly_full_config(one, Eviction::LeastRecentlyRead),
        );
        let limit = config.max_bytes;
        let is_reached = during_a_compaction(&sim, "/cache", config, nth, |_| {
            let store = nearly_full(sim.clone(), one, Eviction::LeastRecentlyRead);
            put_flushed(&store, 100..108, LEN);
            caused += u64::from(store.stats().evicted_rows > 0);
        });
        let files = sim.files(Path::new("/cache"));
        let bytes: usize = files.iter().map(|file| sim.bytes(file).len()).sum();
        assert!(bytes as u64 <= limit, "{bytes} bytes are left of {limit}");
        is_reached
    });
    seen("the sources of a compaction are evicted", caused);
}

/// For a process that knows the sources only, or the result too, before the `nth` of its calls.
#[test]
fn rows_fit_while_another_process_ends_a_compaction() {
    let one = bytes_of_one();
    let caused = series(format_args!("ended"), |nth| {
        let (sim, mut is_reached) = (Sim::new(), false);
        during_a_compaction(&sim, "/cache", manual_flush(), 3, |paused| {
            let (fs, calls) = paused.finish_before(&sim, nth);
            let store = nearly_full(fs, one, Eviction::Never);
            put_flushed(&store, 100..101, LEN);
            assert_eq!(store.stats().refused_rows, 0);
            is_reached = calls.get() >= nth;
        });
        is_reached
    });
    seen("a compaction ends while room is looked for", caused);
}

/// The same for the room of a root.
#[test]
fn rows_fit_in_a_root_while_another_process_ends_a_compaction() {
    let one = bytes_of_one();
    let caused = series(format_args!("ended"), |nth| {
        let (sim, mut is_reached) = (Sim::new(), false);
        let root = sim.open_dir(Path::new("/root"), true);
        drop(root.expect("it can be made"));
        during_a_compaction(&sim, "/root/a", manual_flush(), 3, |paused| {
            let (fs, calls) = paused.finish_before(&sim, nth);
            let config = manual_flush()
                .with_max_root_bytes(Some(9 * one + one / 2))
                .with_eviction(Eviction::Never);
            let store = Store::open_on(Arc::new(fs), "/root/b", config).expect("it opens");
            put_flushed(&store, 100..101, LEN);
            assert_eq!(store.stats().refused_rows, 0);
            is_reached = calls.get() >= nth;
        });
        is_reached
    });
    seen("a compaction ends while a root is listed", caused);
}

/// The same for the bound of a root, in a cache that the other process has not opened, and, where rows are evicted,
/// however long it stalls.
#[test]
fn rows_that_another_process_compacts_count_once_in_a_root() {
    let mut caused = 0;
    let one = bytes_of_one();
    for (eviction, age) in [
        (Eviction::LeastRecentlyRead, Duration::ZERO),
        (Eviction::LeastRecentlyRead, Duration::from_secs(3600)),
        (Eviction::Never, Duration::ZERO),
    ] {
        caused += series(format_args!("{eviction:?}, {age:?} later"), |nth| {
            let sim = Sim::new();
            sim.open_dir(Path::new("/root"), true)
                .expect("it can be made");
            put_flushed(&opened(sim.clone(), "/root/oldest"), 200..201, LEN);
            let is_reached = during_a_compaction(&sim, "/root/a", manual_flush(), nth, |_| {
                let config = manual_flush()
                    .with_max_root_bytes(Some(10 * one + one / 2))
                    .with_eviction(eviction);
                let store = Store::open_on(Arc::new(sim.clone()), "/root/b", config);
                let store = store.expect("it opens");
                sim.age_dir(Path::new("/root/a"), age);
                put_flushed(&store, 100..101, LEN);
                assert_eq!(store.stats().refused_rows, 0);
                expect_all(&store, 100..101, LEN);
            });
            expect_all(&opened(sim.clone(), "/root/oldest"), 200..201, LEN);
            expect_all(&opened(sim, "/root/a"), 0..8, LEN);
            is_reached
        });
    }
    seen(
        "a bound of a root is enforced while another process compacts",
        caused,
    );
}

/// A directory that holds what it may, and keeps it, is opened while another process compacts it, also if that takes
/// long. Without locks, it is opened when the directory has come to rest, also where its times are coarse.
#[test]
fn opening_during_a_compaction_evicts_no_kept_row() {
    let one = bytes_of_one();
    let open = |sim: &Sim| {
        let store = nearly_full(sim.clone(), one, Eviction::Never);
        store.flush().expect("nothing is queued");
        assert_eq!(store.stats().evicted_rows, 0);
    };
    series(format_args!("with locks"), |nth| {
        let sim = Sim::new();
        let is_reached = during_a_compaction(&sim, "/cache", manual_flush(), nth, |_| {
            thread::sleep(Duration::from_millis(if nth == 1 { 600 } else { 0 }));
            open(&sim);
        });
        expect_all(&opened(sim, "/cache"), 0..8, LEN);
        is_reached
    });
    for whole_seconds in [false, true] {
        let sim = Sim::new();
        sim.set_locks(Locks::None);
        if whole_seconds {
            sim.set_whole_seconds();
            wait_within_whole_seconds();
        }
        thread::scope(|scope| {
            let opener = Mutex::new(None);
            during_a_compaction(&sim, "/cache", manual_flush(), 1, |_| {
                let sim = sim.clone();
                *opener.lock().expect("it is not poisoned") = Some(scope.spawn(move || open(&sim)));
                thread::sleep(Duration::from_millis(200));
            });
            let opener = opener.into_inner().expect("it is not poisoned");
            let opened = opener.expect("it was opened meanwhile").join();
            opened.expect("it does not panic");
        });
        expect_all(&opened(sim, "/cache"), 0..8, LEN);
    }
}

/// A root of a hundred caches: with a bound, it is listed once a sixteenth of it was written.
#[test]
fn a_bounded_root_is_not_listed_at_each_write() {
    let sim = Sim::new();
    sim.open_dir(Path::new("/root"), true)
        .expect("it can be made");
    for n in 0..100 {
        let store = opened(sim.clone(), format!("/root/{n}"));
        put_flushed(&store, 0..1, LEN);
    }
    let lists = Arc::new(Counter::default());
    let decide = {
        let lists = lists.clone();
        move |call: Call, name: &OsStr| {
            if call == Call::OpenDir && name == "root" {
                lists.next();
            }
            Fate::Done
        }
    };
    // A hundred rows of about 200 bytes are there, and room for about 400.
    let config = manual_flush().with_max_root_bytes(Some(100_000));
    let fs = Arc::new(Faulty::new(sim.clone(), decide));
    let store = Store::open_on(fs, "/root/own", config).expect("it opens");
    assert_eq!(lists.get(), 0, "opening takes the same time in any root");
    for n in 0..1000 {
        put_flushed(&store, n..n + 1, LEN);
    }
    let times = lists.get();
    assert!((2..60).contains(&times), "listed {times} times");
    assert!(store.stats().evicted_rows > 0);
}

#[test]
fn a_full_root_is_listed_once_a_write_without_eviction() {
    let sim = Sim::new();
    sim.open_dir(Path::new("/root"), true)
        .expect("it can be made");
    let other = opened(sim.clone(), "/root/other");
    put_flushed(&other, 0..100, LEN);
    let lists = Arc::new(Counter::default());
    let decide = {
        let lists = lists.clone();
        move |call: Call, name: &OsStr| {
            if call == Call::OpenDir && name == "root" {
                lists.next();
            }
            Fate::Done
        }
    };
    let config = manual_flush()
        .with_max_root_bytes(Some(1000))
        .with_eviction(Eviction::Never);
    let fs = Arc::new(Faulty::new(sim, decide));
    let store = Store::open_on(fs, "/root/own", config).expect("it opens");
    for n in 0..5 {
        put_flushed(&store, n..n + 1, LEN);
        assert_eq!(lists.get(), n + 1);
    }
    let stats = store.stats();
    assert_eq!((stats.refused_rows, stats.faults.total()), (5, 0));
    expect_all(&other, 0..100, LEN);
}

/// All segments have some rows in common, and one of their own each.
#[test]
fn evicting_rows_that_all_segments_have_reads_few_footers() {
    const SEGMENTS: u64 = 40;
    // Long enough that no segment is compacted.
    const LEN: usize = 1000;
    for shared in [1, 20] {
        let sim = Sim::new();
        let mut lengths = 0;
        for n in 0..SEGMENTS {
            let from = format!("/from{n}");
            let store = opened(sim.clone(), &from);
            store.put(batch(0..shared, LEN));
            store.put(batch(100 + n..101 + n, LEN));
            store.flush().expect("it is written");
            let file = sim.files(Path::new(&from)).remove(0);
            let bytes = sim.bytes(&file);
            lengths += bytes.len() as u64;
            sim.add(&Path::new("/cache").join(format!("{n:03}.tcs")), bytes);
        }
        let (fs, opens) = Faulty::counting(sim, Call::Open);
        let config = manual_flush().with_max_bytes(lengths + 100);
        let store = Store::open_on(Arc::new(fs), "/cache", config).expect("it opens");
        assert_eq!(store.stats().rows, shared + SEGMENTS);
        for n in 0..SEGMENTS - 1 {
            let (before, evicted) = (opens.get(), store.stats().evicted_rows);
            let (first, rows) = (1000 + 100 * n, shared + 1);
            put_flushed(&store, first..first + rows, LEN);
            assert!(store.stats().evicted_rows > evicted);
            let times = opens.get() - before;
            assert!(times <= 8, "{times} files are opened for one of {SEGMENTS}");
            assert_eq!(store.stats().compacted_segments, 0);
            expect_all(&store, 0..shared, LEN);
        }
    }
}

#[test]
fn what_another_process_evicted_is_not_evicted_again() {
    let sim = Sim::new();
    let [store, other] = [(); 2].map(|()| small(sim.clone(), Eviction::LeastRecentlyRead));
    put_flushed(&store, 0..400, LEN);
    put_flushed(&other, 1000..1400, LEN);
    assert!(other.stats().evicted_rows > 200, "{:?}", other.stats());
    put_flushed(&store, 2000..2010, LEN);
    let stats = store.stats();
    assert!(
        stats.bytes <= 64 << 10 && stats.evicted_rows < 100,
        "{stats:?}"
    );
    expect_all(&store, 2000..2010, LEN);
}
