//! Rows between the tiers, the forward and the output: where they came from and where their bytes
//! are.

use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::{RowBatch, RowValues, StoreError};

use super::arena::PinnedRows;
use super::device_arena::PinnedDeviceRows;
use crate::key::Key;
use crate::schema::TensorSchema;
use crate::tensor::rows::RowCopies;
use crate::tensor::{raw, staging};

/// Rows of one schema as a tensor of bytes, `[rows, row_bytes]`.
#[derive(Debug)]
pub(crate) struct PackedRows {
    pub(crate) schema: Arc<TensorSchema>,
    pub(crate) bytes: Tensor,
}

impl PackedRows {
    /// A copy of some of the rows.
    pub(crate) fn select(&self, rows: &[i64]) -> Result<Self, TchError> {
        let shape = [rows.len() as i64, self.schema.row_bytes() as i64];
        let bytes = Tensor::f_empty(shape, (Kind::Uint8, self.bytes.device()))?;
        let places = (0..shape[0]).collect();
        let mut copies = RowCopies::default();
        copies.add((&self.bytes, rows.to_vec()), (&bytes, places));
        copies.queue()?;
        Ok(PackedRows {
            schema: self.schema.clone(),
            bytes,
        })
    }

    /// The rows on a device.
    pub(crate) fn to_device(&self, device: Device) -> Result<Self, TchError> {
        Ok(PackedRows {
            schema: self.schema.clone(),
            bytes: staging::to_device(&self.bytes, device)?,
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
    Remote,
    /// Another call, which computed them meanwhile.
    OtherCall,
    /// The forward of this call.
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
    /// In the memory tier on the CPU, not copied yet.
    Pinned(PinnedRows),
    /// In the memory tier on another device, not copied yet.
    OnDevice(PinnedDeviceRows),
    /// `[rows, row_bytes]`.
    Packed(Tensor),
}

impl RowBytes {
    /// The tensor of packed rows.
    pub(crate) fn packed(&self) -> Option<&Tensor> {
        match self {
            RowBytes::Packed(packed) => Some(packed),
            RowBytes::Pinned(_) | RowBytes::OnDevice(_) => None,
        }
    }

    pub(crate) fn is_on_cpu(&self) -> bool {
        match self {
            RowBytes::Pinned(_) => true,
            RowBytes::OnDevice(_) => false,
            RowBytes::Packed(packed) => packed.device() == Device::Cpu,
        }
    }

    /// `[rows, row_bytes]` on a device.
    ///
    /// # Errors
    ///
    /// Memory that cannot be allocated.
    pub(crate) fn to_packed(&self, row_bytes: usize, device: Device) -> Result<Tensor, TchError> {
        match self {
            RowBytes::Packed(packed) => staging::to_device(packed, device),
            RowBytes::OnDevice(pinned) => staging::to_device(&pinned.copy()?, device),
            RowBytes::Pinned(pinned) => {
                let rows: Vec<&[u8]> = (0..pinned.len()).map(|row| pinned.row(row)).collect();
                let shape = [rows.len() as i64, row_bytes as i64];
                staging::upload_rows(&rows, &shape, Kind::Uint8, device)
            }
        }
    }
}

/// Overwrites rows of `packed`, a tensor of bytes with a row for each position, with those found.
///
/// # Errors
///
/// Memory that cannot be allocated.
pub(crate) fn overwrite_rows(packed: &Tensor, found: &[FoundRows]) -> Result<(), TchError> {
    let places = found.iter().map(|rows| {
        let places = rows.positions.iter().map(|&place| place as i64);
        (0..).zip(places).collect()
    });
    copy_found(packed, found, places.collect())
}

/// Copies found rows to `packed`, a tensor of bytes: of each source, the rows and their places.
///
/// # Errors
///
/// Memory that cannot be allocated.
pub(crate) fn copy_found(
    packed: &Tensor,
    found: &[FoundRows],
    places: Vec<Vec<(usize, i64)>>,
) -> Result<(), TchError> {
    let (device, row_bytes) = (packed.device(), packed.size()[1] as usize);
    let mut copies = RowCopies::default();
    let mut order = None;
    for (FoundRows { bytes, .. }, places) in found.iter().zip(places) {
        match bytes {
            // The rows of one tier on one device are one source.
            RowBytes::OnDevice(pinned) if order.is_none() && pinned.is_on(device) => {
                pinned.copy_to(&mut copies, packed, places);
                order = pinned.order();
            }
            _ => {
                let from = bytes.to_packed(row_bytes, device)?;
                let places = places.into_iter().map(|(row, place)| (row as i64, place));
                let (rows, places) = places.unzip();
                copies.add((&from, rows), (packed, places));
            }
        }
    }
    // `found` keeps the rows pinned until their copies are queued.
    match order {
        Some(order) => order.queue(copies),
        None => copies.queue(),
    }
}
