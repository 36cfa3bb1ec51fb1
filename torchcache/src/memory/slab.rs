//! Slabs: where the memory tier keeps bytes. Rows of one size on one device share a slab, so there
//! is neither a tensor nor an allocation per row.
//!
//! A slab grows by chunks, each as large as all before it: memory grows with use, nothing is ever
//! copied to grow, and there are few chunks. On the CPU a chunk is a [`Shelf`], whose rows are
//! filled and read outside any lock. On another device it is a `[rows, row_bytes]` tensor of bytes,
//! and a batch is gathered or scattered by a call or two. Chunks are charged to the bound when they
//! are made, with what a row costs beside its bytes.

use std::collections::HashMap;
use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use crate::keys::Key;
use crate::raw::Shelf;

/// What a row costs beside its bytes: its node and place in the `lru` map (up to 119 bytes at the
/// map's lowest load), its key (33) and its state (4) in the chunk, and what `auto` counts (8), rounded
/// up.
pub(crate) const ROW_OVERHEAD: u64 = 168;

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
    /// Given back while somebody still read them.
    leaving: Vec<Slot>,
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
    rows: Rows,
    /// The key of each occupied slot.
    keys: Vec<Option<Key>>,
}

/// The rows of a chunk.
#[derive(Debug)]
enum Rows {
    Host(Arc<Shelf>),
    Device(Tensor),
}

