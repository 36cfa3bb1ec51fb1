//! Random schedules of machines that put, compact, prune by age and read, with faults: rows that were readable stay so, and
//! after a while each is stored once.

use std::time::Duration;

use fastrand::Rng;
use proptest::prelude::*;
use torchcache_faults::cases::{cases, random};
use torchcache_faults::objects::ObjectFault;
use torchcache_store::admin::Keep;
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

proptest! {
    #![proptest_config(random(cases(40, 3000)))]
    #[test]
    fn rows_stay_readable_and_are_stored_once_in_the_end(
        ignores_conditions: bool,
        steps in proptest::collection::vec(step(), 1..25),
    ) {
        let bucket = bucket();
        bucket.set_page(5);
        if ignores_conditions {
            bucket.ignore_conditions();
        }
        let mut rows = 0;
        let mut reader = Reader::new(&bucket);
        for step in steps {
            match step {
                Step::Put(count) => {
                    put(&bucket, rows..rows + count);
                    rows += count;
                }
                Step::Compact => _ = root(&bucket).compact(HASH, false, &()),
                Step::Faulty(share, seed, last) => {
                    let (mut rng, mut requests) = (Rng::with_seed(seed), 0);
                    let root = root_of(bucket.with_faults(move |request| {
                        requests += 1;
                        let denied = ObjectFault::Error(torchcache_store::remote::ObjectErrorKind::Denied);
                        match last {
                            Some(last) if requests >= last => Some(denied),
                            _ => (rng.u32(..1000) < share).then(|| ObjectFault::any(request, &mut rng)),
                        }
                    }));
                    let _ = root.compact(HASH, false, &());
                }
                Step::Interrupted(nth, wait) => {
                    let (other, mut requests) = (bucket.with_faults(|_| None), 0);
                    let root = root_of(bucket.with_faults(move |_| {
                        requests += 1;
                        if requests == nth {
                            pass(&other, wait * MINUTE);
                            let _ = crate::common::root(&other).compact(HASH, false, &());
                        }
                        None
                    }));
                    let _ = root.compact(HASH, false, &());
                }
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
            prop_assert_eq!(readable(&bucket, 0..rows), rows as usize);
        }
        for _ in 0..8 {
            pass(&bucket, HOUR + MINUTE);
            root(&bucket).compact(HASH, false, &()).expect("nothing fails");
            prop_assert_eq!(readable(&bucket, 0..rows), rows as usize);
        }
        if rows > 0 {
            prop_assert_eq!(stored_rows(&bucket), rows);
            prop_assert!(object_keys(&bucket, RECORDS).is_empty());
        }
    }
}
