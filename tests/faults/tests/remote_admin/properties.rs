//! Random schedules of machines that put, compact, prune by age and read, with faults: rows that were readable stay so, and
//! after a while each is stored once.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use proptest::prelude::*;
use torchcache_faults::cases::{Counter, cases, random, seen};
use torchcache_faults::objects::{ObjectFault, SimObjects};
use torchcache_store::admin::Keep;
use torchcache_store::remote::ObjectErrorKind;
use torchcache_store::remote_admin::{RemoteKeep, RemotePrunePlan};

use crate::common::{
    DAY, HASH, HOUR, MINUTE, RECORDS, Reader, bucket, object_keys, pass, put, readable, root,
    root_of, stored_rows,
};

#[derive(Clone, Debug)]
enum Step {
    /// The next so many rows.
    Put(u64),
    /// A compaction without faults.
    Compact,
    /// One in which so many of a thousand requests fail, and which may be killed at a request.
    Faulty(u32, u64, Option<u64>),
    /// One during which, at a request, another one runs after so many minutes.
    Interrupted(u64, u64),
    Pass(u64),
    Prune,
    /// The machine that read last reads again.
    Read,
    /// Another machine takes its place.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..30).prop_map(Step::Put),
        2 => Just(Step::Compact),
        2 => (0_u32..600, any::<u64>(), proptest::option::of(1_u64..40))
            .prop_map(|(share, seed, nth)| Step::Faulty(share, seed, nth)),
        3 => (1_u64..40, prop_oneof![Just(0), 0_u64..180]).prop_map(|(nth, wait)| Step::Interrupted(nth, wait)),
        3 => (0_u64..150).prop_map(Step::Pass),
        1 => Just(Step::Prune),
        2 => Just(Step::Read),
        1 => Just(Step::Restart),
    ]
}

/// A pass with faults: so many of a thousand requests fail, and all from one on where it is killed.
fn faulty_pass(
    bucket: &SimObjects,
    (share, seed, last): (u32, u64, Option<u64>),
    faults: &Arc<Counter>,
) {
    let (mut rng, mut requests, faults) = (Rng::with_seed(seed), 0, faults.clone());
    let root = root_of(bucket.with_faults(move |request| {
        requests += 1;
        let is_killed = last.is_some_and(|last| requests >= last);
        let fault = match is_killed {
            true => ObjectFault::Error(ObjectErrorKind::Denied),
            false if rng.u32(..1000) < share => ObjectFault::any(request, &mut rng),
            false => return None,
        };
        faults.next();
        Some(fault)
    }));
    let _ = root.compact(HASH, false, &());
}

/// A pass during which, at a request, another one runs after so many minutes.
fn interrupted_pass(bucket: &SimObjects, nth: u64, wait: u64) {
    let (other, mut requests) = (bucket.with_faults(|_| None), 0);
    let pass_of_other = move |_| {
        requests += 1;
        if requests == nth {
            pass(&other, wait * MINUTE);
            let _ = root(&other).compact(HASH, false, &());
        }
        None
    };
    let _ = root_of(bucket.with_faults(pass_of_other)).compact(HASH, false, &());
}

fn run(ignores_conditions: bool, steps: &[Step], faults: &Arc<Counter>) {
    let bucket = bucket();
    bucket.set_page(5);
    if ignores_conditions {
        bucket.ignore_conditions();
    }
    let mut rows = 0;
    let mut reader = Reader::new(&bucket);
    for step in steps {
        match *step {
            Step::Put(count) => {
                put(&bucket, rows..rows + count);
                rows += count;
            }
            Step::Compact => _ = root(&bucket).compact(HASH, false, &()),
            Step::Faulty(share, seed, last) => faulty_pass(&bucket, (share, seed, last), faults),
            Step::Interrupted(nth, wait) => interrupted_pass(&bucket, nth, wait),
            Step::Pass(minutes) => pass(&bucket, minutes * MINUTE),
            Step::Prune => {
                let keep = RemoteKeep {
                    keep: Keep::ReadWithin(Duration::from_secs(365 * DAY)),
                    grace: Duration::from_secs(DAY),
                };
                let root = root(&bucket);
                let plan = RemotePrunePlan::new(&root, keep).expect("nothing fails");
                plan.carry_out(&());
            }
            Step::Read => {
                reader.count(0..rows);
                reader.work(31);
            }
            Step::Restart => reader = Reader::new(&bucket),
        }
        assert_eq!(readable(&bucket, 0..rows), rows as usize);
    }
    for _ in 0..8 {
        pass(&bucket, HOUR + MINUTE);
        root(&bucket)
            .compact(HASH, false, &())
            .expect("nothing fails");
        assert_eq!(readable(&bucket, 0..rows), rows as usize);
    }
    if rows > 0 {
        assert_eq!(stored_rows(&bucket), rows);
        assert!(object_keys(&bucket, RECORDS).is_empty());
    }
}

#[test]
fn rows_stay_readable_and_are_stored_once_in_the_end() {
    let faults = Arc::new(Counter::default());
    let steps = proptest::collection::vec(step(), 1..25);
    let cases = random(cases(40, 3000));
    proptest!(cases, |(ignores_conditions: bool, steps in steps)| {
        run(ignores_conditions, &steps, &faults);
    });
    seen(
        "a request fails, or the process is killed, while it compacts a bucket",
        faults.get(),
    );
}
