//! Segments whose checksums are right and whose contents are forged, and what fuzzers start with: through the
//! functions that the fuzzers call. Memory is not taken for a mere claim, and no row is made of one.

use std::fs;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use torchcache_faults::cases::{case, cases, random, seen};
use torchcache_faults::fuzzed::{FuzzTarget, TARGETS};
use torchcache_faults::memory::{bounded, store_costs};
use torchcache_faults::rows::{batch, expect_all, key, keys, opened};
use torchcache_faults::sim::Sim;
use torchcache_store::segment::{Encoding, SegmentWriter};
use torchcache_store::{Fault, Store};

const DIR: &str = "/cache";

/// So many small segments are compacted.
const COMPACTED: usize = 8;

/// Some tests measure the memory of the whole process, so that they run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folder of the fuzz targets.
fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("fuzz")
}

fn seeds(target: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(fuzz().join("seeds").join(target)).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_seed_passes() {
    let _alone = alone();
    for (name, target) in TARGETS {
        let paths = seeds(name);
        assert!((1..=20).contains(&paths.len()), "{} files", paths.len());
        for path in paths {
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
        }
        let harness = fuzz().join("fuzz_targets").join(name).with_extension("rs");
        assert!(harness.exists(), "{}", harness.display());
    }
}

/// A seed with some bytes changed.
fn mutated(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let seeds = seeds(target).into_iter().map(|it| fs::read(it).unwrap());
    let seeds: Vec<_> = seeds.filter(|seed| !seed.is_empty()).collect();
    let edits = prop::collection::vec(any::<(Index, u8)>(), 1..6);
    (select(seeds), edits).prop_map(|(mut bytes, edits)| {
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes
    })
}

/// Runs a target on mutated seeds.
fn mutate(name: &str, cases: u32) {
    let mut targets = TARGETS.into_iter();
    let found: Option<(_, FuzzTarget)> = targets.find(|(it, _)| *it == name);
    let (_, target) = found.expect("a target of this name");
    proptest!(random(cases), |(bytes in mutated(name))| target(&bytes));
}

#[test]
fn forged_segments_are_read_as_the_format_says() {
    let _alone = alone();
    let cases = cases(500, 200_000);
    mutate("segment", cases);
    mutate("footer", cases);
    for bomb in bombs() {
        case(format_args!("{}", bomb.name), || bomb.goes_off());
    }
    seen(
        "forged lengths, offsets, counts and kinds",
        u64::from(2 * cases),
    );
}

#[test]
fn any_sequence_of_operations_follows_the_model() {
    let _alone = alone();
    let cases = cases(200, 50_000);
    mutate("operations", cases);
    seen("any sequence of operations of two processes", cases.into());
}

/// What reading a row costs at most beyond the caller's own memory: what is stored, and the value
/// once more before it is unshuffled.
fn read_costs(stored: usize, claimed: usize) -> usize {
    stored + claimed + (1 << 20)
}

/// What writing and compacting cost at most: stretches of a file, and a buffer of about a megabyte for
/// each that is written, that of the file system in memory included.
fn write_costs(stored: usize) -> usize {
    4 * stored + (8 << 20)
}

/// The length that frames claim which hold little. A caller allocates a row before it reads it, so this one
/// is only opened and compacted;
const TOO_MUCH: usize = 1 << 31;

/// and this one is read.
const MUCH: usize = 1 << 25;

struct Bomb {
    name: &'static str,
    encoding: Encoding,
    frame: Vec<u8>,
    /// How long the value is said to be.
    claimed: usize,
}

/// Those that there are.
fn bombs() -> Vec<Bomb> {
    let frame = |value: &[u8]| zstd::bulk::compress(value, 1).unwrap();
    let large = frame(&vec![0; 64 << 20]);
    let short = frame(&vec![0; 2 << 20]);
    let mut noise = vec![0; 33_000];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    let bomb = |name, encoding, frame: &[u8], claimed| Bomb {
        name,
        encoding,
        frame: frame.to_vec(),
        claimed,
    };
    let more = large.len() + 1000;
    vec![
        bomb("64 MB in some KB", Encoding::Zstd, &large, more),
        bomb("64 MB, shuffled", Encoding::ZstdShuffled8, &large, more),
        bomb("2 MB in 100 bytes", Encoding::Zstd, &short, 100),
        bomb("33 KB as 32 MB", Encoding::Zstd, &frame(&noise), MUCH),
        bomb("33 KB as 2 GB", Encoding::Zstd, &frame(&noise), TOO_MUCH),
    ]
}

impl Bomb {
    /// Reads it, compacts it, and reads it again.
    fn goes_off(&self) {
        let sim = self.planted();
        let files = sim.files(DIR.as_ref());
        let len = files.iter().map(|file| sim.bytes(file).len()).sum();
        let open = || opened(sim.clone(), DIR);
        let store = bounded(store_costs(len), open);
        self.is_no_row(&store, len);
        store.put(batch(200..204, 100));
        let flushed = bounded(write_costs(len), || store.flush());
        flushed.unwrap();
        let compacted = store.stats().compacted_segments as usize;
        assert!(compacted >= COMPACTED, "{compacted} were compacted");
        expect_all(&store, 200..204, 100);
        drop(store);
        let store = open();
        self.is_no_row(&store, len);
        expect_all(&store, 200..204, 100);
    }

    fn is_no_row(&self, store: &Store, len: usize) {
        let found: Vec<_> = store.locate(&keys(0..COMPACTED as u64));
        let found: Vec<_> = found.into_iter().flatten().collect();
        let lengths: Vec<_> = found.iter().map(|found| found.len).collect();
        assert!(
            lengths == [self.claimed; COMPACTED],
            "rows of {lengths:?} bytes are there"
        );
        if self.claimed > MUCH {
            return;
        }
        let mut out = vec![0; self.claimed];
        for found in &found {
            let read = || store.read(from_ref(found), &mut [&mut out]);
            let read = bounded(read_costs(len, self.claimed.min(len)), read);
            assert!(read == [false], "it was taken for a row");
        }
        let corrupt = store.stats().faults.get(Fault::Corrupt);
        assert!(
            corrupt == COMPACTED as u64,
            "{corrupt} of {COMPACTED} were counted"
        );
    }

    /// As many segments of it as are compacted, each with another key.
    fn planted(&self) -> Sim {
        let (sim, away) = (Sim::new(), tempfile::tempdir().unwrap());
        for number in 0..COMPACTED {
            let mut writer = SegmentWriter::create(away.path()).unwrap();
            let schema = b"anything".as_slice().into();
            let key = key(number as u64);
            let len = self.claimed as u32;
            let pushed = writer.push(&key, &schema, len, self.encoding, &self.frame);
            pushed.unwrap();
            let path = writer.finish().unwrap().publish().unwrap();
            let bytes = fs::read(path).unwrap();
            sim.add(&Path::new(DIR).join(format!("{number}.tcs")), bytes);
        }
        sim
    }
}
