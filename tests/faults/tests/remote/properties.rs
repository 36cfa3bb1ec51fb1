//! Machines with random faults, wrong clocks and restarts: no row is ever wrong, and none that a flush acknowledged is
//! lost, unless its object was removed.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use proptest::prelude::*;
use torchcache_faults::cases::{Counter, cases, random, seen};
use torchcache_faults::objects::{ObjectFault, SimObjects};
use torchcache_faults::rows::{key, keys};
use torchcache_store::Key;
use torchcache_store::remote::RemoteFlushError;
use torchcache_store::segment::SegmentReader;

use crate::common::{Machine, SEGMENTS, bucket};

const MACHINES: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Compute(usize, Range<u64>),
    Flush(usize, u64),
    Work(usize, u64),
    Read(usize, Range<u64>),
    Evict(usize, u64),
    Restart(usize),
    /// Removes an object.
    Remove(usize),
    /// So many of a thousand requests of a machine fail from now on.
    Faults(usize, u32, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let machine = || 0..MACHINES;
    let rows = || (0_u64..60, 1_u64..12).prop_map(|(first, count)| first..first + count);
    prop_oneof![
        4 => (machine(), rows()).prop_map(|(m, rows)| Step::Compute(m, rows)),
        4 => (machine(), 0_u64..200).prop_map(|(m, seconds)| Step::Flush(m, seconds)),
        4 => (machine(), 1_u64..400).prop_map(|(m, seconds)| Step::Work(m, seconds)),
        4 => (machine(), rows()).prop_map(|(m, rows)| Step::Read(m, rows)),
        1 => (machine(), 0_u64..70).prop_map(|(m, row)| Step::Evict(m, row)),
        1 => machine().prop_map(Step::Restart),
        1 => (0_usize..20).prop_map(Step::Remove),
        2 => (machine(), 0_u32..600, any::<u64>()).prop_map(|(m, share, seed)| Step::Faults(m, share, seed)),
    ]
}

/// The keys of an object's rows.
fn rows_of(bytes: &[u8]) -> Vec<Key> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("a.tcs");
    std::fs::write(&path, bytes).expect("it can be written");
    let segment = SegmentReader::open(&path, false).expect("it is sound");
    segment
        .rows()
        .map(|row| row.expect("it is sound").key)
        .collect()
}

/// Runs steps, and checks at the end that a machine without faults gets all rows that have to be there.
fn run(clocks: [i64; MACHINES], ignores_conditions: bool, steps: &[Step], faults: &Arc<Counter>) {
    let bucket = bucket();
    bucket.set_page(4);
    if ignores_conditions {
        bucket.ignore_conditions();
    }
    let [first, second, small] = clocks;
    let mut machines = [
        Machine::with(&bucket, first, |_| {}),
        Machine::with(&bucket, second, |_| {}),
        Machine::with(&bucket, small, |config| {
            config.max_rows = 40;
            config.max_pending_rows = 25;
        }),
    ];
    // Pushed since the last flush that returned `Ok`; those of flushes that did.
    let mut pushed: [HashSet<Key>; MACHINES] = Default::default();
    let mut acknowledged: HashSet<Key> = HashSet::new();
    let mut removed: HashSet<Key> = HashSet::new();
    for step in steps {
        match step.clone() {
            Step::Compute(m, rows) => {
                machines[m].compute(rows.clone(), 300);
                pushed[m].extend(keys(rows));
            }
            Step::Flush(m, seconds) => {
                let machine = &machines[m];
                let timeout = Duration::from_secs(seconds);
                match machine.flush_within(timeout) {
                    Ok(()) => acknowledged.extend(pushed[m].drain()),
                    // Which ones were dropped is not known.
                    Err(RemoteFlushError::Lost { .. }) => pushed[m].clear(),
                    Err(_) => {}
                }
            }
            Step::Work(m, seconds) => machines[m].work(seconds),
            Step::Read(m, rows) => _ = machines[m].count(rows),
            Step::Evict(m, row) => machines[m].rows.remove(&key(row)),
            Step::Restart(m) => {
                machines[m].restart();
                pushed[m].clear();
            }
            Step::Remove(nth) => {
                let objects = bucket.objects(SEGMENTS);
                if let Some((key, bytes)) = objects.get(nth) {
                    removed.extend(rows_of(bytes));
                    bucket.take(key);
                }
            }
            Step::Faults(m, share, seed) => {
                let mut rng = Rng::with_seed(seed);
                let faults = faults.clone();
                machines[m].objects.set_faults(move |request| {
                    (rng.u32(..1000) < share).then(|| {
                        faults.next();
                        ObjectFault::any(request, &mut rng)
                    })
                });
            }
        }
    }
    check(
        &bucket,
        acknowledged.difference(&removed).copied().collect(),
    );
    // The machines recover as well.
    for machine in &machines {
        machine.heal();
        machine.work(700);
        let counts = machine.stats().uploads;
        assert_eq!((counts.pending_rows, counts.pending_bytes), (0, 0));
    }
    check(
        &bucket,
        acknowledged.difference(&removed).copied().collect(),
    );
}

#[track_caller]
fn check(bucket: &SimObjects, rows: Vec<Key>) {
    let reader = Machine::new(bucket);
    reader.work(1);
    let got = reader.get(&rows);
    let missing = got.iter().filter(|got| !**got).count();
    assert_eq!(missing, 0, "of {} acknowledged rows", rows.len());
}

#[test]
fn no_row_is_wrong_and_no_acknowledged_row_is_lost() {
    let faults = Arc::new(Counter::default());
    let clock = prop_oneof![Just(0_i64), -3600_i64..=3600];
    let clocks = proptest::array::uniform3(clock);
    let steps = proptest::collection::vec(step(), 1..60);
    let cases = random(cases(60, 5000));
    proptest!(cases, |(clocks in clocks, ignores_conditions: bool, steps in steps)| {
        run(clocks, ignores_conditions, &steps, &faults);
    });
    seen(
        "a request to a remote store fails, hangs, lies or loses its reply",
        faults.get(),
    );
}
