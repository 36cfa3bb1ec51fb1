//! An object store in memory with a clock that it moves, and faults that tests plant: each handle has its own, so that
//! machines with a bad network and others share a bucket.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use torchcache_store::remote::{
    Clock, ListedObject, MAX_CONCURRENT_READS, ObjectError, ObjectErrorKind, ObjectPage,
    ObjectStore, RangeRead,
};

/// How long each request takes.
const LATENCY: Duration = Duration::from_millis(20);

/// How many bytes a request transfers in a second.
const BANDWIDTH: u64 = 100 << 20;

/// Long enough for every deadline.
const HANGING: Duration = Duration::from_secs(100_000);

/// A time that passes only where a simulated request takes time, or a test says so. Clones show the same time.
#[derive(Clone, Debug)]
pub struct SimClock {
    begin: (Instant, SystemTime),
    passed: Arc<Mutex<Duration>>,
}

impl Default for SimClock {
    fn default() -> Self {
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        SimClock {
            begin: (Instant::now(), begin),
            passed: Arc::default(),
        }
    }
}

impl SimClock {
    /// A clock whose time of day is wrong by so many seconds. Time passes as for this one.
    pub fn ahead_by(&self, seconds: i64) -> SimClock {
        let (begin, day) = self.begin;
        let wrong = Duration::from_secs(seconds.unsigned_abs());
        let day = if seconds < 0 {
            day - wrong
        } else {
            day + wrong
        };
        SimClock {
            begin: (begin, day),
            passed: self.passed.clone(),
        }
    }

    fn passed(&self) -> MutexGuard<'_, Duration> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass_until(&self, time: Instant) {
        let mut passed = self.passed();
        *passed = (*passed).max(time.saturating_duration_since(self.begin.0));
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        self.begin.0 + *self.passed()
    }

    fn time_of_day(&self) -> SystemTime {
        self.begin.1 + *self.passed()
    }

    fn sleep(&self, duration: Duration) {
        *self.passed() += duration;
    }
}

/// How a request ends that no connection was free for before its deadline.
const NOT_MADE: ObjectFault = ObjectFault::Error(ObjectErrorKind::NotMade);

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A page of a listing.
    List,
    /// A range of an object.
    Read,
    /// A small object.
    Get,
    /// A new object.
    PutNew,
    /// The hint.
    Set,
    /// Removing an object.
    Remove,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectFault {
    /// It has no effect, and fails for this reason.
    Error(ObjectErrorKind),
    /// It has no effect, and there is no answer.
    Hangs,
    /// It has its effect, and there is no answer.
    LostReply,
    /// The body ends early.
    CutBody,
    /// A bit of the body is flipped.
    FlippedBit,
    /// The body is of another range, of the same length.
    WrongRange,
    /// The body is the whole object.
    WholeObject,
    /// The object is removed just before.
    Removed,
}

impl ObjectFault {
    /// A fault that this request can have. Objects are not removed.
    pub fn any(request: Request, rng: &mut Rng) -> ObjectFault {
        use ObjectErrorKind::{Denied, Other, Slow, Throttled, TimedOut};
        let bodies = [
            ObjectFault::CutBody,
            ObjectFault::FlippedBit,
            ObjectFault::WrongRange,
            ObjectFault::WholeObject,
        ];
        let errors = [Denied, Other, Throttled, TimedOut];
        match request {
            Request::Read if rng.bool() => bodies[rng.usize(0..bodies.len())],
            Request::Read if rng.bool() => ObjectFault::Error(Slow),
            Request::Get if rng.bool() => bodies[rng.usize(0..2)],
            Request::PutNew | Request::Set if rng.bool() => ObjectFault::LostReply,
            _ if rng.bool() => ObjectFault::Hangs,
            _ => ObjectFault::Error(errors[rng.usize(0..errors.len())]),
        }
    }
}

