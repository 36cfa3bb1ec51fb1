//! Pruning: what is removed, what read marks and the grace period keep, and what is reported.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use torchcache_faults::cases::series;
use torchcache_faults::objects::{ObjectFault, Request, SimObjects};
use torchcache_store::admin::Keep;
use torchcache_store::manifest::Manifest;
use torchcache_store::remote::{Clock, ObjectErrorKind, ReadMark};
use torchcache_store::remote_admin::{RemoteKeep, RemotePrunePlan, RemotePruneReport, RemoteRoot};

use crate::common::{
    CACHE, DAY, HASH, HOUR, PREFIX, RECORDS, SEGMENTS, bucket, listed, mark, object_keys, only,
    pass, put, readable, root, root_of, segment_count,
};

const WEEK: Duration = Duration::from_secs(7 * DAY);

fn older_than(days: u64) -> RemoteKeep {
    RemoteKeep {
        keep: Keep::ReadWithin(Duration::from_secs(days * DAY)),
        grace: WEEK,
    }
}

fn prune(root: &RemoteRoot, keep: RemoteKeep) -> RemotePruneReport {
    let plan = RemotePrunePlan::new(root, keep).expect("nothing fails");
    let shown = plan.report();
    let done = plan.carry_out(&());
    if done.failed.is_empty() {
        assert_same(&done, &shown);
    }
    done
}

#[track_caller]
fn assert_same(done: &RemotePruneReport, shown: &RemotePruneReport) {
    let all = |report: &RemotePruneReport| {
        let sizes = (report.remaining_bytes, report.removed_bytes());
        let caches = report.caches.iter();
        let caches = caches.map(|it| (it.name.clone(), it.segments.clone(), it.cache_removed));
        let caches: Vec<_> = caches.collect();
        (sizes, report.marks, report.joined_sources, caches)
    };
    assert_eq!(all(done), all(shown));
}

/// Ten segments of ten rows, put a day after each other, the newest just now.
fn ten() -> SimObjects {
    let bucket = bucket();
    for n in 0..10 {
        pass(&bucket, DAY);
        put(&bucket, 10 * n..10 * (n + 1));
    }
    bucket
}

#[test]
fn segments_go_by_age() {
    let bucket = ten();
    pass(&bucket, 20 * DAY);
    let report = prune(&root(&bucket), older_than(25));
    assert_eq!(report.caches[0].segments.len(), 5);
    assert!(!report.caches[0].cache_removed);
    assert_eq!(
        (readable(&bucket, 0..50), readable(&bucket, 50..100)),
        (0, 50)
    );
    let all = prune(&root(&bucket), older_than(2));
    assert!(all.caches[0].cache_removed, "{all:?}");
    assert_eq!(object_keys(&bucket, ""), [""; 0]);
}

#[test]
fn segments_that_machines_read_stay() {
    let bucket = ten();
    pass(&bucket, 30 * DAY);
    let segments = object_keys(&bucket, SEGMENTS);
    mark(&bucket, 1, &segments[2..4]);
    pass(&bucket, 5 * DAY);
    mark(&bucket, 2, &segments[3..4]);
    pass(&bucket, 5 * DAY);
    let report = prune(&root(&bucket), older_than(12));
    assert_eq!(report.caches[0].segments.len(), 8);
    assert_eq!(object_keys(&bucket, SEGMENTS), segments[2..4]);
    // Both marks are the newest of a segment.
    assert_eq!((report.marks, object_keys(&bucket, "/r/").len()), (0, 2));
    pass(&bucket, 5 * DAY);
    let report = prune(&root(&bucket), older_than(12));
    assert_eq!(object_keys(&bucket, SEGMENTS), segments[3..4]);
    assert_eq!(report.marks, 0, "it was needed when this run began");
    let report = prune(&root(&bucket), older_than(12));
    assert_eq!((report.marks, object_keys(&bucket, "/r/").len()), (1, 1));
}

#[test]
fn unreadable_marks_end_it() {
    let bucket = ten();
    pass(&bucket, 30 * DAY);
    mark(&bucket, 1, &object_keys(&bucket, SEGMENTS));
    let marks = object_keys(&bucket, "/r/");
    assert_eq!(marks.len(), 1);
    let root = root_of(bucket.with_faults(|request| {
        (request == Request::Read).then_some(ObjectFault::Error(ObjectErrorKind::Denied))
    }));
    let failed = RemotePrunePlan::new(&root, older_than(12));
    assert_eq!(
        failed.map(|_| ()).expect_err("it fails").kind,
        ObjectErrorKind::Denied
    );
    assert_eq!(segment_count(&bucket), 10);
}

