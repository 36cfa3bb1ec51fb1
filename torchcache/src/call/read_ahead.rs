//! Rows that a thread in the background reads from the disk into memory, before the call that asks for them.

use std::sync::Arc;

use tch::{Device, TchError};

use super::disk::LocatedRows;
use super::insert::Insert;
use crate::cache::epoch::Epoch;
use crate::cache::stats::Counters;
use crate::cache::tiers::Tiers;
use crate::cache::warnings::Reason;
use crate::key::Key;
use crate::schema::CallDevices;

/// Rows to read, which were not in memory.
#[derive(Debug)]
pub(super) struct ReadAhead {
    pub(super) tiers: Tiers,
    pub(super) keys: Vec<Key>,
    /// When they were requested: rows that are removed later are not kept.
    pub(super) epoch: Epoch,
    /// The option `memory_cache_device`.
    pub(super) device: Option<Device>,
    /// Those of the call.
    pub(super) devices: CallDevices,
    pub(super) counters: Arc<Counters>,
}

impl ReadAhead {
    /// Reads the rows that are on disk and still not in memory, as far as memory admits them.
    pub(super) fn read(self) {
        match self.try_read() {
            Ok(rows) => Counters::add(&self.counters.read_ahead, rows),
            // A call finds out as well, and bypasses the cache.
            Err(Reason::ChangingShape) => {}
            Err(Reason::ForeignRows) => Counters::add(&self.counters.faults.layout, 1),
            Err(reason) => {
                Counters::add(&self.counters.faults.memory, 1);
                tracing::debug!("rows are not read ahead: {reason}");
            }
        }
    }

    fn try_read(&self) -> Result<usize, Reason> {
        let Some(store) = &self.tiers.store else {
            return Ok(0);
        };
        let mut keys = self.keys.clone();
        {
            // A call may have been faster.
            let memory = self.tiers.memory();
            keys.retain(|key| !memory.contains(key));
        }
        let located = store.locate(&keys).into_iter().enumerate();
        let located = located.filter_map(|(position, row)| Some((position, row?)));
        let Some(located) = LocatedRows::check(located)? else {
            return Ok(0);
        };
        let schema = located.schema.clone();
        let device = self.device.unwrap_or_else(|| schema.device(&self.devices));
        match self.read_to(&keys, &located, device) {
            // As for rows of a call, for which the device has no memory.
            Err(_) if device != Device::Cpu => Ok(self.read_to(&keys, &located, Device::Cpu)?),
            read => Ok(read?),
        }
    }

    /// Reads those of the rows for which memory has room. Returns how many these are.
    fn read_to(
        &self,
        keys: &[Key],
        located: &LocatedRows,
        device: Device,
    ) -> Result<usize, TchError> {
        let (tiers, schema) = (&self.tiers, &located.schema);
        let Some(store) = &tiers.store else {
            return Ok(0);
        };
        let positions = located.positions();
        let of_located: Vec<Key> = positions.iter().map(|&position| keys[position]).collect();
        let mut insert = Insert::reserve(tiers, of_located.into(), schema, device, self.epoch)?;
        let admitted = insert.reserved_rows();
        if admitted.is_empty() {
            return Ok(0);
        }
        let (read, rows) = located.only(&admitted).read(store)?;
        insert.narrow(&read);
        insert.copy_rows(&rows)?;
        Ok(insert.publish().count)
    }
}
