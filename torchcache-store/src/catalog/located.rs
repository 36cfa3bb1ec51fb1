//! What `locate` returns: enough to read a row without another lookup.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::live_segment::LiveSegment;
use crate::batch::RowBatch;
use crate::key::Key;
use crate::segment::{RowEntry, RowGroup};

/// A row that the store has. It stays readable while rows are written and segments compacted. Once
/// its segment is evicted, reading it is a miss.
#[derive(Clone)]
pub struct Located {
    /// The length of the value.
    pub len: usize,
    pub(crate) location: RowLocation,
}

/// Where a row is.
#[derive(Clone)]
pub(crate) enum RowLocation {
    /// Not written yet: row number `.1` of a batch in the queue.
    Queue(Arc<RowBatch>, u32),
    /// In a segment, which has the row's group.
    Disk(Arc<LiveSegment>, RowEntry),
}

impl Located {
    pub(crate) fn queued(batch: &Arc<RowBatch>, row: u32) -> Located {
        Located {
            len: batch.row_len(),
            location: RowLocation::Queue(batch.clone(), row),
        }
    }

    pub(super) fn on_disk(segment: &Arc<LiveSegment>, row: RowEntry) -> Option<Located> {
        let group = segment.groups.get(usize::from(row.group))?;
        Some(Located {
            len: group.raw_len as usize,
            location: RowLocation::Disk(segment.clone(), row),
        })
    }

    /// The schema with which the row was stored. Rows of one segment with the same schema share its
    /// memory, so `std::ptr::eq` is a quick first comparison.
    pub fn schema(&self) -> &[u8] {
        match &self.location {
            RowLocation::Queue(batch, _) => batch.schema(),
            RowLocation::Disk(segment, row) => &row_group(segment, row).schema,
        }
    }

    /// The segment that has the row.
    pub(super) fn segment(&self) -> Option<&Arc<LiveSegment>> {
        match &self.location {
            RowLocation::Queue(..) => None,
            RowLocation::Disk(segment, _) => Some(segment),
        }
    }

    /// Whether it is in the queue.
    pub(crate) fn is_queued(&self) -> bool {
        self.segment().is_none()
    }

    /// Whether the name of its segment, which another process wrote, may not survive a power loss.
    pub(crate) fn is_unsynced(&self) -> bool {
        let is_synced = |segment: &Arc<LiveSegment>| segment.is_synced.load(Ordering::Relaxed);
        !self.segment().is_none_or(is_synced)
    }

    pub(crate) fn key(&self) -> &Key {
        match &self.location {
            RowLocation::Queue(batch, row) => batch.key(*row),
            RowLocation::Disk(_, row) => &row.key,
        }
    }
}

/// Where rows are on disk.
#[derive(Debug)]
pub(crate) struct RowsOnDisk {
    /// Their positions among those that were looked for, in rising order.
    pub(crate) rows: Vec<(usize, Located)>,
    /// Their segments were seen to exist.
    pub(crate) exist: bool,
}

/// The group of a row that [`Located::on_disk`] accepted.
pub(crate) fn row_group<'s>(segment: &'s LiveSegment, row: &RowEntry) -> &'s RowGroup {
    &segment.groups[usize::from(row.group)]
}

impl fmt::Debug for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = match &self.location {
            RowLocation::Queue(..) => "queue".to_owned(),
            RowLocation::Disk(segment, row) => {
                format!("{} at {}", segment.path.display(), row.offset)
            }
        };
        f.debug_struct("Located")
            .field("len", &self.len)
            .field("location", &location)
            .finish_non_exhaustive()
    }
}
