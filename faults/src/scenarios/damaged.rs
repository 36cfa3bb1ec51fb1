//! Bytes change on the medium: every bit of a small segment of each kind, every length that it can
//! be cut to, anything behind it, another segment's bytes under its name, another store's segment
//! beside it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use torchcache_store::{Key, Store};

use super::versions;
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
    rows: Vec<(Key, Vec<u8>)>,
}

impl Sound {
    fn new(bytes: &[u8], keys: Vec<Key>) -> Sound {
        let store = opened(&holding(bytes)).expect("it opens");
        let values = fetch(&store, &keys).into_iter().flatten();
        let rows: Vec<_> = keys.iter().copied().zip(values).collect();
        assert_eq!(rows.len(), keys.len(), "all rows are there");
        let bytes = bytes.to_vec();
        Sound { bytes, rows }
    }

    /// How many of the rows a store has; each is compared with what it was.
    fn check(&self, tally: &mut Tally, store: &Store) -> usize {
        let keys: Vec<Key> = self.rows.iter().map(|(key, _)| *key).collect();
        let found = fetch(store, &keys);
        let there = self.rows.iter().zip(found);
        let there = there.filter_map(|((_, value), row)| Some((value, row?)));
        there
            .inspect(|(value, row)| {
                tally.rows += 1;
                tally.wrong += u64::from(row != *value);
            })
            .count()
    }
}

/// What segments are damaged: the fixtures of both versions, which have rows of each kind, and one
/// of today.
fn segments() -> Vec<Sound> {
    let today = written(0..ROWS);
    vec![
        Sound::new(versions::FIXTURES[0], keys(1..6)),
        Sound::new(versions::FIXTURES[1], keys(1..9)),
        Sound::new(&today, keys(0..ROWS)),
    ]
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

fn opened(sim: &Sim) -> Result<Store, String> {
    let store = Store::open_on(Arc::new(sim.clone()), DIR, patient());
    store.map_err(|error| error.to_string())
}

/// The bytes of a segment of some rows.
fn written(rows: Range<u64>) -> Vec<u8> {
    let sim = Sim::new();
    let store = opened(&sim).expect("it opens");
    store.put(batch(rows, LEN));
    store.flush().expect("it is written");
    let path = sim.files(Path::new(DIR)).pop().expect("one segment");
    sim.bytes(&path)
}

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let mut rng = Rng::with_seed(plan.seed);
    for sound in segments() {
        let bytes = &sound.bytes;
        for bit in 0..8 * bytes.len() {
            let flip = |bytes: &mut Vec<u8>| bytes[bit / 8] ^= 1 << (bit % 8);
            let name = format!("bit {bit} of {} flipped", 8 * bytes.len());
            damage(&mut tally, &name, &sound, flip);
        }
        for len in 0..bytes.len() {
            let cut = |bytes: &mut Vec<u8>| bytes.truncate(len);
            damage(&mut tally, &format!("cut to {len}"), &sound, cut);
        }
        for len in 1..200 {
            let junk: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
            let append = |bytes: &mut Vec<u8>| bytes.extend(junk);
            let name = format!("{len} bytes of junk behind it");
            damage(&mut tally, &name, &sound, append);
        }
    }
    for while_open in [false, true] {
        tally.round("two segments swapped", |tally| swapped(tally, while_open));
    }
    tally.round("a segment of another store", another_s);
    tally
}

/// Changes the bytes of a segment below a store that has it open, and opens another one.
fn damage(tally: &mut Tally, name: &str, sound: &Sound, change: impl FnOnce(&mut Vec<u8>)) {
    tally.round(name, |tally| {
        let sim = holding(&sound.bytes);
        let before = opened(&sim)?;
        sim.damage(&path(), change);
        tally.caused += 1;
        let store = opened(&sim)?;
        let there = sound.check(tally, &store);
        let faults = store.stats().faults;
        ensure(there < sound.rows.len() && faults.total() > 0, || {
            format!("{there} rows of it are there, faults: {faults:?}")
        })?;
        // A store that knew it before sees no more than what is in the rows themselves.
        sound.check(tally, &before);
        // The store works, beside what is damaged.
        store.put(batch(100..103, LEN));
        store.flush().map_err(|error| error.to_string())?;
        tally.all_there(&store, 100..103, LEN);
        Ok(())
    });
}

fn swapped(tally: &mut Tally, while_open: bool) -> Result<(), String> {
    let (one, two) = (written(0..ROWS), written(100..101 + ROWS));
    let sim = holding(&one);
    let other = Path::new(DIR).join("1.tcs");
    sim.add(&other, two.clone());
    let store = while_open.then(|| opened(&sim)).transpose()?;
    sim.damage(&path(), |bytes| *bytes = two);
    sim.damage(&other, |bytes| *bytes = one);
    tally.caused += 1;
    let store = store.map_or_else(|| opened(&sim), Ok)?;
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
    let sim = holding(&written(0..ROWS));
    sim.add(&Path::new(DIR).join("1.tcs"), written(100..103));
    tally.caused += 1;
    let store = opened(&sim)?;
    tally.all_there(&store, 0..ROWS, LEN);
    tally.all_there(&store, 100..103, LEN);
    let foreign = store.locate(&keys(7..8));
    ensure(foreign[0].is_none(), || "a row that nobody stored".into())?;
    ensure(store.stats().faults.total() == 0, || {
        "a sound segment is no fault".into()
    })
}
