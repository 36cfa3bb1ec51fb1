//! Files of other programs in the directory of a cache: they stay as they are, whatever is removed there, also
//! where their names end like those of segments.

use std::error::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use proptest::prelude::*;
use rustix::io::Errno;
use torchcache_faults::cases::{cases, random, seen};
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{batch, count_right, keys, manual_flush, put_flushed};
use torchcache_faults::sim::Sim;
use torchcache_store::admin::{Keep, Root, check, clear, prune, repair};
use torchcache_store::fs::FileSystem;
use torchcache_store::{Eviction, Fault, Store};

const LEN: usize = 300;

/// Of all segments of a directory, and of a root.
const BOUND: u64 = 20_000;

const DIR: &str = "/root/cache";

#[test]
fn files_of_other_programs_stay() {
    let cases = cases(40, 1000);
    proptest!(random(cases), |(seed: u64)| {
        files_stay(seed);
    });
    seen("files of other programs next to segments", cases.into());
}

/// It may be a segment that was copied, or a file of another program.
#[test]
fn a_file_of_another_name_that_cannot_be_opened_stays_and_is_reported() {
    for is_ours in [true, false] {
        let sim = Sim::new();
        drop(sim.open_dir(Path::new("/root"), true));
        let store = store_of(sim.clone());
        put_flushed(&store, 0..10, LEN);
        let segment = sim.files(Path::new(DIR)).remove(0);
        let bytes = match is_ours {
            true => sim.bytes(&segment),
            false => unsound(10),
        };
        let copy = Path::new(DIR).join("copy.tcs");
        sim.add(&copy, bytes.clone());
        let is_closed = Arc::new(AtomicBool::new(true));
        let decide = {
            let is_closed = is_closed.clone();
            move |call: Call, name: &OsStr| {
                let fails =
                    call == Call::Open && name == "copy.tcs" && is_closed.load(Ordering::SeqCst);
                match fails {
                    true => Fate::Fails(Errno::ACCESS),
                    false => Fate::Done,
                }
            }
        };
        let store = store_of(Faulty::new(sim.clone(), decide));
        let error = store.remove(&keys(2..4)).expect_err("it may have them");
        let error = error.source().expect("it is of the directory").to_string();
        assert!(
            error.starts_with("copy.tcs: it cannot be opened"),
            "{error}"
        );
        is_closed.store(false, Ordering::SeqCst);
        store.remove(&keys(2..4)).expect("it can be opened now");
        assert_eq!(count_right(&store_of(sim.clone()), 2..4, LEN), 0);
        assert_eq!(sim.files(Path::new(DIR)).contains(&copy), !is_ours);

        sim.add(&copy, bytes.clone());
        is_closed.store(true, Ordering::SeqCst);
        let before = store.stats().faults.get(Fault::Read);
        store.clear();
        assert_eq!(
            sim.files(Path::new(DIR)),
            std::slice::from_ref(&copy),
            "the others go"
        );
        assert_eq!(sim.bytes(&copy), bytes);
        assert!(
            store.stats().faults.get(Fault::Read) > before,
            "it is a fault"
        );
        is_closed.store(false, Ordering::SeqCst);
        store.clear();
        assert_eq!(sim.files(Path::new(DIR)).len(), usize::from(!is_ours));
    }
}

fn store_of(fs: impl FileSystem + 'static) -> Store {
    Store::open_on(Arc::new(fs), DIR, manual_flush()).expect("it opens")
}

fn files_stay(seed: u64) {
    let (sim, mut rng) = (Sim::new(), Rng::with_seed(seed));
    let files = add_files(&sim, &mut rng);
    for _ in 0..6 {
        let store = opened(&sim, &mut rng);
        for _ in 0..rng.u64(0..4) {
            let first = rng.u64(0..200);
            store.put(batch(first..first + rng.u64(1..40), LEN));
            store.flush().expect("it is written");
        }
        count_right(&store, 0..240, LEN);
        if rng.bool() {
            store.clear();
        }
        drop(store);
        administrate(&sim, &mut rng);
        for (path, bytes) in &files {
            assert!(sim.bytes(path) == *bytes, "{}", path.display());
            assert!(
                sim.files(Path::new(DIR)).contains(path),
                "{}",
                path.display()
            );
        }
    }
}

