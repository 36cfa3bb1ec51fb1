//! Rows between the tiers, the forward and the output: where they came from and where their bytes
//! are.

use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::{RowBatch, RowValues, StoreError};

use super::arena::PinnedRows;
use crate::key::Key;
use crate::schema::TensorSchema;
use crate::tensor::parallel::copy_rows;
use crate::tensor::rows::RowNumbers;
use crate::tensor::{layout, raw};

/// Rows of one schema as a tensor of bytes, `[rows, row_bytes]`.
#[derive(Debug)]
pub(crate) struct PackedRows {
    pub(crate) schema: Arc<TensorSchema>,
    pub(crate) bytes: Tensor,
}

impl PackedRows {
    /// A copy of some of the rows.
    pub(crate) fn select(&self, rows: &[i64]) -> Result<Self, TchError> {
        Ok(PackedRows {
            schema: self.schema.clone(),
            bytes: RowNumbers::new(rows).copy(&self.bytes)?,
        })
    }

    /// The rows in host memory.
    pub(crate) fn on_cpu(&self) -> Result<Self, TchError> {
        Ok(PackedRows {
            schema: self.schema.clone(),
            bytes: layout::on_cpu(&self.bytes)?,
        })
    }

    /// A copy of rows in host memory as the store takes them.
    ///
    /// # Errors
    ///
    /// Rows that are elsewhere, or longer than the store allows.
    pub(crate) fn to_batch(&self, keys: &[Key]) -> Result<RowBatch, TchError> {
        let bytes = raw::view(&self.bytes)?.to_vec();
        let (schema, row_bytes) = (self.schema.encode().into(), self.schema.row_bytes());
        let batch = RowBatch::new(keys.to_vec(), schema, bytes, row_bytes);
        self.checked(batch)
    }

    /// As [`to_batch`](Self::to_batch), of rows that are pinned in memory: nothing is copied.
    ///
    /// # Errors
    ///
    /// Rows that are longer than the store allows.
    pub(crate) fn to_pinned_batch(
        &self,
        keys: &[Key],
        pinned: Arc<dyn RowValues>,
    ) -> Result<RowBatch, TchError> {
        let (schema, row_bytes) = (self.schema.encode().into(), self.schema.row_bytes());
        self.checked(RowBatch::shared(keys.to_vec(), schema, pinned, row_bytes))
    }

    fn checked(&self, batch: Result<RowBatch, StoreError>) -> Result<RowBatch, TchError> {
        let batch = batch.map_err(|error| TchError::Shape(error.to_string()))?;
        Ok(batch.element_bytes(self.schema.element_bytes()))
    }
}

/// Where rows came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowSource {
    Memory,
    Disk,
    Forward,
}

/// Rows of one source.
#[derive(Debug)]
pub(crate) struct FoundRows {
    pub(crate) source: RowSource,
    /// The position of each row among the requested keys, in rising order.
    pub(crate) positions: Vec<usize>,
    pub(crate) bytes: RowBytes,
}

/// The bytes of rows, in the order of their positions.
#[derive(Debug)]
pub(crate) enum RowBytes {
    /// In the memory tier, not copied yet.
    Pinned(PinnedRows),
    /// `[rows, row_bytes]`.
    Packed(Tensor),
}

impl RowBytes {
    pub(crate) fn is_on_cpu(&self) -> bool {
        match self {
            RowBytes::Pinned(_) => true,
            RowBytes::Packed(packed) => packed.device() == Device::Cpu,
        }
    }

    fn to_packed(&self, row_bytes: usize) -> Result<Tensor, TchError> {
        match self {
            RowBytes::Packed(packed) => Ok(packed.shallow_clone()),
            RowBytes::Pinned(pinned) => {
                let rows: Vec<&[u8]> = (0..pinned.len()).map(|row| pinned.row(row)).collect();
                let shape = [rows.len() as i64, row_bytes as i64];
                raw::tensor(&shape, Kind::Uint8, |bytes| copy_rows(bytes, &rows))
            }
        }
    }
}

/// Overwrites rows of `packed`, a tensor of bytes with a row for each position, with those found.
/// By libtorch's operations, since either may be on a device.
pub(crate) fn overwrite_rows(packed: &mut Tensor, found: &[FoundRows]) -> Result<(), TchError> {
    let device = packed.device();
    let row_bytes = packed.size()[1] as usize;
    for rows in found {
        let positions: Vec<i64> = rows.positions.iter().map(|&row| row as i64).collect();
        let rows = rows.bytes.to_packed(row_bytes)?.f_to_device(device)?;
        RowNumbers::new(&positions).write(packed, &rows)?;
    }
    Ok(())
}
