//! The states of slots for rows, and pins, which keep rows as they are.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// The state of each slot of a chunk.
///
/// A slot is empty, or one thread is filling it, or it is full and any number of [`Pins`] keep it as it is. An
/// operation that the state does not allow fails at once instead of waiting.
#[derive(Debug)]
pub(crate) struct SlotStates(Box<[AtomicU32]>);

const EMPTY: u32 = 0;
/// Each pin adds one.
const FULL: u32 = 1;
const FILLING: u32 = u32::MAX;

impl SlotStates {
    /// Those of `slots` empty slots.
    pub(super) fn new(slots: usize) -> Self {
        SlotStates((0..slots).map(|_| AtomicU32::new(EMPTY)).collect())
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Reserves the slot for this thread to fill it; `false` where it is not empty.
    pub(super) fn begin_filling(&self, slot: usize) -> bool {
        self.0[slot]
            .compare_exchange(EMPTY, FILLING, Acquire, Relaxed)
            .is_ok()
    }

    /// The slot, which this thread was filling, has its row.
    pub(super) fn end_filling(&self, slot: usize) {
        self.0[slot].store(FULL, Release);
    }

    /// Empties the slot, so that it can be filled again; `false` while it is pinned or being filled.
    pub(super) fn empty(&self, slot: usize) -> bool {
        match self.0[slot].compare_exchange(FULL, EMPTY, AcqRel, Relaxed) {
            Ok(_) => true,
            Err(state) => state == EMPTY,
        }
    }

    /// Whether the slot is pinned or being filled.
    pub(super) fn is_pinned(&self, slot: usize) -> bool {
        !matches!(self.0[slot].load(Relaxed), EMPTY | FULL)
    }

    fn pin(&self, slot: usize) -> bool {
        let add = |state: u32| (FULL..FILLING - 1).contains(&state).then(|| state + 1);
        self.0[slot].fetch_update(Acquire, Relaxed, add).is_ok()
    }

    fn unpin(&self, slot: usize) {
        self.0[slot].fetch_sub(1, Release);
    }
}

/// Slots of one chunk.
pub(crate) trait Slots {
    fn states(&self) -> &SlotStates;
}

/// Rows in chunks that are neither emptied nor overwritten until this is dropped.
#[derive(Debug)]
pub(crate) struct Pins<C: Slots> {
    chunks: Vec<Arc<C>>,
    /// The chunk, by its place in `chunks`, and the slot of each row.
    rows: Vec<(u32, u32)>,
}

impl<C: Slots> Default for Pins<C> {
    fn default() -> Self {
        Pins {
            chunks: Vec::new(),
            rows: Vec::new(),
        }
    }
}

impl<C: Slots> Pins<C> {
    /// Pins another row; `false` where the slot is not full.
    pub(crate) fn add(&mut self, chunk: &Arc<C>, slot: u32) -> bool {
        if !chunk.states().pin(slot as usize) {
            return false;
        }
        // Few chunks, and mostly the last one again.
        let known = self.chunks.iter().rposition(|it| Arc::ptr_eq(it, chunk));
        let number = known.unwrap_or_else(|| {
            self.chunks.push(chunk.clone());
            self.chunks.len() - 1
        });
        self.rows.push((number as u32, slot));
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn chunks(&self) -> &[Arc<C>] {
        &self.chunks
    }

    /// The chunk of a row, by its place in [`chunks`](Self::chunks), and its slot.
    pub(super) fn place(&self, row: usize) -> (usize, usize) {
        let (chunk, slot) = self.rows[row];
        (chunk as usize, slot as usize)
    }
}

impl<C: Slots> Drop for Pins<C> {
    fn drop(&mut self) {
        for &(chunk, slot) in &self.rows {
            self.chunks[chunk as usize].states().unpin(slot as usize);
        }
    }
}
