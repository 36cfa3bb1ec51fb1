//! A segment of the remote, and a row in it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use super::name::ObjectName;
use crate::key::Key;
use crate::segment::{Encoding, RowEntry, RowGroup};
use crate::sync::{Mutex, MutexGuard};

/// The rest of a segment is wanted after so many requests, or when this share of its bytes was requested.
const WANTED_REQUESTS: u64 = 16;
const WANTED_SHARE: u64 = 4;

/// A segment of the remote that rows are read from.
#[derive(Debug)]
pub(super) struct RemoteSegment {
    pub(super) id: u32,
    pub(super) name: ObjectName,
    pub(super) size: u64,
    groups: Vec<RowGroup>,
    /// Segments that have some of these rows as well, and from which those are read.
    shadowed_by: Mutex<HashSet<u32>>,
    /// The fingerprints of rows whose records were not those that were written, at the first time that was seen.
    doubted: Mutex<HashSet<u64>>,
    /// Rows are to be indexed again, since a segment that shadowed them is gone or damaged.
    is_unshadowed: AtomicBool,
    /// How many requests of calls there were, and for how many bytes.
    requests: AtomicU64,
    requested_bytes: AtomicU64,
    /// Its rest was wanted.
    was_wanted: AtomicBool,
    /// The last day on which a row was read, in days since 1970.
    read_on: AtomicU64,
}

impl RemoteSegment {
    pub(super) fn new(id: u32, name: ObjectName, size: u64, groups: Vec<RowGroup>) -> Self {
        RemoteSegment {
            id,
            name,
            size,
            groups,
            shadowed_by: Mutex::default(),
            doubted: Mutex::default(),
            is_unshadowed: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            requested_bytes: AtomicU64::new(0),
            was_wanted: AtomicBool::new(false),
            read_on: AtomicU64::new(0),
        }
    }

    /// Counts a request of a call that was answered. Returns whether so much is read of the segment that the rest of it is
    /// wanted, once.
    pub(super) fn note_request(&self, bytes: u64) -> bool {
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let requested = self.requested_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let is_wanted = requests >= WANTED_REQUESTS || requested >= self.size / WANTED_SHARE;
        is_wanted && !self.was_wanted.swap(true, Ordering::Relaxed)
    }

    /// Notes that rows were read on this day. Returns whether they are the first.
    pub(super) fn note_read(&self, day: u64) -> bool {
        self.read_on.swap(day, Ordering::Relaxed) != day
    }

    pub(super) fn shadowed_by(&self) -> MutexGuard<'_, HashSet<u32>> {
        let shadowed_by = self.shadowed_by.lock();
        shadowed_by.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn doubted(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_unshadowed(&self) -> bool {
        self.is_unshadowed.load(Ordering::Acquire)
    }

    pub(super) fn set_unshadowed(&self, is_unshadowed: bool) {
        self.is_unshadowed.store(is_unshadowed, Ordering::Release);
    }

    pub(super) fn group(&self, row: &RowEntry) -> &RowGroup {
        // Checked by `RemoteRow::new`.
        &self.groups[usize::from(row.group)]
    }
}

/// A row that the remote has.
#[derive(Clone, Debug)]
pub struct RemoteRow {
    /// The length of the value.
    pub len: usize,
    pub(super) segment: Arc<RemoteSegment>,
    pub(super) row: RowEntry,
}

impl RemoteRow {
    pub(super) fn new(segment: &Arc<RemoteSegment>, row: RowEntry) -> Option<RemoteRow> {
        let group = segment.groups.get(usize::from(row.group))?;
        Some(RemoteRow {
            len: group.raw_len as usize,
            segment: segment.clone(),
            row,
        })
    }

    /// The key of the row.
    pub fn key(&self) -> &Key {
        &self.row.key
    }

    /// The schema with which the row was stored.
    pub fn schema(&self) -> &[u8] {
        self.shared_schema()
    }

    /// The same, in the memory that rows of the segment share.
    pub(crate) fn shared_schema(&self) -> &Arc<[u8]> {
        &self.segment.group(&self.row).schema
    }

    /// How the value is stored.
    pub(crate) fn encoding(&self) -> Encoding {
        self.row.encoding
    }
}
