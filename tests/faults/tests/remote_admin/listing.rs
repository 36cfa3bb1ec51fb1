//! Listing, summaries, checks and clearing.

use torchcache_faults::objects::{ObjectFault, Request, SimObjects};
use torchcache_store::admin::SegmentState;
use torchcache_store::remote::ObjectErrorKind;
use torchcache_store::segment::SegmentError;

use crate::common::{
    CACHE, HASH, LEN, SEGMENTS, bucket, listed, local, object_keys, only, pass, put, readable,
    root, root_of, segment_count,
};

/// A bucket with 60 rows in three segments.
fn three() -> SimObjects {
    let bucket = bucket();
    for n in 0..3 {
        put(&bucket, 20 * n..20 * (n + 1));
    }
    bucket
}

/// Changes the bytes of the segment of this number.
fn change(bucket: &SimObjects, nth: usize, change: impl FnOnce(&mut Vec<u8>)) {
    let (key, bytes) = bucket.objects(SEGMENTS).swap_remove(nth);
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    bucket.insert(&key, bytes);
}

/// Makes the segment of this number one of a newer version.
fn make_newer(bucket: &SimObjects, nth: usize) {
    change(bucket, nth, |bytes| {
        let trailer = bytes.len() - 48;
        bytes[8] = 9;
        bytes[trailer + 24] = 9;
    });
}

fn states(bucket: &SimObjects) -> Vec<SegmentState> {
    let mut reports = root(bucket).check(&listed(bucket), &());
    assert_eq!(reports.len(), 1);
    let segments = reports.remove(0).segments.into_iter();
    segments.map(|segment| segment.state).collect()
}

#[test]
fn caches_are_found_by_one_listing() {
    let bucket = bucket();
    let root = root(&bucket);
    assert!(root.list().expect("it can be listed").caches.is_empty());
    let (_disk, cache) = local([(0..20, LEN)]);
    for hash in ["0123abcd", "4567cdef", "a name"] {
        root.push(&cache, hash, false, &()).expect("nothing fails");
    }
    for foreign in [
        "team/torchcache-1/notes",
        "team/torchcache-1/x/y",
        "team/torchcache-1/../s/a",
    ] {
        bucket.insert(foreign, vec![1]);
    }
    bucket.insert(&format!("{CACHE}s/a.tcs"), vec![1]);
    bucket.insert("other/torchcache-1/0123abcd/latest", vec![1]);
    let handle = std::sync::Arc::new(bucket.with_faults(|_| None));
    let clock = std::sync::Arc::new(bucket.clock().clone());
    let root = torchcache_store::remote_admin::RemoteRoot::new(handle.clone(), clock, "team/");
    let listing = root.list().expect("it can be listed");
    let log = handle.take_log();
    assert_eq!((log.lists, log.gets), (1, 0));
    let names: Vec<_> = listing.caches.iter().map(|cache| cache.name()).collect();
    assert_eq!(names, ["0123abcd", "4567cdef", "a name"]);
    assert_eq!(listing.foreign.len(), 3, "{:?}", listing.foreign);
    let cache = &listing.caches[0];
    assert_eq!(cache.foreign(), [format!("{CACHE}s/a.tcs")]);
    assert_eq!((cache.segment_count(), cache.max_rows()), (1, 21));
    let manifests = root.manifests(&listing.caches);
    assert_eq!(handle.take_log().gets, 3);
    for manifest in manifests {
        assert_eq!(manifest.expect("it was put").module, "demo::Head");
    }
}

#[test]
fn summaries_count_rows_by_the_footers() {
    let bucket = three();
    make_newer(&bucket, 1);
    let cache = only(&bucket);
    let summary = root(&bucket).summary(&cache).expect("nothing fails");
    assert_eq!((summary.rows(), summary.segments.len()), (40, 3));
    assert_eq!(summary.bytes(), cache.bytes());
    let newer = summary.segments[1].contents.as_ref().err();
    assert_eq!(newer.and_then(SegmentError::newer_version), Some(9));
    assert_eq!(summary.groups()[0].rows, 40);
}

#[test]
fn every_record_is_checked() {
    let bucket = three();
    let intact = |state: &SegmentState| matches!(state, SegmentState::Intact { rows: 20 });
    assert!(states(&bucket).iter().all(intact));
    change(&bucket, 0, |bytes| bytes[16 + 2 * (LEN + 8)] ^= 1);
    change(&bucket, 1, |bytes| bytes.truncate(1000));
    let found = states(&bucket);
    assert!(
        matches!(
            found[0],
            SegmentState::Corrupt {
                rows: 20,
                corrupt: 1,
                first_index: 2,
                ..
            }
        ),
        "{found:?}"
    );
    assert!(found[1].is_corrupt() && intact(&found[2]), "{found:?}");
}

