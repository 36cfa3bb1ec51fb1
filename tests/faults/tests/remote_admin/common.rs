//! A bucket with segments, directories to copy from and to, and readers that know what they know.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use torchcache_faults::objects::{SimClock, SimObjects};
use torchcache_faults::rows::{keys, opened, put_flushed, value};
use torchcache_faults::sim::Sim;
use torchcache_store::Key;
use torchcache_store::admin::{Cache, Root};
use torchcache_store::fs::FileSystem;
use torchcache_store::manifest::Manifest;
use torchcache_store::remote::{Clock, RecordSource, Remote, RemoteConfig, StoredRecord};
use torchcache_store::remote_admin::{PushReport, RemoteCache, RemoteRoot};

pub(crate) const PREFIX: &str = "team";
pub(crate) const HASH: &str = "0123abcd";

/// What the keys of the cache begin with.
pub(crate) const CACHE: &str = "team/torchcache-1/0123abcd/";

/// What the keys of its segments begin with.
pub(crate) const SEGMENTS: &str = "team/torchcache-1/0123abcd/s/";

/// What the keys of its compaction records begin with.
pub(crate) const RECORDS: &str = "team/torchcache-1/0123abcd/c/";

pub(crate) const MINUTE: u64 = 60;
pub(crate) const HOUR: u64 = 3600;
pub(crate) const DAY: u64 = 24 * HOUR;

/// The length of most rows.
pub(crate) const LEN: usize = 300;

pub(crate) fn bucket() -> SimObjects {
    SimObjects::new(SimClock::default())
}

pub(crate) fn pass(bucket: &SimObjects, seconds: u64) {
    bucket.clock().sleep(Duration::from_secs(seconds));
}

/// Administration through a handle of its own without faults.
pub(crate) fn root(bucket: &SimObjects) -> RemoteRoot {
    root_of(bucket.with_faults(|_| None))
}

pub(crate) fn root_of(objects: SimObjects) -> RemoteRoot {
    let clock = objects.clock().clone();
    RemoteRoot::new(Arc::new(objects), Arc::new(clock), PREFIX)
}

/// The caches of a bucket.
pub(crate) fn listed(bucket: &SimObjects) -> Vec<RemoteCache> {
    root(bucket).list().expect("it can be listed").caches
}

pub(crate) fn only(bucket: &SimObjects) -> RemoteCache {
    let mut caches = listed(bucket);
    assert_eq!(caches.len(), 1);
    caches.remove(0)
}

/// The keys of the objects that contain a text.
pub(crate) fn object_keys(bucket: &SimObjects, text: &str) -> Vec<String> {
    let objects = bucket.objects(text).into_iter();
    objects.map(|(key, _)| key).collect()
}

pub(crate) fn segment_count(bucket: &SimObjects) -> usize {
    bucket.objects(SEGMENTS).len()
}

/// A directory with a cache of these rows, one segment for each range, and a manifest.
pub(crate) fn local(rows: impl IntoIterator<Item = (Range<u64>, usize)>) -> (Sim, Cache) {
    let (disk, dir) = (Sim::new(), Path::new("/caches").join(HASH));
    let root = disk.open_dir(Path::new("/caches"), true);
    root.expect("it can be made");
    let store = opened(disk.clone(), &dir);
    for (numbers, len) in rows {
        put_flushed(&store, numbers, len);
    }
    drop(store);
    let manifest = Manifest::new("demo::Head", HASH, Vec::new());
    let opened = disk.open_dir(&dir, true).expect("it can be opened");
    manifest.write(&opened).expect("it can be written");
    let cache = local_cache(&disk);
    (disk, cache)
}

pub(crate) fn local_cache(disk: &Sim) -> Cache {
    let root = Root::open_on(Arc::new(disk.clone()), Path::new("/caches"));
    let listing = root.and_then(|root| root.list());
    listing.expect("it can be listed").caches.remove(0)
}

