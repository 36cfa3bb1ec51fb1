//! Every request of the remote tier: counted, and not made while the breaker is open.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::breaker::{Breaker, BreakerState, Outcome, Permit};
use super::object_store::{
    ObjectError, ObjectErrorKind, ObjectPage, ObjectStore, RangeRead, read_each_once,
};
use super::time::Clock;
use super::warnings::{Warning, Warnings};

/// How long a request in the background may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Who waits for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A call of the program.
    Call,
    /// Nothing that has to be quick.
    Background,
}

/// What a request does, which decides what an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    List,
    Read,
    Write,
}

/// Requests that were made, and what came of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Listings, a page each.
    pub lists: u64,
    /// Reads of a range or of a small object.
    pub gets: u64,
    /// Puts.
    pub puts: u64,
    /// The bytes of objects that were received.
    pub bytes_in: u64,
    /// The bytes of objects that were put.
    pub bytes_out: u64,
    /// Requests that failed, in the order of [`ObjectErrorKind::ALL`].
    errors: [u64; ObjectErrorKind::ALL.len()],
}

impl RequestCounts {
    /// How many requests failed for this reason. `NotMade` counts those that were not made.
    pub fn errors(&self, kind: ObjectErrorKind) -> u64 {
        self.errors[kind as usize]
    }
}

#[derive(Debug, Default)]
struct Counters {
    lists: AtomicU64,
    gets: AtomicU64,
    puts: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    errors: [AtomicU64; ObjectErrorKind::ALL.len()],
}

fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

#[derive(Debug)]
pub(super) struct Client {
    store: Arc<dyn ObjectStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) breaker: Arc<Breaker>,
    counters: Counters,
    pub(super) warnings: Warnings,
    /// Whether the tier only writes: that reading is denied is an answer then, also to the request that finds out
    /// whether the store is back.
    is_write_only: bool,
}

