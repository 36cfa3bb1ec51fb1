//! [`Slabs`]: the bytes of the memory tier. Rows of one size on one device share a slab, so that a row
//! needs neither a tensor nor an allocation of its own.
//!
//! A slab grows by chunks, each as large as all before it: memory grows with use, growing copies
//! nothing, and there are few chunks. On the CPU a chunk is a [`RowArena`], and on another device a
//! [`DeviceArena`]: their rows are filled and read outside any lock. A chunk counts towards the bound,
//! overhead included, from when it is made until it is dropped and no longer pinned; one on the CPU
//! counts towards the [`Budget`] of the process as well.
//!
//! [`RowArena`]: super::arena::RowArena
//! [`DeviceArena`]: super::device_arena::DeviceArena

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tch::{Device, TchError};

use super::budget::{Budget, Share};
use super::chunk::{ChunkRows, RowSlot, SlabChunk, WeakRows};
use super::device_arena::StreamOrder;
use crate::attempts::Attempts;
use crate::key::Key;

/// The overhead of a row: its node and place in the `lru` map (up to 119 bytes at the map's lowest
/// load), its key (33) and state (4) in the chunk, its place in the list of free slots (up to 12), and
/// its counters in `auto` (8).
pub(crate) const ROW_OVERHEAD: u64 = 176;

/// The first chunk of a slab has room for at least this many bytes, if the bound allows.
const FIRST_CHUNK_BYTES: u64 = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Slabs {
    slabs: Vec<Slab>,
    by_size: HashMap<(usize, Device), u32>,
    /// Few, by their numbers.
    chunks: BTreeMap<u32, SlabChunk>,
    /// The number of the next chunk.
    next_chunk: u32,
    /// Slots that were released while pinned.
    pinned_slots: Vec<RowSlot>,
    /// Chunks that were dropped while pinned, with their cost.
    pinned_chunks: Vec<(WeakRows, u64)>,
    /// Of each device other than the CPU.
    orders: Vec<Arc<StreamOrder>>,
    bound: u64,
    budget: &'static Budget,
    /// Rows needed more than the budget had left, and the bound allowed it.
    is_budget_exhausted: bool,
    /// Of devices that had no memory for as many rows as they were asked for last.
    shortages: HashMap<Device, Shortage>,
    /// The cost of the chunks that are not dropped.
    bytes: u64,
}

/// A device without memory for another chunk, until one of its chunks is dropped.
#[derive(Debug, Default)]
struct Shortage {
    /// Its error.
    error: String,
    /// It is not asked again in this call.
    is_certain: bool,
    /// Which calls ask it again: it may have memory by now.
    attempts: Attempts,
}

/// Rows of one size on one device.
#[derive(Debug)]
struct Slab {
    row_bytes: usize,
    device: Device,
    /// The number of slots in all its chunks.
    rows: usize,
    free: Vec<RowSlot>,
}

impl Slabs {
    pub(crate) fn new(bound: u64, budget: &'static Budget) -> Self {
        Slabs {
            slabs: Vec::new(),
            by_size: HashMap::new(),
            chunks: BTreeMap::new(),
            next_chunk: 0,
            pinned_slots: Vec::new(),
            pinned_chunks: Vec::new(),
            orders: Vec::new(),
            bound,
            budget,
            is_budget_exhausted: false,
            shortages: HashMap::new(),
            bytes: 0,
        }
    }

    pub(crate) fn set_bound(&mut self, bound: u64) {
        self.bound = bound;
    }

    /// Whether the chunks that are not dropped exceed the bound.
    pub(crate) fn over_bound(&self) -> bool {
        self.bytes > self.bound
    }

    /// Bytes allocated, bookkeeping included.
    pub(crate) fn bytes(&self) -> u64 {
        let read = self
            .pinned_chunks
            .iter()
            .filter(|(rows, _)| rows.strong_count() > 0);
        self.bytes + read.map(|(_, cost)| cost).sum::<u64>()
    }

    /// The number of slots taken.
    pub(crate) fn taken(&self) -> usize {
        self.chunks.values().map(|chunk| chunk.taken).sum()
    }

