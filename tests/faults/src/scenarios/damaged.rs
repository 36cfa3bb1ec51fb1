//! Bytes change on the medium: every bit of a small segment of each kind, every length that it can
//! be cut to, anything behind it, another segment's bytes under its name, another store's segment
//! beside it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use torchcache_store::{Config, Key, Store};

use super::versions;
use crate::fuzzed::reference::{self, HEADER};
use crate::rows::{batch, fetch, keys, patient};
use crate::sim::Sim;
use crate::tally::{Plan, Tally, ensure};

const DIR: &str = "/cache";

const ROWS: u64 = 3;

/// The length of the values of segments that are written here.
const LEN: usize = 40;

/// A small segment: each row is stored in another way, or all of them as they are.
struct Sound {
    bytes: Vec<u8>,
    rows: Vec<SoundRow>,
    /// Segments of about its size, which it is merged with.
    beside: Vec<Vec<u8>>,
}

struct SoundRow {
    key: Key,
    value: Vec<u8>,
    /// Where its record is.
    at: Range<usize>,
}

/// The rows of the segments beside it.
const BESIDE: Range<u64> = 200..207;

impl Sound {
    fn new(bytes: &[u8]) -> Sound {
        let store = opened(&holding(bytes), false).expect("it opens");
        let mut end = HEADER;
        let rows = reference::read(bytes).expect("it is sound");
        let rows = rows.iter().map(|row| {
            let value = fetch(&store, &[row.key]).pop().flatten();
            let begin = end;
            end += row.record_len();
            SoundRow {
                key: row.key,
                value: value.expect("it is there"),
                at: begin..end,
            }
        });
        let rows: Vec<_> = rows.collect();
        let beside = BESIDE.map(|row| written(row..row + 1, beside_len(bytes)));
        Sound {
            bytes: bytes.to_vec(),
            rows,
            beside: beside.collect(),
        }
    }

    /// Where the records are.
    fn records(&self) -> Range<usize> {
        HEADER..self.rows.last().map_or(HEADER, |last| last.at.end)
    }

    /// For each of the rows, whether a store has it; each is compared with what it was.
    fn check(&self, tally: &mut Tally, store: &Store) -> Vec<bool> {
        let keys: Vec<Key> = self.rows.iter().map(|row| row.key).collect();
        let found = fetch(store, &keys).into_iter().zip(&self.rows);
        let there = found.map(|(found, sound)| {
            let Some(found) = found else { return false };
            tally.rows += 1;
            tally.wrong += u64::from(found != sound.value);
            true
        });
        there.collect()
    }

    /// The same for a store that can tell which rows the damage hit: those are missing, and no other.
    fn check_others(
        &self,
        tally: &mut Tally,
        store: &Store,
        hit: &Range<usize>,
    ) -> Result<(), String> {
        let there = self.check(tally, store);
        let whole = self
            .rows
            .iter()
            .map(|row| row.at.end <= hit.start || hit.end <= row.at.start);
        let whole: Vec<bool> = whole.collect();
        ensure(there == whole, || {
            format!("rows that are whole: {whole:?}, that are there: {there:?}")
        })
    }
}

/// How long a value is whose segment is about as large as this one.
fn beside_len(bytes: &[u8]) -> usize {
    bytes.len() - 200
}

/// What segments are damaged: the fixtures of both versions, which have rows of each kind, and one
/// of today.
fn segments() -> Vec<Sound> {
    let today = written(0..ROWS, LEN);
    let [old, new] = versions::FIXTURES;
    [old, new, &today].map(Sound::new).into()
}

/// A file system whose cache has this segment.
fn holding(bytes: &[u8]) -> Sim {
    let sim = Sim::new();
    sim.add(&path(), bytes.to_vec());
    sim
}

fn path() -> PathBuf {
    Path::new(DIR).join("0.tcs")
}

fn opened(sim: &Sim, mmap: bool) -> Result<Store, String> {
    let config = Config { mmap, ..patient() };
    let store = Store::open_on(Arc::new(sim.clone()), DIR, config);
    store.map_err(|error| error.to_string())
}

/// The bytes of a segment of some rows.
fn written(rows: Range<u64>, len: usize) -> Vec<u8> {
    let sim = Sim::new();
    let store = opened(&sim, false).expect("it opens");
    store.put(batch(rows, len));
    store.flush().expect("it is written");
    let path = sim.files(Path::new(DIR)).pop().expect("one segment");
    sim.bytes(&path)
}

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let mut rng = Rng::with_seed(plan.seed);
    for sound in segments() {
        let all = sound.bytes.len();
        for bit in 0..8 * all {
            let (byte, bit) = (bit / 8, bit % 8);
            let flip = |bytes: &mut Vec<u8>| bytes[byte] ^= 1 << bit;
            let name = format!("bit {bit} of byte {byte} of {all} flipped");
            let damage = Damage {
                hit: byte..byte + 1,
                mmap: bit % 2 == 0,
                // A bit of each byte, one or the other.
                merges: bit == byte % 8,
            };
            damage.cause(&mut tally, &name, &sound, flip);
        }
        for (len, mmap) in (0..all).flat_map(|len| [(len, false), (len, true)]) {
            let cut = |bytes: &mut Vec<u8>| bytes.truncate(len);
            let (hit, merges) = (len..all, false);
            let damage = Damage { hit, mmap, merges };
            damage.cause(&mut tally, &format!("cut to {len}"), &sound, cut);
        }
        for len in 1..200 {
            let junk: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
            let append = |bytes: &mut Vec<u8>| bytes.extend(junk);
            let name = format!("{len} bytes of junk behind it");
            let (hit, mmap) = (all..all + len, len % 2 == 0);
            let damage = Damage {
                hit,
                mmap,
                merges: false,
            };
            damage.cause(&mut tally, &name, &sound, append);
        }
    }
    for while_open in [false, true] {
        tally.round("two segments swapped", |tally| swapped(tally, while_open));
    }
    tally.round("a segment of another store", another_s);
    tally
}

