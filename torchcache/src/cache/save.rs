//! Gives rows of the memory tier to the disk tier where it lacks them: rows from before `persistent` was
//! set or the directory changed, and rows that a failing disk lost.

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::Store;

use super::tiers::Tiers;
use crate::key::Key;
use crate::memory::Memory;
use crate::memory::rows::{PackedRows, overwrite_rows};
use crate::memory::saved::SavedAt;

/// Rows are copied for the disk tier this many at a time.
const BATCH: usize = 1024;

impl Tiers {
    /// The mark of rows that enter memory now, and are given to the disk tier.
    pub(crate) fn mark_of_saved(&self, memory: &mut Memory) -> SavedAt {
        let store = self.store.as_ref();
        memory.saved().mark(
            self.short_hash,
            store.map(|store| (store.dir(), store.lost_rows())),
        )
    }

    /// Gives every row in memory that the disk tier may lack to it, before a flush.
    ///
    /// # Errors
    ///
    /// Rows that libtorch cannot copy.
    pub(crate) fn save_all(&self) -> Result<(), TchError> {
        let keys = {
            let mut memory = self.memory();
            self.mark_of_saved(&mut memory);
            memory.doubtful_keys(self.short_hash)
        };
        keys.chunks(BATCH).try_for_each(|keys| self.save(keys))
    }

    /// Gives rows in memory to the disk tier, where it lacks them.
    ///
    /// # Errors
    ///
    /// Rows that libtorch cannot copy.
    pub(crate) fn save(&self, keys: &[Key]) -> Result<(), TchError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        // Where others were removed meanwhile, the store took none.
        while !self.save_in_epoch(store, keys)? {}
        Ok(())
    }

    /// The same, unless rows are removed meanwhile: then it returns `false`.
    fn save_in_epoch(&self, store: &Store, keys: &[Key]) -> Result<bool, TchError> {
        let located = store.locate(keys);
        let (present, missing): (Vec<_>, Vec<_>) = keys
            .iter()
            .zip(located)
            .partition(|(_, located)| located.is_some());
        let keys = |rows: Vec<(&Key, _)>| rows.into_iter().map(|(key, _)| *key).collect::<Vec<_>>();
        let (present, missing) = (keys(present), keys(missing));
        let (epoch, mark, held) = {
            let mut memory = self.memory();
            let mark = self.mark_of_saved(&mut memory);
            memory.mark_saved(&present, mark);
            // Rows that are in memory now were not removed before it.
            (store.epoch(), mark, memory.by_schema(&missing))
        };
        for (schema, keys, found) in held {
            let row_bytes = schema.row_bytes();
            let shape = [keys.len() as i64, row_bytes as i64];
            let bytes = Tensor::f_empty(shape, (Kind::Uint8, Device::Cpu))?;
            overwrite_rows(&bytes, &found)?;
            let batch = PackedRows { schema, bytes }.to_batch(&keys)?;
            let present = store.put(batch.since(epoch));
            if store.epoch() != epoch {
                return Ok(false);
            }
            // They were computed here, but for those that the disk once had. The upload leaves out what the remote has.
            let present: Vec<usize> = present.into_iter().map(|(row, _)| row).collect();
            self.upload(&keys, &present, row_bytes, epoch);
            self.memory().mark_saved(&keys, mark);
        }
        Ok(true)
    }
}
