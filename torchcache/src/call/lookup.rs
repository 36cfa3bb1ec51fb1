//! [`Lookup`]: the rows of one call by distinct key, each found so far or still missing.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::mem::take;
use std::sync::Arc;
use std::time::Instant;

use tch::{Device, TchError, Tensor};
use torchcache_store::Store;
use torchcache_store::remote::RemoteRow;
use torchcache_store::remote_tier::RemoteTier;

use super::assemble::{assemble, in_order};
use super::disk::{LocatedRow, LocatedRows};
use crate::cache::stats::RowCounts;
use crate::cache::warnings::Reason;
use crate::key::Key;
use crate::memory::rows::{FoundRows, PackedRows, RowBytes, RowSource};
use crate::memory::{KeyHasher, Memory, RowRef};
use crate::schema::{CallDevices, TensorSchema};

/// The rows of a call by distinct key. A position is that of a key among the distinct ones.
#[derive(Debug)]
pub(crate) struct Lookup {
    keys: Vec<Key>,
    /// The first row of the call with each key.
    first_rows: Vec<i64>,
    /// The position of each row's key; `None` where no key repeats.
    key_of_row: Option<Vec<i64>>,
    /// The schema of all found rows: one output cannot hold rows of several.
    schema: Option<Arc<TensorSchema>>,
    found: Vec<FoundRows>,
    /// The positions not found so far, in rising order.
    missing: Vec<usize>,
    /// The positions of rows that other calls compute, in rising order.
    awaited: Vec<usize>,
    /// The positions of rows in memory that were not given to the present disk tier.
    unsaved: Vec<usize>,
    /// The rows of the output, where they are gathered on a device.
    output: Option<Tensor>,
    /// The schema of rows that were found and left out, since it does not show on which device they are returned.
    unplaced: Option<Arc<TensorSchema>>,
    /// Whether found rows were left out, as later ones would be.
    is_forgotten: bool,
    /// How many flights had ended before rows were last looked up.
    flights_ended: u64,
}

impl Lookup {
    pub(crate) fn new(row_keys: Vec<Key>) -> Self {
        let count = row_keys.len();
        let hasher = BuildHasherDefault::<KeyHasher>::default();
        let mut positions = HashMap::with_capacity_and_hasher(count, hasher);
        let (mut keys, mut first_rows) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut key_of_row = Vec::with_capacity(count);
        for (row, key) in row_keys.iter().enumerate() {
            let position = *positions.entry(*key).or_insert_with(|| {
                keys.push(*key);
                first_rows.push(row as i64);
                keys.len() as i64 - 1
            });
            key_of_row.push(position);
        }
        Lookup {
            key_of_row: (keys.len() < count).then_some(key_of_row),
            missing: (0..keys.len()).collect(),
            keys,
            first_rows,
            schema: None,
            found: Vec::new(),
            awaited: Vec::new(),
            unsaved: Vec::new(),
            output: None,
            unplaced: None,
            is_forgotten: false,
            flights_ended: 0,
        }
    }

    /// How many rows came from where.
    pub(crate) fn counts(&self) -> RowCounts {
        let rows = self.key_of_row.as_ref().map_or(self.keys.len(), Vec::len);
        let from = |source| {
            let found = self.found.iter().filter(|rows| rows.source == source);
            found.map(|rows| rows.positions.len()).sum()
        };
        RowCounts {
            rows,
            memory: from(RowSource::Memory),
            disk: from(RowSource::Disk),
            remote: from(RowSource::Remote),
            duplicates: rows - self.keys.len(),
            awaited: from(RowSource::OtherCall),
            computed: from(RowSource::Forward),
        }
    }

    /// The distinct keys of the call.
    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The rows of the call at some positions.
    pub(crate) fn rows_at(&self, positions: &[usize]) -> Vec<i64> {
        let row = |&position: &usize| self.first_rows[position];
        positions.iter().map(row).collect()
    }

