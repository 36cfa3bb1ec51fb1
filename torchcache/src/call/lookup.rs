//! The rows of one call on their way through the tiers: distinct keys, what was found for them,
//! and the output assembled from it.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::{Located, Store};

use super::assemble::{self, Bytes, Piece, Source};
use crate::key::Key;
use crate::memory::arena::Pins;
use crate::memory::{KeyHasher, Memory, Row};
use crate::schema::Schema;
use crate::tensor::raw;

/// Rows of a call by distinct key, each found or still missing.
#[derive(Debug)]
pub(crate) struct Batch {
    keys: Vec<Key>,
    /// The first row of the call with each key.
    first_rows: Vec<i64>,
    /// For each row of the call its key; `None` where every row has its own.
    key_of_row: Option<Vec<i64>>,
    /// The schema of everything found; rows of different schemas cannot stand in one output.
    schema: Option<Arc<Schema>>,
    mixed: bool,
    pieces: Vec<Piece>,
    missing: Vec<usize>,
}

/// How many rows of a call came from where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) rows: usize,
    pub(crate) memory: usize,
    pub(crate) disk: usize,
    pub(crate) repeated: usize,
    pub(crate) computed: usize,
}

/// Rows read from disk, for memory to keep as well.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) keys: Vec<Key>,
    pub(crate) schema: Arc<Schema>,
    /// On the CPU.
    pub(crate) packed: Tensor,
}

impl Batch {
    pub(crate) fn new(row_keys: Vec<Key>) -> Self {
        let mut seen = HashMap::with_capacity_and_hasher(
            row_keys.len(),
            BuildHasherDefault::<KeyHasher>::default(),
        );
        let (mut keys, mut first_rows) = (
            Vec::with_capacity(row_keys.len()),
            Vec::with_capacity(row_keys.len()),
        );
        let mut key_of_row = Vec::with_capacity(row_keys.len());
        for (row, key) in row_keys.iter().enumerate() {
            let position = *seen.entry(*key).or_insert_with(|| {
                keys.push(*key);
                first_rows.push(row as i64);
                keys.len() as i64 - 1
            });
            key_of_row.push(position);
        }
        let key_of_row = (keys.len() < row_keys.len()).then_some(key_of_row);
        let missing = (0..keys.len()).collect();
        Batch {
            keys,
            first_rows,
            key_of_row,
            schema: None,
            mixed: false,
            pieces: Vec::new(),
            missing,
        }
    }

    /// Some rows of distinct keys, by their positions in rising order, as if the others were not
    /// asked for.
    pub(crate) fn of_some(keys: &[Key], positions: Vec<usize>) -> Self {
        Batch {
            missing: positions,
            ..Batch::new(keys.to_vec())
        }
    }

    /// Where the rows came from.
    pub(crate) fn tally(&self) -> Tally {
        let rows = self.key_of_row.as_ref().map_or(self.keys.len(), Vec::len);
        let from = |source| {
            let pieces = self.pieces.iter().filter(|piece| piece.source == source);
            pieces.map(|piece| piece.positions.len()).sum()
        };
        Tally {
            rows,
            memory: from(Source::Memory),
            disk: from(Source::Disk),
            repeated: rows - self.keys.len(),
            computed: from(Source::Forward),
        }
    }

