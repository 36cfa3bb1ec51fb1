//! Mounts that lack something: locks, or locks that other machines see, or permissions of their own for each file.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use torchcache_faults::cases::{case, seen};
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{batch, expect_all, manual_flush, opened, put_flushed};
use torchcache_faults::sim::{Locks, Sim};
use torchcache_store::fs::FileSystem;
use torchcache_store::{FlushError, Store, StoreError};

const LEN: usize = 100;

#[test]
fn a_writer_that_pauses_loses_no_row_unnoticed() {
    for (locks, is_kept) in [
        (Locks::Shared, true),
        (Locks::None, true),
        // As documented: a file system must not say that it has locks that others do not see.
        (Locks::Local, false),
    ] {
        case(format_args!("{locks:?}"), || paused(locks, is_kept));
    }
    seen("a writer pauses on a mount without locks", 3);
}

/// A writer pauses for two minutes between two writes, while another machine opens the directory.
fn paused(locks: Locks, is_kept: bool) {
    let sim = Sim::new();
    sim.set_locks(locks);
    put_flushed(&opened(sim.clone(), "/cache"), 100..103, LEN);
    let other = Arc::new(Mutex::new(None));
    let decide = {
        let (sim, other) = (sim.clone(), other.clone());
        move |call: Call, _: &_| {
            let mut other = other.lock().unwrap();
            if call == Call::Sync && other.is_none() {
                let dir = sim.open_dir("/cache".as_ref(), false).unwrap();
                let earlier = SystemTime::now() - Duration::from_secs(120);
                for file in sim.files("/cache".as_ref()) {
                    let file = dir.open(file.file_name().unwrap()).unwrap();
                    file.set_modified(earlier).unwrap();
                }
                let sim = sim.clone();
                let opens = thread::spawn(move || opened(sim, "/cache"));
                *other = Some(opens.join().unwrap());
            }
            Fate::Done
        }
    };
    let store = opened(Faulty::new(sim.clone(), decide), "/cache");
    store.put(batch(0..5, LEN));
    let flushed = store.flush();
    match is_kept {
        true => flushed.unwrap(),
        false => {
            let is_reported = matches!(flushed, Err(FlushError::Lost { rows: 5, .. }));
            assert!(is_reported, "{flushed:?}");
            put_flushed(&store, 0..5, LEN);
        }
    }
    assert!(other.lock().unwrap().is_some(), "it was opened");
    for store in [&store, &opened(sim, "/cache")] {
        expect_all(store, 0..5, LEN);
        expect_all(store, 100..103, LEN);
    }
}

/// Opening fails, with advice for mounts.
#[track_caller]
fn refused(sim: &Sim) {
    match Store::open_on(Arc::new(sim.clone()), "/cache", manual_flush()) {
        Err(StoreError::Directory { source, .. }) => {
            let text = source.to_string();
            for advice in ["`chmod -R o-w`", "`umask=022`", "`dir_mode=0755", "WSL"] {
                assert!(text.contains(advice), "{text}");
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mount_with_one_mode_for_all_files_says_what_to_do() {
    for mode in [0o777, 0o757, 0o1777] {
        let sim = Sim::new();
        sim.set_mode(mode);
        refused(&sim);
        // Of the files alone: what is written would not be read again, but stay.
        let sim = Sim::new();
        put_flushed(&opened(sim.clone(), "/cache"), 0..5, LEN);
        sim.set_file_mode(mode & 0o777);
        refused(&sim);
        assert_eq!(sim.files("/cache".as_ref()).len(), 1, "nothing is added");
    }
    // As it is with these options.
    let sim = Sim::new();
    sim.set_mode(0o755);
    let store = opened(sim, "/cache");
    put_flushed(&store, 0..5, LEN);
    expect_all(&store, 0..5, LEN);
}
