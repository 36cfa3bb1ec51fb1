//! The same bytes through administration: a summary, a check, a snapshot with each sound row once, and
//! a repair that keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use torchcache_store::admin::{Cache, CacheRows, Root, SegmentState, check, repair};
use torchcache_store::{Fault, Key};

use super::reference::{LONGEST, SoundRow};
use crate::sim::Sim;

/// A name that torchcache gives: damaged files under other names may be foreign.
const FILE: &str = "/cache/0000000000000000-1-0000000000000000.tcs";

/// A row group: schema and length.
type GroupId<'f> = (&'f [u8], u64);

/// Compares what administration says of a cache of one such segment with the reference reader.
pub(super) fn administrate(file: &[u8], expected: &Result<Vec<SoundRow<'_>>, Fault>) {
    let sim = Sim::new();
    sim.add(Path::new(FILE), file.to_vec());
    let root = Root::open_on(Arc::new(sim), Path::new("/cache")).expect("it is there");
    let cache = root.list().expect("it can be listed").caches.remove(0);

    let summary = cache.summary().expect("it can be looked at");
    let outcome = verified(&cache);
    match (&summary.segments[0].contents, outcome, expected) {
        (Ok(contents), outcome, Ok(rows)) => {
            assert_eq!(contents.rows, rows.len() as u64);
            if rows.iter().all(|row| row.len <= LONGEST) {
                is_as_expected(&outcome, rows);
                exported(&cache, rows);
                repaired(&cache, rows);
            }
        }
        (Err(error), SegmentState::NotRead(again), Err(fault)) => {
            assert_eq!((error.fault(), again.fault()), (*fault, *fault));
            assert_eq!(
                CacheRows::open(&cache)
                    .expect("it is there")
                    .skipped()
                    .len(),
                1
            );
        }
        (contents, outcome, _) => panic!("{contents:?}, {outcome:?}, expected {expected:?}"),
    }
}

/// How the one segment is.
fn verified(cache: &Cache) -> SegmentState {
    let mut report = check(std::slice::from_ref(cache), &()).remove(0);
    assert!(report.error.is_none(), "{report:?}");
    report.segments.remove(0).state
}

fn is_sound(row: &&SoundRow<'_>) -> bool {
    row.value(&row.key).is_some()
}

fn is_as_expected(outcome: &SegmentState, expected: &[SoundRow<'_>]) {
    let sound = expected.iter().filter(is_sound).count();
    let got = match outcome {
        SegmentState::Intact { rows } => (*rows, 0),
        SegmentState::Corrupt { rows, corrupt, .. } => (*rows, *corrupt),
        SegmentState::NotRead(error) => panic!("{error}"),
    };
    assert_eq!(
        got,
        (expected.len() as u64, (expected.len() - sound) as u64)
    );
}

/// Of each group, every row that has an intact copy is read once, from the first of them.
fn exported(cache: &Cache, expected: &[SoundRow<'_>]) {
    let mut wanted: BTreeMap<GroupId<'_>, BTreeMap<Key, Vec<u8>>> = BTreeMap::new();
    for row in expected {
        let group = wanted.entry((row.schema, row.len)).or_default();
        if let Some(value) = row.value(&row.key) {
            group.entry(row.key).or_insert(value);
        }
    }
    let rows = CacheRows::open(cache).expect("it is there");
    let groups: BTreeSet<GroupId<'_>> = rows
        .groups()
        .iter()
        .map(|group| (&*group.schema, u64::from(group.row_bytes)))
        .collect();
    assert!(groups.iter().eq(wanted.keys()) && groups.len() == rows.groups().len());
    for (number, group) in rows.groups().iter().enumerate() {
        let mut distinct = rows.distinct(number).expect("it can be read");
        let mut got = Vec::new();
        let mut is_complete = false;
        while !is_complete {
            got.clear();
            let each = distinct.for_each(|key, value| {
                got.push((*key, value.to_vec()));
                Ok(())
            });
            is_complete = each.expect("it can be read");
        }
        assert_eq!(got.len() as u64, distinct.count());
        let wanted = &wanted[&(&*group.schema, u64::from(group.row_bytes))];
        assert_eq!(got.len(), wanted.len());
        assert_eq!(&got.into_iter().collect::<BTreeMap<_, _>>(), wanted);
    }
}

/// A repair keeps every sound record, and nothing else.
fn repaired(cache: &Cache, expected: &[SoundRow<'_>]) {
    let found = check(std::slice::from_ref(cache), &()).remove(0);
    let done = repair(&found);
    assert!(done.error.is_none(), "{done:?}");
    let again = check(std::slice::from_ref(cache), &()).remove(0);
    assert!(again.is_intact(), "{again:?}");
    let sound: Vec<SoundRow<'_>> = expected.iter().filter(is_sound).cloned().collect();
    match &again.segments[..] {
        [] => assert!(sound.is_empty()),
        [segment] => {
            is_as_expected(&segment.state, &sound);
            exported(cache, &sound);
        }
        more => panic!("{more:?}"),
    }
}
