//! What the remote tier needs of an object store, as one trait.

use std::fmt::{self, Debug, Display};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Implementations of [`ObjectStore::read`] and [`ObjectStore::remove`] have at most so many requests under way at a time,
/// those of all callers together.
pub const MAX_CONCURRENT_READS: usize = 16;

/// A bucket of an object store, or anything that behaves like one. Objects have keys; `/` in a key has no meaning.
///
/// Each call is one request, or as many as it has reads, and ends at its deadline. What the implementation has to
/// guarantee is little: an object that was put is readable under its key until it is removed. Bodies may be cut, of
/// another range or damaged, listings late, conditions ignored and replies lost: the caller checks all it gets.
///
/// The calls are synchronous, so that faults can be simulated and a model checker can run them. Reading and removing take
/// a list, so that many requests are under way at once and a caller needs no thread for each.
pub trait ObjectStore: Debug + Send + Sync {
    /// One page of the objects whose keys begin with `prefix`, in the order of their keys. With `after`, those with
    /// greater keys only.
    ///
    /// # Errors
    /// Why there is no answer.
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<ObjectPage, ObjectError>;

    /// Reads ranges, at most [`MAX_CONCURRENT_READS`] at a time, and calls `done` with the number of each read when it
    /// has ended, in any order: with the bytes of the range as far as they arrived, or an error. Those that have not
    /// ended at the deadline end with [`TimedOut`](ObjectErrorKind::TimedOut) or [`Slow`](ObjectErrorKind::Slow), and those
    /// that had to wait for others until then with [`NotMade`](ObjectErrorKind::NotMade).
    fn read(
        &self,
        reads: &[RangeRead],
        deadline: Instant,
        done: &mut dyn FnMut(usize, Result<Vec<u8>, ObjectError>),
    );

    /// Reads an object of at most 64 KiB.
    ///
    /// # Errors
    /// Why there is no answer, or that the object is longer.
    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, ObjectError>;

    /// Puts an object by one request, if the key has none. Stores that ignore the condition replace one.
    ///
    /// # Errors
    /// [`AlreadyExists`](ObjectErrorKind::AlreadyExists), or why it is not known whether the object was put.
    fn put_new(
        &self,
        key: &str,
        bytes: &Arc<Vec<u8>>,
        deadline: Instant,
    ) -> Result<(), ObjectError>;

    /// Puts a small object, in place of one that the key may have.
    ///
    /// # Errors
    /// Why it is not known whether the object was put.
    fn set(&self, key: &str, bytes: &[u8], deadline: Instant) -> Result<(), ObjectError>;

    /// Removes objects, at most [`MAX_CONCURRENT_READS`] at a time, and calls `done` with the number of each key when its
    /// request has ended, in any order: with an error if it is not known whether the object was removed. One that does not
    /// exist is no error.
    fn remove(
        &self,
        keys: &[String],
        deadline: Instant,
        done: &mut dyn FnMut(usize, Result<(), ObjectError>),
    );
}

/// Reads ranges by [`ObjectStore::read`], whatever the store makes of it: `done` gets each read once.
pub(crate) fn read_each_once(
    store: &dyn ObjectStore,
    reads: &[RangeRead],
    deadline: Instant,
    mut done: impl FnMut(usize, Result<Vec<u8>, ObjectError>),
) {
    let mut has_ended = vec![false; reads.len()];
    let mut end = |n: usize, result| {
        if has_ended.get(n) == Some(&false) {
            has_ended[n] = true;
            done(n, result);
        }
    };
    store.read(reads, deadline, &mut end);
    (0..reads.len()).for_each(|n| end(n, Err(ObjectErrorKind::TimedOut.into())));
}

/// Some consecutive objects of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectPage {
    /// In the order of their keys.
    pub objects: Vec<ListedObject>,
    /// Whether there are no more after these.
    pub is_last: bool,
}