#[test]
fn what_was_put_within_the_grace_period_stays() {
    let bucket = ten();
    pass(&bucket, 60);
    let report = prune(&root(&bucket), older_than(1));
    let segments = report.caches[0].segments.len() as u64;
    assert_eq!((segments, report.recent_segments), (3, 6));
    assert!(report.recent_bytes > 0);
    let keep = RemoteKeep {
        keep: Keep::MaxBytes(0),
        grace: Duration::ZERO,
    };
    let report = prune(&root(&bucket), keep);
    assert_eq!((report.recent_segments, report.remaining_bytes), (0, 0));
    assert!(listed(&bucket).is_empty());
}

#[test]
fn the_least_recently_read_go_until_the_others_fit() {
    let bucket = ten();
    pass(&bucket, 30 * DAY);
    let segments = object_keys(&bucket, SEGMENTS);
    mark(&bucket, 1, &segments[..1]);
    let total = only(&bucket).bytes();
    let keep = RemoteKeep {
        keep: Keep::MaxBytes(total / 2),
        grace: WEEK,
    };
    let report = prune(&root(&bucket), keep);
    assert_eq!(report.remaining_bytes, total / 2);
    let left = object_keys(&bucket, SEGMENTS);
    assert_eq!(left, [&segments[..1], &segments[6..]].concat());
    assert_eq!(prune(&root(&bucket), keep).caches.len(), 0);
}

#[test]
fn newer_versions_are_skipped_and_damaged_segments_are_not() {
    let bucket = ten();
    pass(&bucket, 30 * DAY);
    let now = bucket.objects(SEGMENTS);
    let mut newer = now[0].1.to_vec();
    let trailer = newer.len() - 48;
    newer[trailer + 24] = 9;
    bucket.insert(&now[0].0, newer);
    bucket.insert(&now[1].0, vec![7; now[1].1.len()]);
    pass(&bucket, 30 * DAY);
    let report = prune(&root(&bucket), older_than(20));
    assert_eq!(
        (report.skipped.len(), report.caches[0].segments.len()),
        (1, 9)
    );
    assert!(report.skipped[0].1.contains("version 9"), "{report:?}");
    assert_eq!(object_keys(&bucket, SEGMENTS), [now[0].0.clone()]);
    assert_eq!(report.remaining_bytes, 0, "skipped segments do not count");
}

#[test]
fn old_caches_of_a_module_go_as_a_whole() {
    let bucket = bucket();
    let (_disk, cache) = crate::common::local([(0..10, 300)]);
    for n in 0..4 {
        root(&bucket)
            .push(&cache, &format!("cache{n}"), false, &())
            .expect("nothing fails");
        pass(&bucket, 30 * DAY);
    }
    let other = Manifest::new("demo::Other", "x", Vec::new());
    let other = serde_json(&other);
    bucket.insert("team/torchcache-1/other/manifest.json", other);
    bucket.insert("team/torchcache-1/unnamed/latest", vec![1; 16]);
    pass(&bucket, 30 * DAY);
    let keep = RemoteKeep {
        keep: Keep::LatestPerModule(2),
        grace: WEEK,
    };
    let report = prune(&root(&bucket), keep);
    assert!(report.caches.iter().all(|cache| cache.cache_removed));
    let names: Vec<String> = listed(&bucket)
        .iter()
        .map(|it| it.name().to_owned())
        .collect();
    assert_eq!(names, ["cache2", "cache3", "other", "unnamed"]);
}

/// The text of a manifest as it is written into a directory.
fn serde_json(manifest: &Manifest) -> Vec<u8> {
    use torchcache_store::fs::FileSystem;
    let disk = torchcache_faults::sim::Sim::new();
    let dir = disk.open_dir("/m".as_ref(), true).expect("it can be made");
    manifest.write(&dir).expect("it can be written");
    disk.bytes("/m/manifest.json".as_ref())
}

#[test]
fn denied_removals_are_counted() {
    let bucket = ten();
    pass(&bucket, 60 * DAY);
    let root = root_of(bucket.with_faults(|request| {
        (request == Request::Remove).then_some(ObjectFault::Error(ObjectErrorKind::Denied))
    }));
    let report = prune(&root, older_than(1));
    assert_eq!((report.failed.len(), report.caches.len()), (10, 0));
    assert_eq!(report.remaining_bytes, only(&bucket).bytes());
    assert_eq!(readable(&bucket, 0..100), 100);
}