    /// Drops all chunks, and returns their memory.
    pub(crate) fn clear(&mut self) -> Vec<ChunkRows> {
        let mut dropped = Vec::new();
        while let Some((&number, _)) = self.chunks.first_key_value() {
            dropped.extend(self.drop_chunk(number).map(|(_, rows)| rows));
        }
        *self = Slabs {
            next_chunk: self.next_chunk,
            pinned_chunks: std::mem::take(&mut self.pinned_chunks),
            orders: std::mem::take(&mut self.orders),
            ..Slabs::new(self.bound, self.budget)
        };
        dropped
    }

    /// Whether an empty tier could hold a row of this size, if it were the only one.
    pub(crate) fn can_ever_hold(&self, row_bytes: usize, device: Device) -> bool {
        let limit = match device {
            Device::Cpu => self.budget.limit(),
            _ => u64::MAX,
        };
        cost(row_bytes) <= self.bound.min(limit)
    }

    /// How many more rows of this size the bound and the budget allow.
    pub(crate) fn affordable(&self, row_bytes: usize, device: Device) -> u64 {
        let within_bound = self.within_bound(row_bytes, device);
        match device {
            Device::Cpu => within_bound.min(self.budget.left() / cost(row_bytes)),
            _ => within_bound,
        }
    }

    fn within_bound(&self, row_bytes: usize, device: Device) -> u64 {
        match self.shortages.get(&device) {
            Some(shortage) if shortage.is_certain => 0,
            _ => self.bound.saturating_sub(self.bytes()) / cost(row_bytes),
        }
    }

    /// The cost of the chunks on a device that are not dropped.
    fn bytes_on(&self, device: Device) -> u64 {
        let slab = |chunk: &SlabChunk| &self.slabs[chunk.slab as usize];
        let chunks = self.chunks.values().map(|chunk| (chunk, slab(chunk)));
        let chunks = chunks.filter(|(_, slab)| slab.device == device);
        chunks
            .map(|(chunk, slab)| chunk.keys.len() as u64 * cost(slab.row_bytes))
            .sum()
    }

    /// The limit of the budget, if it kept a slab from growing since the last call of this.
    pub(crate) fn take_exhausted_budget(&mut self) -> Option<u64> {
        std::mem::take(&mut self.is_budget_exhausted).then(|| self.budget.limit())
    }

    /// Whether `slot`, once released, could hold a row of this size on this device.
    pub(crate) fn fits(&self, slot: RowSlot, row_bytes: usize, device: Device) -> bool {
        self.chunk(slot).is_some_and(|chunk| {
            let slab = &self.slabs[chunk.slab as usize];
            (slab.row_bytes, slab.device) == (row_bytes, device)
        })
    }

    /// Whether dropping the chunk of `slot` may let that device hold more rows.
    pub(crate) fn makes_room(&self, slot: RowSlot, device: Device) -> bool {
        let is_on = |chunk: &SlabChunk| self.slabs[chunk.slab as usize].device == device;
        !self.shortages.contains_key(&device) || self.chunk(slot).is_some_and(is_on)
    }

    /// Whether the chunk of a taken slot was not dropped since.
    pub(crate) fn is_valid(&self, slot: RowSlot) -> bool {
        self.chunk(slot).is_some()
    }

    /// Whether the row of a slot is pinned.
    pub(crate) fn is_pinned(&self, slot: RowSlot) -> bool {
        let rows = self.rows(slot);
        rows.is_some_and(|rows| rows.states().is_pinned(slot.index as usize))
    }

    /// Begins a call that brings rows for a device: some of those ask again for memory that was refused.
    pub(crate) fn begin_call(&mut self, device: Device) {
        if let Some(shortage) = self.shortages.get_mut(&device) {
            shortage.is_certain = !shortage.attempts.allows();
        }
    }

    /// Frees slots and chunks that are no longer pinned.
    pub(crate) fn reclaim(&mut self) {
        for slot in std::mem::take(&mut self.pinned_slots) {
            self.free(slot);
        }
        self.pinned_chunks
            .retain(|(rows, _)| rows.strong_count() > 0);
    }

