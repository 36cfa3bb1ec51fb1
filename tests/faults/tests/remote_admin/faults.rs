//! Each operation under each fault at each request: it ends, and no row is lost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use torchcache_faults::cases::{seen, series};
use torchcache_faults::objects::{ObjectFault, Request, SimObjects};
use torchcache_faults::rows::{count_right, opened};
use torchcache_faults::sim::Sim;
use torchcache_store::admin::Keep;
use torchcache_store::remote::ObjectErrorKind;
use torchcache_store::remote_admin::{RemoteKeep, RemotePrunePlan, RemoteRoot};

use crate::common::{
    DAY, HASH, HOUR, LEN, SEGMENTS, bucket, local, mark, object_keys, only, pass, put, readable,
    root_of,
};

/// Forty rows in four segments, of which two are joined, an hour ago, and two old ones were read yesterday.
fn prepared() -> SimObjects {
    let bucket = bucket();
    put(&bucket, 0..10);
    put(&bucket, 10..20);
    pass(&bucket, HOUR);
    crate::common::root(&bucket)
        .compact(HASH, false, &())
        .expect("nothing fails");
    pass(&bucket, HOUR);
    put(&bucket, 20..30);
    put(&bucket, 30..40);
    pass(&bucket, 40 * DAY);
    mark(&bucket, 7, &object_keys(&bucket, SEGMENTS));
    pass(&bucket, DAY);
    bucket
}

type Operation = fn(&RemoteRoot, &SimObjects);

fn list(root: &RemoteRoot, _: &SimObjects) {
    if let Ok(listing) = root.list() {
        for cache in &listing.caches {
            let _ = root.summary(cache);
        }
    }
}

fn check(root: &RemoteRoot, bucket: &SimObjects) {
    let reports = root.check(&[only(bucket)], &());
    assert_eq!(reports[0].segments.len(), 5);
}

fn prune(root: &RemoteRoot, _: &SimObjects) {
    let keep = RemoteKeep {
        keep: Keep::ReadWithin(Duration::from_secs(30 * DAY)),
        grace: Duration::from_secs(7 * DAY),
    };
    if let Ok(plan) = RemotePrunePlan::new(root, keep) {
        plan.carry_out(&());
    }
}

fn push(root: &RemoteRoot, bucket: &SimObjects) {
    let (_disk, cache) = local([(30..60, LEN)]);
    if root.push(&cache, HASH, false, &()).is_ok() {
        assert_eq!(readable(bucket, 40..60), 20);
    }
}

fn pull(root: &RemoteRoot, bucket: &SimObjects) {
    let disk = Sim::new();
    let dir = Path::new("/caches").join(HASH);
    let pulled = root.pull(&only(bucket), &disk, &dir, false, &());
    let there = count_right(&opened(disk, dir), 0..40, LEN);
    if let Ok(report) = pulled {
        assert!(
            there + report.corrupt >= 40 || report.skipped > 0,
            "{there}: {report:?}"
        );
    }
}

fn compact(root: &RemoteRoot, _: &SimObjects) {
    let _ = root.compact(HASH, false, &());
}

#[test]
fn every_operation_ends_and_loses_no_row_under_every_fault() {
    let operations: [(&str, Operation); 6] = [
        ("list", list),
        ("check", check),
        ("prune", prune),
        ("push", push),
        ("pull", pull),
        ("compact", compact),
    ];
    let errors = ObjectErrorKind::ALL.iter().filter(|kind| {
        use ObjectErrorKind::{AlreadyExists, NotFound};
        // Answers that a store gives only where they are true.
        !matches!(kind, NotFound | AlreadyExists)
    });
    let errors = errors.map(|kind| ObjectFault::Error(*kind));
    let others = [
        ObjectFault::Hangs,
        ObjectFault::LostReply,
        ObjectFault::CutBody,
        ObjectFault::FlippedBit,
        ObjectFault::WrongRange,
        ObjectFault::WholeObject,
    ];
    let mut times = 0;
    for fault in errors.chain(others) {
        // Once, and from then on.
        for (name, operation) in operations {
            let is_typical = matches!(
                fault,
                ObjectFault::Hangs
                    | ObjectFault::Error(ObjectErrorKind::Denied)
                    | ObjectFault::FlippedBit
            );
            let lasts = if is_typical { &[1, u64::MAX][..] } else { &[1] };
            for &lasts in lasts {
                times += series(format_args!("{name}: {fault:?}, {lasts} times"), |nth| {
                    let bucket = prepared();
                    let requests = Arc::new(AtomicU64::new(0));
                    let count = requests.clone();
                    let applies = move |request: Request| match fault {
                        ObjectFault::LostReply => {
                            matches!(request, Request::PutNew | Request::Set | Request::Remove)
                        }
                        ObjectFault::Hangs | ObjectFault::Error(_) => true,
                        _ => request == Request::Read,
                    };
                    let root = root_of(bucket.with_faults(move |request| {
                        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                        let is_now = (nth..nth.saturating_add(lasts)).contains(&number);
                        (is_now && applies(request)).then_some(fault)
                    }));
                    operation(&root, &bucket);
                    assert_eq!(readable(&bucket, 0..40), 40);
                    requests.load(Ordering::SeqCst) >= nth
                });
            }
        }
    }
    seen(
        "a request of listing, checking, pruning or clearing a bucket fails",
        times,
    );
}