#[test]
fn names_that_lie_are_corrupt_and_newer_versions_are_not() {
    let bucket = three();
    make_newer(&bucket, 0);
    let (key, bytes) = bucket.objects(SEGMENTS).swap_remove(1);
    bucket.take(&key);
    let lie = key
        .rsplit_once('-')
        .map(|(start, _)| format!("{start}-400.tcs"));
    bucket.insert(&lie.expect("it has one"), bytes.to_vec());
    let found = states(&bucket);
    let is_newer = |state: &SegmentState| {
        matches!(state, SegmentState::NotRead(SegmentError::FutureVersion(9)))
    };
    assert!(is_newer(&found[0]) && !found[0].is_corrupt(), "{found:?}");
    assert!(found[1].is_corrupt(), "{found:?}");
}

#[test]
fn bytes_that_are_damaged_on_the_way_are_read_again() {
    for fault in [
        ObjectFault::FlippedBit,
        ObjectFault::CutBody,
        ObjectFault::WrongRange,
        ObjectFault::WholeObject,
    ] {
        let bucket = three();
        let mut reads = 0;
        let root = root_of(bucket.with_faults(move |request| {
            reads += u64::from(request == Request::Read);
            (request == Request::Read && reads % 2 == 1).then_some(fault)
        }));
        let reports = root.check(&listed(&bucket), &());
        for segment in &reports[0].segments {
            assert!(
                matches!(segment.state, SegmentState::Intact { rows: 20 }),
                "{fault:?}: {segment:?}"
            );
        }
    }
}

#[test]
fn a_store_that_does_not_answer_is_asked_four_times() {
    let bucket = three();
    let clock = bucket.clock().clone();
    for (fault, requests) in [
        (ObjectFault::Hangs, 4),
        (ObjectFault::Error(ObjectErrorKind::Throttled), 4),
        (ObjectFault::Error(ObjectErrorKind::Denied), 1),
        (ObjectFault::Error(ObjectErrorKind::NotFound), 1),
    ] {
        let handle = std::sync::Arc::new(bucket.with_faults(move |_| Some(fault)));
        let root = torchcache_store::remote_admin::RemoteRoot::new(
            handle.clone(),
            std::sync::Arc::new(clock.clone()),
            "team",
        );
        root.list().expect_err("it fails");
        assert_eq!(handle.take_log().lists, requests, "{fault:?}");
    }
}

#[test]
fn clearing_removes_all_objects_but_those_of_others() {
    let bucket = three();
    make_newer(&bucket, 2);
    bucket.insert(&format!("{CACHE}s/notes.txt"), vec![1]);
    let cache = only(&bucket);
    let dry = root(&bucket).clear(&cache, true, &());
    assert_eq!((dry.segments, segment_count(&bucket)), (3, 4));
    let wet = root(&bucket).clear(&cache, false, &());
    assert_eq!(
        (wet.segments, wet.bytes, wet.cache_removed),
        (3, dry.bytes, true)
    );
    assert_eq!(object_keys(&bucket, ""), [format!("{CACHE}s/notes.txt")]);
}

#[test]
fn where_removing_is_denied_one_request_is_enough() {
    let bucket = three();
    let denied = ObjectFault::Error(ObjectErrorKind::Denied);
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = asked.clone();
    let root = root_of(bucket.with_faults(move |request| {
        let is_removal = request == Request::Remove;
        count.fetch_add(u64::from(is_removal), std::sync::atomic::Ordering::Relaxed);
        is_removal.then_some(denied)
    }));
    let report = root.clear(&only(&bucket), false, &());
    assert_eq!((report.segments, report.failed.len()), (0, 3));
    assert!(!report.cache_removed);
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(readable(&bucket, 0..60), 60);
    assert!(only(&bucket).created().is_some(), "the manifest stays");
}

#[test]
fn rows_that_are_added_while_a_cache_is_cleared_stay() {
    let bucket = three();
    let cache = only(&bucket);
    pass(&bucket, 1);
    put(&bucket, 100..120);
    let report = root(&bucket).clear(&cache, false, &());
    assert_eq!((report.segments, report.cache_removed), (3, false));
    assert_eq!(
        (readable(&bucket, 0..60), readable(&bucket, 100..120)),
        (0, 20)
    );
    assert_eq!(only(&bucket).name(), HASH);
}
