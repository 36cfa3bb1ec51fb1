//! The digest of a tensor, of any layout.

use tch::{Kind, TchError, Tensor};
use torchcache_store::threads;

use super::{layout, parallel, raw};
use crate::device::{self, Digests};

/// Elements are hashed in pieces of this size: a digest for each, and BLAKE3 of these. So a device can
/// hash the pieces side by side.
const PIECE_BYTES: usize = 128 * 1024;

const _: () = assert!(PIECE_BYTES as u64 <= device::MAX_PIECE_BYTES);

/// The digest of a tensor, over its layout, kind, shape and every stored byte.
///
/// # Errors
///
/// Errors of libtorch when it cannot be read.
pub(crate) fn tensor_digest(tensor: &Tensor) -> Result<[u8; 32], TchError> {
    let on_device = hashing_device(tensor).and_then(|device| pieces_on_device(device, tensor));
    match on_device {
        Some(pieces) => digest_of_pieces(tensor, &pieces),
        None => digest_on_host(tensor),
    }
}

/// The digest of a tensor, computed on the host.
///
/// # Errors
///
/// As for [`tensor_digest`].
pub(crate) fn digest_on_host(tensor: &Tensor) -> Result<[u8; 32], TchError> {
    let mut hasher = blake3::Hasher::new();
    let detached = tensor.f_detach()?;
    if layout::is_strided(tensor) {
        hash_strided(&detached, &mut hasher)?;
    } else {
        // Every stored element counts, also a stored zero, which some operations treat differently.
        let (layout, pieces) = stored(&detached)?;
        hasher.update(&NOT_STRIDED.to_le_bytes());
        hash_text(&describe(&detached)?, &mut hasher);
        hash_text(&layout, &mut hasher);
        for piece in pieces {
            hash_strided(&piece, &mut hasher)?;
        }
    }
    Ok(*hasher.finalize().as_bytes())
}

/// The number of the CUDA device that has a tensor and can hash it.
pub(crate) fn hashing_device(tensor: &Tensor) -> Option<usize> {
    let can_copy = || elements_bytes(tensor).is_ok_and(|bytes| bytes <= layout::MAX_COPY_BYTES);
    let can_hash = |_: &usize| raw::device_bytes(tensor).is_some() || can_copy();
    raw::cuda_device(tensor).filter(can_hash)
}

/// How many digests a device computes for a tensor.
///
/// # Errors
///
/// As for [`tensor_digest`].
pub(crate) fn piece_count(tensor: &Tensor) -> Result<usize, TchError> {
    Ok(elements_bytes(tensor)?.div_ceil(PIECE_BYTES))
}

/// Has a device hash the pieces of tensors, in one launch unless their copies would take too much memory.
pub(crate) fn add_tensors(digests: &mut Digests, tensors: &[&Tensor]) -> Option<()> {
    // Copies are dropped before they take more memory than one of them may.
    let (mut contiguous, mut copied) = (Vec::new(), 0);
    for tensor in tensors {
        let bytes = match raw::device_bytes(tensor) {
            Some(_) => 0,
            None => digests.note_error(elements_bytes(tensor))?,
        };
        if copied + bytes > layout::MAX_COPY_BYTES {
            add_pieces(digests, &contiguous)?;
            (contiguous, copied) = (Vec::new(), 0);
        }
        contiguous.push(digests.note_error(layout::contiguous(tensor))?);
        copied += bytes;
    }
    add_pieces(digests, &contiguous)
}

/// The digest of a tensor with pieces of these digests.
///
/// # Errors
///
/// As for [`tensor_digest`].
pub(crate) fn digest_of_pieces(tensor: &Tensor, pieces: &[[u8; 32]]) -> Result<[u8; 32], TchError> {
    let mut hasher = blake3::Hasher::new();
    hash_text(&describe(tensor)?, &mut hasher);
    hasher.update(pieces.as_flattened());
    Ok(*hasher.finalize().as_bytes())
}

