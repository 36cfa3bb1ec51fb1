//! Requests of administration: each with a deadline, and made again after a pause where that may help.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::remote::{
    Clock, ListedObject, ObjectError, ObjectErrorKind, ObjectStore, RangeRead, nanos,
    read_each_once,
};

/// How long one request may take, without and with the bytes of objects.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(120);

/// How often a request is made at most, and the pause after the first time, which doubles.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// So many bytes are requested together, unless one read is longer.
const BATCH_BYTES: u64 = 64 << 20;

/// An object store, and the clock that deadlines and pauses are measured by.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
}

/// Why a range was not read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// There was no answer, or not the whole range.
    Request(ObjectError),
    /// The bytes were refused each time.
    Refused,
}

impl From<ReadError> for ObjectError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Request(error) => error,
            ReadError::Refused => ObjectError::new(ObjectErrorKind::Other, "its bytes are damaged"),
        }
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        ObjectError::from(error).into()
    }
}

/// What came of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Attempt {
    /// There are no others.
    Final,
    /// Another one follows.
    Refused,
    /// Another one follows after a pause.
    Failed,
}

/// Whether a request may succeed when it is made again.
fn may_pass(error: &ObjectError) -> bool {
    use ObjectErrorKind::{NotMade, Other, Slow, Throttled, TimedOut};
    matches!(error.kind, Throttled | TimedOut | Slow | NotMade | Other)
}

