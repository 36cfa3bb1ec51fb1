//! Rows as they were found, piece by piece, and the one pass that puts them into their places.

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::RowValues;

use crate::memory::arena::Pins;
use crate::schema::Schema;
use crate::tensor::parallel::copy_rows;
use crate::tensor::raw;

/// Rows found together: their keys' positions, in rising order, and their bytes.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) source: Source,
    pub(crate) positions: Vec<usize>,
    pub(crate) bytes: Bytes,
}

/// Where rows came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Memory,
    Disk,
    Forward,
}

/// The bytes of found rows, in the order of their positions.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// Where they lie in memory, not copied yet.
    Pinned(Pins),
    /// `[rows, row_bytes]`.
    Packed(Tensor),
}

/// The output: a row for each of `key_of_row`, or for each key, in memory of its own.
pub(crate) fn assemble(
    schema: &Schema,
    pieces: &[Piece],
    keys: usize,
    key_of_row: Option<&[i64]>,
    home: Device,
) -> Result<Vec<Tensor>, TchError> {
    if let [
        Piece {
            bytes: Bytes::Packed(whole),
            ..
        },
    ] = pieces
        && key_of_row.is_none()
    {
        // All in one piece and each row once: nothing is to be moved.
        return schema.unpack(&whole.f_to_device(schema.device(home))?, home);
    }
    if pieces.iter().all(Piece::is_on_cpu) {
        gather(schema, pieces, keys, key_of_row, home)
    } else {
        gather_on_device(schema, pieces, keys, key_of_row, home)
    }
}

impl Piece {
    fn is_on_cpu(&self) -> bool {
        match &self.bytes {
            Bytes::Pinned(_) => true,
            Bytes::Packed(packed) => packed.device() == Device::Cpu,
        }
    }
}

impl Bytes {
    fn packed(&self, row_bytes: usize) -> Result<Tensor, TchError> {
        match self {
            Bytes::Packed(packed) => Ok(packed.shallow_clone()),
            Bytes::Pinned(pins) => {
                let rows: Vec<&[u8]> = (0..pins.len()).map(|row| pins.row(row)).collect();
                let shape = [rows.len() as i64, row_bytes as i64];
                raw::tensor(&shape, Kind::Uint8, |bytes| copy_rows(bytes, &rows))
            }
        }
    }
}

/// One pass over the output: each row is copied once, from where it was found to its place.
fn gather(
    schema: &Schema,
    pieces: &[Piece],
    keys: usize,
    key_of_row: Option<&[i64]>,
    home: Device,
) -> Result<Vec<Tensor>, TchError> {
    let row_bytes = schema.row_bytes();
    let mut rows: Vec<&[u8]> = vec![&[]; keys];
    for piece in pieces {
        match &piece.bytes {
            Bytes::Pinned(pins) => {
                for (row, &position) in piece.positions.iter().enumerate() {
                    rows[position] = pins.row(row);
                }
            }
            Bytes::Packed(packed) if row_bytes > 0 => {
                let packed = raw::view(packed)?.chunks_exact(row_bytes);
                for (row, &position) in packed.zip(&piece.positions) {
                    rows[position] = row;
                }
            }
            Bytes::Packed(_) => {}
        }
    }
    if let Some(key_of_row) = key_of_row {
        rows = key_of_row.iter().map(|&key| rows[key as usize]).collect();
    }
    schema.gather(&rows, home)
}

/// The same by libtorch's own operations, since some rows are on a device.
fn gather_on_device(
    schema: &Schema,
    pieces: &[Piece],
    keys: usize,
    key_of_row: Option<&[i64]>,
    home: Device,
) -> Result<Vec<Tensor>, TchError> {
    let device = schema.device(home);
    let shape = [keys as i64, schema.row_bytes() as i64];
    let mut packed = Tensor::f_empty(shape, (Kind::Uint8, device))?;
    lay_over(pieces, &mut packed)?;
    if let Some(key_of_row) = key_of_row {
        packed = packed.f_index_select(0, &Tensor::from_slice(key_of_row).f_to_device(device)?)?;
    }
    schema.unpack(&packed, home)
}

/// Copies rows to their places among packed ones, by libtorch's own operations: either may be on a
/// device.
pub(crate) fn lay_over(pieces: &[Piece], packed: &mut Tensor) -> Result<(), TchError> {
    let device = packed.device();
    let row_bytes = packed.size()[1] as usize;
    for piece in pieces {
        let index: Vec<i64> = piece.positions.iter().map(|&key| key as i64).collect();
        let index = Tensor::from_slice(&index).f_to_device(device)?;
        let rows = piece.bytes.packed(row_bytes)?.f_to_device(device)?;
        let _ = packed.f_index_copy_(0, &index, &rows)?;
    }
    Ok(())
}
