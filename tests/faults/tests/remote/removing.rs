//! Segments that are removed from the bucket: what machines that know them then put.

use std::sync::Arc;
use std::time::Duration;

use torchcache_faults::objects::SimObjects;
use torchcache_store::admin::Keep;
use torchcache_store::remote::Clock;
use torchcache_store::remote_admin::{RemoteKeep, RemotePrunePlan, RemoteRoot};

use crate::common::{HASH, Machine, PREFIX, SEGMENTS, bucket};

const DAY: Duration = Duration::from_secs(86_400);

fn root(bucket: &SimObjects) -> RemoteRoot {
    let clock = bucket.clock().clone();
    let objects = bucket.with_faults(|_| None);
    RemoteRoot::new(Arc::new(objects), Arc::new(clock), PREFIX)
}

/// A machine that put rows 0..10 long ago, rows 10..20 just now, and knows both.
fn with_old_rows(bucket: &SimObjects) -> Machine {
    let writer = Machine::new(bucket);
    writer.put(0..10, 300);
    bucket.clock().sleep(9 * DAY);
    writer.put(10..20, 300);
    assert_eq!(writer.count(0..20), 20);
    writer
}

#[track_caller]
fn puts_rows_again(bucket: &SimObjects, writer: &Machine) {
    writer.put(0..10, 300);
    let reader = Machine::new(bucket);
    reader.work(1);
    assert_eq!(reader.count(0..10), 10);
}

#[test]
fn pruned_rows_are_put_again_by_those_that_knew_them() {
    let bucket = bucket();
    let writer = with_old_rows(&bucket);
    let root = root(&bucket);
    let keep = RemoteKeep {
        keep: Keep::ReadWithin(DAY),
        grace: DAY,
    };
    let plan = RemotePrunePlan::new(&root, keep).expect("nothing fails");
    assert_eq!(plan.carry_out(&()).caches[0].segments.len(), 1);
    assert_eq!(bucket.objects(SEGMENTS).len(), 1);
    puts_rows_again(&bucket, &writer);
}

#[test]
fn cleared_rows_are_put_again_by_those_that_knew_them() {
    let bucket = bucket();
    let writer = with_old_rows(&bucket);
    let root = root(&bucket);
    let listed = root.list().expect("nothing fails").caches;
    assert_eq!(listed[0].name(), HASH);
    // Added after the listing, so the cache stays.
    writer.put(20..30, 300);
    assert!(!root.clear(&listed[0], false, &()).cache_removed);
    puts_rows_again(&bucket, &writer);
}
