//! Rows of the disk tier and of the remote: checking and reading located ones, and writing rows to the disk.

use std::sync::Arc;

use tch::{Kind, TchError, Tensor};
use torchcache_store::remote::RemoteRow;
use torchcache_store::{Located, RowBatch, Store};

use crate::cache::warnings::Reason;
use crate::memory::rows::{FoundRows, PackedRows, RowBytes, RowSource};
use crate::schema::TensorSchema;
use crate::tensor::raw;

/// A row that a tier located.
pub(crate) trait LocatedRow: Clone {
    /// The schema that it was stored with.
    fn schema(&self) -> &[u8];

    /// The length of its value.
    fn len(&self) -> usize;
}

impl LocatedRow for Located {
    fn schema(&self) -> &[u8] {
        self.schema()
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl LocatedRow for RemoteRow {
    fn schema(&self) -> &[u8] {
        self.schema()
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// Rows of one schema that a tier located.
#[derive(Debug)]
pub(crate) struct LocatedRows<R> {
    pub(crate) schema: Arc<TensorSchema>,
    positions: Vec<usize>,
    located: Vec<R>,
}

impl<R: LocatedRow> LocatedRows<R> {
    /// Checks located rows, given with their positions; `None` where there are none.
    ///
    /// # Errors
    ///
    /// Rows of several schemas, which no one output can hold, or of a schema of another version.
    pub(crate) fn check(located: impl Iterator<Item = (usize, R)>) -> Result<Option<Self>, Reason> {
        let (positions, located): (Vec<usize>, Vec<R>) = located.unzip();
        let Some(first) = located.first() else {
            return Ok(None);
        };
        let schema = TensorSchema::decode(first.schema()).ok_or(Reason::ForeignRows)?;
        let agrees = |row: &R| {
            row.schema() == first.schema()
                || TensorSchema::decode(row.schema()).is_some_and(|other| other.agrees(&schema))
        };
        if !located.iter().all(agrees) {
            return Err(Reason::ChangingShape);
        }
        if located.iter().any(|row| row.len() != schema.row_bytes()) {
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

    /// How many bytes they are together.
    pub(crate) fn bytes(&self) -> usize {
        self.located.len() * self.schema.row_bytes()
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

    /// Reads the rows into one tensor. `read` reads rows into buffers of their lengths, and returns for each whether it
    /// was read: the others are left out.
    pub(crate) fn read(
        self,
        read: impl FnOnce(&[R], &mut [&mut [u8]]) -> Vec<bool>,
    ) -> Result<(Vec<usize>, PackedRows), TchError> {
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
            read(&located, &mut rows)
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

/// What became of rows that were queued for the disk.
#[derive(Debug)]
pub(crate) struct QueuedRows {
    /// The positions of those that the store holds already, in rising order.
    pub(crate) present: Vec<usize>,
    /// Their values, which are those of the rows from now on, as far as they can be read and have the same schema.
    pub(crate) winners: Result<Vec<FoundRows>, TchError>,
}

/// Queues rows for the disk.
pub(crate) fn put(store: &Store, rows: RowBatch, schema: &TensorSchema) -> QueuedRows {
    let located = store.put(rows);
    let present = located.iter().map(|(position, _)| *position).collect();
    let winners = match LocatedRows::check(located.into_iter()) {
        Ok(Some(winners)) if winners.schema.agrees(schema) => {
            let read = winners.read(|rows, out| store.read(rows, out));
            read.map(|(positions, winners)| {
                vec![FoundRows {
                    source: RowSource::Disk,
                    positions,
                    bytes: RowBytes::Packed(winners.bytes),
                }]
            })
        }
        // Rows of another schema do not fit into this output.
        _ => Ok(Vec::new()),
    };
    QueuedRows { present, winners }
}
