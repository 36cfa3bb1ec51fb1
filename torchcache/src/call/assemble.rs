//! Builds the output of a call from the rows that were found.

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::RowValues;

use crate::memory::rows::{FoundRows, RowBytes, copy_found};
use crate::schema::TensorSchema;
use crate::tensor::{raw, staging};

/// The output tensors, in memory of their own: a row for each of `key_of_row`, the positions of the
/// rows' keys, or one for each of `keys` keys.
pub(crate) fn assemble(
    schema: &TensorSchema,
    found: &[FoundRows],
    keys: usize,
    key_of_row: Option<&[i64]>,
    module_device: Device,
) -> Result<Vec<Tensor>, TchError> {
    let device = schema.device(module_device);
    if let [FoundRows { bytes, .. }] = found
        && key_of_row.is_none()
        && let RowBytes::Packed(packed) = bytes
    {
        // All rows are in one tensor, in order.
        let packed = staging::to_device(packed, device)?;
        return schema.unpack(&packed, module_device);
    }
    if device == Device::Cpu || found.iter().all(|rows| rows.bytes.is_on_cpu()) {
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
    // Rows that are on a device are copied from there first.
    let to_host = |rows: &FoundRows| match rows.bytes.is_on_cpu() {
        true => Ok(None),
        false => rows.bytes.to_packed(row_bytes, Device::Cpu).map(Some),
    };
    let on_host = found.iter().map(to_host);
    let on_host = on_host.collect::<Result<Vec<_>, TchError>>()?;
    let mut rows: Vec<&[u8]> = vec![&[]; keys];
    for (
        FoundRows {
            positions, bytes, ..
        },
        on_host,
    ) in found.iter().zip(&on_host)
    {
        let packed = match (bytes, on_host) {
            (RowBytes::Pinned(pinned), _) => {
                for (row, &position) in positions.iter().enumerate() {
                    rows[position] = pinned.row(row);
                }
                continue;
            }
            (RowBytes::Packed(packed), None) | (_, Some(packed)) => packed,
            (RowBytes::OnDevice(_), None) => continue,
        };
        if row_bytes > 0 {
            let packed = raw::view(packed)?.chunks_exact(row_bytes);
            for (row, &position) in packed.zip(positions) {
                rows[position] = row;
            }
        }
    }
    if let Some(key_of_row) = key_of_row {
        rows = key_of_row.iter().map(|&key| rows[key as usize]).collect();
    }
    schema.gather(&rows, module_device)
}

/// Gathers on the device of the output, since some rows are on a device.
fn gather_on_device(
    schema: &TensorSchema,
    found: &[FoundRows],
    keys: usize,
    key_of_row: Option<&[i64]>,
    module_device: Device,
) -> Result<Vec<Tensor>, TchError> {
    // The source and row of each key.
    let mut sources = vec![(0, 0); keys];
    for (source, rows) in found.iter().enumerate() {
        for (row, &position) in rows.positions.iter().enumerate() {
            sources[position] = (source, row);
        }
    }
    let mut places = vec![Vec::new(); found.len()];
    let mut add = |place: i64, (source, row): (usize, usize)| places[source].push((row, place));
    match key_of_row {
        None => (0..).zip(sources).for_each(|(place, row)| add(place, row)),
        Some(keys) => (0..)
            .zip(keys)
            .for_each(|(place, &key)| add(place, sources[key as usize])),
    }
    let rows = key_of_row.map_or(keys, <[i64]>::len);
    let shape = [rows as i64, schema.row_bytes() as i64];
    let packed = Tensor::f_empty(shape, (Kind::Uint8, schema.device(module_device)))?;
    copy_found(&packed, found, places)?;
    schema.unpack(&packed, module_device)
}