/// The requests of a handle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestLog {
    /// Pages of listings.
    pub lists: u64,
    /// Reads of ranges and of small objects.
    pub gets: u64,
    /// Puts of new objects.
    pub puts: u64,
    /// Changes of the hint.
    pub sets: u64,
    /// The ranges that were read.
    pub ranges: Vec<Range<u64>>,
}

#[derive(Debug)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    /// That of the store.
    clock: SimClock,
    page: usize,
    ignores_conditions: bool,
}

#[derive(Debug)]
struct Object {
    bytes: Arc<Vec<u8>>,
    modified: SystemTime,
}

impl Bucket {
    fn insert(&mut self, key: &str, bytes: Arc<Vec<u8>>) {
        let modified = self.clock.time_of_day();
        let object = Object { bytes, modified };
        self.objects.insert(key.to_owned(), object);
    }
}

type Plan = Box<dyn FnMut(Request) -> Option<ObjectFault> + Send>;

/// A handle of a bucket.
pub struct SimObjects {
    bucket: Arc<Mutex<Bucket>>,
    clock: SimClock,
    plan: Mutex<Plan>,
    log: Mutex<RequestLog>,
    /// When reads can be made, if that is later than now.
    busy_until: Mutex<Option<Instant>>,
}

impl SimObjects {
    /// An empty bucket, and a handle of it without faults.
    pub fn new(clock: SimClock) -> SimObjects {
        let bucket = Bucket {
            objects: BTreeMap::new(),
            clock: clock.clone(),
            page: 1000,
            ignores_conditions: false,
        };
        SimObjects {
            bucket: Arc::new(Mutex::new(bucket)),
            clock,
            plan: Mutex::new(Box::new(|_| None)),
            log: Mutex::default(),
            busy_until: Mutex::default(),
        }
    }

    /// Another handle of the same bucket, whose requests have the faults of a plan.
    pub fn with_faults(
        &self,
        plan: impl FnMut(Request) -> Option<ObjectFault> + Send + 'static,
    ) -> SimObjects {
        SimObjects {
            bucket: self.bucket.clone(),
            clock: self.clock.clone(),
            plan: Mutex::new(Box::new(plan)),
            log: Mutex::default(),
            busy_until: Mutex::default(),
        }
    }

    /// Changes the faults of this handle.
    pub fn set_faults(&self, plan: impl FnMut(Request) -> Option<ObjectFault> + Send + 'static) {
        *lock(&self.plan) = Box::new(plan);
    }

    /// Has reads wait for those of other threads, for so long.
    pub fn keep_busy(&self, duration: Duration) {
        *lock(&self.busy_until) = Some(self.clock.now() + duration);
    }

    /// The clock that requests move.
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// Lets a page of a listing have so many objects.
    pub fn set_page(&self, objects: usize) {
        lock(&self.bucket).page = objects;
    }

    /// Lets puts replace objects, as some stores do.
    pub fn ignore_conditions(&self) {
        lock(&self.bucket).ignores_conditions = true;
    }

    /// The objects whose keys contain a text, with their bytes.
    pub fn objects(&self, text: &str) -> Vec<(String, Arc<Vec<u8>>)> {
        let bucket = lock(&self.bucket);
        let objects = bucket.objects.iter().filter(|(key, _)| key.contains(text));
        objects
            .map(|(key, object)| (key.clone(), object.bytes.clone()))
            .collect()
    }

    /// Puts an object past all clients.
    pub fn insert(&self, key: &str, bytes: Vec<u8>) {
        lock(&self.bucket).insert(key, Arc::new(bytes));
    }

    /// Removes an object past all clients.
    pub fn take(&self, key: &str) -> Option<Arc<Vec<u8>>> {
        let object = lock(&self.bucket).objects.remove(key)?;
        Some(object.bytes)
    }

    /// The requests of this handle since the last call.
    pub fn take_log(&self) -> RequestLog {
        std::mem::take(&mut *lock(&self.log))
    }

