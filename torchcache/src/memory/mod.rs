//! The memory tier: which rows it holds, and which it evicts when it is full. Their bytes are in
//! [`Slabs`].

mod admission;
pub(crate) mod arena;
pub(crate) mod budget;
mod chunk;
pub(crate) mod device_arena;
pub(crate) mod rows;
pub(crate) mod saved;
mod slab;
mod slots;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use lru::LruCache;
use tch::{Device, TchError, Tensor};

use crate::key::Key;
use crate::options::Eviction;
use crate::schema::TensorSchema;
use crate::tensor::rows::RowCopies;

use admission::Admission;
use arena::PinnedRows;
use budget::Budget;
use chunk::{ChunkRows, RowSlot};
use device_arena::{DeviceArena, PinnedDeviceRows};
use rows::{FoundRows, RowBytes, RowSource};
use saved::{SavedAt, SavedRows, ShortHash};
use slab::Slabs;

/// Rows by key, in slabs, within a bound of bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    rows: LruCache<Key, RowRef, BuildHasherDefault<KeyHasher>>,
    slabs: Slabs,
    schemas: Vec<Arc<TensorSchema>>,
    eviction: Eviction,
    admission: Option<Admission>,
    evicted: u64,
    refused: u64,
    saved: SavedRows,
    /// Counts how often rows were removed on demand.
    epoch: u64,
    /// How many such removals are under way.
    removing: u32,
}

/// Rows of one schema with their keys.
type HeldRows = (Arc<TensorSchema>, Vec<Key>, Vec<FoundRows>);

/// The memory of removed rows. Dropping it may wait for a device: not under the tier's lock.
#[derive(Debug)]
#[must_use]
pub(crate) struct DroppedRows(#[expect(dead_code, reason = "only dropped")] Vec<ChunkRows>);

/// Where a row is, its schema, and what it was given to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowRef {
    slot: RowSlot,
    schema: u32,
    saved: SavedAt,
}

/// A slot that is reserved for a row, and not visible yet.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// The position of the row among those that slots were reserved for.
    pub(crate) row: usize,
    slot: RowSlot,
    /// When it was reserved.
    epoch: u64,
    /// The rows of its chunk.
    chunk: ChunkRows,
    is_filled: bool,
}

impl Reservation {
    /// Copies a row to its slot on the CPU.
    pub(crate) fn fill(&mut self, row: &[u8]) {
        if let ChunkRows::Host(arena) = &self.chunk {
            self.is_filled = arena.fill(self.slot.index as usize, row);
        }
    }

    pub(crate) fn is_filled(&self) -> bool {
        self.is_filled
    }

    /// Pins the filled row after the others; `false` on another device than the CPU.
    pub(crate) fn pin(&self, pinned: &mut PinnedRows) -> bool {
        match &self.chunk {
            ChunkRows::Host(arena) => pinned.add(arena, self.slot.index),
            ChunkRows::Device(_) => false,
        }
    }
}

