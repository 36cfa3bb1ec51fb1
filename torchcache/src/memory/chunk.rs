//! A chunk of a slab, and the slots in it.

use std::ops::Range;
use std::sync::{Arc, Weak};

use tch::TchError;
use torchcache_store::threads;

use super::arena::RowArena;
use super::budget::Share;
use super::device_arena::{DeviceArena, StreamOrder};
use super::slots::{SlotStates, Slots};
use crate::key::Key;

/// Fewer bytes are not worth waking another thread for.
const MIN_POPULATED: usize = 256 * 1024;

/// The most bytes to populate: there may be no next call.
const MAX_POPULATED: usize = 32 << 20;

/// Bytes to populate per system call, during which no other thread of the process can map memory.
const POPULATE_STEP: usize = 2 << 20;

/// The place of a row. It is invalid once its chunk is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowSlot {
    /// The number of its chunk, never reused.
    pub(super) chunk: u32,
    /// Its place in the chunk.
    pub(crate) index: u32,
}

#[derive(Debug)]
pub(super) struct SlabChunk {
    pub(super) slab: u32,
    pub(super) rows: ChunkRows,
    /// The key of each occupied slot.
    pub(super) keys: Vec<Option<Key>>,
    /// Rows, counted from the first, that were populated or are about to be.
    pub(super) populated: usize,
    /// The number of slots taken and not released.
    pub(super) taken: usize,
}

/// The rows of a chunk.
#[derive(Debug, Clone)]
pub(crate) enum ChunkRows {
    Host(Arc<RowArena>),
    Device(Arc<DeviceArena>),
}

impl SlabChunk {
    /// Populates as many rows from `next` on as were just taken, on another thread.
    pub(super) fn populate_from(&mut self, next: usize, taken: usize) {
        let ChunkRows::Host(arena) = &self.rows else {
            return;
        };
        let row_bytes = arena.row_bytes();
        let rows = ahead(next, taken, self.populated, arena.rows(), row_bytes);
        if rows.len() * row_bytes >= MIN_POPULATED {
            self.populated = rows.end;
            let arena = Arc::downgrade(arena);
            threads::try_spawn(move || {
                let count = (POPULATE_STEP / row_bytes).max(1);
                for begin in rows.clone().step_by(count) {
                    let Some(arena) = arena.upgrade() else { return };
                    arena.populate(begin..rows.end.min(begin + count));
                }
            });
        }
    }
}

/// The rows of an arena to populate, if `taken` rows before `next` were just taken and those before
/// `populated` are populated already.
fn ahead(
    next: usize,
    taken: usize,
    populated: usize,
    rows: usize,
    row_bytes: usize,
) -> Range<usize> {
    let most = MAX_POPULATED / row_bytes.max(1);
    let begin = next.max(populated);
    begin..(next + taken.min(most)).min(rows).max(begin)
}

impl ChunkRows {
    /// Allocates memory for `rows` rows on the device of `order`, or where there is none on the CPU: this keeps
    /// the `share` of the budget with it.
    pub(super) fn new(
        rows: u32,
        row_bytes: usize,
        order: Option<&Arc<StreamOrder>>,
        share: Share,
    ) -> Result<Self, TchError> {
        if let Some(order) = order {
            let arena = DeviceArena::new(rows, row_bytes, order.clone())?;
            return Ok(ChunkRows::Device(Arc::new(arena)));
        }
        let arena = RowArena::new(rows as usize, row_bytes)?;
        Ok(ChunkRows::Host(Arc::new(arena.with_share(share))))
    }

    pub(super) fn states(&self) -> &SlotStates {
        match self {
            ChunkRows::Host(arena) => arena.states(),
            ChunkRows::Device(arena) => arena.states(),
        }
    }

    /// Weak where it is pinned.
    pub(super) fn pinned(&self) -> Option<WeakRows> {
        match self {
            ChunkRows::Host(arena) => {
                (Arc::strong_count(arena) > 1).then(|| Arc::downgrade(arena) as WeakRows)
            }
            ChunkRows::Device(arena) => {
                (Arc::strong_count(arena) > 1).then(|| Arc::downgrade(arena) as WeakRows)
            }
        }
    }
}

/// The rows of a dropped chunk, until the last pin of them ends.
pub(super) type WeakRows = Weak<dyn Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_populated_once_and_within_bounds() {
        assert_eq!(ahead(64, 64, 0, 1024, 1000), 64..128);
        assert_eq!(ahead(100, 36, 128, 1024, 1000), 128..136);
        assert!(
            ahead(64, 10, 128, 1024, 1000).is_empty(),
            "slots taken before"
        );
        assert_eq!(ahead(1000, 64, 128, 1024, 1000), 1000..1024);
        assert!(
            ahead(1024, 64, 128, 1024, 1000).is_empty(),
            "past the last row"
        );
        assert_eq!(ahead(500, 500, 0, 1024, 1 << 20), 500..532, "at most 32 MB");
        assert!(ahead(1, 1, 0, 1024, 64 << 20).is_empty());
    }
}