    /// The rows of the call that repeat the key of an earlier row, as `(earlier, repeated)`.
    pub(crate) fn repeated_rows(&self) -> (Vec<i64>, Vec<i64>) {
        let keys = self.key_of_row.iter().flatten().zip(0..);
        let first = |&key: &i64| self.first_rows[key as usize];
        keys.map(|(key, row)| (first(key), row))
            .filter(|(first, row)| first != row)
            .unzip()
    }

    /// Notes before missing rows are looked up how many flights have ended.
    pub(crate) fn note_flights_ended(&mut self, flights_ended: u64) {
        self.flights_ended = flights_ended;
    }

    /// How many flights had ended before the last lookup.
    pub(crate) fn flights_ended(&self) -> u64 {
        self.flights_ended
    }

    /// Whether rows that are found can be placed in the output, as far as it is known.
    pub(crate) fn takes_found(&self) -> bool {
        !self.is_forgotten
    }

    pub(crate) fn has_missing(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Whether every row of the call is missing, each with a key of its own.
    pub(crate) fn misses_all(&self) -> bool {
        self.key_of_row.is_none() && self.missing.len() == self.keys.len()
    }

    pub(crate) fn missing_keys(&self) -> Vec<Key> {
        self.missing().map(|(_, key)| key).collect()
    }

    /// The missing keys with their positions.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (usize, Key)> {
        let key = |&position: &usize| (position, self.keys[position]);
        self.missing.iter().map(key)
    }

    /// The keys of rows in memory that were not given to the present disk tier.
    pub(crate) fn unsaved_keys(&self) -> Vec<Key> {
        let key = |&position: &usize| self.keys[position];
        self.unsaved.iter().map(key).collect()
    }

    /// The rows of the call to compute.
    pub(crate) fn missing_rows(&self) -> Vec<i64> {
        self.rows_at(&self.missing)
    }

    /// Finds missing rows in memory.
    pub(crate) fn find_in_memory(&mut self, memory: &mut Memory) -> Result<(), Reason> {
        self.unsaved.clear();
        let rows = memory.find(self.missing.iter().map(|&position| &self.keys[position]));
        let rows = self.missing.iter().zip(rows);
        let hits: Vec<(usize, RowRef)> = rows
            .filter_map(|(&position, row)| Some((position, row?)))
            .collect();
        let Some(&(_, first)) = hits.first() else {
            return Ok(());
        };
        if !hits.iter().all(|&(_, row)| memory.agree(row, first)) {
            return Err(Reason::ChangingShape);
        }
        self.set_schema(memory.schema(first))?;
        let unsaved = hits
            .iter()
            .filter(|&&(_, row)| memory.is_older_than_disk(row));
        self.unsaved = unsaved.map(|&(position, _)| position).collect();
        memory
            .read(hits)
            .into_iter()
            .for_each(|rows| self.add(rows));
        Ok(())
    }

    /// Finds missing rows on disk. Returns them with their keys, for memory to keep: on the device of
    /// memory, where the output is on it as well.
    pub(crate) fn find_on_disk(
        &mut self,
        store: &Store,
        memory_device: impl FnOnce(&TensorSchema) -> Device,
        devices: &CallDevices,
    ) -> Result<Option<(Vec<Key>, PackedRows)>, Reason> {
        let Some(located) = self.check_located(store.locate(&self.missing_keys()))? else {
            return Ok(None);
        };
        let (positions, mut read) = located.read(|rows, out| store.read(rows, out))?;
        let output_device = read.schema.device(devices);
        if memory_device(&read.schema) == output_device
            && let Ok(on_device) = read.to_device(output_device)
        {
            // Copied once, for both.
            read = on_device;
        }
        Ok(self.add_read(RowSource::Disk, positions, read))
    }

    /// Those of the missing rows that the remote has.
    ///
    /// # Errors
    ///
    /// Rows that do not fit into one output, or are of another version.
    pub(crate) fn locate_remotely(
        &self,
        remote: &RemoteTier,
        deadline: Instant,
    ) -> Result<Option<LocatedRows<RemoteRow>>, Reason> {
        self.check_located(remote.locate(&self.missing_keys(), deadline))
    }

