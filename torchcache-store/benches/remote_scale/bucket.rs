//! A bucket without a network: requests take no time. Of segments it has the ends; the records only where they are read.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use torchcache_store::remote::{
    Clock, ListedObject, ObjectError, ObjectErrorKind, ObjectPage, ObjectStore, RangeRead,
};

/// The objects of a page of a listing, as S3 has them.
const PAGE: usize = 1000;

/// What a row has in a footer, and the trailer after it.
pub(crate) const ROW_LEN: u64 = 40;
const TRAILER_LEN: u64 = 48;

/// A clock that the simulation sets. Clones show the same time.
#[derive(Clone, Debug)]
pub(crate) struct StepClock {
    begin: Instant,
    passed: Arc<AtomicU64>,
}

impl StepClock {
    pub(crate) fn new() -> StepClock {
        StepClock {
            begin: Instant::now(),
            passed: Arc::default(),
        }
    }

    fn passed(&self) -> Duration {
        Duration::from_nanos(self.passed.load(Ordering::Relaxed))
    }
}

impl Clock for StepClock {
    fn now(&self) -> Instant {
        self.begin + self.passed()
    }

    fn time_of_day(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.passed()
    }

    fn sleep(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).expect("a time that is simulated");
        self.passed.fetch_add(nanos, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Object {
    size: u64,
    modified: SystemTime,
    /// Its last bytes.
    end: Vec<u8>,
}

/// The objects of all machines.
#[derive(Debug)]
pub(crate) struct Bucket {
    objects: Mutex<BTreeMap<String, Object>>,
    clock: StepClock,
    has_records: bool,
    /// The rows of the footers that were read.
    footer_rows: AtomicU64,
}

impl Bucket {
    pub(crate) fn new(clock: &StepClock, has_records: bool) -> Arc<Bucket> {
        Arc::new(Bucket {
            objects: Mutex::default(),
            clock: clock.clone(),
            has_records,
            footer_rows: AtomicU64::new(0),
        })
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        self.objects.lock().expect("no thread panicked")
    }

    /// How many rows were in the footers that all machines read.
    pub(crate) fn footer_rows(&self) -> u64 {
        self.footer_rows.load(Ordering::Relaxed)
    }

    /// Moves all objects of another bucket into this one.
    pub(crate) fn take(&self, other: &Bucket) {
        self.objects().append(&mut other.objects());
    }

    fn insert(&self, key: &str, bytes: &[u8]) {
        let footer = footer_bytes(key).filter(|_| !self.has_records);
        let from = footer.map_or(0, |footer| bytes.len() - (footer + TRAILER_LEN) as usize);
        let object = Object {
            size: bytes.len() as u64,
            modified: self.clock.time_of_day(),
            end: bytes[from..].to_vec(),
        };
        self.objects().insert(key.to_owned(), object);
    }

    fn range(&self, read: &RangeRead) -> Result<Vec<u8>, ObjectError> {
        let objects = self.objects();
        let object = objects.get(&read.key).ok_or(ObjectErrorKind::NotFound)?;
        let from = object.size - object.end.len() as u64;
        let range = read.range.start.checked_sub(from).map(|it| it as usize);
        let body = range.and_then(|begin| object.end.get(begin..(read.range.end - from) as usize));
        Ok(body.ok_or(ObjectErrorKind::Other)?.to_vec())
    }
}

/// The length of the footer in the key of a segment.
fn footer_bytes(key: &str) -> Option<u64> {
    let (_, bytes) = key.strip_suffix(".tcs")?.rsplit_once('-')?;
    u64::from_str_radix(bytes, 16).ok()
}

impl ObjectStore for Bucket {
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        _: Instant,
    ) -> Result<ObjectPage, ObjectError> {
        let objects = self.objects();
        let after = after.filter(|after| *after >= prefix);
        let begin = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let keys = objects.range::<str, _>((begin, Bound::Unbounded));
        let mut keys = keys.take_while(|(key, _)| key.starts_with(prefix));
        let page = keys.by_ref().take(PAGE).map(|(key, object)| ListedObject {
            key: key.clone(),
            size: object.size,
            modified: object.modified,
        });
        Ok(ObjectPage {
            objects: page.collect(),
            is_last: keys.next().is_none(),
        })
    }

    fn read(
        &self,
        reads: &[RangeRead],
        _: Instant,
        done: &mut dyn FnMut(usize, Result<Vec<u8>, ObjectError>),
    ) {
        for (n, read) in reads.iter().enumerate() {
            let footer = footer_bytes(&read.key).unwrap_or_default();
            if read.range.end - read.range.start == footer + TRAILER_LEN {
                let rows = footer / ROW_LEN;
                self.footer_rows.fetch_add(rows, Ordering::Relaxed);
            }
            done(n, self.range(read));
        }
    }

    fn get(&self, key: &str, _: Instant) -> Result<Vec<u8>, ObjectError> {
        let objects = self.objects();
        let object = objects.get(key).ok_or(ObjectErrorKind::NotFound)?;
        Ok(object.end.clone())
    }

    fn put_new(&self, key: &str, bytes: &Arc<Vec<u8>>, _: Instant) -> Result<(), ObjectError> {
        self.insert(key, bytes);
        Ok(())
    }

    fn set(&self, key: &str, bytes: &[u8], _: Instant) -> Result<(), ObjectError> {
        self.insert(key, bytes);
        Ok(())
    }

    fn remove(
        &self,
        keys: &[String],
        _: Instant,
        done: &mut dyn FnMut(usize, Result<(), ObjectError>),
    ) {
        for (n, key) in keys.iter().enumerate() {
            self.objects().remove(key);
            done(n, Ok(()));
        }
    }
}
