//! Faults that are found on the thread of the caller.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{batch, count_right, expect_all, put_flushed};
use torchcache_faults::sim::Sim;
use torchcache_store::fs::FileSystem;
use torchcache_store::segment::VERSION;
use torchcache_store::{Fault, Store};

use crate::case::{Calls, Case, LEN, config, each, ends};

const ALL: &[Calls] = &[Calls::Here, Calls::Clearing, Calls::Elsewhere];

/// A file system on which calls of one kind fail once the switch is on.
pub(crate) fn failing(sim: &Sim, failing: Call, errno: Errno) -> (Faulty, Arc<AtomicBool>) {
    let is_on = Arc::new(AtomicBool::new(false));
    let switch = is_on.clone();
    let decide = move |call: Call, _: &OsStr| match call == failing && switch.load(Ordering::SeqCst)
    {
        true => Fate::Fails(errno),
        false => Fate::Done,
    };
    (Faulty::new(sim.clone(), decide), is_on)
}

pub(crate) fn open(fs: impl FileSystem + 'static, case: &Case) -> Store {
    let store = Store::open_on(Arc::new(fs), &case.dir, config()).expect("it opens");
    case.set_store(&store);
    store
}

/// Fills a directory with sound rows 0..4, and with segments of each kind that is skipped.
pub(crate) fn fill_with_bad_segments(dir: &Path) {
    let store = Store::open(dir, config()).expect("it opens");
    put_flushed(&store, 0..4, LEN);
    drop(store);
    let segment = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let sound = segment
        .filter(|path| path.extension().is_some_and(|end| end == "tcs"))
        .map(|path| fs::read(path).unwrap());
    let sound: Vec<u8> = sound.flatten().collect();
    let mut future = sound.clone();
    future[8] = VERSION as u8 + 1;
    for (name, bytes) in [
        ("0000000000000001-1-1.tcs", &[7; 100][..]),
        ("0000000000000004-1-4.tcs", &future),
        ("open.tcs", &sound),
        ("0000000000000002-1-2.tcs", &[7; 10]),
    ] {
        fs::write(dir.join(name), bytes).unwrap();
    }
    fs::set_permissions(dir.join("open.tcs"), Permissions::from_mode(0o666)).unwrap();
}

#[test]
fn opening_a_directory_with_bad_segments() {
    for calls in ALL {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fill_with_bad_segments(&path);
        ends(path, *calls, |case| {
            let store = Store::open(&case.dir, config()).expect("it opens");
            let faults = store.stats().faults;
            let kinds = [
                Fault::Corrupt,
                Fault::FutureVersion,
                Fault::PermissionRejected,
                Fault::Truncated,
            ];
            assert_eq!(kinds.map(|kind| faults.get(kind)), [1; 4]);
            assert_eq!(case.events.get(), 4, "one event for each kind");
            if case.calls != Calls::Clearing {
                expect_all(&store, 0..4, LEN);
            }
        });
    }
}

#[test]
fn threads_that_open_one_directory_with_bad_segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    fill_with_bad_segments(&path);
    ends(path, Calls::Here, |case| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let store = Store::open(&case.dir, config()).expect("it opens");
                    expect_all(&store, 0..4, LEN);
                });
            }
        });
    });
}

#[test]
fn listing_fails() {
    each("listing", ALL, |case| {
        let (fs, is_on) = failing(&Sim::new(), Call::List, Errno::IO);
        let store = open(fs, case);
        put_flushed(&store, 0..4, LEN);
        is_on.store(true, Ordering::SeqCst);
        store.refresh();
        assert!(store.stats().faults.get(Fault::Read) > 0);
    });
}

#[test]
fn removing_fails_in_clear() {
    each("clearing", ALL, |case| {
        let (fs, is_on) = failing(&Sim::new(), Call::Remove, Errno::IO);
        let store = open(fs, case);
        put_flushed(&store, 0..4, LEN);
        is_on.store(true, Ordering::SeqCst);
        store.clear();
        assert!(store.stats().faults.get(Fault::Write) > 0);
    });
}

#[test]
fn a_segment_has_vanished() {
    each("vanished", ALL, |case| {
        let sim = Sim::new();
        let store = open(sim.clone(), case);
        put_flushed(&store, 0..4, LEN);
        let other = Store::open_on(Arc::new(sim), &case.dir, config()).expect("it opens");
        other.clear();
        assert_eq!(count_right(&store, 0..4, LEN), 0);
        assert_eq!(store.stats().faults.get(Fault::Vanished), 4);
    });
}

#[test]
fn a_row_is_corrupt() {
    each("corrupt", ALL, |case| {
        let sim = Sim::new();
        let store = open(sim.clone(), case);
        put_flushed(&store, 0..4, LEN);
        for path in sim.files(&case.dir) {
            sim.damage(&path, |bytes| bytes[16 + 40] ^= 1);
        }
        assert_eq!(count_right(&store, 0..4, LEN), 3);
        assert_eq!(store.stats().faults.get(Fault::Corrupt), 1);
    });
}

/// The footer of a segment whose rows are shadowed is read when the other segment is gone.
#[test]
fn a_shadowed_segment_cannot_be_opened() {
    each("shadowed", ALL, |case| {
        let sim = Sim::new();
        let dir = &case.dir;
        let others = [(); 2]
            .map(|()| Store::open_on(Arc::new(sim.clone()), dir, config()).expect("it opens"));
        others.iter().for_each(|other| {
            other.put(batch(0..4, LEN));
        });
        others
            .iter()
            .for_each(|other| other.flush().expect("it is written"));
        drop(others);
        let (fs, is_on) = failing(&sim, Call::Open, Errno::IO);
        let store = open(fs, case);
        let mut files = sim.files(dir);
        files.sort();
        let first = files[0].file_name().expect("a name");
        let removed = sim.open_dir(dir, false).and_then(|dir| dir.remove(first));
        removed.expect("it is removed");
        is_on.store(true, Ordering::SeqCst);
        store.refresh();
        assert!(store.stats().faults.get(Fault::Read) > 0);
    });
}

#[test]
fn a_batch_exceeds_the_bound() {
    each("bound", ALL, |case| {
        let store = open(Sim::new(), case);
        store.reconfigure(config().with_max_bytes(2000));
        store.put(batch(0..100, LEN));
        assert!(store.stats().refused_rows > 0);
    });
}