/// Puts rows as one object, which is a second older than the next.
#[track_caller]
pub(crate) fn put(bucket: &SimObjects, numbers: Range<u64>) -> PushReport {
    put_len(bucket, numbers, LEN)
}

#[track_caller]
pub(crate) fn put_len(bucket: &SimObjects, numbers: Range<u64>, len: usize) -> PushReport {
    let (_disk, cache) = local([(numbers, len)]);
    pass(bucket, 1);
    let pushed = root(bucket).push(&cache, HASH, false, &());
    pushed.expect("nothing fails")
}

/// Puts rows as one object even if others have them.
pub(crate) fn put_again(bucket: &SimObjects, numbers: Range<u64>, len: usize) {
    let elsewhere = SimObjects::new(bucket.clock().clone());
    put_len(&elsewhere, numbers, len);
    for (key, bytes) in elsewhere.objects(SEGMENTS) {
        bucket.insert(&key, bytes.to_vec());
    }
}

/// A source without rows.
struct Nothing;

impl RecordSource for Nothing {
    fn read(&self, _: &[Key], _: &mut dyn FnMut(StoredRecord<'_>)) {}
}

/// A machine that reads. What it knows of the bucket may be out of date.
pub(crate) struct Reader {
    remote: Remote,
    clock: SimClock,
}

impl Reader {
    /// A machine that learns what there is now.
    pub(crate) fn new(bucket: &SimObjects) -> Reader {
        let clock = bucket.clock().clone();
        let remote = Remote::new(
            Arc::new(bucket.with_faults(|_| None)),
            Arc::new(clock.clone()),
            Arc::new(Sim::new()),
            RemoteConfig::new(PREFIX, HASH, "/footers".into()),
        );
        let reader = Reader { remote, clock };
        reader.work(1);
        reader
    }

    pub(crate) fn work(&self, seconds: u64) {
        for _ in 0..seconds {
            self.remote.work(&Nothing);
            self.clock.sleep(Duration::from_secs(1));
        }
    }

    /// The lengths of the values that it gets; each is right.
    #[track_caller]
    pub(crate) fn get(&self, numbers: Range<u64>) -> Vec<Option<usize>> {
        let keys = keys(numbers);
        let located = self.remote.locate(&keys);
        let rows: Vec<_> = located.iter().flatten().cloned().collect();
        let mut values: Vec<Vec<u8>> = rows.iter().map(|row| vec![0xEE; row.len]).collect();
        let mut out: Vec<&mut [u8]> = values.iter_mut().map(Vec::as_mut_slice).collect();
        let deadline = self.clock.now() + Duration::from_secs(20);
        let read = self.remote.read(&rows, &mut out, deadline);
        let mut got = values.into_iter().zip(read);
        let lens = keys.iter().zip(located).map(|(key, located)| {
            located?;
            let (row, is_read) = got.next()?;
            is_read.then(|| {
                assert!(row == value(key, row.len()), "a wrong row");
                row.len()
            })
        });
        lens.collect()
    }

    #[track_caller]
    pub(crate) fn count(&self, numbers: Range<u64>) -> usize {
        self.get(numbers).into_iter().flatten().count()
    }
}

/// How many of these rows a new machine gets.
#[track_caller]
pub(crate) fn readable(bucket: &SimObjects, numbers: Range<u64>) -> usize {
    Reader::new(bucket).count(numbers)
}

/// How many rows the segments have together: copies count.
#[track_caller]
pub(crate) fn stored_rows(bucket: &SimObjects) -> u64 {
    let summary = root(bucket).summary(&only(bucket));
    summary.expect("nothing fails").rows()
}

/// Leaves a read mark of a machine now.
pub(crate) fn mark(bucket: &SimObjects, machine: u64, objects: &[String]) {
    use torchcache_store::remote::ReadMark;
    let mark = ReadMark::new(bucket.clock().time_of_day(), machine);
    let names = objects.iter().map(|key| &key[SEGMENTS.len()..]);
    let content = ReadMark::content(names);
    bucket.insert(&format!("{CACHE}r/{mark}"), content.into_bytes());
}
