//! The rows that calls of this process compute at this time, and how they are handed to calls that wait for them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Mutex;

use tch::{Device, TchError};
use torchcache_store::flight::{Awaited, Flights, OwnFlight};

use super::epoch::Epoch;
use crate::key::Key;
use crate::memory::KeyHasher;
use crate::memory::rows::PackedRows;
use crate::sync::lock;

/// A row that is computed by a call that began in an epoch: one that began after the tiers were cleared does not
/// wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlightKey {
    pub(crate) key: Key,
    pub(crate) epoch: Epoch,
}

impl Hash for FlightKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

pub(crate) type RowFlights = Flights<FlightKey, HandedRows, BuildHasherDefault<KeyHasher>>;
pub(crate) type OwnRows<'f> = OwnFlight<'f, FlightKey, HandedRows, BuildHasherDefault<KeyHasher>>;
pub(crate) type AwaitedRows = Awaited<FlightKey, HandedRows>;

/// Computed rows, for calls that wait for them: a full tier may not have kept them. They are on the host, where they
/// need no order between the streams of a device.
#[derive(Debug)]
pub(crate) struct HandedRows {
    places: HashMap<Key, i64, BuildHasherDefault<KeyHasher>>,
    /// Locked to use its tensor.
    rows: Mutex<PackedRows>,
}

impl HandedRows {
    /// Copies those of the computed rows that are awaited. `keys` are those of the computed rows.
    ///
    /// # Errors
    ///
    /// Memory that cannot be allocated.
    pub(crate) fn copy(
        computed: &PackedRows,
        keys: &[Key],
        awaited: &[FlightKey],
    ) -> Result<Self, TchError> {
        let computed_at: HashMap<_, _, BuildHasherDefault<KeyHasher>> =
            keys.iter().zip(0i64..).collect();
        let at = |it: &FlightKey| Some((it.key, *computed_at.get(&it.key)?));
        let (keys, rows): (Vec<Key>, Vec<i64>) = awaited.iter().filter_map(at).unzip();
        let rows = computed.select(&rows)?.to_device(Device::Cpu)?;
        Ok(HandedRows {
            places: keys.into_iter().zip(0..).collect(),
            rows: Mutex::new(rows),
        })
    }

    /// Copies of those of the rows at some positions that are here, with their positions.
    ///
    /// # Errors
    ///
    /// Memory that cannot be allocated.
    pub(crate) fn rows_at(
        &self,
        positions: Vec<usize>,
        keys: &[Key],
    ) -> Result<(Vec<usize>, PackedRows), TchError> {
        let place = |position: usize| Some((position, *self.places.get(&keys[position])?));
        let (positions, rows): (Vec<usize>, Vec<i64>) =
            positions.into_iter().filter_map(place).unzip();
        Ok((positions, lock(&self.rows).select(&rows)?))
    }
}