    /// Finds located rows in the remote, as far as they arrive before the deadline. Returns them with their keys, for the
    /// nearer tiers to keep.
    pub(crate) fn find_remotely(
        &mut self,
        remote: &RemoteTier,
        located: LocatedRows<RemoteRow>,
        deadline: Instant,
    ) -> Result<Option<(Vec<Key>, PackedRows)>, Reason> {
        let (positions, read) = located.read(|rows, out| remote.read(rows, out, deadline))?;
        Ok(self.add_read(RowSource::Remote, positions, read))
    }

    /// Checks what a tier located of the missing rows.
    fn check_located<R: LocatedRow>(
        &self,
        located: Vec<Option<R>>,
    ) -> Result<Option<LocatedRows<R>>, Reason> {
        let located = self.missing.iter().zip(located);
        let located = located.filter_map(|(&position, row)| Some((position, row?)));
        let located = LocatedRows::check(located)?;
        match &located {
            Some(rows) if !self.accepts(&rows.schema) => Err(Reason::ChangingShape),
            _ => Ok(located),
        }
    }

    /// Adds rows that were read. Returns them with their keys, if there are any.
    fn add_read(
        &mut self,
        source: RowSource,
        positions: Vec<usize>,
        read: PackedRows,
    ) -> Option<(Vec<Key>, PackedRows)> {
        if positions.is_empty() {
            return None;
        }
        self.schema.get_or_insert_with(|| read.schema.clone());
        let keys = positions.iter().map(|&position| self.keys[position]);
        let keys = keys.collect();
        self.add(FoundRows {
            source,
            positions,
            bytes: RowBytes::Packed(read.bytes.shallow_clone()),
        });
        Some((keys, read))
    }

    /// Allocates the output, if rows are gathered on its device. Found rows are copied there last: a call without memory
    /// for those of the host, or whose copies fail, bypasses the cache. That takes the one forward that it needs where
    /// all rows were found; where some were missing, which are computed by then, it is a second one.
    ///
    /// # Errors
    ///
    /// Memory that cannot be allocated.
    pub(crate) fn allocate_output(&mut self, devices: &CallDevices) -> Result<(), TchError> {
        let Some(schema) = &self.schema else {
            return Ok(());
        };
        let is_hit = !self.has_missing();
        let is_on_host = || self.found.iter().all(|rows| rows.bytes.is_on_cpu());
        let is_in_order = || in_order(&self.found, self.key_of_row.as_deref()).is_some();
        let device = schema.device(devices);
        if device != Device::Cpu && !(is_hit && (is_on_host() || is_in_order())) {
            let rows = self.key_of_row.as_ref().map_or(self.keys.len(), Vec::len);
            self.output = Some(schema.allocate(rows, device)?);
        }
        Ok(())
    }

    /// Leaves missing rows to other calls that compute them, by their positions.
    pub(crate) fn leave_to_others(&mut self, positions: impl Iterator<Item = usize>) {
        self.awaited = self.still_missing(positions.collect());
        self.awaited.sort_unstable();
        let is_awaited = |position: &usize| self.awaited.binary_search(position).is_ok();
        self.missing.retain(|position| !is_awaited(position));
    }

    /// Leaves all missing rows to other calls, also those that this call computes after it has waited.
    pub(crate) fn leave_all_to_others(&mut self) {
        self.awaited = take(&mut self.missing);
    }

    /// How many rows were left to other calls.
    pub(crate) fn left_to_others(&self) -> usize {
        self.awaited.len()
    }

    /// Makes the rows that were left to other calls missing again, now that no other is.
    pub(crate) fn take_back(&mut self) {
        debug_assert!(!self.has_missing(), "this call computes its rows first");
        self.missing = take(&mut self.awaited);
    }

    pub(crate) fn is_missing(&self, position: usize) -> bool {
        self.missing.binary_search(&position).is_ok()
    }

    /// Those of the positions whose rows are missing.
    pub(crate) fn still_missing(&self, mut positions: Vec<usize>) -> Vec<usize> {
        positions.retain(|&position| self.is_missing(position));
        positions
    }

