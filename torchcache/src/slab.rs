//! Slabs: where the memory tier keeps bytes. Rows of one size on one device share a slab of
//! `[rows, row_bytes]` byte tensors, so a batch is gathered or scattered by a call or two, on CPU
//! and CUDA alike, and there is no tensor object per row.
//!
//! A slab grows by chunks, each as large as all before it: memory grows with use, nothing is ever
//! copied to grow, and a batch touches few chunks. Chunks are charged to the bound when they are
//! allocated, with what a row costs beside its bytes.

use std::collections::HashMap;

use tch::{Device, Kind, TchError, Tensor};

use crate::keys::Key;

/// What a row costs beside its bytes: its node and place in the `lru` map (up to 119 bytes at the
/// map's lowest load) and its key in the chunk (33), rounded up.
pub(crate) const ROW_OVERHEAD: u64 = 160;

/// The first chunk of a slab has room for at least this many bytes, if the bound allows.
const FIRST_CHUNK_BYTES: u64 = 64 * 1024;

/// Where a row lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    slab: u32,
    chunk: u32,
    index: u32,
}

#[derive(Debug)]
pub(crate) struct Slabs {
    slabs: Vec<Slab>,
    by_size: HashMap<(usize, Device), u32>,
    bound: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Slab {
    row_bytes: usize,
    device: Device,
    /// A dropped chunk leaves its place, so that slots keep their meaning.
    chunks: Vec<Option<Chunk>>,
    free: Vec<Slot>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Tensor,
    /// The key of each occupied slot.
    keys: Vec<Option<Key>>,
}

impl Slabs {
    pub(crate) fn new(bound: u64) -> Self {
        Slabs {
            slabs: Vec::new(),
            by_size: HashMap::new(),
            bound,
            bytes: 0,
        }
    }

    pub(crate) fn set_bound(&mut self, bound: u64) {
        self.bound = bound;
    }

    pub(crate) fn over_bound(&self) -> bool {
        self.bytes > self.bound
    }

    /// Bytes allocated, bookkeeping included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn clear(&mut self) {
        *self = Slabs::new(self.bound);
    }

    /// Whether a row of this size could be held if nothing else were.
    pub(crate) fn can_ever_hold(&self, row_bytes: usize) -> bool {
        cost(row_bytes) <= self.bound
    }

