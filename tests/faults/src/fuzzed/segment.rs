//! Any bytes as a segment file. The last byte says which checksums are made valid first; otherwise a
//! fuzzer would hardly ever get past them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use torchcache_store::fs::FileSystem;
use torchcache_store::schema::Schema;
use torchcache_store::segment::{Footer, SegmentError, SegmentReader};
use torchcache_store::{Fault, Key, Store};

use super::admin::administrate;
use super::reference::{self, HEADER, LONGEST, SoundRow, TRAILER, seal, seal_records};
use crate::memory::{EACH_BYTE, bounded, store_costs};
use crate::rows::{key, manual_flush, put_flushed};
use crate::sim::Sim;

const DIR: &str = "/cache";

/// So many segments of one size are compacted.
const COPIES: usize = 8;

/// The memory that opening a file takes on top of [`EACH_BYTE`].
const ONCE: usize = 4 << 10;

/// Reads any bytes as a segment file, in every way there is, and with the reference reader.
///
/// # Panics
/// If the readers disagree, or memory is allocated for an unchecked length.
pub fn run(bytes: &[u8]) {
    let Some((seals, file)) = bytes.split_last() else {
        return;
    };
    let mut file = file.to_vec();
    if seals & 1 != 0 && file.len() >= HEADER + TRAILER {
        let end = file.len() - TRAILER;
        let numbers: [u8; 8] = std::array::from_fn(|at| file[end + 8 + at]);
        let footer_len = u64::from_le_bytes(numbers).min((end - HEADER) as u64);
        let footer_at = end as u64 - footer_len;
        file[end..end + 8].copy_from_slice(&footer_at.to_le_bytes());
        file[end + 8..end + 16].copy_from_slice(&footer_len.to_le_bytes());
    }
    if seals & 2 != 0 {
        seal_records(&mut file);
    }
    if seals & 4 != 0 {
        seal(&mut file);
    }
    examine(&file);
}

/// Reads a file in every way there is, and compares with the reference.
pub(super) fn examine(file: &[u8]) {
    let expected = reference::read(file);
    let sim = Sim::new();
    let name = |n: usize| format!("{n}.tcs");
    for n in 0..COPIES {
        sim.add(&Path::new(DIR).join(name(n)), file.to_vec());
    }
    let dir = sim.open_dir(Path::new(DIR), false).expect("it is there");
    for mmap in [false, true] {
        let most = EACH_BYTE * file.len() + ONCE + if mmap { file.len() } else { 0 };
        // A bad row is found when the row table is read.
        let open = || -> Result<_, SegmentError> {
            let reader = SegmentReader::open_in(&*dir, name(0).as_ref(), mmap)?;
            reader.rows().try_for_each(|row| row.map(|_| ()))?;
            Ok(reader)
        };
        match (bounded(most, open), &expected) {
            (Ok(segment), Ok(rows)) => same_rows(&segment, rows),
            (Err(error), Err(fault)) => assert_eq!(error.fault(), *fault, "{error}"),
            (got, _) => panic!("{got:?}, expected {expected:?}"),
        }
    }
    let most = EACH_BYTE * file.len() + ONCE;
    let footer = bounded(most, || Footer::read(&*dir, name(0).as_ref()));
    match (footer, &expected) {
        (Ok((footer, _)), Ok(rows)) => {
            let keys = rows.iter().map(|row| row.key);
            assert!(footer.rows().map(|row| row.key).eq(keys));
        }
        (Err(error), Err(fault)) => assert_eq!(error.fault(), *fault, "{error}"),
        (got, _) => panic!("{got:?}, expected {expected:?}"),
    }
    let open = || Store::open_on(Arc::new(sim.clone()), DIR, manual_flush());
    let store = bounded(store_costs(COPIES * file.len()), open);
    in_a_store(&store.expect("it opens whatever it holds"), &expected);
    administrate(file, &reference::read_closely(file));
}

