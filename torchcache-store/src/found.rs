//! What `locate` hands out: enough to read a row without asking the index again.

use std::fmt;
use std::sync::Arc;

use crate::batch::{Key, RowBatch};
use crate::segment::Row;
use crate::tracked::Tracked;

/// A row that the store has. It stays readable while rows are written; if its segment is
/// evicted in the meantime, reading it is a miss.
#[derive(Clone)]
pub struct Found {
    /// The schema the row was stored with.
    pub schema: Arc<[u8]>,
    /// The length of the value.
    pub len: usize,
    pub(crate) key: Key,
    pub(crate) place: Place,
}

/// Where a found row lies.
#[derive(Clone)]
pub(crate) enum Place {
    /// Not written yet: row number `.1` of a batch in the queue.
    Queue(Arc<RowBatch>, u32),
    /// In a segment.
    Disk(Arc<Tracked>, Row),
}

impl Found {
    pub(crate) fn queued(batch: &Arc<RowBatch>, row: u32) -> Found {
        Found {
            schema: batch.schema().clone(),
            len: batch.row_len(),
            key: *batch.key(row),
            place: Place::Queue(batch.clone(), row),
        }
    }

    pub(crate) fn on_disk(segment: &Arc<Tracked>, row: Row) -> Option<Found> {
        let class = segment.classes.get(usize::from(row.class))?;
        Some(Found {
            schema: class.schema.clone(),
            len: class.raw_len as usize,
            key: row.key,
            place: Place::Disk(segment.clone(), row),
        })
    }
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