impl Slabs {
    pub(crate) fn new(bound: u64) -> Self {
        Slabs {
            slabs: Vec::new(),
            by_size: HashMap::new(),
            leaving: Vec::new(),
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

    /// Takes back what nobody reads any more.
    pub(crate) fn reclaim(&mut self) {
        for slot in std::mem::take(&mut self.leaving) {
            self.release(slot);
        }
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
        if let Some(chunk) = self.chunk_mut(slot) {
            chunk.keys[slot.index as usize] = Some(key);
        }
    }

    /// Gives a slot back: to the next taker, or as long as somebody reads it, to nobody.
    pub(crate) fn release(&mut self, slot: Slot) {
        let Some(chunk) = self.chunk_mut(slot) else {
            return;
        };
        chunk.keys[slot.index as usize] = None;
        let is_free = match &chunk.rows {
            Rows::Host(shelf) => shelf.empty(slot.index as usize),
            Rows::Device(_) => true,
        };
        if is_free {
            self.slabs[slot.slab as usize].free.push(slot);
        } else {
            self.leaving.push(slot);
        }
    }

    /// Frees the memory of the chunk that holds `slot`, and tells whose rows went with it.
    pub(crate) fn drop_chunk(&mut self, slot: Slot) -> Vec<Key> {
        let slab = &mut self.slabs[slot.slab as usize];
        let Some(chunk) = slab.chunks[slot.chunk as usize].take() else {
            return Vec::new();
        };
        let stays = |it: &Slot| (it.slab, it.chunk) != (slot.slab, slot.chunk);
        slab.free.retain(stays);
        self.leaving.retain(stays);
        self.bytes -= chunk.keys.len() as u64 * cost(slab.row_bytes);
        chunk.keys.into_iter().flatten().collect()
    }

    /// The shelf that a slot is on; `None` where it is on another device than the CPU.
    pub(crate) fn shelf(&self, slot: Slot) -> Option<&Arc<Shelf>> {
        match self.rows(slot)? {
            Rows::Host(shelf) => Some(shelf),
            Rows::Device(_) => None,
        }
    }

    /// Copies rows out that are on another device than the CPU: `[slots, row_bytes]` on `device`.
    pub(crate) fn gather(&self, slots: &[Slot], device: Device) -> Result<Tensor, TchError> {
        let select = |group: &[i64]| {
            let first = slots[group[0] as usize];
            let Some(Rows::Device(rows)) = self.rows(first) else {
                return Err(TchError::Shape("expected rows on a device".into()));
            };
            rows.f_index_select(0, &index(slots, group).f_to_device(rows.device())?)?
                .f_to_device(device)
        };
        let groups = by_chunk(slots);
        if let [(_, group)] = groups.as_slice() {
            return select(group);
        }
        let row_bytes = slots
            .first()
            .map_or(0, |slot| self.slabs[slot.slab as usize].row_bytes);
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
                rows: Rows::Device(rows),
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

    fn rows(&self, slot: Slot) -> Option<&Rows> {
        let slab = self.slabs.get(slot.slab as usize)?;
        let chunk = slab.chunks.get(slot.chunk as usize)?.as_ref();
        chunk.map(|chunk| &chunk.rows)
    }

    /// `None` where the chunk was dropped since the slot was given out.
    fn chunk_mut(&mut self, slot: Slot) -> Option<&mut Chunk> {
        self.slabs[slot.slab as usize].chunks[slot.chunk as usize].as_mut()
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
        let held = if self.device == Device::Cpu {
            Rows::Host(Arc::new(Shelf::new(rows as usize, self.row_bytes)?))
        } else {
            let shape = [i64::from(rows), self.row_bytes as i64];
            Rows::Device(Tensor::f_empty(shape, (Kind::Uint8, self.device))?)
        };
        let chunk = self.chunks.len() as u32;
        self.chunks.push(Some(Chunk {
            rows: held,
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

impl Slot {
    /// The number of its row in the chunk.
    pub(crate) fn index(self) -> u32 {
        self.index
    }
}

fn cost(row_bytes: usize) -> u64 {
    row_bytes as u64 + ROW_OVERHEAD
}

/// The rows of the slots at the positions in `group`, as libtorch wants them.
fn index(slots: &[Slot], group: &[i64]) -> Tensor {
    let rows: Vec<i64> = group
        .iter()
        .map(|&slot| i64::from(slots[slot as usize].index))
        .collect();
    Tensor::from_slice(&rows)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use torchcache_store::RowValues;

    use crate::raw::{Pins, Shelf};

    #[test]
    fn a_full_row_is_read_until_it_is_emptied() {
        let shelf = Arc::new(Shelf::new(2, 3).unwrap());
        assert!(!Pins::default().add(&shelf, 0), "an empty slot has no row");
        assert!(shelf.fill(0, &[1, 2, 3]));
        assert!(
            !shelf.fill(0, &[4, 5, 6]),
            "a full slot is not filled again"
        );
        let mut pins = Pins::default();
        assert!(pins.add(&shelf, 0) && pins.add(&shelf, 0));
        assert!(!shelf.empty(0), "somebody reads it");
        assert_eq!(
            (pins.row(0), pins.row(1)),
            ([1, 2, 3].as_slice(), [1, 2, 3].as_slice())
        );
        drop(pins);
        assert!(shelf.empty(0) && shelf.fill(0, &[4, 5, 6]));
        let mut pins = Pins::default();
        assert!(pins.add(&shelf, 0));
        assert_eq!(pins.row(0), [4, 5, 6]);
    }

    #[test]
    fn pinned_rows_outlive_what_made_them() {
        let shelf = Arc::new(Shelf::new(1, 1).unwrap());
        let mut pins = Pins::default();
        assert!(shelf.fill(0, &[7]) && pins.add(&shelf, 0));
        drop(shelf);
        assert_eq!(pins.row(0), [7]);
    }

    #[test]
    fn rows_without_bytes_have_slots_as_well() {
        let shelf = Arc::new(Shelf::new(2, 0).unwrap());
        let mut pins = Pins::default();
        assert!(shelf.fill(1, &[]) && pins.add(&shelf, 1));
        assert!(pins.row(0).is_empty());
    }

    #[test]
    fn what_no_address_space_can_hold_is_an_error() {
        assert!(Shelf::new(usize::MAX / 2, 3).is_err());
    }

    #[test]
    fn no_reader_ever_sees_a_row_half_filled() {
        let shelf = Arc::new(Shelf::new(1, 4096).unwrap());
        let threads: Vec<_> = (0..4u8)
            .map(|thread| {
                let shelf = shelf.clone();
                std::thread::spawn(move || {
                    let mut seen = 0;
                    for round in 0..4000u16 {
                        shelf.empty(0);
                        shelf.fill(0, &[thread ^ round as u8; 4096]);
                        let mut pins = Pins::default();
                        if pins.add(&shelf, 0) {
                            let row = pins.row(0);
                            assert!(row.iter().all(|byte| *byte == row[0]));
                            seen += 1;
                        }
                    }
                    seen
                })
            })
            .collect();
        let seen: u32 = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum();
        assert!(seen > 0);
    }
}