impl ObjectPage {
    /// The page, if it moves on: what does not is listed for ever.
    pub(crate) fn moving_on(self, after: Option<&str>) -> Result<ObjectPage, ObjectError> {
        let last = self.objects.last().map(|object| &*object.key);
        if !self.is_last && last <= after {
            let reason = format!("a page after {after:?} ends at {last:?} and is not the last");
            return Err(ObjectError::new(ObjectErrorKind::Other, reason));
        }
        Ok(self)
    }
}

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// The whole key.
    pub key: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was put, by the clock of the store.
    pub modified: SystemTime,
}

/// A range of an object that is read by one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRead {
    /// The key of the object.
    pub key: String,
    /// Which bytes of it.
    pub range: Range<u64>,
}

/// Why a request failed, as far as that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectErrorKind {
    /// There is no such object.
    NotFound,
    /// The key has an object, so none was put.
    AlreadyExists,
    /// The credentials do not allow it, or are refused.
    Denied,
    /// The store asks for fewer requests.
    Throttled,
    /// There was no answer before the deadline.
    TimedOut,
    /// The answer had begun at the deadline.
    Slow,
    /// The request was not made: earlier ones failed, or no time or connection was left for it.
    NotMade,
    /// Anything else.
    Other,
}

impl ObjectErrorKind {
    /// Every kind, in a fixed order.
    pub const ALL: &[ObjectErrorKind] = &[
        ObjectErrorKind::NotFound,
        ObjectErrorKind::AlreadyExists,
        ObjectErrorKind::Denied,
        ObjectErrorKind::Throttled,
        ObjectErrorKind::TimedOut,
        ObjectErrorKind::Slow,
        ObjectErrorKind::NotMade,
        ObjectErrorKind::Other,
    ];

    /// Whether the store answered as a store that works.
    pub(crate) fn is_answer(self) -> bool {
        matches!(
            self,
            ObjectErrorKind::NotFound | ObjectErrorKind::AlreadyExists | ObjectErrorKind::Slow
        )
    }

    /// Whether the same request may succeed within seconds.
    pub(crate) fn passes_soon(self) -> bool {
        use ObjectErrorKind::{Other, Slow, Throttled, TimedOut};
        matches!(self, Other | Slow | Throttled | TimedOut)
    }

    fn text(self) -> &'static str {
        match self {
            ObjectErrorKind::NotFound => "the object does not exist",
            ObjectErrorKind::AlreadyExists => "the object exists already",
            ObjectErrorKind::Denied => "the object store denied the request",
            ObjectErrorKind::Throttled => "the object store asks for fewer requests",
            ObjectErrorKind::TimedOut => "the object store did not answer in time",
            ObjectErrorKind::Slow => "the answer of the object store did not end in time",
            ObjectErrorKind::NotMade => "the request was not made",
            ObjectErrorKind::Other => "the request failed",
        }
    }
}

/// Why a request failed.
#[derive(Clone, Debug)]
pub struct ObjectError {
    /// What the caller decides by.
    pub kind: ObjectErrorKind,
    /// What the store or the network reported; may be empty.
    pub reason: String,
}

impl ObjectError {
    /// An error with what was reported.
    pub fn new(kind: ObjectErrorKind, reason: impl Display) -> ObjectError {
        ObjectError {
            kind,
            reason: reason.to_string(),
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.kind == ObjectErrorKind::NotFound
    }
}

impl From<ObjectErrorKind> for ObjectError {
    fn from(kind: ObjectErrorKind) -> Self {
        ObjectError::new(kind, "")
    }
}

impl Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.text())?;
        match self.reason.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.reason),
        }
    }
}

impl std::error::Error for ObjectError {}

impl From<ObjectError> for io::Error {
    fn from(error: ObjectError) -> Self {
        let kind = match error.kind {
            ObjectErrorKind::NotFound => io::ErrorKind::NotFound,
            ObjectErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ObjectErrorKind::Denied => io::ErrorKind::PermissionDenied,
            ObjectErrorKind::TimedOut | ObjectErrorKind::Slow => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
