//! The rows of one `put`: in one buffer, or wherever the caller has them, so that storing a batch needs
//! neither an allocation nor a copy for each row.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::StoreError;
use crate::key::Key;
use crate::segment::MAX_SCHEMA;

/// The values of a batch that the caller has in memory and keeps there until they are written.
///
/// It is dropped as soon as its rows are written, lost or refused and no [`Located`](crate::Located)
/// refers to them, on any thread, and never under a lock of the store. So dropping it may release what
/// it points to.
///
/// ```
/// use std::sync::Arc;
/// use torchcache_store::{RowBatch, RowValues};
///
/// /// Rows that are scattered in a slab.
/// struct Pinned {
///     slab: Arc<[u8]>,
///     offsets: Vec<usize>,
/// }
///
/// impl RowValues for Pinned {
///     fn row(&self, row: usize) -> &[u8] {
///         &self.slab[self.offsets[row]..][..4]
///     }
/// }
///
/// let slab: Arc<[u8]> = b"....tworows.".as_slice().into();
/// let values = Arc::new(Pinned { slab, offsets: vec![4, 7] });
/// let keys = vec![[1; 32], [2; 32]];
/// let batch = RowBatch::shared(keys, b"u8[4]".as_slice().into(), values, 4)?;
/// assert_eq!(batch.rows(), 2);
/// # Ok::<(), torchcache_store::StoreError>(())
/// ```
pub trait RowValues: Send + Sync {
    /// The value of the row at this position of the batch: exactly `row_len` bytes, and the same bytes
    /// at each call.
    fn row(&self, row: usize) -> &[u8];
}

/// Rows one after the other in one buffer.
struct Contiguous {
    bytes: Vec<u8>,
    row_len: usize,
}

impl RowValues for Contiguous {
    fn row(&self, row: usize) -> &[u8] {
        let at = row * self.row_len;
        &self.bytes[at..at + self.row_len]
    }
}

/// Rows of one length and one schema, to be stored.
///
/// ```
/// use torchcache_store::RowBatch;
/// let batch = RowBatch::new(vec![[7; 32]], b"u8".as_slice().into(), vec![1, 2, 3], 3)?;
/// assert_eq!(batch.rows(), 1);
/// assert!(RowBatch::new(vec![[7; 32]], b"u8".as_slice().into(), vec![1, 2, 3], 2).is_err());
/// # Ok::<(), torchcache_store::StoreError>(())
/// ```
pub struct RowBatch {
    keys: Vec<Key>,
    schema: Arc<[u8]>,
    values: Arc<dyn RowValues>,
    row_len: usize,
    /// How many rows `values` keeps in memory, those included that were truncated.
    held_rows: usize,
    element_bytes: u8,
    /// See [`since`](RowBatch::since).
    epoch: Option<u64>,
    losses: Arc<Losses>,
}

/// Counts the rows that a user of a store lost.
#[derive(Debug, Default)]
pub(crate) struct Losses(AtomicU64);

