//! [`Insert`]: rows on their way into the memory tier. Slots are reserved and published under the
//! tier's lock; the rows are copied outside of it, which takes as long as there are bytes.

use std::borrow::Cow;
use std::mem::take;
use std::sync::Arc;

use tch::{Device, TchError};
use torchcache_store::{RowValues, threads};

use crate::cache::epoch::Epoch;
use crate::cache::tiers::Tiers;
use crate::key::Key;
use crate::memory::arena::PinnedRows;
use crate::memory::rows::{FoundRows, PackedRows};
use crate::memory::saved::SavedAt;
use crate::memory::{Reservation, fill_on_device};
use crate::schema::TensorSchema;
use crate::tensor::{parallel, raw};

/// What became of rows that were published.
pub(crate) struct Published {
    /// Those of their keys that another thread published first: these are the values from now on.
    pub(crate) winners: Vec<FoundRows>,
    /// How many are visible now and were not before.
    pub(crate) count: usize,
}

/// Rows that are copied to reserved slots and not published yet.
pub(crate) struct Insert<'a> {
    tiers: &'a Tiers,
    keys: Cow<'a, [Key]>,
    schema: Arc<TensorSchema>,
    /// Where the slots are.
    device: Device,
    /// What the rows are given to.
    saved: SavedAt,
    /// In the order of the rows.
    reservations: Vec<Reservation>,
    /// The bound of all memory tiers of the process, if it left too little room.
    pub(crate) exhausted_budget: Option<u64>,
}

impl<'a> Insert<'a> {
    /// Copies rows to memory on `device`: those that are not there, as far as it has room.
    ///
    /// # Errors
    ///
    /// Memory that cannot be allocated.
    pub(crate) fn fill(
        tiers: &'a Tiers,
        keys: &'a [Key],
        rows: &PackedRows,
        device: Device,
        epoch: Epoch,
    ) -> Result<Self, TchError> {
        let mut insert = Insert::reserve(tiers, keys.into(), &rows.schema, device, epoch)?;
        insert.copy_rows(rows)?;
        Ok(insert)
    }

    /// Reserves slots on `device` for rows that are not in memory, as far as it has room.
    ///
    /// # Errors
    ///
    /// Memory that cannot be allocated.
    pub(crate) fn reserve(
        tiers: &'a Tiers,
        keys: Cow<'a, [Key]>,
        schema: &Arc<TensorSchema>,
        device: Device,
        epoch: Epoch,
    ) -> Result<Self, TchError> {
        let exhausted_budget;
        let (saved, reservations) = {
            let mut memory = tiers.memory();
            // Before they are given to the disk tier, so that a loss in between makes them doubtful.
            let saved = tiers.mark_of_saved(&mut memory);
            let reserved = memory.reserve(&keys, schema.row_bytes(), device, epoch.memory);
            exhausted_budget = memory.take_exhausted_budget();
            (saved, reserved?)
        };
        // Dropping it releases the slots that were not published.
        Ok(Insert {
            tiers,
            keys,
            schema: schema.clone(),
            device,
            saved,
            reservations,
            exhausted_budget,
        })
    }

    /// The positions of the rows that have a slot, in rising order.
    pub(crate) fn reserved_rows(&self) -> Vec<usize> {
        self.reservations.iter().map(|it| it.row).collect()
    }

    /// Leaves out all rows but those at some positions, which are in rising order.
    pub(crate) fn narrow(&mut self, positions: &[usize]) {
        let (mut kept, released): (Vec<_>, Vec<_>) = take(&mut self.reservations)
            .into_iter()
            .partition(|it| positions.binary_search(&it.row).is_ok());
        for reservation in &mut kept {
            reservation.row = positions.partition_point(|&at| at < reservation.row);
        }
        self.keys = positions.iter().map(|&at| self.keys[at]).collect();
        self.reservations = kept;
        self.tiers.memory().release(released);
    }

