//! Bytes change on the medium: every bit of a small segment of each kind, every length that it can
//! be cut to, anything appended, another segment's bytes under its name.

use std::fmt::Arguments;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use torchcache_faults::cases::{case, seen};
use torchcache_faults::fuzzed::reference::{self, HEADER};
use torchcache_faults::rows::{
    count_right, expect_all, expect_no_faults, fetch, keys, manual_flush, put_flushed,
};
use torchcache_faults::sim::Sim;
use torchcache_store::admin::{Root, check};
use torchcache_store::{Fault, Key, Store};

use crate::versions;

const DIR: &str = "/cache";

const ROWS: u64 = 3;

/// The length of the values of segments that are written here.
const LEN: usize = 40;

/// A small segment: each row is stored in another way, or all of them as they are.
struct Sound {
    bytes: Vec<u8>,
    rows: Vec<SoundRow>,
    /// Segments of about its size, which it is compacted with.
    neighbours: Vec<Vec<u8>>,
}

struct SoundRow {
    key: Key,
    value: Vec<u8>,
    /// Where its record is.
    at: Range<usize>,
}

/// The rows of the segments that it is compacted with.
const NEIGHBOURS: Range<u64> = 200..207;

impl Sound {
    fn new(bytes: &[u8]) -> Sound {
        let store = opened(&holding(bytes), false);
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
        let neighbours = NEIGHBOURS.map(|row| written(row..row + 1, neighbour_len(bytes)));
        Sound {
            bytes: bytes.to_vec(),
            rows,
            neighbours: neighbours.collect(),
        }
    }

    /// Where the records are.
    fn records(&self) -> Range<usize> {
        HEADER..self.rows.last().map_or(HEADER, |last| last.at.end)
    }

    /// For each row, whether a store has it. Each row found is compared.
    fn check(&self, store: &Store) -> Vec<bool> {
        let keys: Vec<Key> = self.rows.iter().map(|row| row.key).collect();
        let found = fetch(store, &keys).into_iter().zip(&self.rows);
        let there = found.map(|(found, sound)| {
            let Some(found) = found else { return false };
            assert!(found == sound.value, "a row is wrong");
            true
        });
        there.collect()
    }

    /// The same where the footer is intact: exactly the rows that the damage hit are missing.
    fn check_others(&self, store: &Store, hit: &Range<usize>) {
        let there = self.check(store);
        let whole = self
            .rows
            .iter()
            .map(|row| row.at.end <= hit.start || hit.end <= row.at.start);
        let whole: Vec<bool> = whole.collect();
        assert!(
            there == whole,
            "rows that are whole: {whole:?}, that are there: {there:?}"
        );
    }
}

/// The length of a value whose segment is about as large as this one.
fn neighbour_len(bytes: &[u8]) -> usize {
    bytes.len() - 200
}

/// The segments to damage: the fixtures of both versions, which have rows of each encoding, and a new
/// one.
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

fn opened(sim: &Sim, mmap: bool) -> Store {
    let config = manual_flush().with_mmap(mmap);
    let store = Store::open_on(Arc::new(sim.clone()), DIR, config);
    store.unwrap()
}

/// The bytes of a segment of some rows.
fn written(rows: Range<u64>, len: usize) -> Vec<u8> {
    let sim = Sim::new();
    let store = opened(&sim, false);
    put_flushed(&store, rows, len);
    let path = sim.files(Path::new(DIR)).pop().expect("one segment");
    sim.bytes(&path)
}

#[test]
fn corrupt_bytes_cost_only_the_rows_they_hit() {
    let mut changes = 0;
    for sound in segments() {
        let all = sound.bytes.len();
        for bit in 0..8 * all {
            let (byte, bit) = (bit / 8, bit % 8);
            let damage = Damage {
                hit: byte..byte + 1,
                mmap: bit % 2 == 0,
                // A bit of each byte, one or the other.
                compacts: bit == byte % 8,
                fault: None,
            };
            let name = format_args!("bit {bit} of byte {byte} of {all} flipped");
            damage.cause(name, &sound, |bytes| bytes[byte] ^= 1 << bit);
        }
        for (len, mmap) in (0..all).flat_map(|len| [(len, false), (len, true)]) {
            let damage = Damage {
                hit: len..all,
                mmap,
                compacts: false,
                fault: Some(Fault::Truncated),
            };
            let name = format_args!("cut to {len}");
            damage.cause(name, &sound, |bytes| bytes.truncate(len));
        }
        for len in 1..200 {
            let damage = Damage {
                hit: all..all + len,
                mmap: len % 2 == 0,
                compacts: false,
                fault: None,
            };
            let junk: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
                .take(len)
                .collect();
            let name = format_args!("{len} bytes appended");
            damage.cause(name, &sound, |bytes| bytes.extend(junk));
        }
        // Bits, lengths for both ways to read, and bytes appended.
        changes += (8 + 2) * all as u64 + 199;
    }
    for while_open in [false, true] {
        case(format_args!("swapped, open: {while_open}"), || {
            swapped(while_open);
        });
    }
    of_another_store();
    seen("any bit flipped, any cut, bytes appended", changes);
}

