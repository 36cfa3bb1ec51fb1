//! What `locate` hands out: enough to read a row without asking the index again.

use std::fmt;
use std::sync::Arc;

use super::live_segment::Tracked;
use crate::batch::RowBatch;
use crate::key::Key;
use crate::segment::{Row, RowGroup};

/// A row that the store has. It stays readable while rows are written; if its segment is
/// evicted in the meantime, reading it is a miss.
#[derive(Clone)]
pub struct Found {
    /// The length of the value.
    pub len: usize,
    pub(crate) place: Place,
}

/// Where a found row lies.
#[derive(Clone)]
pub(crate) enum Place {
    /// Not written yet: row number `.1` of a batch in the queue.
    Queue(Arc<RowBatch>, u32),
    /// In a segment, whose groups have the row's.
    Disk(Arc<Tracked>, Row),
}

impl Found {
    pub(crate) fn queued(batch: &Arc<RowBatch>, row: u32) -> Found {
        Found {
            len: batch.row_len(),
            place: Place::Queue(batch.clone(), row),
        }
    }

    pub(crate) fn on_disk(segment: &Arc<Tracked>, row: Row) -> Option<Found> {
        let group = segment.groups.get(usize::from(row.group))?;
        Some(Found {
            len: group.raw_len as usize,
            place: Place::Disk(segment.clone(), row),
        })
    }

    /// The schema the row was stored with. Rows of one segment that have the same schema share
    /// its memory, so that `std::ptr::eq` tells most often that two are alike.
    pub fn schema(&self) -> &[u8] {
        match &self.place {
            Place::Queue(batch, _) => batch.schema(),
            Place::Disk(segment, row) => &group(segment, row).schema,
        }
    }

    pub(crate) fn key(&self) -> &Key {
        match &self.place {
            Place::Queue(batch, row) => batch.key(*row),
            Place::Disk(_, row) => &row.key,
        }
    }
}

/// What a located row shares with others.
pub(crate) fn group<'s>(segment: &'s Tracked, row: &Row) -> &'s RowGroup {
    &segment.groups[usize::from(row.group)]
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.place {
            Place::Queue(..) => "queue".to_owned(),
            Place::Disk(segment, row) => format!("{} at {}", segment.path.display(), row.offset),
        };
        f.debug_struct("Found")
            .field("len", &self.len)
            .field("place", &place)
            .finish_non_exhaustive()
    }
}