    /// Copies the rows that have a slot there.
    ///
    /// # Errors
    ///
    /// Memory that cannot be allocated.
    pub(crate) fn copy_rows(&mut self, rows: &PackedRows) -> Result<(), TchError> {
        match self.device {
            _ if self.reservations.is_empty() => Ok(()),
            Device::Cpu => self.copy(rows),
            device => self.copy_on_device(rows, device),
        }
    }

    /// Those of the rows that have a slot, where some have none; in the order of the slots.
    fn reserved(&self, rows: &PackedRows) -> Result<Option<PackedRows>, TchError> {
        if self.reservations.len() == self.keys.len() {
            return Ok(None);
        }
        let reserved = self.reserved_rows().into_iter();
        let reserved: Vec<i64> = reserved.map(|row| row as i64).collect();
        rows.select(&reserved).map(Some)
    }

    /// Copies the rows that have a slot to the CPU: of rows on a device only those.
    fn copy(&mut self, rows: &PackedRows) -> Result<(), TchError> {
        let row_bytes = self.schema.row_bytes();
        let count = self.reservations.len();
        let selected = match rows.bytes.device() {
            Device::Cpu => None,
            _ => self.reserved(rows)?,
        };
        let is_selected = selected.is_some();
        let host = selected.as_ref().unwrap_or(rows).to_device(Device::Cpu)?;
        let bytes = raw::view(&host.bytes)?;
        let (workers, share) = parallel::copying(count * row_bytes, count);
        let shares = self.reservations.chunks_mut(share);
        let shares = shares.zip((0..).step_by(share));
        threads::for_each(workers, shares, |(share, first)| {
            for (place, reservation) in (first..).zip(share) {
                let row = if is_selected { place } else { reservation.row };
                reservation.fill(&bytes[row * row_bytes..][..row_bytes]);
            }
        });
        self.keep_filled();
        Ok(())
    }

    /// Queues copies of the rows that have a slot, on a device.
    fn copy_on_device(&mut self, rows: &PackedRows, device: Device) -> Result<(), TchError> {
        let is_elsewhere = rows.bytes.device() != device;
        let selected = if is_elsewhere {
            self.reserved(rows)?
        } else {
            None
        };
        let packed = selected.as_ref().unwrap_or(rows).to_device(device)?;
        let row = |(place, it): (usize, &Reservation)| match selected {
            Some(_) => place as i64,
            None => it.row as i64,
        };
        let rows: Vec<i64> = self.reservations.iter().enumerate().map(row).collect();
        fill_on_device(&mut self.reservations, &packed.bytes, &rows)?;
        self.keep_filled();
        Ok(())
    }

    fn keep_filled(&mut self) {
        debug_assert!(
            self.reservations.iter().all(Reservation::is_filled),
            "reserved slots are empty"
        );
        self.reservations.retain(Reservation::is_filled);
    }

    /// The rows, pinned in memory; `None` unless all of them are there.
    pub(crate) fn pinned(&self) -> Option<Arc<dyn RowValues>> {
        if self.reservations.len() < self.keys.len() {
            return None;
        }
        let mut pinned = PinnedRows::default();
        let mut reservations = self.reservations.iter();
        let all = reservations.all(|reservation| reservation.pin(&mut pinned));
        all.then(|| Arc::new(pinned) as _)
    }

    /// Releases the slots of rows, by their positions in rising order: another copy won.
    pub(crate) fn release(&mut self, positions: &[usize]) {
        let (released, kept) = take(&mut self.reservations)
            .into_iter()
            .partition(|reservation| positions.binary_search(&reservation.row).is_ok());
        self.reservations = kept;
        self.tiers.memory().release(released);
    }

    /// Makes the rows visible.
    pub(crate) fn publish(mut self) -> Published {
        let mut memory = self.tiers.memory();
        let reservations = take(&mut self.reservations);
        let (winners, count) = memory.publish(&self.keys, &self.schema, reservations, self.saved);
        Published {
            winners: memory.read(winners),
            count,
        }
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        if !self.reservations.is_empty() {
            self.tiers.memory().release(take(&mut self.reservations));
        }
    }
}
