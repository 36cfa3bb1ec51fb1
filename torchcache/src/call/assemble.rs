//! Builds the output of a call from the rows that were found.

use tch::{Device, TchError, Tensor};
use torchcache_store::RowValues;

use crate::memory::rows::{FoundRows, RowBytes, copy_found};
use crate::schema::{CallDevices, TensorSchema};
use crate::tensor::{raw, staging};

/// The output tensors, in memory of their own: a row for each of `key_of_row`, the positions of the
/// rows' keys, or one for each of `keys` keys. On a device they are gathered in `output`, where that is given.
pub(crate) fn assemble(
    schema: &TensorSchema,
    found: &[FoundRows],
    keys: usize,
    key_of_row: Option<&[i64]>,
    devices: &CallDevices,
    output: Option<Tensor>,
) -> Result<Vec<Tensor>, TchError> {
    let device = schema.device(devices);
    if let Some(packed) = in_order(found, key_of_row) {
        let packed = staging::to_device(packed, device)?;
        return schema.unpack(&packed, devices);
    }
    if device == Device::Cpu || found.iter().all(|rows| rows.bytes.is_on_cpu()) {
        gather_on_cpu(schema, found, keys, key_of_row, devices)
    } else {
        let rows = key_of_row.map_or(keys, <[i64]>::len);
        let output = output.map_or_else(|| schema.allocate(rows, device), Ok)?;
        gather_on_device(&output, found, keys, key_of_row)?;
        schema.unpack(&output, devices)
    }
}

/// The tensor that has all rows in the order of the output, if there is one.
pub(crate) fn in_order<'f>(
    found: &'f [FoundRows],
    key_of_row: Option<&[i64]>,
) -> Option<&'f Tensor> {
    match found {
        [FoundRows { bytes, .. }] if key_of_row.is_none() => bytes.packed(),
        _ => None,
    }
}

/// Copies each row once, from where it was found to its place in the output.
fn gather_on_cpu(
    schema: &TensorSchema,
    found: &[FoundRows],
    keys: usize,
    key_of_row: Option<&[i64]>,
    devices: &CallDevices,
) -> Result<Vec<Tensor>, TchError> {
    let row_bytes = schema.row_bytes();
    // Rows that are on a device are copied from there first.
    let to_host = |rows: &FoundRows| match rows.bytes.is_on_cpu() {
        true => Ok(None),
        false => rows.bytes.to_packed(row_bytes, Device::Cpu).map(Some),
    };
    let on_host = found.iter().map(to_host);
    let on_host = on_host.collect::<Result<Vec<_>, TchError>>()?;
    let mut rows: Vec<Option<&[u8]>> = vec![None; keys];
    for (source, on_host) in found.iter().zip(&on_host) {
        let packed = on_host.as_ref().or(source.bytes.packed());
        let packed = packed.map(raw::view).transpose()?;
        for (row, &position) in source.positions.iter().enumerate() {
            rows[position] = match (&source.bytes, packed) {
                (_, Some(packed)) => packed.get(row * row_bytes..(row + 1) * row_bytes),
                (RowBytes::Pinned(pinned), None) => Some(pinned.row(row)),
                _ => None,
            };
        }
    }
    if let Some(key_of_row) = key_of_row {
        rows = key_of_row.iter().map(|&key| rows[key as usize]).collect();
    }
    let rows = (0..).zip(rows);
    let rows = rows.map(|(place, row)| row.ok_or_else(|| not_found(place)));
    let rows = rows.collect::<Result<Vec<_>, TchError>>()?;
    schema.gather(&rows, devices)
}

/// Gathers on the device of the output, since some rows are on a device.
fn gather_on_device(
    output: &Tensor,
    found: &[FoundRows],
    keys: usize,
    key_of_row: Option<&[i64]>,
) -> Result<(), TchError> {
    // The source and row of each key.
    let mut sources = vec![None; keys];
    for (source, rows) in found.iter().enumerate() {
        for (row, &position) in rows.positions.iter().enumerate() {
            sources[position] = Some((source, row));
        }
    }
    if let Some(key_of_row) = key_of_row {
        sources = key_of_row
            .iter()
            .map(|&key| sources[key as usize])
            .collect();
    }
    let mut places = vec![Vec::new(); found.len()];
    for (place, source) in (0..).zip(sources) {
        let (source, row) = source.ok_or_else(|| not_found(place))?;
        places[source].push((row, place));
    }
    copy_found(output, found, places)
}

/// An error in place of a row that would have another one's bytes, or none.
fn not_found(row: i64) -> TchError {
    TchError::Shape(format!("expected bytes for row {row} of the output"))
}