/// Files that were written long ago, so that they would be the first to be evicted.
fn add_files(sim: &Sim, rng: &mut Rng) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = sim.open_dir(Path::new("/root"), true);
    dir.expect("it can be made");
    let dir = sim.open_dir(Path::new(DIR), true).expect("it can be made");
    let names = [
        "notes.tcs",
        "0-1-2.tcs",
        "zzz.tcs",
        "notes.txt",
        "notes",
        ".tmp-backup.tcs",
        ".tmp-1-2-3.tcs",
        ".tmp-unlocked-copy.tcs",
        ".tmp-replacement-notes.tcs",
    ];
    let file = |name: &str| {
        let len = rng.usize(0..6000);
        let bytes: Vec<u8> = match rng.u8(0..9) {
            0 => Vec::new(),
            1 => vec![0; len],
            2 => (0..len).map(|_| rng.u8(..)).collect(),
            3 => [vec![0; len], b"the end".to_vec()].concat(),
            4 => [b"\x89TCSEG\r".to_vec(), vec![1; len]].concat(),
            5 => [b"\x89TCSEG\r\n".to_vec(), vec![1; len]].concat(),
            6 => [vec![1; len], END.to_vec()].concat(),
            7 => [HEADER.to_vec(), vec![1; len], END.to_vec()].concat(),
            _ => unsound(len as u32 / 40),
        };
        let path = Path::new(DIR).join(name);
        sim.add(&path, bytes.clone());
        let file = dir.open(name.as_ref()).expect("it is there");
        let set = file.set_modified(SystemTime::UNIX_EPOCH);
        set.expect("it has a time");
        (path, bytes)
    };
    names.into_iter().map(file).collect()
}

/// The header of a segment, and the end of its trailer.
const HEADER: &[u8] = b"\x89TCSEG\r\n\x02\0\0\0\0\0\0\0";
const END: &[u8] = b"TCSEGEND";

/// Both ends of a segment with so many rows, and a checksum that is wrong.
fn unsound(rows: u32) -> Vec<u8> {
    let footer = vec![1; 40 * rows as usize];
    let lens = [HEADER.len(), footer.len()].map(|len| (len as u64).to_le_bytes());
    let numbers = [rows, 0, 2].map(u32::to_le_bytes);
    let (lens, numbers) = (lens.concat(), numbers.concat());
    [HEADER, &footer, &lens, &numbers, &[0; 12], END].concat()
}

/// As if the directory was not written to for an hour: opening and pruning wait for one that changes.
fn settle(sim: &Sim) {
    sim.age_dir(Path::new(DIR), Duration::from_secs(3600));
}

fn opened(sim: &Sim, rng: &mut Rng) -> Store {
    settle(sim);
    let evictions = [Eviction::LeastRecentlyRead, Eviction::Never];
    let config = manual_flush()
        .with_max_bytes(BOUND / rng.u64(1..4))
        .with_max_root_bytes(rng.bool().then_some(BOUND / 2))
        .with_eviction(evictions[rng.usize(0..2)]);
    Store::open_on(Arc::new(sim.clone()), DIR, config).expect("it opens")
}

fn administrate(sim: &Sim, rng: &mut Rng) {
    settle(sim);
    let root = Root::open_on(Arc::new(sim.clone()), Path::new("/root"));
    let root = root.expect("it is there");
    let caches = || root.list().expect("it can be listed").caches;
    match rng.u8(0..5) {
        0 => drop(prune(&root, Keep::MaxBytes(rng.u64(0..BOUND)), false)),
        1 => drop(prune(&root, Keep::ReadWithin(Duration::ZERO), false)),
        2 => caches().iter().for_each(|cache| drop(clear(cache, false))),
        3 => {
            for report in check(&caches(), &()) {
                repair(&report);
            }
        }
        _ => {}
    }
}
