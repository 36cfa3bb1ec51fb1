//! The rows of one `put`: either one buffer for all of them, or wherever the caller has them,
//! so that storing a batch costs neither an allocation nor a copy for each row.

use std::fmt;
use std::sync::Arc;

use crate::error::StoreError;
use crate::key::Key;
use crate::segment::MAX_SCHEMA;

/// Where the values of a batch lie: for callers who have them in memory anyway, such as in a
/// cache of their own, and can keep them there until they are written.
///
/// The value is dropped as soon as its rows are written, given up or refused, on whichever
/// thread that happens, and never under a lock of the store. So dropping it may unpin what it
/// points at.
///
/// ```
/// use std::sync::Arc;
/// use torchcache_store::{RowBatch, RowValues};
///
/// /// Rows that lie scattered in a slab.
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
    /// The value of a row, by its place in the batch: exactly `row_len` bytes, and the same
    /// bytes for as long as this value lives.
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

/// Rows of equal length and one schema, on their way to the disk.
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
    /// Rows that `values` keeps in memory, whether or not all of them are wanted.
    held: usize,
    element_bytes: u8,
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
        if keys.len().checked_mul(row_len) != Some(values.len()) {
            return refuse(format!(
                "got {} bytes of values for {} keys of {row_len} bytes each; pass keys × row_len bytes",
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

    /// The same without a copy: `values` says where each row of `row_len` bytes lies, and
    /// keeps it there until the batch is dropped.
    ///
    /// # Errors
    /// [`StoreError::Batch`] if the schema or a row is longer than a segment can say.
    pub fn shared(
        keys: Vec<Key>,
        schema: Arc<[u8]>,
        values: Arc<dyn RowValues>,
        row_len: usize,
    ) -> Result<RowBatch, StoreError> {
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
            held: keys.len(),
            keys,
            schema,
            values,
            row_len,
            element_bytes: 1,
        })
    }

    /// Says that the values are numbers of so many bytes each: 2, 4 or 8. Where rows are
    /// compressed, their bytes may then be regrouped first, which is undone on reading. Any
    /// other number, such as the 1 of a new batch, means never.
    #[must_use]
    pub fn element_bytes(self, element_bytes: u8) -> RowBatch {
        RowBatch {
            element_bytes,
            ..self
        }
    }

    /// How many rows the batch holds.
    pub fn rows(&self) -> usize {
        self.keys.len()
    }

    /// Drops all rows but the first ones.
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
    /// If the caller's [`RowValues`] does not keep its word.
    pub(crate) fn value(&self, row: u32) -> &[u8] {
        let value = self.values.row(row as usize);
        assert_eq!(
            value.len(),
            self.row_len,
            "RowValues::row must give exactly row_len bytes"
        );
        value
    }

    /// What the batch occupies while it waits: its values and, for each row, its key and its
    /// place in the table of pending rows.
    pub(crate) fn memory(&self) -> u64 {
        const PER_ROW: usize = size_of::<Key>() + 64;
        self.held as u64 * (self.row_len + PER_ROW) as u64
    }
}

fn refuse(reason: String) -> Result<RowBatch, StoreError> {
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
