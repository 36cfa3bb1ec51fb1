//! Bytes change on the medium: every bit of a small segment of each kind, every length that it can
//! be cut to, anything behind it, another segment's bytes under its name, another store's segment
//! beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use torchcache_store::{Compression, Config, Fault, Store};

use crate::rows::{batch, key, patient};
use crate::sim::Sim;
use crate::tally::{Plan, Tally, ensure};

const DIR: &str = "/cache";

/// Raw rows, compressed ones, and ones whose numbers are regrouped first.
const KINDS: [Kind; 3] = [
    Kind {
        len: 24,
        compressed: false,
        element_bytes: 1,
    },
    Kind {
        len: 200,
        compressed: true,
        element_bytes: 1,
    },
    Kind {
        len: 256,
        compressed: true,
        element_bytes: 4,
    },
];

const ROWS: u64 = 3;

#[derive(Clone, Copy)]
struct Kind {
    len: usize,
    compressed: bool,
    element_bytes: u8,
}

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let mut rng = Rng::with_seed(plan.seed);
    for kind in KINDS {
        let (sim, path) = segment(kind);
        let bytes = sim.bytes(&path);
        for bit in 0..8 * bytes.len() {
            let flip = |bytes: &mut Vec<u8>| bytes[bit / 8] ^= 1 << (bit % 8);
            let name = format!("bit {bit} of {} flipped", bytes.len());
            damage(&mut tally, &name, kind, &sim, &path, flip, bit % 2 == 0);
        }
        for len in 0..bytes.len() {
            let cut = |bytes: &mut Vec<u8>| bytes.truncate(len);
            let name = format!("cut to {len}");
            damage(&mut tally, &name, kind, &sim, &path, cut, len % 2 == 0);
        }
        for len in 1..200 {
            let junk: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
            let append = |bytes: &mut Vec<u8>| bytes.extend(junk);
            let name = format!("{len} bytes of junk behind it");
            damage(&mut tally, &name, kind, &sim, &path, append, len % 2 == 0);
        }
        for while_open in [false, true] {
            tally.round("two segments swapped", |tally| {
                swapped(tally, kind, while_open)
            });
        }
    }
    tally.round("a segment of another store", another_s);
    tally
}

/// A store with one segment of three rows, and where it is.
fn segment(kind: Kind) -> (Sim, PathBuf) {
    let sim = Sim::new();
    put(&sim, kind, 0..ROWS);
    let path = sim.files(Path::new(DIR)).pop().expect("one segment");
    (sim, path)
}

fn put(sim: &Sim, kind: Kind, rows: std::ops::Range<u64>) {
    let compression = Compression {
        level: 1,
        threads: 1,
    };
    let config = Config {
        compression: kind.compressed.then_some(compression),
        ..patient()
    };
    let store = Store::open_on(Arc::new(sim.clone()), DIR, config).expect("it opens");
    store.put(batch(rows, kind.len).element_bytes(kind.element_bytes));
    store.flush().expect("it is written");
}

fn damage(
    tally: &mut Tally,
    name: &str,
    kind: Kind,
    sound: &Sim,
    path: &Path,
    change: impl FnOnce(&mut Vec<u8>),
    while_open: bool,
) {
    tally.round(name, |tally| {
        let sim = sound.copy();
        let open = || Store::open_on(Arc::new(sim.clone()), DIR, patient());
        let before = while_open.then(open).transpose();
        let before = before.map_err(|error| error.to_string())?;
        sim.damage(path, change);
        tally.caused += 1;
        let store = open().map_err(|error| error.to_string())?;
        let there = tally.right_or_missing(&store, 0..ROWS, kind.len);
        let faults = store.stats().faults;
        ensure(there < ROWS && faults.total() > 0, || {
            format!("{there} rows of it are there, faults: {faults:?}")
        })?;
        // A store that knew it before sees no more than what is in the rows themselves.
        if let Some(before) = before {
            tally.right_or_missing(&before, 0..ROWS, kind.len);
        }
        // What is missing is computed and stored again, and then it is there.
        store.put(batch(0..ROWS, kind.len));
        store.flush().map_err(|error| error.to_string())?;
        tally.all_there(&store, 0..ROWS, kind.len);
        Ok(())
    });
}

fn swapped(tally: &mut Tally, kind: Kind, while_open: bool) -> Result<(), String> {
    let (sim, one) = segment(kind);
    put(&sim, kind, 100..100 + ROWS + 1);
    let paths = sim.files(Path::new(DIR));
    let two = paths.into_iter().find(|path| *path != one);
    let two = two.ok_or("there is no second segment")?;
    let open = || Store::open_on(Arc::new(sim.clone()), DIR, patient());
    let open = || open().map_err(|error| error.to_string());
    let store = while_open.then(open).transpose()?;
    let (of_one, of_two) = (sim.bytes(&one), sim.bytes(&two));
    sim.damage(&one, |bytes| *bytes = of_two);
    sim.damage(&two, |bytes| *bytes = of_one);
    tally.caused += 1;
    let store = store.map_or_else(open, Ok)?;
    for first in [0, 100] {
        let there = tally.right_or_missing(&store, first..first + ROWS, kind.len);
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
    let (sim, path) = segment(KINDS[0]);
    let elsewhere = Sim::new();
    put(&elsewhere, KINDS[0], 100..103);
    elsewhere.add(&path, sim.bytes(&path));
    tally.caused += 1;
    let store = Store::open_on(Arc::new(elsewhere), DIR, patient());
    let store = store.map_err(|error| error.to_string())?;
    tally.all_there(&store, 0..ROWS, KINDS[0].len);
    tally.all_there(&store, 100..103, KINDS[0].len);
    let foreign = store.locate(&[key(7)]);
    ensure(foreign[0].is_none(), || "a row that nobody stored".into())?;
    ensure(store.stats().faults.get(Fault::Corrupt) == 0, || {
        "a sound segment is no fault".into()
    })
}
