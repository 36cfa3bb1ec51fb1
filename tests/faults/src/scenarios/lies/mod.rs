//! Segments whose checksums are right and whose contents lie: lengths, offsets, counts, kinds of
//! storage, frames that claim to hold more than they do. Nothing is allocated for a claim before it
//! is checked, and no row is made of one.

mod bombs;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use torchcache_store::{Compression, Config, Key, Store};

use crate::fuzzed::reference::{EXPANSION, ROW, TRAILER, footer_at, seal, seal_records};
use crate::fuzzed::{bounded, store_costs};
use crate::rows::{batch, keys, patient, value};
use crate::sim::Sim;
use crate::tally::{Plan, Tally, ensure};

const DIR: &str = "/cache";
const ROWS: u64 = 4;
const LEN: usize = 300;

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let mut rng = Rng::with_seed(plan.seed);
    let sound = [false, true].map(segment);
    for round in 0..plan.rounds {
        let (sim, path) = &sound[(round % 2) as usize];
        let seed = rng.u64(..);
        let name = format!("lies of seed {seed}");
        let merges = round % MERGED == 0;
        tally.round(&name, |tally| lie(tally, &sim.copy(), path, seed, merges));
    }
    for bomb in bombs::all() {
        tally.round(bomb.name, |tally| bomb.goes_off(tally));
    }
    tally
}

/// So many small segments are merged.
const TOO_MANY: usize = 8;

/// Every how many lies are told often enough to be merged.
const MERGED: u64 = 8;

/// What reading a row costs at most beside the caller's own memory: what is stored, and the value
/// once more before its bytes are in their order.
fn read_costs(stored: usize, claimed: usize) -> usize {
    stored + claimed + (1 << 20)
}

/// What writing and merging cost at most: stretches of a file, and a buffer of about a megabyte for
/// each that is written, the one in memory below included.
fn write_costs(stored: usize) -> usize {
    4 * stored + (8 << 20)
}

fn segment(compressed: bool) -> (Sim, PathBuf) {
    let sim = Sim::new();
    let compression = Compression {
        level: 1,
        threads: 1,
    };
    let config = Config {
        compression: compressed.then_some(compression),
        ..patient()
    };
    let store = Store::open_on(Arc::new(sim.clone()), DIR, config).expect("it opens");
    store.put(batch(0..ROWS, LEN));
    store.flush().expect("it is written");
    let path = sim.files(Path::new(DIR)).pop().expect("one segment");
    (sim, path)
}

fn lie(tally: &mut Tally, sim: &Sim, path: &Path, seed: u64, merges: bool) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    // A forger who makes the checksums of records right as well can give any value: that nobody can
    // tell. Even so nothing panics, and nothing is allocated for what cannot be.
    let forged = rng.u8(..4) == 0;
    sim.damage(path, |bytes| {
        for _ in 0..rng.u8(1..4) {
            tell_one(bytes, &mut rng);
        }
        if forged {
            seal_records(bytes);
        }
        seal(bytes);
    });
    tally.caused += 1;
    if merges {
        for n in 1..TOO_MANY {
            let copy = Path::new(DIR).join(format!("{n}.tcs"));
            sim.add(&copy, sim.bytes(path));
        }
    }
    let files = if merges { TOO_MANY } else { 1 };
    let len = sim.bytes(path).len() * files;
    let open = || Store::open_on(Arc::new(sim.clone()), DIR, patient());
    let store = bounded(store_costs(len), open)?.map_err(|error| error.to_string())?;
    // Among them keys that only a liar's footer has.
    let mut wanted = keys(0..ROWS);
    wanted.push([0; 32]);
    wanted.push([0xFF; 32]);
    let found: Vec<_> = store.locate(&wanted).into_iter().flatten().collect();
    for found in found {
        let claimed = found.len;
        ensure(claimed <= EXPANSION as usize * len, || {
            format!("a row of {claimed} bytes in {len}")
        })?;
        let mut out = vec![0xEE; claimed];
        let read = || store.read(std::slice::from_ref(&found), &mut [&mut out]);
        if bounded(read_costs(len, claimed), read)? == [true] && !forged {
            tally.rows += 1;
            let is_right = |key: &Key| out == value(key, LEN);
            tally.wrong += u64::from(!wanted[..ROWS as usize].iter().any(is_right));
        }
    }
    // And the store works as if there were nothing.
    let are_read = store.stats().segments as usize;
    // Some that nobody has, so that something is written, and merged.
    let puts = [200..200 + ROWS, 0..ROWS];
    for rows in puts.into_iter().skip(usize::from(!merges)) {
        store.put(batch(rows, LEN));
        let flushed = bounded(write_costs(len), || store.flush())?;
        flushed.map_err(|error| error.to_string())?;
    }
    let merged = store.stats().merged_segments as usize;
    ensure(are_read < TOO_MANY || merged >= TOO_MANY, || {
        format!("{merged} of {are_read} segments were merged")
    })?;
    tally.right_or_missing(&store, 100..104, LEN);
    store.put(batch(100..104, LEN));
    store.flush().map_err(|error| error.to_string())?;
    tally.all_there(&store, 100..104, LEN);
    Ok(())
}

/// A number that somebody may not have thought of.
fn odd(rng: &mut Rng, sound: u64) -> u64 {
    match rng.u8(..10) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => 1 << 63,
        4 => u64::from(u32::MAX),
        5 => 1 << 31,
        6 => sound.wrapping_add(1),
        7 => sound.wrapping_sub(1),
        8 => sound.wrapping_mul(1 << rng.u8(1..40)),
        _ => rng.u64(..),
    }
}

fn tell_one(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let end = bytes.len() - TRAILER;
    let rows_at = end.saturating_sub(ROWS as usize * ROW);
    let classes_at = footer_at(bytes).unwrap_or(16);
    let row = rows_at + rng.usize(..ROWS as usize) * ROW;
    // The numbers of the format: where, and of how many bytes.
    let numbers = [
        (end, 8),            // where the footer begins
        (end + 8, 8),        // its length
        (end + 16, 4),       // rows
        (end + 20, 4),       // classes
        (end + 24, 4),       // version
        (end + 28, 4),       // zero
        (classes_at, 4),     // the length of a value
        (classes_at + 4, 4), // of a schema
        (row + 32, 4),       // of what is stored
        (row + 36, 2),       // the class
        (row + 38, 1),       // how it is stored
        (row + 39, 1),       // zero
        (8, 4),              // the version, in the header
    ];
    match rng.u8(..16) {
        0 => {
            let cut = rng.usize(16..end);
            bytes.drain(cut.saturating_sub(rng.usize(1..64)).max(16)..cut);
        }
        1 => {
            let at = rng.usize(16..end);
            let more = vec![rng.u8(..); rng.usize(1..200)];
            bytes.splice(at..at, more);
        }
        // Rows twice, or another's key.
        2 => {
            let other = rows_at + rng.usize(..ROWS as usize) * ROW;
            bytes.copy_within(other..other + ROW, row);
        }
        3 => bytes[row..row + 32].fill(if rng.bool() { 0 } else { 0xFF }),
        // A frame of a record.
        4 => {
            let at = rng.usize(16..classes_at.clamp(17, end));
            bytes[at] = rng.u8(..);
        }
        _ => {
            let (at, width) = numbers[rng.usize(..numbers.len())];
            let field = bytes.get_mut(at..at + width);
            let Some(field) = field else { return };
            let mut sound = [0; 8];
            sound[..width].copy_from_slice(field);
            let odd = odd(rng, u64::from_le_bytes(sound)).to_le_bytes();
            field.copy_from_slice(&odd[..width]);
        }
    }
}