impl Losses {
    pub(crate) fn add(&self, rows: usize) {
        self.0.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// How many were lost since the last call.
    pub(crate) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl RowBatch {
    /// Makes a batch of rows that `values` has one after the other, `row_len` bytes each, in the order
    /// of `keys`.
    ///
    /// # Errors
    /// [`StoreError::Batch`] if the lengths do not fit together, or the schema or a row is longer than
    /// the format allows.
    pub fn new(
        keys: Vec<Key>,
        schema: Arc<[u8]>,
        values: Vec<u8>,
        row_len: usize,
    ) -> Result<RowBatch, StoreError> {
        if keys.len().checked_mul(row_len) != Some(values.len()) {
            return batch_error(format!(
                "got {} bytes of values for {} rows of {row_len} bytes each; pass rows × row_len bytes",
                values.len(),
                keys.len(),
            ));
        }
        let bytes = values;
        RowBatch::shared(
            keys,
            schema,
            Arc::new(Contiguous { bytes, row_len }),
            row_len,
        )
    }

    /// Makes a batch without copying: `values` keeps the rows in memory until the batch is dropped.
    ///
    /// # Errors
    /// [`StoreError::Batch`] if the schema or a row is longer than the format allows.
    pub fn shared(
        keys: Vec<Key>,
        schema: Arc<[u8]>,
        values: Arc<dyn RowValues>,
        row_len: usize,
    ) -> Result<RowBatch, StoreError> {
        if schema.len() > MAX_SCHEMA {
            return batch_error(format!(
                "got a schema of {} bytes; the format allows {MAX_SCHEMA}",
                schema.len()
            ));
        }
        if u32::try_from(row_len).is_err() || u32::try_from(keys.len()).is_err() {
            return batch_error(format!(
                "got {} rows of {row_len} bytes; the format allows less than 2^32 of both",
                keys.len()
            ));
        }
        Ok(RowBatch {
            held_rows: keys.len(),
            keys,
            schema,
            values,
            row_len,
            element_bytes: 1,
            epoch: None,
            losses: Arc::default(),
        })
    }

    /// Sets the size of the numbers that the values consist of: 2, 4 or 8 bytes. When rows are
    /// compressed, the bytes of such numbers may be shuffled first, which reading undoes. Any other
    /// size, such as the 1 of a new batch, means that they are not shuffled.
    #[must_use]
    pub fn element_bytes(self, element_bytes: u8) -> RowBatch {
        RowBatch {
            element_bytes,
            ..self
        }
    }

    /// Sets the [epoch](crate::Store::epoch) in which the rows were looked up. They are not stored if the
    /// store was cleared since.
    #[must_use]
    pub fn since(self, epoch: u64) -> RowBatch {
        RowBatch {
            epoch: Some(epoch),
            ..self
        }
    }

    /// Sets where rows are counted that are lost.
    pub(crate) fn set_losses(&mut self, losses: &Arc<Losses>) {
        self.losses = losses.clone();
    }

    pub(crate) fn losses(&self) -> &Arc<Losses> {
        &self.losses
    }

    pub(crate) fn is_outdated(&self, epoch: u64) -> bool {
        self.epoch.is_some_and(|since| since != epoch)
    }

    /// How many rows the batch has.
    pub fn rows(&self) -> usize {
        self.keys.len()
    }

    /// Removes all rows but the first `rows`.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.keys.truncate(rows);
    }

    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }

    pub(crate) fn schema(&self) -> &Arc<[u8]> {
        &self.schema
    }

    pub(crate) fn row_len(&self) -> usize {
        self.row_len
    }

    pub(crate) fn element_len(&self) -> u8 {
        self.element_bytes
    }

    pub(crate) fn key(&self, row: u32) -> &Key {
        &self.keys[row as usize]
    }

    /// # Panics
    /// If the [`RowValues`] of the caller returns a value of another length.
    pub(crate) fn value(&self, row: u32) -> &[u8] {
        let value = self.values.row(row as usize);
        assert_eq!(
            value.len(),
            self.row_len,
            "RowValues::row must return exactly row_len bytes"
        );
        value
    }

    /// The memory that the batch takes while it is queued: its values and, for each row, its key and
    /// its entry in the table of pending rows.
    pub(crate) fn memory(&self) -> u64 {
        const PER_ROW: usize = size_of::<Key>() + 64;
        self.held_rows as u64 * (self.row_len + PER_ROW) as u64
    }
}

fn batch_error(reason: String) -> Result<RowBatch, StoreError> {
    Err(StoreError::Batch { reason })
}

impl fmt::Debug for RowBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowBatch")
            .field("rows", &self.rows())
            .field("row_len", &self.row_len)
            .field("element_bytes", &self.element_bytes)
            .finish_non_exhaustive()
    }
}
