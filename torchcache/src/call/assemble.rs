//! Builds the output of a call from the rows that were found.

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::RowValues;

use crate::memory::rows::{FoundRows, RowBytes, overwrite_rows};
use crate::schema::TensorSchema;
use crate::tensor::raw;
use crate::tensor::rows::RowNumbers;

/// The output tensors, in memory of their own: a row for each of `key_of_row`, the positions of the
/// rows' keys, or one for each of `keys` keys.
pub(crate) fn assemble(
    schema: &TensorSchema,
    found: &[FoundRows],
    keys: usize,
    key_of_row: Option<&[i64]>,
    module_device: Device,
) -> Result<Vec<Tensor>, TchError> {
    if let [
        FoundRows {
            bytes: RowBytes::Packed(packed),
            ..
        },
    ] = found
        && key_of_row.is_none()
    {
        // All rows are in one tensor, in order.
        let packed = packed.f_to_device(schema.device(module_device))?;
        return schema.unpack(&packed, module_device);
    }
    if found.iter().all(|rows| rows.bytes.is_on_cpu()) {
        gather_on_cpu(schema, found, keys, key_of_row, module_device)
    } else {
        gather_on_device(schema, found, keys, key_of_row, module_device)
    }
}

/// Copies each row once, from where it was found to its place in the output.
fn gather_on_cpu(
    schema: &TensorSchema,
    found: &[FoundRows],
    keys: usize,
    key_of_row: Option<&[i64]>,
    module_device: Device,
) -> Result<Vec<Tensor>, TchError> {
    let row_bytes = schema.row_bytes();
    let mut rows: Vec<&[u8]> = vec![&[]; keys];
    for FoundRows {
        positions, bytes, ..
    } in found
    {
        match bytes {
            RowBytes::Pinned(pinned) => {
                for (row, &position) in positions.iter().enumerate() {
                    rows[position] = pinned.row(row);
                }
            }
            RowBytes::Packed(packed) if row_bytes > 0 => {
                let packed = raw::view(packed)?.chunks_exact(row_bytes);
                for (row, &position) in packed.zip(positions) {
                    rows[position] = row;
                }
            }
            RowBytes::Packed(_) => {}
        }
    }
    if let Some(key_of_row) = key_of_row {
        rows = key_of_row.iter().map(|&key| rows[key as usize]).collect();
    }
    schema.gather(&rows, module_device)
}

/// Gathers by libtorch's operations, since some rows are on a device.
fn gather_on_device(
    schema: &TensorSchema,
    found: &[FoundRows],
    keys: usize,
    key_of_row: Option<&[i64]>,
    module_device: Device,
) -> Result<Vec<Tensor>, TchError> {
    let device = schema.device(module_device);
    let shape = [keys as i64, schema.row_bytes() as i64];
    let mut packed = Tensor::f_empty(shape, (Kind::Uint8, device))?;
    overwrite_rows(&mut packed, found)?;
    if let Some(key_of_row) = key_of_row {
        packed = RowNumbers::new(key_of_row).copy(&packed)?;
    }
    schema.unpack(&packed, module_device)
}