fn pieces_on_device(device: usize, tensor: &Tensor) -> Option<Vec<[u8; 32]>> {
    let mut digests = Digests::new(device, piece_count(tensor).ok()?)?;
    add_tensors(&mut digests, &[tensor])?;
    digests.copy_to_host()
}

/// Adds the digests of the pieces of contiguous tensors.
fn add_pieces(digests: &mut Digests, tensors: &[Tensor]) -> Option<()> {
    let rows = tensors.iter().map(raw::device_bytes);
    let rows: Vec<_> = rows.collect::<Option<_>>()?;
    let pieces = rows
        .into_iter()
        .flat_map(|row| row.pieces(PIECE_BYTES as u64));
    digests.add_pieces(&pieces.collect::<Vec<_>>())
}

fn elements_bytes(tensor: &Tensor) -> Result<usize, TchError> {
    Ok(tensor.numel() * tensor.f_kind()?.elt_size_in_bytes())
}

/// Starts the digest of another layout: the digest of a strided tensor starts with the length of its
/// description, which is shorter.
const NOT_STRIDED: u64 = u64::MAX;

/// The kind and shape of a tensor as text.
pub(crate) fn describe(tensor: &Tensor) -> Result<String, TchError> {
    Ok(format!("{:?}{:?}", tensor.f_kind()?, raw::shape(tensor)?))
}

fn hash_text(text: &str, hasher: &mut blake3::Hasher) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

fn hash_strided(tensor: &Tensor, hasher: &mut blake3::Hasher) -> Result<(), TchError> {
    hash_text(&describe(tensor)?, hasher);
    let mut pieces = Pieces {
        hasher,
        rest: Vec::new(),
    };
    layout::for_each_part(tensor, &mut |bytes| pieces.add(bytes))?;
    pieces.end();
    Ok(())
}

/// Hashes elements that come in parts of any length in pieces of [`PIECE_BYTES`].
struct Pieces<'h> {
    hasher: &'h mut blake3::Hasher,
    /// The beginning of the next piece.
    rest: Vec<u8>,
}

impl Pieces<'_> {
    fn add(&mut self, mut bytes: &[u8]) {
        if !self.rest.is_empty() {
            let missing = PIECE_BYTES - self.rest.len();
            let (next, after) = bytes.split_at(missing.min(bytes.len()));
            self.rest.extend_from_slice(next);
            bytes = after;
            if self.rest.len() == PIECE_BYTES {
                self.end();
            }
        }
        let (whole, rest) = bytes.split_at(bytes.len() / PIECE_BYTES * PIECE_BYTES);
        for digest in piece_digests(whole) {
            self.hasher.update(&digest);
        }
        self.rest.extend_from_slice(rest);
    }

    /// Hashes the rest as the last piece.
    fn end(&mut self) {
        if !self.rest.is_empty() {
            self.hasher.update(blake3::hash(&self.rest).as_bytes());
            self.rest.clear();
        }
    }
}

fn piece_digests(bytes: &[u8]) -> Vec<[u8; 32]> {
    let mut digests = vec![[0; 32]; bytes.len().div_ceil(PIECE_BYTES)];
    let jobs = digests.iter_mut().zip(bytes.chunks(PIECE_BYTES));
    threads::for_each(parallel::workers(bytes.len()), jobs, |(digest, piece)| {
        *digest = *blake3::hash(piece).as_bytes();
    });
    digests
}