    /// Takes free slots until there are `count`, growing the slab as far as the bound allows.
    ///
    /// # Errors
    ///
    /// The device has no memory for a single row, also if all its rows were evicted.
    pub(crate) fn take_slots(
        &mut self,
        row_bytes: usize,
        device: Device,
        count: usize,
        slots: &mut Vec<RowSlot>,
    ) -> Result<(), TchError> {
        let number = *self.by_size.entry((row_bytes, device)).or_insert_with(|| {
            self.slabs.push(Slab {
                row_bytes,
                device,
                rows: 0,
                free: Vec::new(),
            });
            self.slabs.len() as u32 - 1
        });
        let slab = &self.slabs[number as usize];
        let missing = count - slots.len();
        if slab.free.len() < missing {
            let needed = (missing - slab.free.len()) as u64;
            let wanted = needed.max(slab.rows as u64);
            let wanted = wanted.max(FIRST_CHUNK_BYTES / cost(row_bytes));
            let affordable = self.affordable(row_bytes, device);
            let rows = wanted.min(affordable);
            self.is_budget_exhausted |=
                affordable < needed && affordable < self.within_bound(row_bytes, device);
            self.grow(number, rows.min(u64::from(u32::MAX)) as u32)?;
        }
        let free = &mut self.slabs[number as usize].free;
        let from = free.len().saturating_sub(missing);
        let before = slots.len();
        for slot in free.drain(from..).rev() {
            if let Some(chunk) = self.chunks.get_mut(&slot.chunk) {
                chunk.taken += 1;
            }
            slots.push(slot);
        }
        self.populate_after(&slots[before..]);
        Ok(())
    }

    /// Allocates memory for as many rows as were just taken, since the next call is likely to take as
    /// many.
    fn populate_after(&mut self, slots: &[RowSlot]) {
        let Some(last) = slots.last() else { return };
        let taken = slots.iter().filter(|slot| slot.chunk == last.chunk).count();
        if let Some(chunk) = self.chunk_mut(*last) {
            chunk.populate_from(last.index as usize + 1, taken);
        }
    }

    /// Adds a chunk of at most `rows` rows: as many as the budget has, if other tiers grow at the same time, and the
    /// device; after a shortage all or none.
    ///
    /// # Errors
    ///
    /// Those of [`take_slots`](Self::take_slots).
    fn grow(&mut self, number: u32, mut rows: u32) -> Result<(), TchError> {
        let Slab {
            row_bytes, device, ..
        } = self.slabs[number as usize];
        let order = (device != Device::Cpu).then(|| self.order(device));
        let cost = cost(row_bytes);
        let is_asked_again = self.shortages.contains_key(&device);
        let mut refused = None;
        let chunk_rows = loop {
            if rows == 0 {
                break None;
            }
            let share = match device {
                Device::Cpu => self.budget.take(u64::from(rows) * cost),
                _ => Some(Share::default()),
            };
            let Some(share) = share else {
                rows = (self.budget.left() / cost).min(u64::from(rows) - 1) as u32;
                continue;
            };
            match ChunkRows::new(rows, row_bytes, order.as_ref(), share) {
                Ok(chunk_rows) => break Some(chunk_rows),
                Err(error) => refused = Some(error),
            }
            // Else the tier would take the last memory, in ever smaller chunks.
            rows = if is_asked_again { 0 } else { rows / 2 };
        };
        let is_grown = chunk_rows.is_some();
        if let Some(chunk_rows) = chunk_rows {
            self.add_chunk(number, rows, chunk_rows);
        }
        match refused {
            Some(error) => {
                let shortage = self.shortages.entry(device).or_default();
                shortage.error = error.to_string();
                shortage.is_certain = true;
                shortage.attempts.note_failure();
            }
            None if is_grown => drop(self.shortages.remove(&device)),
            None => {}
        }
        match self.shortages.get(&device) {
            // Nothing that could be evicted instead.
            Some(shortage) if self.bytes_on(device) < cost => {
                Err(TchError::Torch(shortage.error.clone()))
            }
            _ => Ok(()),
        }
    }