    /// Adds missing rows that another call computed.
    ///
    /// # Errors
    ///
    /// Rows of another schema, which no one output can hold with those found.
    pub(crate) fn add_handed(
        &mut self,
        positions: Vec<usize>,
        rows: PackedRows,
    ) -> Result<(), Reason> {
        if positions.is_empty() {
            return Ok(());
        }
        self.set_schema(&rows.schema)?;
        self.add(FoundRows {
            source: RowSource::OtherCall,
            positions,
            bytes: RowBytes::Packed(rows.bytes),
        });
        Ok(())
    }

    /// The schema of the rows found so far.
    pub(crate) fn schema(&self) -> Option<&Arc<TensorSchema>> {
        self.schema.as_ref()
    }

    /// Replaces it by one that agrees.
    pub(crate) fn replace_schema(&mut self, schema: TensorSchema) {
        self.schema = Some(schema.into());
    }

    /// The schema of rows that were found and left out, since it does not show on which device they are returned.
    pub(crate) fn unplaced(&self) -> Option<&Arc<TensorSchema>> {
        self.unplaced.as_ref()
    }

    /// Makes all rows missing again, since their schema does not show on which device they are returned.
    pub(crate) fn forget_unplaced(&mut self) {
        self.unplaced = self.schema.take();
        self.forget_found();
    }

    /// Makes all rows missing again. Others that are found later could be placed no more than these.
    pub(crate) fn forget_found(&mut self) {
        self.is_forgotten = true;
        self.found.clear();
        self.output = None;
        self.schema = None;
        self.missing = (0..self.keys.len()).collect();
    }

    /// Whether rows of this schema fit into an output with those found.
    pub(crate) fn accepts(&self, schema: &TensorSchema) -> bool {
        let found = self.schema.as_ref();
        found.is_none_or(|found| found.agrees(schema))
    }

    /// Whether a row was found so far.
    pub(crate) fn has_found(&self) -> bool {
        self.schema.is_some()
    }

    /// Adds computed rows, one for each missing key, of a schema that it accepts.
    pub(crate) fn add_computed(&mut self, computed: PackedRows) {
        // Of the schemas that agree, this one shows where the forward left its output.
        self.schema = Some(computed.schema);
        self.add(FoundRows {
            source: RowSource::Forward,
            positions: self.missing.clone(),
            bytes: RowBytes::Packed(computed.bytes),
        });
    }

    /// The positions of the rows that this call did not compute.
    pub(crate) fn hits(&self) -> impl Iterator<Item = usize> {
        let tiers = |rows: &&FoundRows| rows.source != RowSource::Forward;
        let found = self.found.iter().filter(tiers);
        found.flat_map(|rows| rows.positions.iter().copied())
    }

    /// The output of the call, every row in its place.
    pub(crate) fn assemble(
        self,
        devices: &CallDevices,
    ) -> Result<(Arc<TensorSchema>, Vec<Tensor>), TchError> {
        let schema = self.schema.expect("found or computed rows have a schema");
        let (found, keys, key_of_row) = (&self.found, self.keys.len(), self.key_of_row.as_deref());
        let tensors = assemble(&schema, found, keys, key_of_row, devices, self.output)?;
        Ok((schema, tensors))
    }

    /// The output of found rows, by their positions, as one of a schema that agrees.
    pub(crate) fn outputs_at(
        &self,
        positions: &[usize],
        schema: &TensorSchema,
        devices: &CallDevices,
    ) -> Result<Vec<Tensor>, TchError> {
        let positions: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
        let (found, keys) = (&self.found, self.keys.len());
        assemble(schema, found, keys, Some(&positions), devices, None)
    }

    fn set_schema(&mut self, schema: &Arc<TensorSchema>) -> Result<(), Reason> {
        if !self.accepts(schema) {
            return Err(Reason::ChangingShape);
        }
        self.schema.get_or_insert_with(|| schema.clone());
        Ok(())
    }

    fn add(&mut self, rows: FoundRows) {
        let mut found = rows.positions.iter().copied().peekable();
        self.missing
            .retain(|position| found.next_if_eq(position).is_none());
        self.found.push(rows);
    }
}