/// The name of a layout that is not strided, and the strided tensors that it consists of.
fn stored(tensor: &Tensor) -> Result<(String, Vec<Tensor>), TchError> {
    if matches!(tensor.f_kind()?, Kind::QInt8 | Kind::QUInt8 | Kind::QInt32) {
        let integers = tensor.f_int_repr()?;
        return Ok(match tensor.f_q_per_channel_axis() {
            Ok(axis) => {
                let scales = tensor.f_q_per_channel_scales()?;
                let zeros = tensor.f_q_per_channel_zero_points()?;
                let layout = format!("quantized by channels of dimension {axis}");
                (layout, vec![integers, scales, zeros])
            }
            Err(_) => {
                let (scale, zero) = (tensor.f_q_scale()?.to_bits(), tensor.f_q_zero_point()?);
                (format!("quantized {scale} {zero}"), vec![integers])
            }
        });
    }
    if tensor.is_sparse() {
        let coalesced = tensor.f_is_coalesced()?;
        let pieces = vec![tensor.f_internal_indices()?, tensor.f_internal_values()?];
        return Ok((format!("sparse {coalesced}"), pieces));
    }
    if let Ok(rows) = tensor.f_crow_indices() {
        let pieces = vec![rows, tensor.f_col_indices()?, tensor.f_values()?];
        return Ok(("compressed rows".into(), pieces));
    }
    if let Ok(columns) = tensor.f_ccol_indices() {
        let pieces = vec![columns, tensor.f_row_indices()?, tensor.f_values()?];
        return Ok(("compressed columns".into(), pieces));
    }
    Ok(("opaque".into(), vec![tensor.f_to_dense(None, false)?]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn digest_of(tensor: &Tensor) -> [u8; 32] {
        tensor_digest(tensor).unwrap()
    }

    #[test]
    fn sparse_and_quantized_weights_are_hashed_by_element() {
        let dense = |value: f32| Tensor::from_slice(&[0.0, value, 0.0, 2.0]).view([2, 2]);
        let sparse = |value: f32| dense(value).to_sparse(None, None::<&[i64]>, None);
        let quantized = |value: f32| dense(value).quantize_per_tensor(0.5, 0, Kind::QInt8);
        assert_eq!(digest_of(&sparse(1.0)), digest_of(&sparse(1.0)));
        assert_ne!(digest_of(&sparse(1.0)), digest_of(&sparse(3.0)));
        assert_eq!(digest_of(&quantized(1.0)), digest_of(&quantized(1.0)));
        assert_ne!(digest_of(&quantized(1.0)), digest_of(&quantized(3.0)));
    }

    /// A golden value: if it changes, so must the formats of module hashes and of keys.
    #[test]
    fn elements_are_hashed_in_pieces() {
        let bytes: Vec<u8> = (0..PIECE_BYTES + 5).map(|at| at as u8).collect();
        let digest = digest_of(&Tensor::from_slice(&bytes));
        let mut expected = blake3::Hasher::new();
        let description = format!("Uint8[{}]", bytes.len());
        expected.update(&(description.len() as u64).to_le_bytes());
        expected.update(description.as_bytes());
        expected.update(blake3::hash(&bytes[..PIECE_BYTES]).as_bytes());
        expected.update(blake3::hash(&bytes[PIECE_BYTES..]).as_bytes());
        assert_eq!(digest, *expected.finalize().as_bytes());
    }

    /// Some operations use scale, zero point and axis even where no value shows them.
    #[test]
    fn quantization_parameters_are_hashed() {
        let zeros = Tensor::zeros([2, 2], (Kind::Float, Device::Cpu));
        let one = |scale, zero| zeros.quantize_per_tensor(scale, zero, Kind::QInt8);
        let channels = |scales: [f64; 2], zero: [i64; 2], axis| {
            let (scales, zero) = (Tensor::from_slice(&scales), Tensor::from_slice(&zero));
            zeros.quantize_per_channel(&scales, &zero, axis, Kind::QInt8)
        };
        let distinct = [
            one(0.5, 0),
            one(0.25, 0),
            one(0.5, 1),
            zeros
                .narrow(0, 0, 0)
                .quantize_per_tensor(0.5, 0, Kind::QInt8),
            zeros
                .narrow(0, 0, 0)
                .quantize_per_tensor(0.5, 1, Kind::QInt8),
            channels([0.5, 0.5], [0, 0], 0),
            channels([0.5, 0.25], [0, 0], 0),
            channels([0.5, 0.5], [0, 1], 0),
            channels([0.5, 0.5], [0, 0], 1),
        ];
        let digests: std::collections::HashSet<_> = distinct.iter().map(digest_of).collect();
        assert_eq!(digests.len(), distinct.len());
        assert_eq!(
            digest_of(&channels([0.5, 0.25], [0, 0], 0)),
            digest_of(&distinct[6])
        );
    }

    #[test]
    fn a_strided_tensor_never_hashes_like_a_sparse_one() {
        let ten = Tensor::arange(44, (Kind::Float, Device::Cpu))
            .lt(10)
            .to_kind(Kind::Float);
        let sparse = ten.to_sparse(None, None::<&[i64]>, None).coalesce();
        let (layout, pieces) = stored(&sparse).unwrap();
        let mut bytes = Vec::new();
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        };
        text(&mut bytes, &layout);
        for piece in &pieces {
            text(&mut bytes, &describe(piece).unwrap());
            bytes.extend(raw::view(piece).unwrap());
        }
        let (floats, rest) = bytes.as_chunks();
        assert!(rest.is_empty());
        let floats: Vec<f32> = floats
            .iter()
            .map(|&float| f32::from_le_bytes(float))
            .collect();
        let plain = Tensor::from_slice(&floats);
        assert_eq!(describe(&plain).unwrap(), describe(&sparse).unwrap());
        assert_ne!(digest_of(&plain), digest_of(&sparse));
    }

    /// A stored zero matters: a sparse softmax gives it a share.
    #[test]
    fn stored_elements_and_layout_are_hashed() {
        let index = |columns: &[i64]| {
            let rows = vec![0; columns.len()];
            Tensor::from_slice(&[rows.as_slice(), columns].concat()).view([2, -1])
        };
        let coo = |columns: &[i64], values: &[f32]| {
            let values = Tensor::from_slice(values);
            let options = (Kind::Float, Device::Cpu);
            Tensor::sparse_coo_tensor_indices_size(&index(columns), &values, [1, 2], options, false)
        };
        let one = coo(&[0], &[1.0]);
        let dense = one.to_dense(None::<Kind>, false);
        let distinct = [
            coo(&[0, 1], &[1.0, 0.0]),
            coo(&[0, 0], &[0.5, 0.5]),
            one.to_sparse_csr(None),
            one.to_sparse_csc(None),
            one.coalesce(),
            one,
            dense,
        ];
        let digests: std::collections::HashSet<_> = distinct.iter().map(digest_of).collect();
        assert_eq!(digests.len(), distinct.len());
        assert_eq!(digest_of(&coo(&[0], &[1.0])), digest_of(&distinct[5]));
        let huge = Tensor::from_slice(&[7i64, 7]).view([2, 1]);
        let huge = |value: f32| {
            let values = Tensor::from_slice(&[value]);
            let options = (Kind::Float, Device::Cpu);
            let size = [1_000_000, 1_000_000];
            Tensor::sparse_coo_tensor_indices_size(&huge, &values, size, options, false)
        };
        assert_eq!(
            digest_of(&huge(1.0)),
            digest_of(&huge(1.0)),
            "not converted to dense"
        );
        assert_ne!(digest_of(&huge(1.0)), digest_of(&huge(2.0)));
    }

    /// Copied in parts, whose ends are not those of pieces.
    #[test]
    fn a_large_strided_tensor_has_the_digest_of_its_copy() {
        let float = (Kind::Float, Device::Cpu);
        for tensor in [
            Tensor::rand([3_001, 2_003], float).tr(),
            Tensor::rand([1, 5_000_003], float).expand([2, 5_000_003], false),
            Tensor::rand([2, 2_500_001, 2], float).narrow(2, 1, 1),
            Tensor::rand([7, 1, 3], float).expand([7, 1_000_001, 3], false),
        ] {
            let copy = tensor.contiguous();
            assert!(copy.is_contiguous() && !tensor.is_contiguous());
            assert_eq!(digest_of(&tensor), digest_of(&copy), "{:?}", tensor.size());
        }
    }

    #[test]
    fn kind_and_shape_are_hashed_and_strides_are_not() {
        let tensor = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        let strided = tensor.tr().contiguous().tr();
        assert_eq!(digest_of(&tensor), digest_of(&strided));
        assert_ne!(digest_of(&tensor), digest_of(&tensor.view([3, 2])));
        assert_ne!(digest_of(&tensor), digest_of(&tensor.view_dtype(Kind::Int)));
    }
}