fn same_rows(segment: &SegmentReader, expected: &[SoundRow<'_>]) {
    for group in segment.groups() {
        let most = EACH_BYTE * group.schema.len() + ONCE;
        describes(&group.schema, most);
    }
    assert_eq!(segment.row_count(), expected.len() as u64);
    let rows: Result<Vec<_>, _> = segment.rows().collect();
    let rows = rows.expect("they were read before");
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(expected) {
        let group = &segment.groups()[usize::from(row.group)];
        assert_eq!((row.key, &*group.schema), (expected.key, expected.schema));
        assert_eq!(u64::from(group.raw_len), expected.len);
        if expected.len <= LONGEST {
            let mut out = vec![0xEE; expected.len as usize];
            let read = segment.read(row, &mut out).is_ok().then_some(out);
            assert_eq!(read, expected.value(&expected.key));
        }
    }
}

/// A schema that can be decoded is encoded to the same bytes, and each of its parts has a name.
fn describes(bytes: &[u8], most: usize) {
    let decode = || Schema::decode(bytes);
    let Some(schema) = bounded(most, decode) else {
        return;
    };
    assert_eq!(schema.encode(), bytes);
    assert_eq!(schema.names().len(), schema.tensors.len());
}

/// Looks for every row in a store, before and after the copies are compacted.
fn in_a_store(store: &Store, expected: &Result<Vec<SoundRow<'_>>, Fault>) {
    let stats = store.stats();
    let Ok(rows) = expected else {
        assert!(
            expected
                .as_ref()
                .is_err_and(|fault| stats.faults.get(*fault) == COPIES as u64)
        );
        assert_eq!(
            (stats.faults.total(), stats.segments, stats.rows),
            (COPIES as u64, 0, 0)
        );
        return;
    };
    assert_eq!((stats.faults.total(), stats.segments), (0, COPIES as u64));
    let all: Vec<_> = rows.iter().collect();
    let keys: BTreeSet<&Key> = rows.iter().map(|row| &row.key).collect();
    let known = |rows: &[&SoundRow<'_>]| -> u64 {
        let known: BTreeSet<_> = rows.iter().map(|row| fingerprint(&row.key)).collect();
        known.len() as u64
    };
    assert_eq!(stats.rows, known(&all));
    look_for(store, &keys, &all);

    let fresh = key(u64::MAX - 1);
    if keys
        .iter()
        .any(|key| fingerprint(key) == fingerprint(&fresh))
    {
        return;
    }
    put_flushed(store, u64::MAX - 1..u64::MAX, 8);
    let stats = store.stats();
    assert!(stats.compacted_segments >= COPIES as u64, "{stats:?}");
    // A compaction copies what has the right checksum, and of two rows with one key the first.
    let summed: Vec<_> = rows.iter().filter(|row| row.is_summed()).collect();
    assert_eq!(stats.rows, known(&summed) + 1);
    look_for(store, &keys, &summed);
}

/// The part of a key that the index holds.
fn fingerprint(key: &Key) -> &[u8] {
    &key[..8]
}

/// Reads rows one by one. Of rows with one fingerprint a store knows the first; if that is corrupt, it
/// looks for another copy.
fn look_for(store: &Store, keys: &BTreeSet<&Key>, rows: &[&SoundRow<'_>]) {
    let mut forgotten = BTreeSet::new();
    for key in keys {
        let mut alike = rows
            .iter()
            .filter(|row| fingerprint(&row.key) == fingerprint(key));
        let first = alike.next();
        let found = store.locate(&[**key]).remove(0);
        // A corrupt row may be found in another copy, which is corrupt too.
        if forgotten.contains(fingerprint(key)) {
            continue;
        }
        assert_eq!(found.is_some(), first.is_some());
        let (Some(found), Some(first)) = (found, first) else {
            continue;
        };
        assert_eq!(
            (found.schema(), found.len as u64),
            (first.schema, first.len)
        );
        if first.len > LONGEST {
            continue;
        }
        let mut out = vec![0xEE; found.len];
        let was_read = store.read(&[found], &mut [&mut out]) == [true];
        let read = was_read.then_some(out);
        // If the first is corrupt, a shadowed one with the same key may be found.
        let sound = || rows.iter().filter_map(|row| row.value(key));
        assert!(
            read == first.value(key) || read.is_some_and(|read| sound().any(|row| row == read))
        );
        if !was_read {
            forgotten.insert(fingerprint(key));
        }
    }
}