impl Requests {
    pub(super) fn new(store: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>) -> Requests {
        Requests { store, clock }
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(super) fn time_of_day(&self) -> SystemTime {
        self.clock.time_of_day()
    }

    /// The time of day in nanoseconds since 1970, for names.
    pub(super) fn nanos(&self) -> u64 {
        nanos(&*self.clock)
    }

    /// Makes attempts until one is final, with pauses between them.
    fn repeat(&self, mut attempt: impl FnMut() -> Attempt) {
        let mut pause = FIRST_PAUSE;
        for left in (0..ATTEMPTS).rev() {
            match attempt() {
                Attempt::Final => return,
                Attempt::Failed if left > 0 => {
                    self.clock.sleep(pause);
                    pause *= 2;
                }
                _ => {}
            }
        }
    }

    fn request<T>(
        &self,
        timeout: Duration,
        request: impl Fn(Instant) -> Result<T, ObjectError>,
    ) -> Result<T, ObjectError> {
        let mut result = Err(ObjectErrorKind::TimedOut.into());
        self.repeat(|| {
            result = request(self.now() + timeout);
            match result.as_ref().is_err_and(may_pass) {
                true => Attempt::Failed,
                false => Attempt::Final,
            }
        });
        result
    }

    /// Passes the objects whose keys begin so to `each`, in the order of their keys.
    pub(super) fn list(
        &self,
        prefix: &str,
        mut each: impl FnMut(ListedObject),
    ) -> Result<(), ObjectError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.request(REQUEST_TIMEOUT, |deadline| {
                let page = self.store.list(prefix, after.as_deref(), deadline)?;
                page.moving_on(after.as_deref())
            })?;
            after = page.objects.last().map(|object| object.key.clone());
            let objects = page.objects.into_iter();
            // Other objects would be removed.
            objects
                .filter(|object| object.key.starts_with(prefix))
                .for_each(&mut each);
            if page.is_last {
                return Ok(());
            }
        }
    }

    /// Puts an object whose key no other object has: one that exists was put by an earlier attempt.
    pub(super) fn put_new(&self, key: &str, bytes: &Arc<Vec<u8>>) -> Result<(), ObjectError> {
        let put = |deadline| self.store.put_new(key, bytes, deadline);
        match self.request(TRANSFER_TIMEOUT, put) {
            Err(error) if error.kind == ObjectErrorKind::AlreadyExists => Ok(()),
            put => put,
        }
    }

    /// Puts a small object, in place of one that may exist.
    pub(super) fn set(&self, key: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.request(REQUEST_TIMEOUT, |deadline| {
            self.store.set(key, bytes, deadline)
        })
    }

    /// Removes objects, several at a time. They may be gone.
    pub(super) fn remove(&self, keys: &[String]) -> Vec<Result<(), ObjectError>> {
        let mut results = vec![Err(ObjectErrorKind::TimedOut.into()); keys.len()];
        let mut left: Vec<usize> = (0..keys.len()).collect();
        self.repeat(|| {
            let requested: Vec<String> = left.iter().map(|n| keys[*n].clone()).collect();
            let deadline = self.now() + REQUEST_TIMEOUT;
            self.store.remove(&requested, deadline, &mut |at, removed| {
                results[left[at]] = match removed {
                    Err(error) if error.is_not_found() => Ok(()),
                    removed => removed,
                };
            });
            left.retain(|n| results[*n].as_ref().is_err_and(may_pass));
            match left.is_empty() {
                true => Attempt::Final,
                false => Attempt::Failed,
            }
        });
        results
    }

    /// Reads ranges. `take` gets the number of a read and all its bytes, and returns whether they are accepted; those that
    /// are not may have been damaged on the way, and are read again. Returns why reads failed.
    pub(super) fn read(
        &self,
        reads: &[RangeRead],
        mut take: impl FnMut(usize, &[u8]) -> bool,
    ) -> Vec<Option<ReadError>> {
        let mut failures: Vec<Option<ReadError>> = reads.iter().map(|_| None).collect();
        for batch in batches(reads) {
            let mut left: Vec<usize> = batch.collect();
            self.repeat(|| {
                self.read_once(reads, &left, &mut failures, &mut take);
                let mut attempt = Attempt::Final;
                left.retain(|n| match &failures[*n] {
                    Some(ReadError::Request(error)) if may_pass(error) => {
                        attempt = Attempt::Failed;
                        true
                    }
                    // Nothing is to be waited for.
                    Some(ReadError::Refused) => {
                        attempt = attempt.max(Attempt::Refused);
                        true
                    }
                    _ => false,
                });
                attempt
            });
        }
        failures
    }

    /// Makes the requests of these reads once.
    fn read_once(
        &self,
        reads: &[RangeRead],
        numbers: &[usize],
        failures: &mut [Option<ReadError>],
        take: &mut impl FnMut(usize, &[u8]) -> bool,
    ) {
        let requested: Vec<RangeRead> = numbers.iter().map(|n| reads[*n].clone()).collect();
        let deadline = self.now() + TRANSFER_TIMEOUT;
        read_each_once(&*self.store, &requested, deadline, |at, body| {
            let RangeRead { range, .. } = &requested[at];
            failures[numbers[at]] = match body {
                Ok(body) if body.len() as u64 == range.end - range.start => {
                    (!take(numbers[at], &body)).then_some(ReadError::Refused)
                }
                Ok(body) => {
                    let reason = format!("{} bytes came for the range {range:?}", body.len());
                    let error = ObjectError::new(ObjectErrorKind::Other, reason);
                    Some(ReadError::Request(error))
                }
                Err(error) => Some(ReadError::Request(error)),
            };
        });
    }
}

/// The reads that are requested together.
fn batches(reads: &[RangeRead]) -> impl Iterator<Item = Range<usize>> {
    let mut begin = 0;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let lens = reads[begin..]
            .iter()
            .map(|read| read.range.end - read.range.start);
        let fitting = lens.take_while(|len| {
            bytes += len;
            bytes <= BATCH_BYTES
        });
        let end = (begin + fitting.count().max(1)).min(reads.len());
        let batch = begin..end;
        begin = end;
        (!batch.is_empty()).then_some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_of_64_mib_or_of_one_read() {
        let read = |mib: u64| RangeRead {
            key: String::new(),
            range: 5..5 + (mib << 20),
        };
        let batched = |mib: &[u64]| {
            let reads: Vec<_> = mib.iter().map(|mib| read(*mib)).collect();
            batches(&reads).map(|batch| batch.len()).collect::<Vec<_>>()
        };
        assert_eq!(batched(&[]), [0; 0]);
        assert_eq!(batched(&[32, 32, 1]), [2, 1]);
        assert_eq!(batched(&[65, 65, 60, 4, 1]), [1, 1, 2, 1]);
    }
}
