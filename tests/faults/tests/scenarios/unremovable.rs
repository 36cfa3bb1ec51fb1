//! Files that can be neither removed nor opened: those of another user in a directory with the sticky bit, or
//! that another user's umask closes.

use std::collections::HashSet;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::geteuid;
use torchcache_faults::cases::{Counter, case, seen};
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::process::{NOBODY, unprivileged};
use torchcache_faults::roles::shared_dir::{CORRUPT, LEN, OTHERS, Shared, files};
use torchcache_faults::rows::{count_right, expect_all, keys, manual_flush, opened, put_flushed};
use torchcache_faults::sim::Sim;
use torchcache_store::admin::{Keep, Root, prune};
use torchcache_store::fs::FileSystem;
use torchcache_store::{Config, Eviction, Store};

use crate::child;

/// A user that does not exist.
const OTHER_USER: u32 = 61_234;

/// The bound of the directory in bytes.
const LIMIT: u64 = 64 << 10;

/// Twenty segments of a row each, which another user wrote.
fn of_another_user() -> (Sim, HashSet<OsString>) {
    let sim = Sim::new();
    let other = Store::open_on(Arc::new(sim.clone()), "/cache", config()).expect("it opens");
    (0..20).for_each(|n| put_flushed(&other, n..n + 1, LEN));
    let files = sim.files(Path::new("/cache")).into_iter();
    let names: HashSet<_> = files
        .filter_map(|file| file.file_name().map(OsStr::to_owned))
        .collect();
    assert_eq!(names.len(), 20);
    (sim, names)
}

/// Segments of a row each are not compacted.
fn config() -> Config {
    manual_flush()
        .with_max_bytes(LIMIT)
        .with_segment_bytes(2 << 10)
}

/// A file system on which these calls fail on those files. Counts the failures.
fn closed(
    sim: &Sim,
    files: &HashSet<OsString>,
    calls: &'static [Call],
    errno: Errno,
) -> (Faulty, Arc<Counter>) {
    let (files, failed) = (files.clone(), Arc::new(Counter::default()));
    let decide = {
        let failed = failed.clone();
        move |call: Call, name: &OsStr| match calls.contains(&call) && files.contains(name) {
            true => {
                failed.next();
                Fate::Fails(errno)
            }
            false => Fate::Done,
        }
    };
    (Faulty::new(sim.clone(), decide), failed)
}

fn bytes(sim: &Sim) -> u64 {
    let files = sim.files(Path::new("/cache"));
    files.iter().map(|file| sim.bytes(file).len() as u64).sum()
}

#[test]
fn others_are_pruned_for_files_that_cannot_be_removed() {
    for errno in [Errno::PERM, Errno::ACCESS, Errno::BUSY] {
        let (sim, names) = of_another_user();
        let store = Store::open_on(Arc::new(sim.clone()), "/cache", config()).expect("it opens");
        (20..40).for_each(|n| put_flushed(&store, n..n + 1, LEN));
        let limit = bytes(&sim) / 2 + LEN as u64;
        sim.age_dir(Path::new("/cache"), Duration::from_secs(3600));
        let (fs, failed) = closed(&sim, &names, &[Call::Remove], errno);
        sim.open_dir(Path::new("/"), true).expect("it can be made");
        let root = Root::open_on(Arc::new(fs), Path::new("/")).expect("it opens");
        let report = prune(&root, Keep::MaxBytes(limit), false).expect("it can be listed");
        assert!(failed.get() > 0, "some cannot be removed");
        assert!(report.remaining_bytes <= limit, "{report:?}");
        assert_eq!(report.remaining_bytes, bytes(&sim));
        assert_eq!(report.failed.len(), 20, "each is reported once");
    }
}

#[test]
fn others_are_evicted_for_files_that_cannot_be_removed() {
    let mut caused = 0;
    for errno in [Errno::PERM, Errno::ACCESS, Errno::BUSY] {
        let (sim, others) = of_another_user();
        let (fs, failed) = closed(&sim, &others, &[Call::Remove], errno);
        let store = Store::open_on(Arc::new(fs), "/cache", config()).expect("it opens");
        for n in 0..100 {
            put_flushed(&store, 100 + n..101 + n, LEN);
            assert!(bytes(&sim) <= LIMIT, "{} bytes, {errno}", bytes(&sim));
        }
        expect_all(&store, 0..20, LEN);
        expect_all(&store, 199..200, LEN);
        let kept = count_right(&store, 100..200, LEN);
        let stats = store.stats();
        assert!(kept > 20, "{kept} rows fit");
        assert_eq!(stats.evicted_rows, 100 - kept, "{stats:?}");
        assert_eq!(stats.refused_rows, 0);
        assert!(
            stats.faults.total() <= 20,
            "each is counted once: {stats:?}"
        );
        caused += failed.get();
    }
    seen("files of the directory that cannot be removed", caused);
}

