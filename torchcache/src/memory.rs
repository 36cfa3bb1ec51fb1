//! The memory tier: which rows are held, which go when it is full. The bytes live in [`Slabs`].

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use lru::LruCache;
use tch::{Device, TchError, Tensor};

use crate::keys::Key;
use crate::options::Eviction;
use crate::schema::Schema;
use crate::slab::{Slabs, Slot};

/// Rows by key, in slabs, within a bound of bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    rows: LruCache<Key, Row, BuildHasherDefault<KeyHasher>>,
    slabs: Slabs,
    schemas: Vec<Arc<Schema>>,
    eviction: Eviction,
    evicted: u64,
}

/// Where a row is and how to read it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    slot: Slot,
    schema: u32,
}

/// What the memory tier holds now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) evicted: u64,
}

impl Memory {
    pub(crate) fn new(bound: u64, eviction: Eviction) -> Self {
        Memory {
            rows: LruCache::unbounded_with_hasher(BuildHasherDefault::default()),
            slabs: Slabs::new(bound),
            schemas: Vec::new(),
            eviction,
            evicted: 0,
        }
    }

    /// Takes on another bound and policy; a smaller bound takes effect at once.
    pub(crate) fn reconfigure(&mut self, bound: u64, eviction: Eviction) {
        self.eviction = eviction;
        self.slabs.set_bound(bound);
        while self.slabs.over_bound() {
            match self.rows.peek_lru().map(|(_, row)| row.slot) {
                Some(slot) => self.drop_chunk_of(slot),
                None => break,
            }
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            rows: self.rows.len() as u64,
            bytes: self.slabs.bytes(),
            evicted: self.evicted,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.slabs.clear();
        self.schemas.clear();
    }

    /// The rows that are here, most recently used from now on.
    pub(crate) fn find(&mut self, keys: &[Key]) -> Vec<Option<Row>> {
        keys.iter().map(|key| self.rows.get(key).copied()).collect()
    }

    pub(crate) fn schema(&self, row: Row) -> &Arc<Schema> {
        &self.schemas[row.schema as usize]
    }

    /// Whether two rows can stand in one batch.
    pub(crate) fn agree(&self, left: Row, right: Row) -> bool {
        left.schema == right.schema || self.schema(left).agrees(self.schema(right))
    }

    /// The packed bytes of `rows`, which share a schema, in their order: `[rows, row_bytes]`.
    pub(crate) fn gather(&self, rows: &[Row], device: Device) -> Result<Tensor, TchError> {
        let slots: Vec<Slot> = rows.iter().map(|row| row.slot).collect();
        self.slabs.gather(&slots, device)
    }

    /// `packed` with the rows that are held in place of those just computed; `None` where none is.
    pub(crate) fn replace_with_held(
        &mut self,
        keys: &[Key],
        schema: &Arc<Schema>,
        packed: &Tensor,
    ) -> Result<Option<Tensor>, TchError> {
        let (positions, held): (Vec<i64>, Vec<Row>) = (0..)
            .zip(self.find(keys))
            .filter_map(|(position, row)| Some((position, row?)))
            .filter(|&(_, row)| self.schema(row).agrees(schema))
            .unzip();
        if held.is_empty() {
            return Ok(None);
        }
        let device = packed.device();
        let rows = self.gather(&held, device)?;
        let positions = Tensor::from_slice(&positions).f_to_device(device)?;
        Ok(Some(packed.f_index_copy(0, &positions, &rows)?))
    }

    /// Keeps packed rows, as far as the bound and policy allow. Keys that are here already are
    /// left as they are.
    pub(crate) fn insert(
        &mut self,
        keys: &[Key],
        schema: &Arc<Schema>,
        packed: &Tensor,
        device: Device,
    ) -> Result<(), TchError> {
        let new: Vec<i64> = (0..keys.len())
            .filter(|&row| !self.rows.contains(&keys[row]))
            .map(|row| row as i64)
            .collect();
        let slots = self.reserve(new.len(), schema.row_bytes(), device)?;
        let kept = &new[..slots.len()];
        if let Err(error) = self.slabs.scatter(&slots, kept, packed) {
            slots.into_iter().for_each(|slot| self.slabs.release(slot));
            return Err(error);
        }
        let schema = self.intern(schema);
        for (&row, slot) in kept.iter().zip(slots) {
            let key = keys[row as usize];
            self.slabs.occupy(slot, key);
            self.rows.put(key, Row { slot, schema });
        }
        Ok(())
    }

    /// Up to `count` slots for rows of `row_bytes`, fewer where no more can be had.
    fn reserve(
        &mut self,
        count: usize,
        row_bytes: usize,
        device: Device,
    ) -> Result<Vec<Slot>, TchError> {
        let mut slots = Vec::with_capacity(count);
        loop {
            if let Err(error) = self.slabs.take(row_bytes, device, count, &mut slots) {
                slots.into_iter().for_each(|slot| self.slabs.release(slot));
                return Err(error);
            }
            // Rows that this very call put in have no entry yet, so they are never the victim.
            if slots.len() == count || self.eviction == Eviction::Mru {
                return Ok(slots);
            }
            let Some(victim) = self.rows.peek_lru().map(|(_, row)| row.slot) else {
                return Ok(slots);
            };
            if self.slabs.fits(victim, row_bytes, device) {
                self.rows.pop_lru();
                self.slabs.release(victim);
                self.evicted += 1;
            } else if self.slabs.can_ever_hold(row_bytes) {
                self.drop_chunk_of(victim);
            } else {
                return Ok(slots);
            }
        }
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
mod tests {
    use super::*;
    use crate::slab::ROW_OVERHEAD;

    const ROW: u64 = 40;
    const COST: u64 = ROW + ROW_OVERHEAD;

    fn key(number: u32) -> Key {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    fn rows(numbers: &[u32], elements: i64) -> (Vec<Key>, Arc<Schema>, Tensor) {
        let values: Vec<f32> = numbers.iter().map(|&number| number as f32).collect();
        let tensor = Tensor::from_slice(&values)
            .view([-1, 1])
            .repeat([1, elements]);
        let one = [tensor];
        let schema = Schema::of(&one, Vec::new(), None, Device::Cpu).unwrap();
        let packed = schema.pack(&one).unwrap();
        (
            numbers.iter().map(|&number| key(number)).collect(),
            Arc::new(schema),
            packed,
        )
    }

    fn insert(memory: &mut Memory, numbers: &[u32]) {
        insert_sized(memory, numbers, 10);
    }

    fn insert_sized(memory: &mut Memory, numbers: &[u32], elements: i64) {
        let (keys, schema, packed) = rows(numbers, elements);
        memory.insert(&keys, &schema, &packed, Device::Cpu).unwrap();
    }

    /// The rows that are held, each checked against what was inserted under its number.
    fn held(memory: &mut Memory, numbers: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut held = Vec::new();
        for number in numbers {
            if let [Some(row)] = memory.find(&[key(number)])[..] {
                let packed = memory.gather(&[row], Device::Cpu).unwrap();
                let tensor = &memory.schema(row).unpack(&packed, Device::Cpu).unwrap()[0];
                assert!(
                    tensor.eq(f64::from(number)).all().int64_value(&[]) == 1,
                    "row {number}"
                );
                held.push(number);
            }
        }
        held
    }

    #[test]
    fn rows_come_back_over_many_chunks_in_any_order() {
        let mut memory = Memory::new(1 << 20, Eviction::Lru);
        for number in 0..1000 {
            insert(&mut memory, &[number]);
        }
        let numbers: Vec<u32> = (0..1000).map(|number| number * 7 % 1000).collect();
        let found: Vec<Row> = memory
            .find(&numbers.iter().map(|&n| key(n)).collect::<Vec<_>>())
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(found.len(), 1000);
        let packed = memory.gather(&found, Device::Cpu).unwrap();
        let tensor = memory
            .schema(found[0])
            .unpack(&packed, Device::Cpu)
            .unwrap()
            .remove(0);
        let first = Vec::<f32>::try_from(tensor.select(1, 0).contiguous()).unwrap();
        assert_eq!(first, numbers.iter().map(|&n| n as f32).collect::<Vec<_>>());
    }

    #[test]
    fn lru_drops_the_row_used_longest_ago() {
        let mut memory = Memory::new(3 * COST, Eviction::Lru);
        insert(&mut memory, &[1, 2, 3]);
        held(&mut memory, [1]);
        insert(&mut memory, &[4]);
        assert_eq!(held(&mut memory, 1..=4), [1, 3, 4]);
        assert_eq!(memory.usage().evicted, 1);
    }

    #[test]
    fn mru_keeps_what_is_there() {
        let mut memory = Memory::new(3 * COST, Eviction::Mru);
        insert(&mut memory, &[1, 2]);
        insert(&mut memory, &[3, 4, 5]);
        assert_eq!(held(&mut memory, 1..=5), [1, 2, 3]);
        assert_eq!(memory.usage().evicted, 0);
    }

    #[test]
    fn the_bound_holds_keys_and_bookkeeping_included() {
        for bound in [0, COST - 1, COST, 10 * COST, 1000 * COST + 5] {
            let mut memory = Memory::new(bound, Eviction::Lru);
            for start in 0..50 {
                insert(
                    &mut memory,
                    &(start * 40..start * 40 + 60).collect::<Vec<_>>(),
                );
                assert!(memory.usage().bytes <= bound);
                assert!(memory.usage().rows * COST <= bound);
            }
            assert_eq!(memory.usage().rows, (bound / COST).min(2020));
        }
    }

    #[test]
    fn rows_of_another_size_find_room() {
        let mut memory = Memory::new(100 * COST, Eviction::Lru);
        insert(&mut memory, &(0..100).collect::<Vec<_>>());
        insert_sized(&mut memory, &[1000, 1001], 100);
        assert_eq!(held(&mut memory, 1000..=1001), [1000, 1001]);
        assert!(memory.usage().bytes <= 100 * COST);
        insert_sized(&mut memory, &[2000], 100_000);
        assert!(
            held(&mut memory, 2000..=2000).is_empty(),
            "a row above the bound is not held"
        );
        assert_eq!(
            held(&mut memory, 1000..=1001),
            [1000, 1001],
            "nor does it drive others out"
        );
    }

    #[test]
    fn a_smaller_bound_takes_effect_at_once() {
        let mut memory = Memory::new(100 * COST, Eviction::Lru);
        insert(&mut memory, &(0..100).collect::<Vec<_>>());
        memory.reconfigure(10 * COST, Eviction::Lru);
        assert!(memory.usage().bytes <= 10 * COST);
        insert(&mut memory, &[500]);
        assert_eq!(held(&mut memory, [500]), [500]);
    }

    #[test]
    fn rows_without_bytes_are_rows() {
        let mut memory = Memory::new(1 << 20, Eviction::Lru);
        insert_sized(&mut memory, &[1, 2], 0);
        let found: Vec<Row> = memory
            .find(&[key(2), key(1)])
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(memory.gather(&found, Device::Cpu).unwrap().size(), [2, 0]);
    }

    #[test]
    fn a_key_that_is_held_keeps_its_first_row() {
        let mut memory = Memory::new(1 << 20, Eviction::Lru);
        insert(&mut memory, &[1]);
        let (_, schema, packed) = rows(&[9], 10);
        memory
            .insert(&[key(1)], &schema, &packed, Device::Cpu)
            .unwrap();
        assert_eq!(held(&mut memory, [1]), [1]);
        assert_eq!(memory.usage().rows, 1);
    }
}
