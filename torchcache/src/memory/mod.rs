//! The memory tier: which rows are held, which go when it is full. The bytes live in [`Slabs`].

mod admission;
pub(crate) mod arena;
mod chunk;
mod slab;

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use lru::LruCache;
use tch::{Device, TchError, Tensor};

use crate::key::Key;
use crate::options::Eviction;
use crate::schema::Schema;

use admission::Admission;
use arena::{Pins, Shelf};
use chunk::Slot;
use slab::Slabs;

/// Rows by key, in slabs, within a bound of bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    rows: LruCache<Key, Row, BuildHasherDefault<KeyHasher>>,
    slabs: Slabs,
    schemas: Vec<Arc<Schema>>,
    eviction: Eviction,
    admission: Option<Admission>,
    evicted: u64,
    refused: u64,
}

/// Where a row is and how to read it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    slot: Slot,
    schema: u32,
}

/// Room for a row that is not there yet.
#[derive(Debug)]
pub(crate) struct Room {
    /// Which of the rows it was asked for.
    pub(crate) row: usize,
    pub(crate) slot: Slot,
    /// Where it is to be filled; `None` on another device than the CPU.
    pub(crate) shelf: Option<Arc<Shelf>>,
    /// Whether it was filled there.
    pub(crate) filled: bool,
}

/// What the memory tier holds now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) evicted: u64,
    pub(crate) refused: u64,
}

impl Memory {
    pub(crate) fn new(bound: u64, eviction: Eviction) -> Self {
        Memory {
            rows: LruCache::unbounded_with_hasher(BuildHasherDefault::default()),
            slabs: Slabs::new(bound),
            schemas: Vec::new(),
            eviction,
            admission: None,
            evicted: 0,
            refused: 0,
        }
    }

    /// Takes on another bound and policy; a smaller bound takes effect at once.
    pub(crate) fn reconfigure(&mut self, bound: u64, eviction: Eviction) {
        if self.eviction != eviction {
            self.eviction = eviction;
            self.admission = None;
        }
        self.slabs.set_bound(bound);
        self.shrink();
    }

    /// Drops chunks until the bound holds, or until no row is left.
    fn shrink(&mut self) {
        if self.slabs.over_bound() {
            self.slabs.drop_unused(None);
        }
        while self.slabs.over_bound()
            && let Some((_, row)) = self.rows.pop_lru()
        {
            self.evicted += 1;
            self.drop_chunk_of(row.slot);
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            rows: self.rows.len() as u64,
            bytes: self.slabs.bytes(),
            evicted: self.evicted,
            refused: self.refused,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.slabs.clear();
        self.schemas.clear();
        self.admission = None;
    }

    /// Notes what a call asks for, each row once: the policy goes by that.
    pub(crate) fn note(&mut self, keys: &[Key]) {
        if let Some(admission) = &mut self.admission {
            keys.iter().for_each(|key| admission.record(key));
        }
    }

    /// The rows that are here. Where the policy goes by the order of use, they are the most recently
    /// used from now on.
    pub(crate) fn find<'k>(&mut self, keys: impl Iterator<Item = &'k Key>) -> Vec<Option<Row>> {
        // To move rows in the order of their use is half of what finding them costs. `never` needs no
        // order, and `auto` none before it is full.
        let in_order = self.eviction == Eviction::Lru || self.admission.is_some();
        let find = |key| match in_order {
            true => self.rows.get(key).copied(),
            false => self.rows.peek(key).copied(),
        };
        keys.map(find).collect()
    }

    pub(crate) fn has_any(&self, keys: &[Key]) -> bool {
        keys.iter().any(|key| self.rows.contains(key))
    }

    pub(crate) fn schema(&self, row: Row) -> &Arc<Schema> {
        &self.schemas[row.schema as usize]
    }

    /// Whether two rows can stand in one batch.
    pub(crate) fn agree(&self, left: Row, right: Row) -> bool {
        left.schema == right.schema || self.schema(left).agrees(self.schema(right))
    }

    /// Pins a row beside the others; `false` where it is on another device than the CPU.
    pub(crate) fn pin(&self, row: Row, pins: &mut Pins) -> bool {
        let shelf = self.slabs.shelf(row.slot);
        shelf.is_some_and(|shelf| pins.add(shelf, row.slot.index))
    }

    /// The packed bytes of rows on another device than the CPU, which share a schema, in their
    /// order: `[rows, row_bytes]`.
    pub(crate) fn gather(&self, rows: &[Row], device: Device) -> Result<Tensor, TchError> {
        let slots: Vec<Slot> = rows.iter().map(|row| row.slot).collect();
        self.slabs.gather(&slots, device)
    }

    /// Room for those of the rows that are not here, as far as the bound and policy allow. Nobody
    /// finds them before they are [published](Self::publish).
    pub(crate) fn reserve(
        &mut self,
        keys: &[Key],
        row_bytes: usize,
        device: Device,
    ) -> Result<Vec<Room>, TchError> {
        self.slabs.reclaim();
        self.shrink();
        let mut new: Vec<usize> = (0..keys.len())
            .filter(|&row| !self.rows.contains(&keys[row]))
            .collect();
        let mut slots = Vec::with_capacity(new.len());
        let wanted = new.len();
        let taken = self.take(keys, row_bytes, device, &mut new, &mut slots);
        if let Err(error) = taken {
            slots.into_iter().for_each(|slot| self.slabs.release(slot));
            return Err(error);
        }
        self.refused += (wanted - slots.len()) as u64;
        let room = |(row, slot)| Room {
            row,
            slot,
            shelf: self.slabs.shelf(slot).cloned(),
            filled: false,
        };
        Ok(new.into_iter().zip(slots).map(room).collect())
    }

