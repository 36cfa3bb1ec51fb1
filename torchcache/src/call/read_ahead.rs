//! Rows that a thread in the background reads from the disk or the remote into memory, before the call that asks for
//! them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::{Device, TchError};
use torchcache_store::remote_tier::RemoteTier;
use torchcache_store::{Located, Store};

use super::disk::{self, LocatedRows};
use super::insert::Insert;
use crate::cache::epoch::Epoch;
use crate::cache::stats::Counters;
use crate::cache::tiers::Tiers;
use crate::cache::warnings::Reason;
use crate::key::Key;
use crate::memory::rows::overwrite_rows;
use crate::schema::{CallDevices, TensorSchema};

/// How long the rows of one request may take to arrive from the remote. The end of the cache waits for them.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// Reads the rows that are on disk or in the remote and still not in memory, as far as memory admits them.
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
        let mut missing = Vec::new();
        let mut on_disk = Vec::new();
        for (position, located) in store.locate(&keys).into_iter().enumerate() {
            match located {
                Some(located) => on_disk.push((position, located)),
                None => missing.push(keys[position]),
            }
        }
        let read = match LocatedRows::check(on_disk.into_iter())? {
            Some(located) => self.with_device(&located.schema, |device| {
                self.read_to(store, &keys, &located, device)
            })?,
            None => 0,
        };
        let remote = self.tiers.remote.as_ref().filter(|_| !missing.is_empty());
        let fetched = remote.map(|remote| self.fetch(store, remote, &missing));
        Ok(read + fetched.transpose()?.unwrap_or(0))
    }

    /// Does this with the device on which memory keeps rows.
    fn with_device(
        &self,
        schema: &TensorSchema,
        keep: impl Fn(Device) -> Result<usize, TchError>,
    ) -> Result<usize, TchError> {
        let device = self.device.unwrap_or_else(|| schema.device(&self.devices));
        match keep(device) {
            // As for rows of a call, for which the device has no memory.
            Err(_) if device != Device::Cpu => keep(Device::Cpu),
            kept => kept,
        }
    }

    /// Reads those of the rows on disk for which memory has room. Returns how many these are.
    fn read_to(
        &self,
        store: &Store,
        keys: &[Key],
        located: &LocatedRows<Located>,
        device: Device,
    ) -> Result<usize, TchError> {
        let (tiers, schema) = (&self.tiers, &located.schema);
        let positions = located.positions();
        let of_located: Vec<Key> = positions.iter().map(|&position| keys[position]).collect();
        let mut insert = Insert::reserve(tiers, of_located.into(), schema, device, self.epoch)?;
        let admitted = insert.reserved_rows();
        if admitted.is_empty() {
            return Ok(0);
        }
        let (read, rows) = located
            .only(&admitted)
            .read(|rows, out| store.read(rows, out))?;
        insert.narrow(&read);
        insert.copy_rows(&rows)?;
        Ok(insert.publish().count)
    }

    /// Fetches rows that the remote has, for the disk, and for memory as far as that has room. Returns how many are in
    /// memory now.
    fn fetch(&self, store: &Store, remote: &RemoteTier, keys: &[Key]) -> Result<usize, Reason> {
        let deadline = Instant::now() + REMOTE_TIMEOUT;
        let located = remote.locate(keys, deadline).into_iter().enumerate();
        let located = located.filter_map(|(position, row)| Some((position, row?)));
        let Some(located) = LocatedRows::check(located)? else {
            return Ok(0);
        };
        let (positions, rows) = located.read(|rows, out| remote.read(rows, out, deadline))?;
        let keys: Vec<Key> = positions.iter().map(|&position| keys[position]).collect();
        let batch = rows.to_batch(&keys)?.since(self.epoch.store);
        overwrite_rows(&rows.bytes, &disk::put(store, batch, &rows.schema).winners?)?;
        let kept = self.with_device(&rows.schema, |device| {
            let insert = Insert::fill(&self.tiers, &keys, &rows, device, self.epoch)?;
            Ok(insert.publish().count)
        });
        Ok(kept?)
    }
}
