//! The local directory of a tier, and administration of its cache.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use torchcache_faults::sim::Sim;
use torchcache_store::admin::{Cache, Keep, Root, clear, prune};
use torchcache_store::remote::RemoteMode;

use crate::common::bucket;
use crate::host::{DIR, Host};

const LEN: usize = 300;

const ROOT: &str = "/cache";

fn root(disk: &Sim) -> Root {
    disk.add_unsynced_dir(Path::new(ROOT));
    Root::open_on(Arc::new(disk.clone()), Path::new(ROOT)).expect("it exists")
}

/// The one cache of a disk.
fn cache(disk: &Sim) -> Cache {
    let mut caches = root(disk).list().expect("it can be listed").caches;
    assert_eq!(caches.len(), 1, "{caches:?}");
    caches.remove(0)
}

/// A host with rows that were uploaded.
fn uploaded() -> Host {
    let here = Host::new(&bucket());
    here.compute(0..10, LEN);
    here.flush().expect("it is uploaded");
    here
}

/// Ends a process, and returns its disk.
fn ended(here: Host) -> Sim {
    let disk = here.disk.clone();
    drop(here);
    disk
}

#[test]
fn clearing_a_cache_removes_the_local_directory_of_its_tier() {
    let here = uploaded();
    assert_eq!(here.tier_files(".footer").len(), 1);
    let disk = ended(here);
    let dry = clear(&cache(&disk), true).expect("it can be listed");
    assert!(dry.directory_removed && dry.segments == 1, "{dry:?}");
    assert_eq!(disk.directories(DIR.as_ref()).len(), 1);
    let cleared = clear(&cache(&disk), false).expect("it can be listed");
    assert!(
        cleared.directory_removed && cleared.failed.is_empty(),
        "{cleared:?}"
    );
    assert!(disk.directories(ROOT.as_ref()).is_empty());
}

#[test]
fn the_journal_of_a_dead_process_is_removed_with_its_rows() {
    let here = uploaded();
    here.compute(10..20, LEN);
    let disk = ended(here);
    let cleared = clear(&cache(&disk), false).expect("it can be listed");
    assert!(cleared.directory_removed, "{cleared:?}");
}

#[test]
fn the_journal_of_a_living_process_keeps_its_directory() {
    let here = uploaded();
    here.compute(10..20, LEN);
    here.store.flush().expect("it is written");
    let dry = clear(&cache(&here.disk), true).expect("it can be listed");
    assert!(!dry.directory_removed);
    let cleared = clear(&cache(&here.disk), false).expect("it can be listed");
    assert!(
        !cleared.directory_removed && cleared.segments == 2,
        "{cleared:?}"
    );
    assert_eq!(here.tier_files(".journal").len(), 1);
    here.store.refresh();
    here.flush().expect_err("its rows are gone");
    here.compute(20..30, LEN);
    here.flush().expect("it goes on");
    let disk = ended(here);
    assert!(clear(&cache(&disk), false).is_ok_and(|it| it.directory_removed));
}

#[test]
fn files_of_other_programs_stay() {
    for name in ["notes.txt", "0.footer", "x.journal", "a.tcs"] {
        let here = uploaded();
        let dir = here.disk.directories(DIR.as_ref()).remove(0);
        let disk = ended(here);
        disk.add(&dir.join(name), b"other".to_vec());
        for dry_run in [true, false] {
            let cleared = clear(&cache(&disk), dry_run).expect("it can be listed");
            assert!(!cleared.directory_removed, "{name}");
        }
        assert_eq!(disk.files(&dir), [dir.join(name)]);
    }
    // A directory of another program.
    let disk = ended(uploaded());
    disk.add_unsynced_dir(&Path::new(DIR).join("remote-notes"));
    let cleared = clear(&cache(&disk), false).expect("it can be listed");
    assert!(!cleared.directory_removed);
}

#[test]
fn pruning_everything_removes_the_local_directory() {
    let disk = ended(uploaded());
    let keep = Keep::ReadWithin(Duration::ZERO);
    let dry = prune(&root(&disk), keep, true).expect("it can be listed");
    assert!(dry.caches[0].directory_removed);
    let pruned = prune(&root(&disk), keep, false).expect("it can be listed");
    assert!(pruned.caches[0].directory_removed, "{pruned:?}");
    assert!(disk.directories(ROOT.as_ref()).is_empty());
}

#[test]
fn a_local_directory_is_no_cache_and_has_no_bytes_of_one() {
    let here = uploaded();
    let dir = here.disk.directories(DIR.as_ref()).remove(0);
    let disk = ended(here);
    disk.add(
        &dir.join(".tmp-0000000000000001-1-0000000000000001.tcs"),
        Vec::new(),
    );
    let summary = cache(&disk).summary().expect("it can be read");
    assert_eq!((summary.rows(), summary.temp_files), (10, 0));
    let itself = Root::open_on(Arc::new(disk.clone()), Path::new(DIR)).expect("it exists");
    assert!(itself.is_cache());
    assert_eq!(itself.list().expect("it can be listed").caches.len(), 1);
}

#[test]
fn a_cache_with_nothing_but_a_local_directory_is_removed_as_well() {
    let bucket = bucket();
    let writer = Host::new(&bucket);
    writer.compute(0..10, LEN);
    writer.flush().expect("it is uploaded");
    let reader = Host::with(&bucket, Sim::new(), RemoteMode::ReadOnly, 0);
    reader.work(1);
    assert_eq!(reader.tier_files(".footer").len(), 1);
    let disk = ended(reader);
    let cleared = clear(&cache(&disk), false).expect("it can be listed");
    assert!(
        cleared.directory_removed && cleared.segments == 0,
        "{cleared:?}"
    );
}
