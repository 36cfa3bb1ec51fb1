//! Frames that hold something else than their rows say: a thousand times more, or next to nothing of
//! the two gigabytes that are claimed. All checksums are right.

use std::path::Path;
use std::slice::from_ref;
use std::sync::Arc;

use torchcache_store::segment::{Encoding, SegmentWriter};
use torchcache_store::{Fault, Store};

use super::{DIR, TOO_MANY, read_costs, write_costs};
use crate::fuzzed::{bounded, store_costs};
use crate::rows::{batch, key, keys, patient};
use crate::sim::Sim;
use crate::tally::{Tally, ensure};

/// What is claimed of frames that hold little. Whoever reads a row has room for it, so that this one
/// is only opened and merged;
const TOO_MUCH: usize = 1 << 31;

/// and this one is read.
const MUCH: usize = 1 << 25;

pub(super) struct Bomb {
    pub(super) name: &'static str,
    encoding: Encoding,
    frame: Vec<u8>,
    /// How long the value is said to be.
    claimed: usize,
}

/// Those that there are.
pub(super) fn all() -> Vec<Bomb> {
    let frame = |value: &[u8]| zstd::bulk::compress(value, 1).expect("it can be compressed");
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
    /// Reads it, merges it, and reads it again.
    pub(super) fn goes_off(&self, tally: &mut Tally) -> Result<(), String> {
        let sim = self.planted().map_err(|error| error.to_string())?;
        let files = sim.files(DIR.as_ref());
        let len = files.iter().map(|file| sim.bytes(file).len()).sum();
        tally.caused += 1;
        let open = || {
            let store = Store::open_on(Arc::new(sim.clone()), DIR, patient());
            store.map_err(|error| error.to_string())
        };
        let store = bounded(store_costs(len), open)??;
        self.is_no_row(&store, len)?;
        store.put(batch(200..204, 100));
        let flushed = bounded(write_costs(len), || store.flush())?;
        flushed.map_err(|error| error.to_string())?;
        let merged = store.stats().merged_segments as usize;
        ensure(merged >= TOO_MANY, || format!("{merged} were merged"))?;
        tally.all_there(&store, 200..204, 100);
        drop(store);
        let store = open()?;
        self.is_no_row(&store, len)?;
        tally.all_there(&store, 200..204, 100);
        Ok(())
    }

    fn is_no_row(&self, store: &Store, len: usize) -> Result<(), String> {
        let found: Vec<_> = store.locate(&keys(0..TOO_MANY as u64));
        let found: Vec<_> = found.into_iter().flatten().collect();
        let lengths: Vec<_> = found.iter().map(|found| found.len).collect();
        ensure(lengths == [self.claimed; TOO_MANY], || {
            format!("rows of {lengths:?} bytes are there")
        })?;
        if self.claimed > MUCH {
            return Ok(());
        }
        let mut out = vec![0; self.claimed];
        for found in &found {
            let read = || store.read(from_ref(found), &mut [&mut out]);
            let read = bounded(read_costs(len, self.claimed.min(len)), read)?;
            ensure(read == [false], || "it was taken for a row".into())?;
        }
        let corrupt = store.stats().faults.get(Fault::Corrupt);
        ensure(corrupt == TOO_MANY as u64, || {
            format!("{corrupt} of {TOO_MANY} were counted")
        })
    }

    /// As many segments of it as are merged, each with another key.
    fn planted(&self) -> std::io::Result<Sim> {
        let (sim, away) = (Sim::new(), tempfile::tempdir()?);
        for number in 0..TOO_MANY {
            let mut writer = SegmentWriter::create(away.path())?;
            let schema = b"anything".as_slice().into();
            let key = key(number as u64);
            writer.push(
                &key,
                &schema,
                self.claimed as u32,
                self.encoding,
                &self.frame,
            )?;
            let bytes = std::fs::read(writer.finish()?.publish()?)?;
            sim.add(&Path::new(DIR).join(format!("{number}.tcs")), bytes);
        }
        Ok(sim)
    }
}