/// What is done to a segment, and how it is read then.
struct Damage {
    /// The bytes that are not what they were.
    hit: Range<usize>,
    mmap: bool,
    /// Whether it is merged as well, if it can be read at all.
    merges: bool,
}

impl Damage {
    /// Changes the bytes of a segment below a store that has it open, and opens another one.
    fn cause(
        self,
        tally: &mut Tally,
        name: &str,
        sound: &Sound,
        change: impl FnOnce(&mut Vec<u8>),
    ) {
        let Damage { hit, mmap, merges } = self;
        tally.round(name, |tally| {
            let sim = holding(&sound.bytes);
            let before = opened(&sim, !mmap)?;
            sim.damage(&path(), change);
            tally.caused += 1;
            let store = opened(&sim, mmap)?;
            let records = sound.records();
            let is_read = records.start <= hit.start && hit.end <= records.end;
            if is_read {
                sound.check_others(tally, &store, &hit)?;
            } else {
                // Without what tells where the rows are, there are none.
                let there = sound.check(tally, &store);
                ensure(there.contains(&false), || "it was not noticed".into())?;
            }
            let faults = store.stats().faults;
            ensure(faults.total() > 0, || "it was not counted".into())?;
            // A store that knew it before still knows where the rows are.
            sound.check_others(tally, &before, &hit)?;
            if merges && is_read {
                merged(tally, sound, &sim, &store, &hit)?;
            }
            // The store works, beside what is damaged.
            store.put(batch(100..103, LEN));
            store.flush().map_err(|error| error.to_string())?;
            tally.all_there(&store, 100..103, LEN);
            Ok(())
        });
    }
}

/// What is bad is left out of a merge, and everything else is in it.
fn merged(
    tally: &mut Tally,
    sound: &Sound,
    sim: &Sim,
    store: &Store,
    hit: &Range<usize>,
) -> Result<(), String> {
    for (place, bytes) in sound.beside.iter().enumerate() {
        let name = format!("{}.tcs", place + 1);
        sim.add(&Path::new(DIR).join(name), bytes.clone());
    }
    let len = beside_len(&sound.bytes);
    store.put(batch(300..301, LEN));
    store.flush().map_err(|error| error.to_string())?;
    let merged = store.stats().merged_segments;
    ensure(merged >= 8 && sim.bytes(&path()).is_empty(), || {
        format!("{merged} segments were merged")
    })?;
    let anew = opened(sim, false)?;
    for store in [store, &anew] {
        sound.check_others(tally, store, hit)?;
        tally.all_there(store, BESIDE, len);
    }
    let faults = anew.stats().faults;
    ensure(faults.total() == 0, || {
        format!("the merged segment is sound: {faults:?}")
    })
}

fn swapped(tally: &mut Tally, while_open: bool) -> Result<(), String> {
    let (one, two) = (written(0..ROWS, LEN), written(100..101 + ROWS, LEN));
    let sim = holding(&one);
    let other = Path::new(DIR).join("1.tcs");
    sim.add(&other, two.clone());
    let store = while_open.then(|| opened(&sim, false)).transpose()?;
    sim.damage(&path(), |bytes| *bytes = two);
    sim.damage(&other, |bytes| *bytes = one);
    tally.caused += 1;
    let store = store.map_or_else(|| opened(&sim, false), Ok)?;
    for first in [0, 100] {
        let there = tally.right_or_missing(&store, first..first + ROWS, LEN);
        // A segment says itself what it holds.
        ensure(while_open || there == ROWS, || {
            format!("{there} rows are there")
        })?;
    }
    let noticed = store.stats().faults.total() > 0;
    ensure(noticed == while_open, || format!("noticed: {noticed}"))
}

/// Rows belong to the keys that they were stored under, wherever their segment lies.
fn another_s(tally: &mut Tally) -> Result<(), String> {
    let sim = holding(&written(0..ROWS, LEN));
    sim.add(&Path::new(DIR).join("1.tcs"), written(100..103, LEN));
    tally.caused += 1;
    let store = opened(&sim, false)?;
    tally.all_there(&store, 0..ROWS, LEN);
    tally.all_there(&store, 100..103, LEN);
    let foreign = store.locate(&keys(7..8));
    ensure(foreign[0].is_none(), || "a row that nobody stored".into())?;
    ensure(store.stats().faults.total() == 0, || {
        "a sound segment is no fault".into()
    })
}
