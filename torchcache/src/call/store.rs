//! [`TierWriter`]: gives rows to the tiers, which keep the first copy of each.

use tch::{Device, TchError};

use super::disk;
use super::insert::Insert;
use crate::cache::epoch::Epoch;
use crate::cache::handle::TorchCache;
use crate::cache::stats::Counters;
use crate::cache::tiers::Tiers;
use crate::cache::warnings::{Reason, first_line};
use crate::key::Key;
use crate::memory::rows::{FoundRows, PackedRows, overwrite_rows};

/// Where rows come from that are given to the tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// This process computed or imported them: they are uploaded to the remote.
    Computed,
    /// The remote has them.
    Remote,
}

/// The tiers of a call, and where its faults are counted and logged.
pub(super) struct TierWriter<'a, N> {
    pub(super) handle: &'a TorchCache,
    /// Makes the name of the module or function, for the log.
    pub(super) name: N,
    pub(super) tiers: &'a Tiers,
    pub(super) counters: &'a Counters,
    /// When the rows were looked up: they are kept in this epoch; in none while rows are removed.
    pub(super) epoch: Option<Epoch>,
}

impl<N: Fn() -> String> TierWriter<'_, N> {
    /// Hands rows to both tiers, which keep the first copy of each row: `rows` are overwritten with those that won.
    /// `device`: where memory keeps them.
    pub(super) fn store(&self, keys: &[Key], rows: &PackedRows, device: Device, origin: Origin) {
        let disk = self.tiers.store.as_ref().zip(self.epoch);
        // All rows go to the disk: they are copied to the host once, for both tiers.
        let host = disk.map(|_| rows.to_device(Device::Cpu));
        let on_host = host.as_ref().and_then(|host| host.as_ref().ok());
        let mut insert = self.insert(keys, rows, on_host, device);
        if let (Some((store, epoch)), Some(host)) = (disk, host) {
            // The disk comes first, so that memory never holds another value than the disk.
            let pinned = insert.as_ref().and_then(Insert::pinned);
            let batch = host.and_then(|host| match pinned {
                Some(pinned) => host.to_pinned_batch(keys, pinned),
                None => host.to_batch(keys),
            });
            if batch.is_err() {
                self.tiers.memory().saved().doubt();
                self.handle.add_unwritten(keys.len() as u64);
            }
            let winners = batch.and_then(|batch| {
                let queued = disk::put(store, batch.since(epoch.store), &rows.schema);
                if origin == Origin::Computed {
                    let row_bytes = rows.schema.row_bytes();
                    (self.tiers).upload(keys, &queued.present, row_bytes, epoch.store);
                }
                queued.winners
            });
            if let (Some(insert), Ok(winners)) = (&mut insert, &winners) {
                winners
                    .iter()
                    .for_each(|rows| insert.release(&rows.positions));
            }
            self.reconcile(rows, winners);
        } else if self.tiers.disk_fault.is_some() {
            self.handle.add_unwritten(keys.len() as u64);
        }
        if let Some(insert) = insert {
            self.reconcile(rows, Ok(insert.publish().winners));
        }
    }

    /// Overwrites rows with the copies of another thread or process that a tier held first.
    fn reconcile(&self, rows: &PackedRows, winners: Result<Vec<FoundRows>, TchError>) {
        let overwritten = winners.and_then(|winners| overwrite_rows(&rows.bytes, &winners));
        if let Err(error) = overwritten {
            self.memory_fault(&error);
        }
    }

    /// Copies rows, which may be on the host as well, to memory on `device`, not published yet; `None` where that fails.
    pub(super) fn insert<'i>(
        &'i self,
        keys: &'i [Key],
        rows: &PackedRows,
        on_host: Option<&PackedRows>,
        device: Device,
    ) -> Option<Insert<'i>> {
        let rows = on_host.filter(|_| device == Device::Cpu).unwrap_or(rows);
        let epoch = self.epoch?;
        let fill = |device| {
            let insert = Insert::fill(self.tiers, keys, rows, device, epoch);
            insert.inspect_err(|error| self.memory_fault(error)).ok()
        };
        // Rows for which the device has no memory are kept on the host.
        let on_host = || (device != Device::Cpu).then(|| fill(Device::Cpu)).flatten();
        let insert = fill(device).or_else(on_host)?;
        if let Some(bound) = insert.exhausted_budget {
            self.warn_once(&Reason::ProcessMemory(bound));
        }
        Some(insert)
    }

    /// Counts a fault that makes rows misses: what could not be held or copied is computed again.
    pub(super) fn memory_fault(&self, error: &TchError) {
        Counters::add(&self.counters.faults.memory, 1);
        self.warn_once(&Reason::MemoryTier(first_line(error)));
    }

    pub(super) fn warn_once(&self, reason: &Reason) {
        self.handle.warnings.warn_once(&self.name, reason);
    }
}