    fn add_chunk(&mut self, number: u32, rows: u32, chunk_rows: ChunkRows) {
        let slab = &mut self.slabs[number as usize];
        let chunk = SlabChunk {
            slab: number,
            rows: chunk_rows,
            keys: vec![None; rows as usize],
            populated: 0,
            taken: 0,
        };
        // Free slots are taken from the end: those of older chunks first, each chunk in rising order.
        let next = self.next_chunk;
        let slot = |index| RowSlot { chunk: next, index };
        slab.free.splice(0..0, (0..rows).rev().map(slot));
        slab.rows += rows as usize;
        self.bytes += u64::from(rows) * cost(slab.row_bytes);
        self.chunks.insert(next, chunk);
        self.next_chunk += 1;
    }

    /// The order of copies on a device.
    fn order(&mut self, device: Device) -> Arc<StreamOrder> {
        let known = self.orders.iter().find(|order| order.device() == device);
        known.cloned().unwrap_or_else(|| {
            let order = Arc::new(StreamOrder::new(device));
            self.orders.push(order.clone());
            order
        })
    }

    /// Records the key of the row in a taken slot.
    pub(crate) fn occupy(&mut self, slot: RowSlot, key: Key) {
        if let Some(chunk) = self.chunk_mut(slot) {
            chunk.keys[slot.index as usize] = Some(key);
        }
    }

    /// Gives a taken slot back. While it is pinned it is not taken again.
    pub(crate) fn release(&mut self, slot: RowSlot) {
        if let Some(chunk) = self.chunk_mut(slot) {
            chunk.keys[slot.index as usize] = None;
            chunk.taken -= 1;
            self.free(slot);
        }
    }

    fn free(&mut self, slot: RowSlot) {
        let Some(chunk) = self.chunk(slot) else {
            return;
        };
        let slab = chunk.slab as usize;
        if chunk.rows.states().empty(slot.index as usize) {
            self.slabs[slab].free.push(slot);
        } else {
            self.pinned_slots.push(slot);
        }
    }

    /// Frees the memory of chunks without a taken slot, except those of one size; `false` where there
    /// was none.
    pub(crate) fn drop_unused(&mut self, except: Option<(usize, Device)>) -> bool {
        let spared = except.and_then(|size| self.by_size.get(&size).copied());
        let is_unused = |chunk: &SlabChunk| chunk.taken == 0 && Some(chunk.slab) != spared;
        let unused = self.chunks.iter().filter(|(_, chunk)| is_unused(chunk));
        let unused: Vec<u32> = unused.map(|(&number, _)| number).collect();
        for &number in &unused {
            self.drop_chunk(number);
        }
        !unused.is_empty()
    }

    /// Drops a chunk, and returns the keys of its rows and their memory; `None` where it was dropped before.
    pub(super) fn drop_chunk(&mut self, number: u32) -> Option<(Vec<Key>, ChunkRows)> {
        let chunk = self.chunks.remove(&number)?;
        let slab = &mut self.slabs[chunk.slab as usize];
        let stays = |slot: &RowSlot| slot.chunk != number;
        slab.free.retain(stays);
        slab.rows -= chunk.keys.len();
        self.pinned_slots.retain(stays);
        let cost = chunk.keys.len() as u64 * cost(slab.row_bytes);
        self.bytes -= cost;
        self.shortages.remove(&slab.device);
        if let Some(rows) = chunk.rows.pinned() {
            self.pinned_chunks.push((rows, cost));
        }
        Some((chunk.keys.into_iter().flatten().collect(), chunk.rows))
    }

    /// The chunk of a slot; `None` where it was dropped since the slot was taken.
    pub(crate) fn rows(&self, slot: RowSlot) -> Option<&ChunkRows> {
        self.chunk(slot).map(|chunk| &chunk.rows)
    }

    /// `None` where the chunk was dropped since the slot was taken.
    fn chunk(&self, slot: RowSlot) -> Option<&SlabChunk> {
        self.chunks.get(&slot.chunk)
    }

    fn chunk_mut(&mut self, slot: RowSlot) -> Option<&mut SlabChunk> {
        self.chunks.get_mut(&slot.chunk)
    }
}

fn cost(row_bytes: usize) -> u64 {
    row_bytes as u64 + ROW_OVERHEAD
}
