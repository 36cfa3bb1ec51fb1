//! [`Incoming`]: rows on their way into the memory tier. Room is reserved and made known under the
//! tier's lock; the copying in between, which takes as long as there are bytes, is outside of it.

use std::sync::Arc;

use tch::{Device, TchError, Tensor};
use torchcache_store::{RowValues, cores};

use super::Room;
use crate::batch::Batch;
use crate::keys::Key;
use crate::parallel;
use crate::raw::{self, Pins};
use crate::schema::Schema;
use crate::tiers::Tiers;

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
        if let Some(rows) = rows {
            copy(rows, row_bytes, &rooms);
        }
        Ok(Incoming {
            tiers,
            keys,
            schema,
            rooms,
        })
    }

    /// The rows, pinned in memory; `None` where not all of them are there.
    pub(crate) fn values(&self) -> Option<Arc<dyn RowValues>> {
        let mut pins = Pins::default();
        let all = self.rooms.len() == self.keys.len()
            && self.rooms.iter().all(|room| {
                let shelf = room.shelf.as_ref();
                shelf.is_some_and(|shelf| pins.add(shelf, room.slot.index()))
            });
        all.then(|| Arc::new(pins) as _)
    }

    /// Takes back rows, by their positions in rising order: they have other values from now on.
    pub(crate) fn withdraw(&mut self, positions: &[usize]) {
        let (gone, stays) = std::mem::take(&mut self.rooms)
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
    pub(crate) fn publish(self, home: Device) -> Result<Option<Batch>, TchError> {
        let mut memory = self.tiers.memory();
        let held = memory.has_any(self.keys).then(|| {
            let mut held = Batch::new(self.keys.to_vec());
            held.take_from_memory(&mut memory, home).map(|()| held)
        });
        memory.publish(self.keys, self.schema, self.rooms);
        let held = held.transpose()?;
        Ok(held.and_then(|held| held.agreeing(self.schema)))
    }
}

fn copy(rows: &[u8], row_bytes: usize, rooms: &[Room]) {
    let (workers, share) = parallel::copying(rooms.len() * row_bytes, rooms.len());
    cores::each(workers, rooms.chunks(share), |rooms| {
        for room in rooms {
            let row = &rows[room.row * row_bytes..][..row_bytes];
            if let Some(shelf) = &room.shelf {
                let filled = shelf.fill(room.slot.index() as usize, row);
                debug_assert!(filled, "reserved slots are empty");
            }
        }
    });
}