    fn fault(&self, request: Request) -> Option<ObjectFault> {
        {
            let mut log = lock(&self.log);
            match request {
                Request::List => log.lists += 1,
                Request::Read | Request::Get => log.gets += 1,
                Request::PutNew => log.puts += 1,
                Request::Set => log.sets += 1,
                Request::Remove => {}
            }
        }
        lock(&self.plan)(request)
    }

    /// Makes a request that transfers so many bytes. The clock moves.
    fn request<T>(
        &self,
        request: Request,
        bytes: usize,
        deadline: Instant,
        effect: impl FnOnce(&mut Bucket, Option<ObjectFault>) -> Result<T, ObjectError>,
    ) -> Result<T, ObjectError> {
        let fault = self.fault(request);
        let end = self.clock.now() + duration(bytes as u64, fault);
        let is_lost = fault == Some(ObjectFault::LostReply);
        if end > deadline || is_lost {
            if is_lost {
                // The outcome is what the caller does not get.
                let _ = effect(&mut lock(&self.bucket), None);
            }
            self.clock.pass_until(deadline);
            return Err(ObjectErrorKind::TimedOut.into());
        }
        self.clock.pass_until(end);
        match fault {
            Some(ObjectFault::Error(kind)) => Err(ObjectError::new(kind, "planted")),
            _ => effect(&mut lock(&self.bucket), fault),
        }
    }

    /// When each of some concurrent requests ends that transfer so many bytes, its number, and its fault; the first to end
    /// first.
    fn concurrent(
        &self,
        request: Request,
        lens: impl Iterator<Item = u64>,
        deadline: Instant,
    ) -> Vec<(Instant, usize, Option<ObjectFault>)> {
        let now = self.clock.now();
        let free = lock(&self.busy_until).map_or(now, |until| until.max(now));
        let mut free = [free; MAX_CONCURRENT_READS];
        let begun = lens.enumerate().map(|(n, len)| {
            let connection = free.iter_mut().min().expect("there are some");
            if *connection >= deadline {
                return (deadline, n, Some(NOT_MADE));
            }
            let fault = self.fault(request);
            *connection += duration(len, fault);
            (*connection, n, fault)
        });
        let mut begun: Vec<_> = begun.collect();
        begun.sort_by_key(|(end, n, _)| (*end, *n));
        begun
    }

    fn body(&self, read: &RangeRead, fault: Option<ObjectFault>) -> Result<Vec<u8>, ObjectError> {
        let RangeRead { key, range } = read;
        if fault == Some(ObjectFault::Removed) {
            self.take(key);
        }
        if let Some(ObjectFault::Error(kind)) = fault {
            return Err(ObjectError::new(kind, "planted"));
        }
        let object = {
            let bucket = lock(&self.bucket);
            let object = bucket.objects.get(key);
            object.ok_or(ObjectErrorKind::NotFound)?.bytes.clone()
        };
        let len = object.len();
        let begin = usize::try_from(range.start).unwrap_or(len);
        let end = usize::try_from(range.end).unwrap_or(len).min(len);
        if begin >= end {
            return Err(ObjectError::new(ObjectErrorKind::Other, "no such range"));
        }
        let mut body = object[begin..end].to_vec();
        match fault {
            Some(ObjectFault::WrongRange) => {
                let begin = if begin == 0 {
                    len - body.len()
                } else {
                    begin - 1
                };
                body = object[begin..begin + body.len()].to_vec();
            }
            Some(ObjectFault::WholeObject) => body = object.to_vec(),
            fault => damage(&mut body, fault),
        }
        Ok(body)
    }
}

