//! A segment of the remote, and a row in it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use super::name::ObjectName;
use crate::key::Key;
use crate::segment::{RowEntry, RowGroup};
use crate::sync::{Mutex, MutexGuard};

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
        }
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
        &self.segment.group(&self.row).schema
    }
}