    /// Whether some rows are still to be found.
    pub(crate) fn has_missing(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Whether rows of different shapes or kinds were found, which no one output can hold.
    pub(crate) fn is_mixed(&self) -> bool {
        self.mixed
    }

    /// The distinct keys of the call.
    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The keys not found so far.
    pub(crate) fn missing_keys(&self) -> Vec<Key> {
        self.missing
            .iter()
            .map(|&position| self.keys[position])
            .collect()
    }

    /// The rows of the call to compute for them.
    pub(crate) fn missing_rows(&self) -> Vec<i64> {
        self.rows_at(&self.missing)
    }

    /// The rows of the call at some positions.
    pub(crate) fn rows_at(&self, positions: &[usize]) -> Vec<i64> {
        let row = |&position: &usize| self.first_rows[position];
        positions.iter().map(row).collect()
    }

    /// The rows of the call whose key an earlier one has, and those earlier ones, in the same order:
    /// `(earlier, repeated)`.
    pub(crate) fn repeated_rows(&self) -> (Vec<i64>, Vec<i64>) {
        let keys = self.key_of_row.iter().flatten().zip(0..);
        let first = |&key: &i64| self.first_rows[key as usize];
        keys.map(|(key, row)| (first(key), row))
            .filter(|(first, row)| first != row)
            .unzip()
    }

    /// Whether every row of the call is to be computed, each with its own key.
    pub(crate) fn misses_whole(&self) -> bool {
        self.key_of_row.is_none() && self.missing.len() == self.keys.len()
    }

    /// Takes what memory holds of the missing rows.
    pub(crate) fn take_from_memory(
        &mut self,
        memory: &mut Memory,
        home: Device,
    ) -> Result<(), TchError> {
        let found = memory.find(self.missing.iter().map(|&position| &self.keys[position]));
        let hits: Vec<(usize, Row)> = self
            .missing
            .iter()
            .zip(found)
            .filter_map(|(&position, row)| Some((position, row?)))
            .collect();
        let Some(&(_, first)) = hits.first() else {
            return Ok(());
        };
        if !hits.iter().all(|&(_, row)| memory.agree(row, first))
            || !self.admit(memory.schema(first))
        {
            self.mixed = true;
            return Ok(());
        }
        let mut pins = Pins::default();
        let (pinned, elsewhere): (Vec<_>, Vec<_>) = hits
            .into_iter()
            .partition(|&(_, row)| memory.pin(row, &mut pins));
        let positions =
            |hits: &[(usize, Row)]| hits.iter().map(|&(position, _)| position).collect();
        if !pinned.is_empty() {
            self.place(Source::Memory, positions(&pinned), Bytes::Pinned(pins));
        }
        if !elsewhere.is_empty() {
            let rows: Vec<Row> = elsewhere.iter().map(|&(_, row)| row).collect();
            let device = memory.schema(first).device(home);
            let packed = memory.gather(&rows, device)?;
            self.place(Source::Memory, positions(&elsewhere), Bytes::Packed(packed));
        }
        Ok(())
    }

    /// Takes what the disk holds of the missing rows, and returns it.
    pub(crate) fn take_from_disk(&mut self, store: &Store) -> Result<Option<Read>, Unreadable> {
        let located = store.locate(&self.missing_keys());
        let (positions, found): (Vec<usize>, Vec<Located>) = self
            .missing
            .iter()
            .zip(located)
            .filter_map(|(&position, found)| Some((position, found?)))
            .unzip();
        let Some(first) = found.first() else {
            return Ok(None);
        };
        let schema = Arc::new(Schema::decode(first.schema()).ok_or(Unreadable::Layout)?);
        let row_bytes = schema.row_bytes();
        let agrees = |row: &Located| {
            row.schema() == first.schema()
                || Schema::decode(row.schema()).is_some_and(|other| other.agrees(&schema))
        };
        if !found.iter().all(agrees) {
            self.mixed = true;
            return Ok(None);
        }
        if found.iter().any(|row| row.len != row_bytes) {
            return Err(Unreadable::Layout);
        }
        if !self.admit(&schema) {
            self.mixed = true;
            return Ok(None);
        }
        let (packed, read) = read_rows(store, &found, row_bytes)?;
        let (positions, packed) = if read.iter().all(|&read| read) {
            (positions, packed)
        } else {
            let rows: Vec<i64> = (0..read.len())
                .filter(|&row| read[row])
                .map(|row| row as i64)
                .collect();
            let positions = rows.iter().map(|&row| positions[row as usize]).collect();
            (
                positions,
                packed.f_index_select(0, &Tensor::from_slice(&rows))?,
            )
        };
        let keys = positions
            .iter()
            .map(|&position| self.keys[position])
            .collect();
        let read = Read {
            keys,
            schema,
            packed: packed.shallow_clone(),
        };
        self.place(Source::Disk, positions, Bytes::Packed(packed));
        Ok(Some(read))
    }

    /// Whether rows of this schema can stand beside what was found.
    pub(crate) fn admits(&self, schema: &Schema) -> bool {
        self.schema
            .as_ref()
            .is_none_or(|found| found.agrees(schema))
    }

    /// Takes computed rows, one for each missing key and in that order, of a schema it admits.
    pub(crate) fn take_computed(&mut self, schema: Arc<Schema>, packed: Tensor) {
        self.schema.get_or_insert(schema);
        self.place(Source::Forward, self.missing.clone(), Bytes::Packed(packed));
    }

    /// The batch, if rows were found that can take the place of rows of this schema.
    pub(crate) fn agreeing(self, schema: &Schema) -> Option<Self> {
        (!self.pieces.is_empty() && self.admits(schema)).then_some(self)
    }

    /// The positions of the rows that were found, in rising order.
    pub(crate) fn found(&self) -> Vec<usize> {
        let found = self.pieces.iter().flat_map(|piece| &piece.positions);
        let mut found: Vec<usize> = found.copied().collect();
        found.sort_unstable();
        found
    }

    /// The positions of the rows that came from the tiers.
    pub(crate) fn hits(&self) -> impl Iterator<Item = usize> {
        let tiers = |piece: &&Piece| piece.source != Source::Forward;
        let pieces = self.pieces.iter().filter(tiers);
        pieces.flat_map(|piece| piece.positions.iter().copied())
    }

    /// Puts the rows that were found in place of those of `packed`, which has a row for each key.
    pub(crate) fn lay_over(self, packed: &mut Tensor) -> Result<(), TchError> {
        assemble::lay_over(&self.pieces, packed)
    }

    /// The output: every row of the call in its place, in memory of its own.
    pub(crate) fn assemble(self, home: Device) -> Result<(Arc<Schema>, Vec<Tensor>), TchError> {
        let tensors = self.laid_out(self.key_of_row.as_deref(), home)?;
        Ok((self.known_schema().clone(), tensors))
    }

    /// The output of some rows that were found, by their positions.
    pub(crate) fn outputs_at(
        &self,
        positions: &[usize],
        home: Device,
    ) -> Result<Vec<Tensor>, TchError> {
        let positions: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
        self.laid_out(Some(&positions), home)
    }

    fn laid_out(&self, keys: Option<&[i64]>, home: Device) -> Result<Vec<Tensor>, TchError> {
        assemble::assemble(
            self.known_schema(),
            &self.pieces,
            self.keys.len(),
            keys,
            home,
        )
    }

    fn known_schema(&self) -> &Arc<Schema> {
        let schema = self.schema.as_ref();
        schema.expect("a call with rows found or computed some")
    }

    /// Agrees on a schema with what was found before.
    fn admit(&mut self, schema: &Arc<Schema>) -> bool {
        let admits = self.admits(schema);
        self.schema.get_or_insert_with(|| schema.clone());
        admits
    }

    fn place(&mut self, source: Source, positions: Vec<usize>, bytes: Bytes) {
        let mut found = positions.iter().copied().peekable();
        self.missing
            .retain(|position| found.next_if_eq(position).is_none());
        self.pieces.push(Piece {
            source,
            positions,
            bytes,
        });
    }
}

/// Why rows that the disk holds could not be used.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// Their description is not one of this version.
    Layout,
    /// Memory for them could not be had.
    Tensor(TchError),
}

impl From<TchError> for Unreadable {
    fn from(error: TchError) -> Self {
        Unreadable::Tensor(error)
    }
}

/// Reads rows straight into one tensor of bytes, and tells which could be read.
fn read_rows(
    store: &Store,
    found: &[Located],
    row_bytes: usize,
) -> Result<(Tensor, Vec<bool>), TchError> {
    let shape = [found.len() as i64, row_bytes as i64];
    raw::written(&shape, Kind::Uint8, |bytes| {
        let mut rows: Vec<&mut [u8]> = if row_bytes == 0 {
            found.iter().map(|_| Default::default()).collect()
        } else {
            bytes.chunks_exact_mut(row_bytes).collect()
        };
        store.read(found, &mut rows)
    })
}