#[test]
fn an_unopened_segment_of_unknown_age_is_not_evicted() {
    let (sim, others) = of_another_user();
    let is_unknown = Arc::new(AtomicBool::new(false));
    let decide = {
        let (others, is_unknown) = (others.clone(), is_unknown.clone());
        move |call: Call, name: &OsStr| match call {
            Call::Open if others.contains(name) => Fate::Fails(Errno::ACCESS),
            Call::Stat if others.contains(name) && is_unknown.load(Ordering::SeqCst) => {
                Fate::Fails(Errno::IO)
            }
            _ => Fate::Done,
        }
    };
    let fs = Arc::new(Faulty::new(sim.clone(), decide));
    let store = Store::open_on(fs, "/cache", config()).expect("it opens");
    is_unknown.store(true, Ordering::SeqCst);
    put_flushed(&store, 100..200, LEN);
    assert!(store.stats().evicted_rows > 0, "{:?}", store.stats());
    expect_all(&opened(sim, "/cache"), 0..20, LEN);
}

#[test]
fn other_caches_are_evicted_for_files_that_cannot_be_removed() {
    for is_open in [false, true] {
        let sim = Sim::new();
        sim.open_dir("/root".as_ref(), true)
            .expect("it can be made");
        let caches = ["/root/first", "/root/own"];
        let first = Store::open_on(Arc::new(sim.clone()), caches[0], config()).expect("it opens");
        (0..20).for_each(|n| put_flushed(&first, n..n + 1, LEN));
        drop(first);
        let files = sim.files(Path::new(caches[0])).into_iter();
        let names = files.filter_map(|file| file.file_name().map(OsStr::to_owned));
        let (fs, failed) = closed(&sim, &names.collect(), &[Call::Remove], Errno::PERM);
        let fs = Arc::new(fs);
        let config = config().with_max_root_bytes(Some(LIMIT));
        let first = is_open.then(|| Store::open_on(fs.clone(), caches[0], config.clone()));
        let store = Store::open_on(fs, caches[1], config.clone()).expect("it opens");
        for n in 0..100 {
            put_flushed(&store, 100 + n..101 + n, LEN);
            let lengths = caches.iter().flat_map(|cache| sim.files(Path::new(cache)));
            let bytes: usize = lengths.map(|file| sim.bytes(&file).len()).sum();
            // A sixteenth may be written before the root is listed again.
            assert!(bytes as u64 <= LIMIT + LIMIT / 16, "{bytes} bytes");
        }
        assert!(failed.get() > 0, "their removal was tried");
        assert!(store.stats().evicted_rows > 0);
        expect_all(&store, 199..200, LEN);
        drop(first);
        expect_all(&opened(sim, caches[0]), 0..20, LEN);
    }
}

#[test]
fn segments_that_cannot_be_removed_are_compacted_once() {
    for errno in [Errno::PERM, Errno::IO] {
        let (sim, others) = of_another_user();
        let (fs, failed) = closed(&sim, &others, &[Call::Remove], errno);
        let store = opened(fs, "/cache");
        for n in 0..30 {
            put_flushed(&store, 100 + n..101 + n, LEN);
        }
        assert!(failed.get() > 0, "they were compacted");
        let compacted = store.stats().compacted_segments;
        assert!(compacted <= 20 + 30 + 10, "{compacted} were compacted");
        let reopened = opened(sim, "/cache");
        for store in [&store, &reopened] {
            expect_all(store, 0..20, LEN);
            expect_all(store, 100..130, LEN);
            assert_eq!(store.stats().rows, 50, "each is counted once");
        }
    }
}