    /// Whether `slot`, once released, takes a row of this size.
    pub(crate) fn fits(&self, slot: Slot, row_bytes: usize, device: Device) -> bool {
        let slab = &self.slabs[slot.slab as usize];
        (slab.row_bytes, slab.device) == (row_bytes, device)
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
                chunks: Vec::new(),
                free: Vec::new(),
            });
            self.slabs.len() as u32 - 1
        });
        let slab = &mut self.slabs[number as usize];
        let missing = count - slots.len();
        let affordable = self.bound.saturating_sub(self.bytes) / cost(row_bytes);
        if slab.free.len() < missing && affordable > 0 {
            let wanted = (missing - slab.free.len()).max(slab.capacity());
            let wanted = (wanted as u64).max(FIRST_CHUNK_BYTES / cost(row_bytes));
            let rows = wanted.min(affordable).min(u64::from(u32::MAX));
            slab.grow(number, rows as u32)?;
            self.bytes += rows * cost(row_bytes);
        }
        let from = slab.free.len().saturating_sub(missing);
        slots.extend(slab.free.drain(from..).rev());
        Ok(())
    }

    /// Notes whose row a taken slot holds.
    pub(crate) fn occupy(&mut self, slot: Slot, key: Key) {
        self.chunk_mut(slot).keys[slot.index as usize] = Some(key);
    }

    /// Gives a slot back.
    pub(crate) fn release(&mut self, slot: Slot) {
        self.chunk_mut(slot).keys[slot.index as usize] = None;
        self.slabs[slot.slab as usize].free.push(slot);
    }

    /// Frees the memory of the chunk that holds `slot`, and tells whose rows went with it.
    pub(crate) fn drop_chunk(&mut self, slot: Slot) -> Vec<Key> {
        let slab = &mut self.slabs[slot.slab as usize];
        let Some(chunk) = slab.chunks[slot.chunk as usize].take() else {
            return Vec::new();
        };
        slab.free.retain(|free| free.chunk != slot.chunk);
        self.bytes -= chunk.keys.len() as u64 * cost(slab.row_bytes);
        chunk.keys.into_iter().flatten().collect()
    }

    /// Copies rows out: `[slots, row_bytes]` on `device`.
    pub(crate) fn gather(&self, slots: &[Slot], device: Device) -> Result<Tensor, TchError> {
        let groups = by_chunk(slots);
        if let [(_, group)] = groups.as_slice() {
            return self.select(slots, group)?.f_to_device(device);
        }
        let row_bytes = slots
            .first()
            .map_or(0, |slot| self.slabs[slot.slab as usize].row_bytes);
        let mut rows = Tensor::f_empty(
            [slots.len() as i64, row_bytes as i64],
            (Kind::Uint8, device),
        )?;
        for (_, group) in &groups {
            let index = Tensor::from_slice(group).f_to_device(device)?;
            let _ =
                rows.f_index_copy_(0, &index, &self.select(slots, group)?.f_to_device(device)?)?;
        }
        Ok(rows)
    }

    /// Copies the rows of `packed` at `positions` into `slots`.
    pub(crate) fn scatter(
        &mut self,
        slots: &[Slot],
        positions: &[i64],
        packed: &Tensor,
    ) -> Result<(), TchError> {
        for ((slab, chunk), group) in by_chunk(slots) {
            let slab = &mut self.slabs[slab as usize];
            let device = slab.device;
            let chunk = slab.chunks[chunk as usize]
                .as_mut()
                .expect("taken slots are in live chunks");
            let from: Vec<i64> = group.iter().map(|&slot| positions[slot as usize]).collect();
            let into: Vec<i64> = group
                .iter()
                .map(|&slot| i64::from(slots[slot as usize].index))
                .collect();
            let rows = match run(&from) {
                Some(start) => packed.f_narrow(0, start, from.len() as i64)?,
                None => packed
                    .f_index_select(0, &Tensor::from_slice(&from).f_to_device(packed.device())?)?,
            };
            match run(&into) {
                Some(start) => chunk
                    .bytes
                    .f_narrow(0, start, into.len() as i64)?
                    .f_copy_(&rows)?,
                None => {
                    let into = Tensor::from_slice(&into).f_to_device(device)?;
                    let _ = chunk
                        .bytes
                        .f_index_copy_(0, &into, &rows.f_to_device(device)?)?;
                }
            }
        }
        Ok(())
    }

    /// One gather from one chunk: the slots at the positions in `group`.
    fn select(&self, slots: &[Slot], group: &[i64]) -> Result<Tensor, TchError> {
        let first = slots[group[0] as usize];
        let slab = &self.slabs[first.slab as usize];
        let chunk = slab.chunks[first.chunk as usize]
            .as_ref()
            .expect("rows are in live chunks");
        let index: Vec<i64> = group
            .iter()
            .map(|&slot| i64::from(slots[slot as usize].index))
            .collect();
        chunk
            .bytes
            .f_index_select(0, &Tensor::from_slice(&index).f_to_device(slab.device)?)
    }

    fn chunk_mut(&mut self, slot: Slot) -> &mut Chunk {
        let chunk = &mut self.slabs[slot.slab as usize].chunks[slot.chunk as usize];
        chunk.as_mut().expect("slots in use are in live chunks")
    }
}

impl Slab {
    fn capacity(&self) -> usize {
        self.chunks
            .iter()
            .flatten()
            .map(|chunk| chunk.keys.len())
            .sum()
    }

    fn grow(&mut self, number: u32, rows: u32) -> Result<(), TchError> {
        let shape = [i64::from(rows), self.row_bytes as i64];
        let bytes = Tensor::f_empty(shape, (Kind::Uint8, self.device))?;
        let chunk = self.chunks.len() as u32;
        self.chunks.push(Some(Chunk {
            bytes,
            keys: vec![None; rows as usize],
        }));
        // Free slots are taken from the end; behind those of older chunks, in rising order.
        let new = (0..rows).rev().map(|index| Slot {
            slab: number,
            chunk,
            index,
        });
        self.free.splice(0..0, new);
        Ok(())
    }
}

fn cost(row_bytes: usize) -> u64 {
    row_bytes as u64 + ROW_OVERHEAD
}

/// The positions of `slots`, grouped by the chunk they are in.
fn by_chunk(slots: &[Slot]) -> Vec<((u32, u32), Vec<i64>)> {
    let mut groups: Vec<((u32, u32), Vec<i64>)> = Vec::new();
    for (position, slot) in slots.iter().enumerate() {
        let chunk = (slot.slab, slot.chunk);
        match groups.iter_mut().find(|(of, _)| *of == chunk) {
            Some((_, group)) => group.push(position as i64),
            None => groups.push((chunk, vec![position as i64])),
        }
    }
    groups
}

/// The start of a run of successive numbers.
fn run(numbers: &[i64]) -> Option<i64> {
    numbers
        .windows(2)
        .all(|pair| pair[1] == pair[0] + 1)
        .then(|| numbers.first().copied())
        .flatten()
}
