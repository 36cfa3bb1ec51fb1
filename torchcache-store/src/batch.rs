//! The rows of one `put`: one buffer for all of them, so that storing a batch costs one
//! allocation and not one for each row.

use std::sync::Arc;

use crate::fault::StoreError;
use crate::segment::MAX_SCHEMA;

/// The name of a row. Keys are taken to be uniformly distributed, as BLAKE3 digests are.
pub type Key = [u8; 32];

/// Rows of equal length and one schema, on their way to the disk.
///
/// ```
/// use torchcache_store::RowBatch;
/// let batch = RowBatch::new(vec![[7; 32]], b"u8".as_slice().into(), vec![1, 2, 3], 3)?;
/// assert_eq!(batch.rows(), 1);
/// assert!(RowBatch::new(vec![[7; 32]], b"u8".as_slice().into(), vec![1, 2, 3], 2).is_err());
/// # Ok::<(), torchcache_store::StoreError>(())
/// ```
#[derive(Debug)]
pub struct RowBatch {
    keys: Vec<Key>,
    schema: Arc<[u8]>,
    values: Vec<u8>,
    row_len: usize,
}

impl RowBatch {
    /// `values` holds the rows one after the other, `row_len` bytes each, in the order of
    /// `keys`.
    ///
    /// # Errors
    /// [`StoreError::Batch`] if the lengths do not fit together, or the schema or a row is
    /// longer than a segment can say.
    pub fn new(
        keys: Vec<Key>,
        schema: Arc<[u8]>,
        values: Vec<u8>,
        row_len: usize,
    ) -> Result<RowBatch, StoreError> {
        let refuse = |reason: String| Err(StoreError::Batch { reason });
        if keys.len().checked_mul(row_len) != Some(values.len()) {
            return refuse(format!(
                "got {} bytes of values for {} keys of {row_len} bytes each; pass keys × row_len bytes",
                values.len(),
                keys.len(),
            ));
        }
        if schema.len() > MAX_SCHEMA {
            return refuse(format!(
                "got a schema of {} bytes; at most {MAX_SCHEMA} fit",
                schema.len()
            ));
        }
        if u32::try_from(row_len).is_err() || u32::try_from(keys.len()).is_err() {
            return refuse(format!(
                "got {} rows of {row_len} bytes; both numbers must be below 2^32",
                keys.len()
            ));
        }
        Ok(RowBatch {
            keys,
            schema,
            values,
            row_len,
        })
    }

    /// How many rows the batch holds.
    pub fn rows(&self) -> usize {
        self.keys.len()
    }

    /// Drops all rows but the first ones.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.keys.truncate(rows);
        self.values.truncate(rows * self.row_len);
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

    pub(crate) fn key(&self, row: u32) -> &Key {
        &self.keys[row as usize]
    }

    pub(crate) fn value(&self, row: u32) -> &[u8] {
        let at = row as usize * self.row_len;
        &self.values[at..at + self.row_len]
    }

    /// What the batch occupies while it waits: its buffers and, for each row, its place in
    /// the table of pending rows.
    pub(crate) fn memory(&self) -> u64 {
        const PER_ROW: usize = size_of::<Key>() + 64;
        (self.values.capacity() + self.keys.len() * PER_ROW) as u64
    }
}