/// What a fault makes of a body. The place depends on its bytes only.
fn damage(body: &mut Vec<u8>, fault: Option<ObjectFault>) {
    let mut rng = Rng::with_seed(body.iter().map(|it| u64::from(*it)).sum());
    match fault {
        Some(ObjectFault::CutBody) => body.truncate(rng.usize(..body.len().max(1))),
        Some(ObjectFault::FlippedBit) if !body.is_empty() => {
            let at = rng.usize(..body.len());
            body[at] ^= 1 << rng.u8(..8);
        }
        _ => {}
    }
}

fn duration(bytes: u64, fault: Option<ObjectFault>) -> Duration {
    match fault {
        Some(ObjectFault::Hangs) => HANGING,
        _ => LATENCY + Duration::from_nanos(bytes * 1_000_000_000 / BANDWIDTH),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ObjectStore for SimObjects {
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<ObjectPage, ObjectError> {
        self.request(Request::List, 0, deadline, |bucket, _| {
            let keys = bucket.objects.iter().filter(|(key, _)| {
                key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)
            });
            let mut listed = keys.map(|(key, object)| ListedObject {
                key: key.clone(),
                size: object.bytes.len() as u64,
                modified: object.modified,
            });
            Ok(ObjectPage {
                objects: listed.by_ref().take(bucket.page).collect(),
                is_last: listed.next().is_none(),
            })
        })
    }

    fn read(
        &self,
        reads: &[RangeRead],
        deadline: Instant,
        done: &mut dyn FnMut(usize, Result<Vec<u8>, ObjectError>),
    ) {
        let lens = reads.iter().map(|read| read.range.end - read.range.start);
        for (end, n, fault) in self.concurrent(Request::Read, lens, deadline) {
            if fault != Some(NOT_MADE) {
                lock(&self.log).ranges.push(reads[n].range.clone());
            }
            self.clock.pass_until(end.min(deadline));
            done(
                n,
                match end > deadline {
                    true => Err(ObjectErrorKind::TimedOut.into()),
                    false => self.body(&reads[n], fault),
                },
            );
        }
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, ObjectError> {
        self.request(Request::Get, 0, deadline, |bucket, fault| {
            let object = bucket.objects.get(key).ok_or(ObjectErrorKind::NotFound)?;
            let mut body = object.bytes.to_vec();
            damage(&mut body, fault);
            Ok(body)
        })
    }

    fn put_new(
        &self,
        key: &str,
        bytes: &Arc<Vec<u8>>,
        deadline: Instant,
    ) -> Result<(), ObjectError> {
        self.request(Request::PutNew, bytes.len(), deadline, |bucket, _| {
            if bucket.objects.contains_key(key) && !bucket.ignores_conditions {
                return Err(ObjectErrorKind::AlreadyExists.into());
            }
            bucket.insert(key, bytes.clone());
            Ok(())
        })
    }

    fn set(&self, key: &str, bytes: &[u8], deadline: Instant) -> Result<(), ObjectError> {
        self.request(Request::Set, bytes.len(), deadline, |bucket, _| {
            bucket.insert(key, Arc::new(bytes.to_vec()));
            Ok(())
        })
    }

    fn remove(
        &self,
        keys: &[String],
        deadline: Instant,
        done: &mut dyn FnMut(usize, Result<(), ObjectError>),
    ) {
        for (end, n, fault) in self.concurrent(Request::Remove, keys.iter().map(|_| 0), deadline) {
            self.clock.pass_until(end.min(deadline));
            let result = match fault {
                _ if end > deadline => Err(ObjectErrorKind::TimedOut.into()),
                Some(ObjectFault::Error(kind)) => Err(ObjectError::new(kind, "planted")),
                fault => {
                    self.take(&keys[n]);
                    match fault {
                        Some(ObjectFault::LostReply) => Err(ObjectErrorKind::TimedOut.into()),
                        _ => Ok(()),
                    }
                }
            };
            done(n, result);
        }
    }
}

impl fmt::Debug for SimObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimObjects")
            .field("objects", &lock(&self.bucket).objects.len())
            .finish_non_exhaustive()
    }
}