    /// Slots for the new rows, first those that are free; rows that get none are no longer new.
    fn take(
        &mut self,
        keys: &[Key],
        row_bytes: usize,
        device: Device,
        new: &mut Vec<usize>,
        slots: &mut Vec<Slot>,
    ) -> Result<(), TchError> {
        self.slabs.take(row_bytes, device, new.len(), slots)?;
        if slots.len() < new.len() && self.slabs.drop_unused(Some((row_bytes, device))) {
            self.slabs.take(row_bytes, device, new.len(), slots)?;
        }
        // Rows that are read are no victims. They are few, being the ones used longest ago; where
        // they are not, since the queue of the disk holds most of a small tier, new rows are not
        // kept rather than victims looked for.
        let mut tries = 2 * new.len() + 16;
        let free = slots.len();
        let mut kept = free;
        for at in free..new.len() {
            // Rows that this very call brings have no entry yet, so they are never the victim.
            while slots.len() == kept
                && tries > 0
                && self.evict_for(&keys[new[at]], row_bytes, device, &mut tries)
            {
                // The victim may have made room for more: that is taken before the next one goes,
                // one slot for each row that is left.
                self.slabs
                    .take(row_bytes, device, new.len() - (at - kept), slots)?;
            }
            if slots.len() > kept {
                new[kept] = new[at];
                kept += 1;
            }
        }
        new.truncate(kept);
        Ok(())
    }

    /// Tries to drop what the policy gives up for a new row; `false` where it gives up nothing.
    fn evict_for(
        &mut self,
        new: &Key,
        row_bytes: usize,
        device: Device,
        tries: &mut usize,
    ) -> bool {
        let Some((victim, row)) = self.rows.peek_lru() else {
            return false;
        };
        let (victim, slot) = (*victim, row.slot);
        let fits = self.slabs.fits(slot, row_bytes, device);
        *tries -= 1;
        if self.eviction == Eviction::Never {
            return false;
        }
        if fits && self.slabs.is_read(slot) {
            // To drop it would make no room.
            self.rows.promote(&victim);
            return true;
        }
        if self.eviction == Eviction::Auto && !self.admission().admits(new, &victim) {
            // The next new row is compared with another.
            self.rows.promote(&victim);
            return false;
        }
        if fits {
            self.rows.pop_lru();
            self.slabs.release(slot);
            self.evicted += 1;
        } else if self.slabs.can_ever_hold(row_bytes) {
            self.drop_chunk_of(slot);
            if self.slabs.affordable(row_bytes) == 0 {
                // Somebody still reads a row of it, as may be with the next one: one is enough.
                *tries = 0;
            }
        } else {
            return false;
        }
        true
    }

    /// Who decides for [`Eviction::Auto`], from the time on when the tier is full.
    fn admission(&mut self) -> &mut Admission {
        // Those that are on their way are rows as well.
        let rows = self.slabs.taken();
        let held = self.rows.iter().rev().map(|(key, _)| key);
        match self.admission.take().filter(|it| it.suits(rows)) {
            Some(suits) => self.admission.insert(suits),
            None => self.admission.insert(Admission::new(rows, held)),
        }
    }

    /// Copies rows of `packed` to their room on another device than the CPU.
    pub(crate) fn scatter(&mut self, rooms: &[Room], packed: &Tensor) -> Result<(), TchError> {
        let slots: Vec<Slot> = rooms.iter().map(|room| room.slot).collect();
        let rows: Vec<i64> = rooms.iter().map(|room| room.row as i64).collect();
        self.slabs.scatter(&slots, &rows, packed)
    }

    /// Makes filled rows known. Where another thread was faster, its row stays.
    pub(crate) fn publish(&mut self, keys: &[Key], schema: &Arc<Schema>, rooms: Vec<Room>) {
        let schema = self.intern(schema);
        for Room { row, slot, .. } in rooms {
            if !self.slabs.is_valid(slot) {
                continue;
            }
            let key = keys[row];
            if self.rows.contains(&key) {
                self.slabs.release(slot);
            } else {
                self.slabs.occupy(slot, key);
                self.rows.put(key, Row { slot, schema });
            }
        }
    }

    /// Gives back room that is not needed.
    pub(crate) fn withdraw(&mut self, rooms: Vec<Room>) {
        rooms
            .into_iter()
            .for_each(|room| self.slabs.release(room.slot));
    }

    /// Makes room for rows of another size: the chunk of the least recently used row goes whole.
    fn drop_chunk_of(&mut self, slot: Slot) {
        for key in self.slabs.drop_chunk(slot) {
            self.rows.pop(&key);
            self.evicted += 1;
        }
    }

    fn intern(&mut self, schema: &Arc<Schema>) -> u32 {
        let known = self.schemas.iter().position(|known| known == schema);
        known.unwrap_or_else(|| {
            self.schemas.push(schema.clone());
            self.schemas.len() - 1
        }) as u32
    }
}

/// Keys are digests: their first bytes are as good a hash as any.
#[derive(Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // The length prefix that arrays of bytes write first is replaced by the key itself.
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}

#[cfg(test)]
mod tests;
