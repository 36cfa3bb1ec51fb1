//! Slabs: where the memory tier keeps bytes. Rows of one size on one device share a slab, so there
//! is neither a tensor nor an allocation per row.
//!
//! A slab grows by chunks, each as large as all before it: memory grows with use, nothing is ever
//! copied to grow, and there are few chunks. On the CPU a chunk is a [`RowArena`], whose rows are
//! filled and read outside any lock. On another device it is a `[rows, row_bytes]` tensor of bytes,
//! and a batch is gathered or scattered by a call or two. Chunks are charged to the bound when they
//! are made, with what a row costs beside its bytes, until nobody reads them any more.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tch::{Device, Kind, TchError, Tensor};

use super::arena::RowArena;
use super::chunk::{Chunk, ChunkRows, Slot, by_chunk, index};
use crate::key::Key;

/// What a row costs beside its bytes: its node and place in the `lru` map (up to 119 bytes at the
/// map's lowest load), its key (33) and its state (4) in the chunk, its place in the list of free
/// slots (12), and what `auto` counts (8).
pub(crate) const ROW_OVERHEAD: u64 = 176;

/// The first chunk of a slab has room for at least this many bytes, if the bound allows.
const FIRST_CHUNK_BYTES: u64 = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Slabs {
    slabs: Vec<Slab>,
    by_size: HashMap<(usize, Device), u32>,
    chunks: Vec<Option<Chunk>>,
    /// How many chunks were ever made, which numbers them.
    made: u32,
    /// Given back while somebody still read them.
    leaving: Vec<Slot>,
    /// Dropped while somebody still read them, and what they cost.
    lingering: Vec<(Weak<RowArena>, u64)>,
    bound: u64,
    /// Of the chunks that are not dropped.
    bytes: u64,
}

/// Rows of one size on one device.
#[derive(Debug)]
struct Slab {
    row_bytes: usize,
    device: Device,
    /// In all its chunks.
    rows: usize,
    free: Vec<Slot>,
}

impl Slabs {
    pub(crate) fn new(bound: u64) -> Self {
        Slabs {
            slabs: Vec::new(),
            by_size: HashMap::new(),
            chunks: Vec::new(),
            made: 0,
            leaving: Vec::new(),
            lingering: Vec::new(),
            bound,
            bytes: 0,
        }
    }

    pub(crate) fn set_bound(&mut self, bound: u64) {
        self.bound = bound;
    }

    /// Whether what is not dropped exceeds the bound.
    pub(crate) fn over_bound(&self) -> bool {
        self.bytes > self.bound
    }

    /// Bytes allocated, bookkeeping included.
    pub(crate) fn bytes(&self) -> u64 {
        let read = self
            .lingering
            .iter()
            .filter(|(arena, _)| arena.strong_count() > 0);
        self.bytes + read.map(|(_, cost)| cost).sum::<u64>()
    }

    /// How many slots are taken.
    pub(crate) fn taken(&self) -> usize {
        self.chunks.iter().flatten().map(|chunk| chunk.taken).sum()
    }

    pub(crate) fn clear(&mut self) {
        for place in 0..self.chunks.len() {
            self.drop_at(place);
        }
        *self = Slabs {
            made: self.made,
            lingering: std::mem::take(&mut self.lingering),
            ..Slabs::new(self.bound)
        };
    }

    /// Whether a row of this size could be held if nothing else were.
    pub(crate) fn can_ever_hold(&self, row_bytes: usize) -> bool {
        cost(row_bytes) <= self.bound
    }

    /// How many more rows of this size the bound allows for.
    pub(crate) fn affordable(&self, row_bytes: usize) -> u64 {
        self.bound.saturating_sub(self.bytes()) / cost(row_bytes)
    }

    /// Whether `slot`, once released, takes a row of this size.
    pub(crate) fn fits(&self, slot: Slot, row_bytes: usize, device: Device) -> bool {
        self.chunk(slot).is_some_and(|chunk| {
            let slab = &self.slabs[chunk.slab as usize];
            (slab.row_bytes, slab.device) == (row_bytes, device)
        })
    }

    /// Whether the slot still means what it did when it was taken: its chunk may have been dropped
    /// since.
    pub(crate) fn is_valid(&self, slot: Slot) -> bool {
        self.chunk(slot).is_some()
    }