#[test]
fn rows_that_a_machine_adds_meanwhile_stay() {
    let bucket = ten();
    pass(&bucket, 60 * DAY);
    let plan = RemotePrunePlan::new(&root(&bucket), older_than(1)).map(drop);
    plan.expect("nothing fails");
    let root = root(&bucket);
    let plan = RemotePrunePlan::new(&root, older_than(1)).expect("nothing fails");
    bucket.take(&object_keys(&bucket, SEGMENTS)[4]);
    put(&bucket, 500..510);
    let report = plan.carry_out(&());
    assert!(!report.caches[0].cache_removed && report.failed.is_empty());
    assert_eq!(readable(&bucket, 500..510), 10);
    assert!(bucket.objects(&format!("{CACHE}manifest.json")).len() == 1);
}

/// Ten segments, and one that joined them an hour ago.
fn joined() -> SimObjects {
    let bucket = ten();
    pass(&bucket, HOUR);
    let compacted = root(&bucket).compact(HASH, false, &());
    assert_eq!(compacted.expect("nothing fails").joined.len(), 1);
    pass(&bucket, HOUR + 1);
    assert_eq!(segment_count(&bucket), 11);
    bucket
}

#[test]
fn finished_compactions_are_completed_first() {
    let bucket = joined();
    let before = only(&bucket).bytes();
    let keep = RemoteKeep {
        keep: Keep::MaxBytes(before / 2),
        grace: Duration::ZERO,
    };
    let report = prune(&root(&bucket), keep);
    assert_eq!((report.joined_sources, report.caches.len()), (10, 0));
    assert_eq!(
        (segment_count(&bucket), readable(&bucket, 0..100)),
        (1, 100)
    );
}

#[test]
fn records_that_cannot_be_read_count_as_none() {
    let everything = RemoteKeep {
        keep: Keep::MaxBytes(0),
        grace: Duration::ZERO,
    };
    // From this read on, all are damaged.
    series(format_args!("damaged reads"), |nth| {
        let bucket = joined();
        let reads = Arc::new(AtomicU64::new(0));
        let count = reads.clone();
        let root = root_of(bucket.with_faults(move |request| {
            let is_damaged =
                request == Request::Read && count.fetch_add(1, Ordering::SeqCst) + 1 >= nth;
            is_damaged.then_some(ObjectFault::FlippedBit)
        }));
        let plan = RemotePrunePlan::new(&root, everything).expect("no request fails");
        let shown = plan.report();
        // The sources are joined, or removed as the others are.
        let removed = shown.caches[0].segments.len() as u64;
        assert_eq!(removed + shown.joined_sources, 11, "{nth}: {shown:?}");
        assert!(shown.caches[0].cache_removed, "{nth}: {shown:?}");
        reads.load(Ordering::SeqCst) >= nth
    });
}

#[test]
fn a_record_that_lists_a_source_twice_has_no_effect() {
    let bucket = bucket();
    put(&bucket, 0..10);
    let (source, bytes) = bucket.objects(SEGMENTS).remove(0);
    let source = &source[SEGMENTS.len()..];
    let sources = [source; 3];
    let hashed = format!("joined, version 2\n{}\n", sources.join("\n"));
    let hash = blake3::hash(hashed.as_bytes());
    let random = hash.as_bytes().first_chunk().expect("it has 32 bytes");
    let random = u64::from_le_bytes(*random);
    let (time, _) = source.split_once('-').expect("names begin with a time");
    let (_, footer) = source.rsplit_once('-').expect("names end in a length");
    let joined = format!("{time}-0-{random:016x}-{footer}");
    bucket.insert(&format!("{SEGMENTS}{joined}"), bytes.to_vec());
    let content = ReadMark::content(sources);
    bucket.insert(&format!("{RECORDS}{joined}"), content.into_bytes());
    pass(&bucket, 2 * HOUR);
    let dry = root(&bucket).compact(HASH, true, &());
    assert_eq!(dry.expect("nothing fails").removed_segments, 0);
    let report = prune(&root(&bucket), older_than(1));
    assert_eq!((report.joined_sources, report.caches.len()), (0, 0));
    assert_eq!(segment_count(&bucket), 2);
    let everything = RemoteKeep {
        keep: Keep::MaxBytes(0),
        grace: Duration::ZERO,
    };
    assert!(prune(&root(&bucket), everything).caches[0].cache_removed);
}