/// How a segment is damaged and read.
struct Damage {
    /// The bytes that change.
    hit: Range<usize>,
    mmap: bool,
    /// Whether it is also compacted, if its footer is intact.
    compacts: bool,
    /// The only fault that is counted, if there is one.
    fault: Option<Fault>,
}

impl Damage {
    /// Changes a segment while a store has it open, and opens another store.
    fn cause(self, name: Arguments<'_>, sound: &Sound, change: impl FnOnce(&mut Vec<u8>)) {
        let Damage {
            hit,
            mmap,
            compacts,
            fault,
        } = self;
        case(name, || {
            let sim = holding(&sound.bytes);
            let before = opened(&sim, !mmap);
            sim.damage(&path(), change);
            is_reported(&sim);
            let store = opened(&sim, mmap);
            let records = sound.records();
            let is_read = records.start <= hit.start && hit.end <= records.end;
            if is_read {
                sound.check_others(&store, &hit);
            } else {
                // Without the footer, there are no rows.
                let there = sound.check(&store);
                assert!(there.contains(&false), "a row is missing");
            }
            let faults = store.stats().faults;
            assert!(faults.total() > 0, "it was not counted");
            if let Some(fault) = fault {
                assert_eq!((faults.get(fault), faults.total()), (1, 1));
            }
            assert!(
                !sim.bytes(&path()).is_empty() || hit.start == 0,
                "it is left alone"
            );
            // A store that opened it before still knows where the rows are.
            sound.check_others(&before, &hit);
            if compacts && is_read {
                compacted(sound, &sim, &store, &hit);
            }
            // The store works all the same.
            put_flushed(&store, 100..103, LEN);
            expect_all(&store, 100..103, LEN);
        });
    }
}

/// Whatever is damaged, a check says so. (Under a name that torchcache gives: it may be any program's otherwise.)
fn is_reported(damaged: &Sim) {
    let sim = Sim::new();
    let file = Path::new(DIR).join("0000000000000000-1-0000000000000000.tcs");
    sim.add(&file, damaged.bytes(&path()));
    let root = Root::open_on(Arc::new(sim), Path::new(DIR)).expect("it is there");
    let caches = root.list().expect("it can be listed").caches;
    let report = check(&caches, &()).remove(0);
    assert!(report.segments[0].state.is_corrupt(), "{report:?}");
}

/// Compaction leaves out corrupt rows, and nothing else.
fn compacted(sound: &Sound, sim: &Sim, store: &Store, hit: &Range<usize>) {
    for (place, bytes) in sound.neighbours.iter().enumerate() {
        let name = format!("{}.tcs", place + 1);
        sim.add(&Path::new(DIR).join(name), bytes.clone());
    }
    let len = neighbour_len(&sound.bytes);
    put_flushed(store, 300..301, LEN);
    let compacted = store.stats().compacted_segments;
    assert!(
        compacted >= 8 && sim.bytes(&path()).is_empty(),
        "{compacted} segments were compacted"
    );
    let reopened = opened(sim, false);
    for store in [store, &reopened] {
        sound.check_others(store, hit);
        expect_all(store, NEIGHBOURS, len);
    }
    // The compacted segment is sound.
    expect_no_faults(&reopened);
}

fn swapped(while_open: bool) {
    let (one, two) = (written(0..ROWS, LEN), written(100..101 + ROWS, LEN));
    let sim = holding(&one);
    let other = Path::new(DIR).join("1.tcs");
    sim.add(&other, two.clone());
    let store = while_open.then(|| opened(&sim, false));
    sim.damage(&path(), |bytes| *bytes = two);
    sim.damage(&other, |bytes| *bytes = one);
    let store = store.unwrap_or_else(|| opened(&sim, false));
    for first in [0, 100] {
        let there = count_right(&store, first..first + ROWS, LEN);
        // The rows of a segment do not depend on its name.
        assert!(while_open || there == ROWS, "{there} rows are there");
    }
    let noticed = store.stats().faults.total() > 0;
    assert!(noticed == while_open, "noticed: {noticed}");
}

/// Rows belong to their keys, in whatever directory their segment is.
fn of_another_store() {
    let sim = holding(&written(0..ROWS, LEN));
    sim.add(&Path::new(DIR).join("1.tcs"), written(100..103, LEN));
    let store = opened(&sim, false);
    expect_all(&store, 0..ROWS, LEN);
    expect_all(&store, 100..103, LEN);
    let foreign = store.locate(&keys(7..8));
    assert!(foreign[0].is_none(), "a row that was not stored");
    expect_no_faults(&store);
}
