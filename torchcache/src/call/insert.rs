//! [`Incoming`]: rows on their way into the memory tier. Room is reserved and made known under the
//! tier's lock; the copying in between, which takes as long as there are bytes, is outside of it.

use std::mem::take;
use std::sync::Arc;

use tch::{Device, TchError, Tensor};
use torchcache_store::{RowValues, threads};

use super::lookup::Batch;
use crate::cache::tiers::Tiers;
use crate::key::Key;
use crate::memory::Room;
use crate::memory::arena::Pins;
use crate::schema::Schema;
use crate::tensor::parallel;
use crate::tensor::raw;

/// Rows that have their room, filled, and that nobody finds yet.
pub(crate) struct Incoming<'a> {
    tiers: &'a Tiers,
    keys: &'a [Key],
    schema: &'a Arc<Schema>,
    /// In the order of the rows.
    rooms: Vec<Room>,
}

impl<'a> Incoming<'a> {
    /// Copies those of the packed rows to memory that are not there, as far as there is room.
    ///
    /// # Errors
    ///
    /// Memory that cannot be had.
    pub(crate) fn fill(
        tiers: &'a Tiers,
        keys: &'a [Key],
        schema: &'a Arc<Schema>,
        packed: &Tensor,
        device: Device,
    ) -> Result<Self, TchError> {
        let row_bytes = schema.row_bytes();
        let on_cpu = device == Device::Cpu;
        // Copied from its device before there is room to give back if that fails.
        let host = on_cpu
            .then(|| packed.f_to_device(Device::Cpu))
            .transpose()?;
        let rows = host.as_ref().map(raw::view).transpose()?;
        let rooms = {
            let mut memory = tiers.memory();
            let rooms = memory.reserve(keys, row_bytes, device)?;
            if !on_cpu && let Err(error) = memory.scatter(&rooms, packed) {
                memory.withdraw(rooms);
                return Err(error);
            }
            rooms
        };
        // From here on, room that is not used goes back, whatever happens.
        let mut incoming = Incoming {
            tiers,
            keys,
            schema,
            rooms,
        };
        if let Some(rows) = rows {
            incoming.copy(rows);
        }
        Ok(incoming)
    }

    fn copy(&mut self, rows: &[u8]) {
        let row_bytes = self.schema.row_bytes();
        let (workers, share) = parallel::copying(self.rooms.len() * row_bytes, self.rooms.len());
        threads::for_each(workers, self.rooms.chunks_mut(share), |rooms| {
            for room in rooms {
                let row = &rows[room.row * row_bytes..][..row_bytes];
                let index = room.slot.index as usize;
                room.filled = room.shelf.as_ref().is_some_and(|it| it.fill(index, row));
            }
        });
        debug_assert!(self.rooms.iter().all(|room| room.filled), "slots are empty");
        self.rooms.retain(|room| room.filled);
    }

    /// The rows, pinned in memory; `None` where not all of them are there.
    pub(crate) fn values(&self) -> Option<Arc<dyn RowValues>> {
        let mut pins = Pins::default();
        let all = self.rooms.len() == self.keys.len()
            && self.rooms.iter().all(|room| {
                let shelf = room.shelf.as_ref();
                shelf.is_some_and(|shelf| pins.add(shelf, room.slot.index))
            });
        all.then(|| Arc::new(pins) as _)
    }

    /// Takes back rows, by their positions in rising order: they have other values from now on.
    pub(crate) fn withdraw(&mut self, positions: &[usize]) {
        let (gone, stays) = take(&mut self.rooms)
            .into_iter()
            .partition(|room| positions.binary_search(&room.row).is_ok());
        self.rooms = stays;
        self.tiers.memory().withdraw(gone);
    }

    /// Makes the rows known. Where another thread was faster, its rows are the value from now on:
    /// they are in the batch that comes back, if they are of the same schema.
    ///
    /// # Errors
    ///
    /// Memory that cannot be had to copy those.
    pub(crate) fn publish(mut self, home: Device) -> Result<Option<Batch>, TchError> {
        let mut memory = self.tiers.memory();
        let held = memory.has_any(self.keys).then(|| {
            let mut held = Batch::new(self.keys.to_vec());
            held.take_from_memory(&mut memory, home).map(|()| held)
        });
        memory.publish(self.keys, self.schema, take(&mut self.rooms));
        drop(memory);
        let held = held.transpose()?;
        Ok(held.and_then(|held| held.agreeing(self.schema)))
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        if !self.rooms.is_empty() {
            self.tiers.memory().withdraw(take(&mut self.rooms));
        }
    }
}