    /// Whether somebody reads the row of a slot.
    pub(crate) fn is_read(&self, slot: Slot) -> bool {
        let arena = self.arena(slot);
        arena.is_some_and(|arena| arena.is_pinned(slot.index as usize))
    }

    /// Takes back what nobody reads any more.
    pub(crate) fn reclaim(&mut self) {
        for slot in std::mem::take(&mut self.leaving) {
            self.free(slot);
        }
        self.lingering.retain(|(arena, _)| arena.strong_count() > 0);
    }

    /// Takes free slots until there are `count`, growing the slab as far as the bound allows.
    pub(crate) fn take(
        &mut self,
        row_bytes: usize,
        device: Device,
        count: usize,
        slots: &mut Vec<Slot>,
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
            let wanted = (missing - slab.free.len()).max(slab.rows) as u64;
            let wanted = wanted.max(FIRST_CHUNK_BYTES / cost(row_bytes));
            let rows = wanted.min(self.affordable(row_bytes));
            self.grow(number, rows.min(u64::from(u32::MAX)) as u32)?;
        }
        let free = &mut self.slabs[number as usize].free;
        let from = free.len().saturating_sub(missing);
        let before = slots.len();
        for slot in free.drain(from..).rev() {
            if let Some(chunk) = &mut self.chunks[slot.place as usize] {
                chunk.taken += 1;
            }
            slots.push(slot);
        }
        self.populate_behind(&slots[before..]);
        Ok(())
    }

    /// Gets memory ready for as many rows as were just taken: the next call will likely bring as many.
    fn populate_behind(&mut self, slots: &[Slot]) {
        let Some(last) = slots.last() else { return };
        let taken = slots.iter().filter(|slot| slot.chunk == last.chunk).count();
        if let Some(chunk) = self.chunk_mut(*last) {
            chunk.populate_from(last.index as usize + 1, taken);
        }
    }

    fn grow(&mut self, number: u32, rows: u32) -> Result<(), TchError> {
        if rows == 0 {
            return Ok(());
        }
        let slab = &mut self.slabs[number as usize];
        let chunk = Chunk {
            number: self.made,
            slab: number,
            rows: ChunkRows::new(rows, slab.row_bytes, slab.device)?,
            keys: vec![None; rows as usize],
            populated: 0,
            taken: 0,
        };
        let empty = self.chunks.iter().position(Option::is_none);
        let place = empty.unwrap_or_else(|| {
            self.chunks.push(None);
            self.chunks.len() - 1
        });
        // Free slots are taken from the end; behind those of older chunks, in rising order.
        let new = (0..rows).rev().map(|index| Slot {
            place: place as u32,
            chunk: chunk.number,
            index,
        });
        slab.free.splice(0..0, new);
        slab.rows += rows as usize;
        self.bytes += u64::from(rows) * cost(slab.row_bytes);
        self.chunks[place] = Some(chunk);
        self.made += 1;
        Ok(())
    }

    /// Notes whose row a taken slot holds.
    pub(crate) fn occupy(&mut self, slot: Slot, key: Key) {
        if let Some(chunk) = self.chunk_mut(slot) {
            chunk.keys[slot.index as usize] = Some(key);
        }
    }

    /// Gives a taken slot back: to the next taker, or as long as somebody reads it, to nobody.
    pub(crate) fn release(&mut self, slot: Slot) {
        if let Some(chunk) = self.chunk_mut(slot) {
            chunk.keys[slot.index as usize] = None;
            chunk.taken -= 1;
            self.free(slot);
        }
    }

    fn free(&mut self, slot: Slot) {
        let Some(chunk) = self.chunk(slot) else {
            return;
        };
        let slab = chunk.slab as usize;
        let is_free = match &chunk.rows {
            ChunkRows::Host(arena) => arena.empty(slot.index as usize),
            ChunkRows::Device(_) => true,
        };
        if is_free {
            self.slabs[slab].free.push(slot);
        } else {
            self.leaving.push(slot);
        }
    }

    /// Frees the memory of the chunk that holds `slot`, and tells whose rows went with it.
    pub(crate) fn drop_chunk(&mut self, slot: Slot) -> Vec<Key> {
        match self.is_valid(slot) {
            true => self.drop_at(slot.place as usize),
            false => Vec::new(),
        }
    }

    /// Frees the memory of chunks without a taken slot, but for those of one size; `false` where
    /// there was none.
    pub(crate) fn drop_unused(&mut self, but: Option<(usize, Device)>) -> bool {
        let spared = but.and_then(|size| self.by_size.get(&size).copied());
        let is_unused = |chunk: &Chunk| chunk.taken == 0 && Some(chunk.slab) != spared;
        let unused: Vec<usize> = (0..self.chunks.len())
            .filter(|&place| self.chunks[place].as_ref().is_some_and(is_unused))
            .collect();
        for &place in &unused {
            self.drop_at(place);
        }
        !unused.is_empty()
    }

    fn drop_at(&mut self, place: usize) -> Vec<Key> {
        let Some(chunk) = self.chunks[place].take() else {
            return Vec::new();
        };
        let slab = &mut self.slabs[chunk.slab as usize];
        let stays = |slot: &Slot| slot.chunk != chunk.number;
        slab.free.retain(stays);
        slab.rows -= chunk.keys.len();
        self.leaving.retain(stays);
        let cost = chunk.keys.len() as u64 * cost(slab.row_bytes);
        self.bytes -= cost;
        if let ChunkRows::Host(arena) = &chunk.rows
            && Arc::strong_count(arena) > 1
        {
            self.lingering.push((Arc::downgrade(arena), cost));
        }
        chunk.keys.into_iter().flatten().collect()
    }

    /// The arena that a slot is on; `None` where it is on another device than the CPU.
    pub(crate) fn arena(&self, slot: Slot) -> Option<&Arc<RowArena>> {
        match self.rows(slot)? {
            ChunkRows::Host(arena) => Some(arena),
            ChunkRows::Device(_) => None,
        }
    }

    /// Copies rows out that are on another device than the CPU: `[slots, row_bytes]` on `device`.
    pub(crate) fn gather(&self, slots: &[Slot], device: Device) -> Result<Tensor, TchError> {
        let select = |group: &[i64]| {
            let first = slots[group[0] as usize];
            let Some(ChunkRows::Device(rows)) = self.rows(first) else {
                return Err(TchError::Shape("expected rows on a device".into()));
            };
            rows.f_index_select(0, &index(slots, group).f_to_device(rows.device())?)?
                .f_to_device(device)
        };
        let groups = by_chunk(slots);
        if let [(_, group)] = groups.as_slice() {
            return select(group);
        }
        let first = slots.first().and_then(|&slot| self.chunk(slot));
        let row_bytes = first.map_or(0, |chunk| self.slabs[chunk.slab as usize].row_bytes);
        let shape = [slots.len() as i64, row_bytes as i64];
        let mut gathered = Tensor::f_empty(shape, (Kind::Uint8, device))?;
        for (_, group) in &groups {
            let into = Tensor::from_slice(group).f_to_device(device)?;
            let _ = gathered.f_index_copy_(0, &into, &select(group)?)?;
        }
        Ok(gathered)
    }

    /// Copies rows of `packed` into slots of another device than the CPU.
    pub(crate) fn scatter(
        &mut self,
        slots: &[Slot],
        positions: &[i64],
        packed: &Tensor,
    ) -> Result<(), TchError> {
        for (_, group) in by_chunk(slots) {
            let from: Vec<i64> = group.iter().map(|&slot| positions[slot as usize]).collect();
            let from = Tensor::from_slice(&from).f_to_device(packed.device())?;
            let into = index(slots, &group);
            let first = slots[group[0] as usize];
            if let Some(Chunk {
                rows: ChunkRows::Device(rows),
                ..
            }) = self.chunk_mut(first)
            {
                let device = rows.device();
                let new = packed.f_index_select(0, &from)?.f_to_device(device)?;
                let _ = rows.f_index_copy_(0, &into.f_to_device(device)?, &new)?;
            }
        }
        Ok(())
    }

    fn rows(&self, slot: Slot) -> Option<&ChunkRows> {
        self.chunk(slot).map(|chunk| &chunk.rows)
    }

    /// `None` where the chunk was dropped since the slot was taken.
    fn chunk(&self, slot: Slot) -> Option<&Chunk> {
        let chunk = self.chunks.get(slot.place as usize)?.as_ref();
        chunk.filter(|chunk| chunk.number == slot.chunk)
    }

    fn chunk_mut(&mut self, slot: Slot) -> Option<&mut Chunk> {
        let chunk = self.chunks.get_mut(slot.place as usize)?.as_mut();
        chunk.filter(|chunk| chunk.number == slot.chunk)
    }
}

fn cost(row_bytes: usize) -> u64 {
    row_bytes as u64 + ROW_OVERHEAD
}
