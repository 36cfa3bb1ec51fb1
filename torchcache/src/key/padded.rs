//! The digests of rows with padding: of what comes before it.

use tch::{TchError, Tensor};
use torchcache_store::Key;

use crate::tensor::{blake3_batch, layout, raw};

/// BLAKE3 of the first `lengths` places of each row, on the host. No more of a tensor elsewhere is copied than its
/// longest row needs.
pub(super) fn row_digests(
    tensor: &Tensor,
    lengths: &[i64],
    subsample: Option<usize>,
) -> Result<Vec<Key>, TchError> {
    let element_bytes = tensor.f_kind()?.elt_size_in_bytes();
    let digests = |tensor: &Tensor, lengths: &[i64]| -> Result<_, TchError> {
        let shape = tensor.size();
        let place = shape[2..].iter().product::<i64>() as usize * element_bytes;
        let sizes = RowSizes {
            row: shape[1] as usize * place,
            place,
            element: element_bytes,
        };
        Ok(digests_of_prefixes(
            raw::view(tensor)?,
            sizes,
            lengths,
            subsample,
        ))
    };
    let tensor = tensor.f_detach()?;
    if raw::view(&tensor).is_ok() {
        return digests(&tensor, lengths);
    }
    // Others are copied, some rows at a time.
    let longest = lengths.iter().copied().max().unwrap_or_default();
    let tensor = tensor.f_narrow(1, 0, longest)?;
    let row_bytes = tensor.numel() / lengths.len().max(1) * element_bytes;
    let count = layout::slices_in_part(row_bytes);
    let mut all = Vec::with_capacity(lengths.len());
    for (part, lengths) in lengths.chunks(count).enumerate() {
        let rows = tensor.f_narrow(0, (part * count) as i64, lengths.len() as i64)?;
        all.extend(digests(&layout::on_cpu(&rows)?, lengths)?);
    }
    Ok(all)
}

/// The lengths, each as a part of the row's key: samples do not show it.
pub(super) fn length_bytes(lengths: &[i64]) -> Vec<Key> {
    let bytes = |length: &i64| {
        let mut bytes = Key::default();
        bytes[..size_of::<i64>()].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    lengths.iter().map(bytes).collect()
}

/// Bytes of a row, of one of its places, and of an element.
#[derive(Clone, Copy)]
struct RowSizes {
    row: usize,
    place: usize,
    element: usize,
}

/// Rows of one length are hashed together, as [`blake3_batch`] does.
fn digests_of_prefixes(
    bytes: &[u8],
    sizes: RowSizes,
    lengths: &[i64],
    subsample: Option<usize>,
) -> Vec<Key> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_unstable_by_key(|&row| lengths[row]);
    let mut digests = vec![Key::default(); lengths.len()];
    let mut gathered = Vec::new();
    let parts = order.chunk_by(|&one, &other| lengths[one] == lengths[other]);
    // Some rows at a time, since they are copied.
    let parts = parts.flat_map(|rows| {
        let bytes = lengths[rows[0]] as usize * sizes.place;
        rows.chunks(layout::slices_in_part(bytes))
    });
    for rows in parts {
        let length = lengths[rows[0]] as usize * sizes.place;
        let samples = subsample.filter(|&count| count < length / sizes.element);
        gathered.clear();
        for &row in rows {
            let row = &bytes[row * sizes.row..][..length];
            match samples {
                None => gathered.extend_from_slice(row),
                Some(count) => {
                    for position in layout::sample_positions(count, length / sizes.element) {
                        let at = position as usize * sizes.element;
                        gathered.extend_from_slice(&row[at..at + sizes.element]);
                    }
                }
            }
        }
        let of_rows = blake3_batch::row_digests(&gathered, rows.len(), None);
        for (&row, digest) in rows.iter().zip(of_rows) {
            digests[row] = digest;
        }
    }
    digests
}