#[test]
fn rows_of_a_file_that_stays_are_copied_once() {
    for errno in [Errno::PERM, Errno::BUSY, Errno::IO] {
        let sim = Sim::new();
        let other = opened(sim.clone(), "/cache");
        (0..3).for_each(|n| put_flushed(&other, 10 * n..10 * n + 10, LEN));
        let names = sim.files(Path::new("/cache"));
        let stays = names[1].file_name().expect("it has a name").to_owned();
        let is_closed = Arc::new(AtomicBool::new(true));
        let decide = {
            let (stays, is_closed) = (stays.clone(), is_closed.clone());
            move |call: Call, name: &OsStr| {
                let fails =
                    call == Call::Remove && name == stays && is_closed.load(Ordering::SeqCst);
                match fails {
                    true => Fate::Fails(errno),
                    false => Fate::Done,
                }
            }
        };
        let store = opened(Faulty::new(sim.clone(), decide), "/cache");
        let remove = |rows| {
            let removed = store.remove(&keys(rows));
            removed.map_err(|error| error.source().expect("the file").to_string())
        };
        let refused = |rows| {
            let error = remove(rows).expect_err("a file stays");
            let name = stays.to_string_lossy();
            assert!(
                error.contains(&*name) && error.contains("cannot be removed"),
                "{error}"
            );
        };
        refused(12..14);
        let copied = sim.files(Path::new("/cache"));
        assert_eq!(copied.len(), 4, "the other rows of the file are in another");
        refused(12..14);
        assert_eq!(sim.files(Path::new("/cache")), copied, "{errno}");
        let before = bytes(&sim);
        (14..18).for_each(|n| refused(n..n + 1));
        let added = bytes(&sim).saturating_sub(before);
        assert!(added < 6 * LEN as u64, "{added} bytes for four rows");
        expect_all(&opened(sim.copy(), "/cache"), 0..12, LEN);
        is_closed.store(false, Ordering::SeqCst);
        assert_eq!(remove(12..18), Ok(()), "it can be removed by now");
        for store in [&store, &opened(sim, "/cache")] {
            assert_eq!(count_right(store, 12..18, LEN), 0);
            expect_all(store, 0..12, LEN);
            expect_all(store, 18..30, LEN);
        }
    }
}

#[test]
fn rows_that_do_not_fit_next_to_what_stays_are_not_written() {
    let (sim, others) = of_another_user();
    let (fs, _) = closed(&sim, &others, &[Call::Remove], Errno::PERM);
    let writes = Arc::new(Counter::default());
    let fs = {
        let writes = writes.clone();
        Faulty::new(fs, move |call: Call, _: &OsStr| {
            if call == Call::Write {
                writes.next();
            }
            Fate::Done
        })
    };
    let config = config().with_max_bytes(20_000);
    let store = Store::open_on(Arc::new(fs), "/cache", config).expect("it opens");
    store.flush().expect("nothing is queued");
    let before = writes.get();
    for n in 0..10 {
        put_flushed(&store, 100 + n..101 + n, LEN);
    }
    let stats = store.stats();
    assert_eq!(
        (stats.stored_rows, stats.refused_rows),
        (0, 10),
        "{stats:?}"
    );
    assert_eq!(writes.get(), before, "nothing is written in vain");
    expect_all(&store, 0..20, LEN);
}

#[test]
fn files_that_cannot_be_opened_count_against_the_bound() {
    for eviction in [Eviction::LeastRecentlyRead, Eviction::Never] {
        let (sim, others) = of_another_user();
        let (fs, _) = closed(&sim, &others, &[Call::Open], Errno::ACCESS);
        let config = config().with_eviction(eviction);
        let store = Store::open_on(Arc::new(fs), "/cache", config).expect("it opens");
        for n in 0..100 {
            put_flushed(&store, 100 + n..101 + n, LEN);
            assert!(bytes(&sim) <= LIMIT, "{} bytes, {eviction:?}", bytes(&sim));
        }
        let reader = opened(sim, "/cache");
        let kept = count_right(&reader, 0..20, LEN);
        let stats = store.stats();
        match eviction {
            // They were read less recently than the others.
            Eviction::LeastRecentlyRead => {
                assert_eq!((kept, stats.refused_rows), (0, 0));
                expect_all(&store, 160..200, LEN);
            }
            _ => assert!(kept == 20 && stats.refused_rows > 50, "{kept} {stats:?}"),
        }
        assert!(
            stats.faults.total() <= 20,
            "each is counted once: {stats:?}"
        );
    }
}

#[test]
fn files_of_another_user_are_evicted_if_they_can_be() {
    if !geteuid().is_root() {
        println!("left out: files of another user, which only root can make");
        return;
    }
    for shared in Shared::ALL {
        case(format_args!("{shared:?}"), || {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("of another");
            let store = Store::open(&dir, config()).unwrap();
            OTHERS.for_each(|n| put_flushed(&store, n..n + 1, LEN));
            let sound = files(&dir);
            put_flushed(&store, CORRUPT, LEN);
            drop(store);
            let written = files(&dir).into_iter();
            for path in written.filter(|path| !sound.contains(path)) {
                let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
                file.write_all_at(b"damage", 500).unwrap();
            }
            let (dir_mode, file_mode) = shared.modes();
            for path in files(&dir) {
                given(&path, file_mode);
            }
            given(&dir, dir_mode);
            let child = child("shared_dir", root.path(), &[format!("{shared:?}")]);
            unprivileged(child, root.path()).succeeds();
        });
    }
}

/// Gives a file to another user, and to the group of the one that plays the role.
fn given(path: &Path, mode: u32) {
    chown(path, Some(OTHER_USER), Some(NOBODY)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