#[test]
fn ages_are_those_of_the_store() {
    for ahead in [-60, 60] {
        let bucket = ten();
        let clock = bucket.clock().ahead_by(ahead * DAY as i64);
        let objects = bucket.with_faults(|_| None);
        let root = RemoteRoot::new(Arc::new(objects), Arc::new(clock), PREFIX);
        let plan = RemotePrunePlan::new(&root, older_than(1)).expect("nothing fails");
        let shown = plan.report();
        let segments = shown.caches[0].segments.len() as u64;
        assert_eq!((segments, shown.recent_segments), (3, 6), "{ahead}");
        assert_eq!(segment_count(&bucket), 10);
        assert_same(&plan.carry_out(&()), &shown);
        assert_eq!(segment_count(&bucket), 7);
    }
}

#[test]
fn ages_are_those_of_this_machine_where_the_hint_may_not_be_changed() {
    let bucket = ten();
    let root = root_of(bucket.with_faults(|request| {
        (request == Request::Set).then_some(ObjectFault::Error(ObjectErrorKind::Denied))
    }));
    let plan = RemotePrunePlan::new(&root, older_than(1)).expect("readers may look");
    let shown = plan.report();
    assert_eq!(shown.caches[0].segments.len(), 3);
    assert!(
        shown.skipped[0].1.contains("the clock of this machine"),
        "{shown:?}"
    );
}

#[test]
fn what_machines_read_or_add_after_the_plan_stays() {
    let bucket = ten();
    pass(&bucket, 60 * DAY);
    mark(&bucket, 1, &object_keys(&bucket, SEGMENTS)[..1]);
    pass(&bucket, 60 * DAY);
    let root = root(&bucket);
    let plan = RemotePrunePlan::new(&root, older_than(30)).expect("nothing fails");
    assert_eq!(plan.report().remaining_bytes, 0);
    let segments = object_keys(&bucket, SEGMENTS);
    mark(&bucket, 2, &segments[6..7]);
    let report = plan.carry_out(&());
    assert_eq!(object_keys(&bucket, SEGMENTS), segments[6..7]);
    assert_eq!(report.remaining_bytes, only(&bucket).bytes());
    assert!(report.failed.is_empty() && !report.caches[0].cache_removed);

    // Without segments, the mark that was put meanwhile keeps the manifest.
    pass(&bucket, 60 * DAY);
    let plan = RemotePrunePlan::new(&root, older_than(30)).expect("nothing fails");
    assert!(plan.report().caches[0].cache_removed);
    mark(&bucket, 3, &segments[..1]);
    assert!(!plan.carry_out(&()).caches[0].cache_removed);
    assert_eq!(segment_count(&bucket), 0);
    assert_eq!(bucket.objects(&format!("{CACHE}manifest.json")).len(), 1);
}

#[test]
fn objects_are_removed_many_at_a_time_and_failures_counted_for_each() {
    let bucket = bucket();
    for n in 0..129 {
        put(&bucket, n..n + 1);
    }
    pass(&bucket, 60 * DAY);
    let clear = |root: &RemoteRoot| {
        let cleared = root.clear(&only(&bucket), false, &());
        (cleared.segments, cleared.failed.len())
    };
    let prune = |root: &RemoteRoot| {
        let keep = RemoteKeep {
            keep: Keep::MaxBytes(0),
            grace: WEEK,
        };
        let plan = RemotePrunePlan::new(root, keep).expect("nothing fails");
        let pruned = plan.carry_out(&());
        (pruned.caches[0].segments.len() as u64, pruned.failed.len())
    };
    let kept: Vec<_> = bucket.objects("");
    for remove in [&clear as &dyn Fn(&RemoteRoot) -> _, &prune] {
        for (key, bytes) in &kept {
            bucket.insert(key, bytes.to_vec());
        }
        pass(&bucket, 60 * DAY);
        // When requests that remove objects begin.
        let (clock, times) = (bucket.clock().clone(), Arc::new(Mutex::new(Vec::new())));
        let noted = times.clone();
        let mut removals = 0;
        let objects = bucket.with_faults(move |request| {
            let is_removal = request == Request::Remove;
            removals += u64::from(is_removal);
            if is_removal {
                noted.lock().unwrap().push(clock.now());
            }
            // One of them fails for a reason that does not pass, others once.
            match is_removal && removals.is_multiple_of(50) {
                true if removals == 100 => Some(ObjectFault::Error(ObjectErrorKind::Denied)),
                true => Some(ObjectFault::Error(ObjectErrorKind::Throttled)),
                false => None,
            }
        });
        assert_eq!(remove(&root_of(objects)), (128, 1));
        assert_eq!(segment_count(&bucket), 1);
        let times = times.lock().unwrap();
        let mut at_once: Vec<_> = times.chunk_by(|a, b| a == b).map(<[_]>::len).collect();
        at_once.sort_unstable();
        assert_eq!(at_once.pop(), Some(64), "requests in one list");
    }
}