impl Client {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        prefix: &str,
        warnings: Warnings,
        is_write_only: bool,
    ) -> Client {
        Client {
            breaker: Breaker::shared(&store, prefix, is_write_only, &clock),
            store,
            clock,
            counters: Counters::default(),
            warnings,
            is_write_only,
        }
    }

    pub(super) fn counts(&self) -> RequestCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestCounts {
            lists: read(&self.counters.lists),
            gets: read(&self.counters.gets),
            puts: read(&self.counters.puts),
            bytes_in: read(&self.counters.bytes_in),
            bytes_out: read(&self.counters.bytes_out),
            errors: std::array::from_fn(|i| read(&self.counters.errors[i])),
        }
    }

    /// The deadline of a request in the background, where all of them have to end by `until`.
    fn request_deadline(&self, until: Instant) -> Instant {
        until.min(self.clock.now() + REQUEST_TIMEOUT)
    }

    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        until: Instant,
    ) -> Result<ObjectPage, ObjectError> {
        self.request(Action::List, self.request_deadline(until), |deadline| {
            add(&self.counters.lists, 1);
            self.store.list(prefix, after, deadline)?.moving_on(after)
        })
    }

    pub(super) fn get(&self, key: &str, until: Instant) -> Result<Vec<u8>, ObjectError> {
        self.request(Action::Read, self.request_deadline(until), |deadline| {
            add(&self.counters.gets, 1);
            let got = self.store.get(key, deadline)?;
            add(&self.counters.bytes_in, got.len());
            Ok(got)
        })
    }

    pub(super) fn put_new(
        &self,
        key: &str,
        bytes: &Arc<Vec<u8>>,
        deadline: Instant,
    ) -> Result<(), ObjectError> {
        self.request(Action::Write, deadline, |deadline| {
            self.count_put(bytes.len());
            self.store.put_new(key, bytes, deadline)
        })
    }

    pub(super) fn set(&self, key: &str, bytes: &[u8], until: Instant) -> Result<(), ObjectError> {
        self.request(Action::Write, self.request_deadline(until), |deadline| {
            self.count_put(bytes.len());
            self.store.set(key, bytes, deadline)
        })
    }

    fn count_put(&self, bytes: usize) {
        add(&self.counters.puts, 1);
        add(&self.counters.bytes_out, bytes);
    }

    /// Reads ranges as [`ObjectStore::read`] does, whatever the store makes of them: `done` gets each read once, and
    /// no body is longer than its range. Of a store that answers some of them slowly, the others show that it works.
    pub(super) fn read(
        &self,
        caller: Caller,
        reads: &[RangeRead],
        deadline: Instant,
        mut done: impl FnMut(usize, Result<Vec<u8>, ObjectError>),
    ) {
        if reads.is_empty() {
            return;
        }
        let deadline = match caller {
            Caller::Call => deadline,
            Caller::Background => self.request_deadline(deadline),
        };
        let permit = match self.admit(caller, deadline) {
            Ok(permit) => permit,
            Err(error) => {
                return (0..reads.len())
                    .for_each(|n| done(n, Err(self.failed(Action::Read, error.clone()))));
            }
        };
        let mut of_all = Outcome::NotMade;
        let end = |n: usize, result: Result<Vec<u8>, ObjectError>| {
            let result = result.and_then(|body| {
                let RangeRead { range, .. } = &reads[n];
                add(&self.counters.bytes_in, body.len());
                if body.len() as u64 > range.end - range.start {
                    let reason = format!("{} bytes came for the range {range:?}", body.len());
                    return Err(ObjectError::new(ObjectErrorKind::Other, reason));
                }
                Ok(body)
            });
            let outcome = outcome(&result);
            of_all = of_all.max(outcome);
            if outcome != Outcome::NotMade {
                add(&self.counters.gets, 1);
            }
            done(n, result.map_err(|error| self.failed(Action::Read, error)));
        };
        read_each_once(&*self.store, reads, deadline, end);
        self.end(permit, of_all, "no request of several was answered");
    }

    /// Whether a request is made; else why it is not.
    fn admit(&self, caller: Caller, deadline: Instant) -> Result<Permit<'_>, ObjectError> {
        let reason = if self.clock.now() >= deadline {
            "no time was left"
        } else if let Some(permit) = self.breaker.admit(caller == Caller::Background) {
            return Ok(permit);
        } else {
            "earlier ones failed, so none is made for a while"
        };
        Err(ObjectError::new(ObjectErrorKind::NotMade, reason))
    }

    /// Makes a request in the background. Where one is denied, others may not be: credentials that only read or only
    /// write do not open the breaker. Once reads of calls opened it, it stays open while the probe is denied.
    fn request<T>(
        &self,
        action: Action,
        deadline: Instant,
        request: impl FnOnce(Instant) -> Result<T, ObjectError>,
    ) -> Result<T, ObjectError> {
        let permit = self.admit(Caller::Background, deadline);
        let permit = permit.map_err(|error| self.failed(action, error))?;
        let result = request(deadline);
        let may_be_denied = !permit.is_probe || self.is_write_only;
        let outcome = match &result {
            Err(error) if error.kind == ObjectErrorKind::Denied && may_be_denied => {
                Outcome::Succeeded
            }
            result => outcome(result),
        };
        match &result {
            Err(error) => self.end(permit, outcome, error),
            Ok(_) => permit.end(outcome),
        }
        result.map_err(|error| self.failed(action, error))
    }

    /// Ends a request, and warns if that opened the breaker.
    fn end(&self, permit: Permit<'_>, outcome: Outcome, reason: impl Display) {
        permit.end(outcome);
        if outcome == Outcome::Failed && self.breaker.state() == BreakerState::Open {
            self.warnings.note(Warning::Unreachable, reason);
        }
    }

    /// Counts an error, and warns of it.
    fn failed(&self, action: Action, error: ObjectError) -> ObjectError {
        add(&self.counters.errors[error.kind as usize], 1);
        let warning = match (error.kind, action) {
            (ObjectErrorKind::Denied, Action::Write) => Some(Warning::WriteDenied),
            (ObjectErrorKind::Denied, _) => (!self.is_write_only).then_some(Warning::ReadDenied),
            (ObjectErrorKind::Throttled, _) => Some(Warning::Throttled),
            // An object that is read may be gone. What is listed or put has no other reason.
            (ObjectErrorKind::NotFound, Action::List | Action::Write) => {
                Some(Warning::MissingBucket)
            }
            _ => None,
        };
        if let Some(warning) = warning {
            self.warnings.note(warning, &error);
        }
        error
    }
}

/// What a result shows of the store.
fn outcome<T>(result: &Result<T, ObjectError>) -> Outcome {
    match result {
        Err(error) if error.kind == ObjectErrorKind::NotMade => Outcome::NotMade,
        Err(error) if !error.kind.is_answer() => Outcome::Failed,
        _ => Outcome::Succeeded,
    }
}
