//! Files of other programs in the directory of a cache: they stay as they are, whatever is removed there, also
//! where their names end like those of segments.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use proptest::prelude::*;
use torchcache_faults::cases::{cases, random, seen};
use torchcache_faults::rows::{batch, count_right, manual_flush};
use torchcache_faults::sim::Sim;
use torchcache_store::admin::{Keep, Root, check, clear, prune, repair};
use torchcache_store::fs::FileSystem;
use torchcache_store::{Eviction, Store};

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