/// Queues copies of rows of `packed` to reserved slots on its device: of `rows`, one for each slot.
///
/// # Errors
///
/// Memory that cannot be allocated.
pub(crate) fn fill_on_device(
    reservations: &mut [Reservation],
    packed: &Tensor,
    rows: &[i64],
) -> Result<(), TchError> {
    let mut by_chunk: Vec<(Arc<DeviceArena>, Vec<i64>, Vec<i64>)> = Vec::new();
    for (reservation, &row) in reservations.iter().zip(rows) {
        let ChunkRows::Device(arena) = &reservation.chunk else {
            return Err(TchError::Shape("expected slots on a device".into()));
        };
        // Few chunks, and mostly the last one again.
        let known = by_chunk.iter().rposition(|(it, ..)| Arc::ptr_eq(it, arena));
        let at = known.unwrap_or_else(|| {
            by_chunk.push((arena.clone(), Vec::new(), Vec::new()));
            by_chunk.len() - 1
        });
        by_chunk[at].1.push(row);
        by_chunk[at].2.push(i64::from(reservation.slot.index));
    }
    let Some((first, ..)) = by_chunk.first() else {
        return Ok(());
    };
    let order = first.order().clone();
    let mut copies = RowCopies::default();
    for (arena, rows, slots) in by_chunk {
        copies.add((packed, rows), (&arena.tensor(), slots));
    }
    order.queue(copies)?;
    for reservation in reservations {
        if let ChunkRows::Device(arena) = &reservation.chunk {
            reservation.is_filled = arena.mark_full(reservation.slot.index as usize);
        }
    }
    Ok(())
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
    pub(crate) fn new(bound: u64, eviction: Eviction, budget: &'static Budget) -> Self {
        Memory {
            rows: LruCache::unbounded_with_hasher(BuildHasherDefault::default()),
            slabs: Slabs::new(bound, budget),
            schemas: Vec::new(),
            eviction,
            admission: None,
            evicted: 0,
            refused: 0,
            saved: SavedRows::default(),
            epoch: 0,
            removing: 0,
        }
    }

    /// The epoch of a call that begins now: it ends when rows are removed on demand. `None` while some
    /// are.
    pub(crate) fn epoch(&self) -> Option<u64> {
        (self.removing == 0).then_some(self.epoch)
    }

    /// Which rows are on disk.
    pub(crate) fn saved(&mut self) -> &mut SavedRows {
        &mut self.saved
    }

    /// Sets the bound and policy. A smaller bound takes effect at once.
    pub(crate) fn reconfigure(&mut self, bound: u64, eviction: Eviction) {
        if self.eviction != eviction {
            self.eviction = eviction;
            self.admission = None;
        }
        self.slabs.set_bound(bound);
        self.shrink();
    }

    /// Drops chunks until they are within the bound, or no row is left.
    fn shrink(&mut self) {
        if self.slabs.over_bound() {
            self.slabs.drop_unused(None);
        }
        while self.slabs.over_bound()
            && let Some((_, row)) = self.rows.peek_lru()
        {
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

    /// Removes the rows of these keys, or every row. Calls that began before [`end_removal`](Self::end_removal) keep
    /// none of theirs.
    pub(crate) fn begin_removal(&mut self, keys: Option<&[Key]>) -> DroppedRows {
        self.removing += 1;
        self.epoch += 1;
        match keys {
            Some(keys) => self.remove(keys),
            None => self.remove_all(),
        }
    }

    pub(crate) fn end_removal(&mut self) {
        self.removing -= 1;
        self.epoch += 1;
    }

    fn remove(&mut self, keys: &[Key]) -> DroppedRows {
        for key in keys {
            if let Some(row) = self.rows.pop(key) {
                self.slabs.release(row.slot);
            }
        }
        DroppedRows(Vec::new())
    }

    fn remove_all(&mut self) -> DroppedRows {
        self.rows.clear();
        self.schemas.clear();
        self.admission = None;
        DroppedRows(self.slabs.clear())
    }

    /// Records what a call asks for, each key once, for the admission policy.
    pub(crate) fn note(&mut self, keys: &[Key]) {
        if let Some(admission) = &mut self.admission {
            keys.iter().for_each(|key| admission.record(key));
        }
    }

    /// Finds rows by key. Where the policy uses their order of use, they become the most recently
    /// used.
    pub(crate) fn find<'k>(&mut self, keys: impl Iterator<Item = &'k Key>) -> Vec<Option<RowRef>> {
        // Reordering is half the cost of finding a row. `never` needs no order, and `auto` none
        // before it is full.
        let in_order = self.eviction == Eviction::Lru || self.admission.is_some();
        let find = |key| match in_order {
            true => self.rows.get(key).copied(),
            false => self.rows.peek(key).copied(),
        };
        keys.map(find).collect()
    }

    /// Whether a row is kept. Its order of use stays.
    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.rows.contains(key)
    }

    /// The schema of a row, if it is kept. Its order of use stays.
    pub(crate) fn schema_of(&self, key: &Key) -> Option<&Arc<TensorSchema>> {
        self.rows.peek(key).map(|&row| self.schema(row))
    }

    pub(crate) fn schema(&self, row: RowRef) -> &Arc<TensorSchema> {
        &self.schemas[row.schema as usize]
    }

    /// Whether two rows fit into one output.
    pub(crate) fn agree(&self, left: RowRef, right: RowRef) -> bool {
        left.schema == right.schema || self.schema(left).agrees(self.schema(right))
    }

    /// The bytes of rows that share a schema, given with their positions: pinned where they are.
    pub(crate) fn read(&self, rows: Vec<(usize, RowRef)>) -> Vec<FoundRows> {
        let mut on_cpu = (Vec::new(), PinnedRows::default());
        let mut on_devices = HashMap::<Device, (Vec<usize>, PinnedDeviceRows)>::new();
        for (position, RowRef { slot, .. }) in rows {
            match self.slabs.rows(slot) {
                Some(ChunkRows::Host(arena)) if on_cpu.1.add(arena, slot.index) => {
                    on_cpu.0.push(position);
                }
                Some(ChunkRows::Device(arena)) => {
                    let device = arena.order().device();
                    let (positions, pinned) = on_devices.entry(device).or_default();
                    if pinned.add(arena, slot.index) {
                        positions.push(position);
                    }
                }
                _ => {}
            }
        }
        let on_cpu = (on_cpu.0, RowBytes::Pinned(on_cpu.1));
        let on_devices = on_devices.into_values();
        let on_devices =
            on_devices.map(|(positions, pinned)| (positions, RowBytes::OnDevice(pinned)));
        let found = [on_cpu].into_iter().chain(on_devices);
        let found = found.filter(|(positions, _)| !positions.is_empty());
        let found = found.map(|(positions, bytes)| FoundRows {
            source: RowSource::Memory,
            positions,
            bytes,
        });
        found.collect()
    }

    /// Whether there is a disk tier that a row was not given to.
    pub(crate) fn is_older_than_disk(&self, row: RowRef) -> bool {
        self.saved.is_older(row.saved)
    }

    /// The keys of the rows of a module hash that may be missing on disk.
    pub(crate) fn doubtful_keys(&self, hash: ShortHash) -> Vec<Key> {
        let doubtful = |row: &RowRef| self.saved.is_doubtful(hash, row.saved);
        let rows = self.rows.iter().filter(|(_, row)| doubtful(row));
        rows.map(|(key, _)| *key).collect()
    }

    /// Those of the rows that are here, by schema: their keys, and their bytes in the order of these.
    pub(crate) fn by_schema(&self, keys: &[Key]) -> Vec<HeldRows> {
        let mut groups: BTreeMap<u32, Vec<(Key, RowRef)>> = BTreeMap::new();
        for key in keys {
            if let Some(&row) = self.rows.peek(key) {
                groups.entry(row.schema).or_default().push((*key, row));
            }
        }
        let read = |rows: Vec<(Key, RowRef)>| {
            let schema = self.schema(rows[0].1).clone();
            let (keys, rows): (Vec<Key>, Vec<RowRef>) = rows.into_iter().unzip();
            let mut found = self.read(rows.into_iter().enumerate().collect());
            let positions = found.iter().flat_map(|rows| rows.positions.iter().copied());
            let read: BTreeSet<usize> = positions.collect();
            if read.len() == keys.len() {
                return (schema, keys, found);
            }
            // A row that could not be pinned is left out.
            let place: BTreeMap<usize, usize> = read.iter().copied().zip(0..).collect();
            let positions = found.iter_mut().flat_map(|rows| &mut rows.positions);
            positions.for_each(|position| *position = place[position]);
            let keys = read.iter().map(|&position| keys[position]).collect();
            (schema, keys, found)
        };
        groups.into_values().map(read).collect()
    }

    /// Marks rows that were given to the disk tier.
    pub(crate) fn mark_saved(&mut self, keys: &[Key], saved: SavedAt) {
        for key in keys {
            if let Some(row) = self.rows.peek_mut(key) {
                row.saved = row.saved.max(saved);
            }
        }
    }

    /// Reserves slots for those of the rows that are not here, as far as the bound and policy
    /// allow; for none in a later epoch than that in which they were looked up. The rows are visible
    /// once they are [published](Self::publish).
    pub(crate) fn reserve(
        &mut self,
        keys: &[Key],
        row_bytes: usize,
        device: Device,
        epoch: u64,
    ) -> Result<Vec<Reservation>, TchError> {
        if epoch != self.epoch {
            return Ok(Vec::new());
        }
        self.slabs.begin_call(device);
        self.slabs.reclaim();
        self.shrink();
        let mut new: Vec<usize> = (0..keys.len())
            .filter(|&row| !self.rows.contains(&keys[row]))
            .collect();
        let mut slots = Vec::with_capacity(new.len());
        let wanted = new.len();
        let taken = self.take_slots(keys, row_bytes, device, &mut new, &mut slots);
        if let Err(error) = taken {
            slots.into_iter().for_each(|slot| self.slabs.release(slot));
            return Err(error);
        }
        self.refused += (wanted - slots.len()) as u64;
        let reservation = |(row, slot)| {
            Some(Reservation {
                row,
                slot,
                epoch,
                chunk: self.slabs.rows(slot)?.clone(),
                is_filled: false,
            })
        };
        Ok(new.into_iter().zip(slots).filter_map(reservation).collect())
    }

    /// The bound of all tiers of the process, if it kept this one from growing since the last call of
    /// this.
    pub(crate) fn take_exhausted_budget(&mut self) -> Option<u64> {
        self.slabs.take_exhausted_budget()
    }

    /// Takes slots for the new rows, free ones first. Rows that get none are removed from `new`.
    fn take_slots(
        &mut self,
        keys: &[Key],
        row_bytes: usize,
        device: Device,
        new: &mut Vec<usize>,
        slots: &mut Vec<RowSlot>,
    ) -> Result<(), TchError> {
        self.slabs.take_slots(row_bytes, device, new.len(), slots)?;
        if slots.len() < new.len() && self.slabs.drop_unused(Some((row_bytes, device))) {
            self.slabs.take_slots(row_bytes, device, new.len(), slots)?;
        }
        // A pinned row is no victim. Pinned rows are usually few among those used longest ago. Where
        // the disk's queue pins most of a small tier, the tries run out and new rows are not kept.
        let mut tries = 2 * new.len() + 16;
        let free = slots.len();
        let mut kept = free;
        for at in free..new.len() {
            // Rows of this call have no entry yet, so that none of them is a victim.
            while slots.len() == kept
                && tries > 0
                && self.evict_for(&keys[new[at]], row_bytes, device, &mut tries)
            {
                // A dropped chunk frees more than one slot: those are taken before the next victim,
                // one for each remaining row.
                self.slabs
                    .take_slots(row_bytes, device, new.len() - (at - kept), slots)?;
            }
            if slots.len() > kept {
                new[kept] = new[at];
                kept += 1;
            }
        }
        new.truncate(kept);
        Ok(())
    }

    /// Tries to evict a row for a new one; `false` where the policy evicts none.
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
        if fits && self.slabs.is_pinned(slot) || !self.slabs.makes_room(slot, device) {
            // Evicting it would free no slot yet, or memory elsewhere.
            self.rows.promote(&victim);
            return true;
        }
        if self.eviction == Eviction::Auto && !self.admission().admits(new, &victim) {
            // The next new row is compared with another victim.
            self.rows.promote(&victim);
            return false;
        }
        if fits {
            self.rows.pop_lru();
            self.slabs.release(slot);
            self.evicted += 1;
        } else if self.slabs.can_ever_hold(row_bytes, device) {
            self.drop_chunk_of(slot);
            if self.slabs.affordable(row_bytes, device) == 0 {
                // A row of the chunk is still pinned, so that its memory is not free. The next
                // chunk may be the same: one is enough.
                *tries = 0;
            }
        } else {
            return false;
        }
        true
    }

    /// The policy of [`Eviction::Auto`], from the time when the tier is full.
    fn admission(&mut self) -> &mut Admission {
        // Reserved slots count as rows.
        let rows = self.slabs.taken();
        let held = self.rows.iter().rev().map(|(key, _)| key);
        match self.admission.take().filter(|it| it.suits(rows)) {
            Some(suits) => self.admission.insert(suits),
            None => self.admission.insert(Admission::new(rows, held)),
        }
    }

    /// Makes filled rows visible, with what they were given to, unless rows were removed on demand since their slots were
    /// reserved. Returns those of `keys` that were visible before, if they are of an agreeing schema, with their
    /// positions: they win over the new rows. Also returns how many of the new ones are visible.
    pub(crate) fn publish(
        &mut self,
        keys: &[Key],
        schema: &Arc<TensorSchema>,
        reservations: Vec<Reservation>,
        saved: SavedAt,
    ) -> (Vec<(usize, RowRef)>, usize) {
        let rows = self.find(keys.iter()).into_iter().enumerate();
        let held: Vec<(usize, RowRef)> = rows
            .filter_map(|(position, row)| Some((position, row?)))
            .collect();
        let number = self.intern(schema);
        let mut published = 0;
        for reservation in reservations {
            let Reservation {
                row, slot, epoch, ..
            } = reservation;
            if !self.slabs.is_valid(slot) {
                continue;
            }
            let key = keys[row];
            if epoch != self.epoch || self.rows.contains(&key) {
                self.slabs.release(slot);
            } else {
                published += 1;
                self.slabs.occupy(slot, key);
                let schema = number;
                self.rows.put(
                    key,
                    RowRef {
                        slot,
                        schema,
                        saved,
                    },
                );
            }
        }
        let agrees = |row: RowRef| row.schema == number || self.schema(row).agrees(schema);
        let held = held.into_iter().filter(|&(_, row)| agrees(row));
        (held.collect(), published)
    }

    /// Gives back slots without publishing their rows.
    pub(crate) fn release(&mut self, reservations: Vec<Reservation>) {
        for reservation in reservations {
            self.slabs.release(reservation.slot);
        }
    }

    /// Drops the chunk of a slot with all its rows, which frees memory for rows of another size.
    fn drop_chunk_of(&mut self, slot: RowSlot) {
        // Freed at once: the rows that replace them need the memory.
        let Some((keys, _)) = self.slabs.drop_chunk(slot.chunk) else {
            return;
        };
        for key in keys {
            if self.rows.pop(&key).is_some() {
                self.evicted += 1;
            }
        }
    }

    fn intern(&mut self, schema: &Arc<TensorSchema>) -> u32 {
        let known = self.schemas.iter().position(|known| known == schema);
        known.unwrap_or_else(|| {
            self.schemas.push(schema.clone());
            self.schemas.len() - 1
        }) as u32
    }
}

/// Hashes a key by its first bytes: keys are digests already.
#[derive(Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // An array of bytes writes its length first, which the key then replaces.
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}

#[cfg(test)]
mod tests;
