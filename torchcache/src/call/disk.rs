//! Rows of the disk tier: locating, checking and reading them, and writing computed ones.

use std::sync::Arc;

use tch::{Kind, TchError, Tensor};
use torchcache_store::{Located, RowBatch, Store};

use crate::cache::warnings::Reason;
use crate::memory::rows::{FoundRows, PackedRows, RowBytes, RowSource};
use crate::schema::TensorSchema;
use crate::tensor::raw;

/// Rows of one schema that the store located.
#[derive(Debug)]
pub(crate) struct LocatedRows {
    pub(crate) schema: Arc<TensorSchema>,
    positions: Vec<usize>,
    located: Vec<Located>,
}

impl LocatedRows {
    /// Checks located rows, given with their positions; `None` where there are none.
    ///
    /// # Errors
    ///
    /// Rows of several schemas, which no one output can hold, or of a schema of another version.
    pub(crate) fn check(
        located: impl Iterator<Item = (usize, Located)>,
    ) -> Result<Option<Self>, Reason> {
        let (positions, located): (Vec<usize>, Vec<Located>) = located.unzip();
        let Some(first) = located.first() else {
            return Ok(None);
        };
        let schema = TensorSchema::decode(first.schema()).ok_or(Reason::ForeignRows)?;
        let agrees = |row: &Located| {
            row.schema() == first.schema()
                || TensorSchema::decode(row.schema()).is_some_and(|other| other.agrees(&schema))
        };
        if !located.iter().all(agrees) {
            return Err(Reason::ChangingShape);
        }
        if located.iter().any(|row| row.len != schema.row_bytes()) {
            return Err(Reason::ForeignRows);
        }
        Ok(Some(LocatedRows {
            schema: Arc::new(schema),
            positions,
            located,
        }))
    }

    /// The positions of the rows, in rising order.
    pub(crate) fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Some of the rows, by their places among these, which become their positions.
    pub(crate) fn only(&self, places: &[usize]) -> Self {
        LocatedRows {
            schema: self.schema.clone(),
            positions: places.to_vec(),
            located: places
                .iter()
                .map(|&place| self.located[place].clone())
                .collect(),
        }
    }

    /// Reads the rows into one tensor. Rows that the store cannot read are left out.
    pub(crate) fn read(self, store: &Store) -> Result<(Vec<usize>, PackedRows), TchError> {
        let LocatedRows {
            schema,
            mut positions,
            located,
        } = self;
        let row_bytes = schema.row_bytes();
        let shape = [located.len() as i64, row_bytes as i64];
        let (mut bytes, read) = raw::written(&shape, Kind::Uint8, |bytes| {
            let mut rows: Vec<&mut [u8]> = if row_bytes == 0 {
                located.iter().map(|_| Default::default()).collect()
            } else {
                bytes.chunks_exact_mut(row_bytes).collect()
            };
            store.read(&located, &mut rows)
        })?;
        if !read.iter().all(|&read| read) {
            let rows: Vec<usize> = (0..read.len()).filter(|&row| read[row]).collect();
            let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
            bytes = bytes.f_index_select(0, &Tensor::from_slice(&index))?;
            positions = rows.iter().map(|&row| positions[row]).collect();
        }
        Ok((positions, PackedRows { schema, bytes }))
    }
}

/// Queues rows for the disk. Returns the rows that the store already holds: theirs are the values
/// from now on.
///
/// # Errors
///
/// Whatever libtorch reports when those cannot be read.
pub(crate) fn put(
    store: &Store,
    rows: RowBatch,
    schema: &TensorSchema,
) -> Result<Vec<FoundRows>, TchError> {
    let winners = store.put(rows);
    match LocatedRows::check(winners.into_iter()) {
        Ok(Some(winners)) if winners.schema.agrees(schema) => {
            let (positions, winners) = winners.read(store)?;
            Ok(vec![FoundRows {
                source: RowSource::Disk,
                positions,
                bytes: RowBytes::Packed(winners.bytes),
            }])
        }
        // Rows of another schema do not fit into this output.
        _ => Ok(Vec::new()),
    }
}
