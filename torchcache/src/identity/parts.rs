//! The parts of an identity: what was hashed, in the order of the walk, with readable values.

use tch::{Kind, TchError, Tensor};
pub(crate) use torchcache_store::manifest::{Category, Part};

use crate::function::Function;
use crate::{parallel, plain, raw};

/// A part whose digest is of these pieces.
fn of_pieces(path: &str, category: Category, readable: &str, pieces: &[&[u8]]) -> Part {
    Part::new(path, category, readable, *digest(pieces).as_bytes())
}

/// A plain value.
pub(crate) fn plain(path: &str, type_name: &str, bytes: &[u8], readable: &str) -> Part {
    of_pieces(
        path,
        Category::Field,
        readable,
        &[type_name.as_bytes(), bytes],
    )
}

/// An option of the cache.
pub(crate) fn option(name: &str, value: &str) -> Part {
    of_pieces(name, Category::Option, value, &[value.as_bytes()])
}

/// The code of a function.
pub(crate) fn code(path: &str, function: &Function) -> Part {
    let path = match path {
        "" => function.name.to_owned(),
        path => format!("{path}.{}", function.name),
    };
    let pieces = [function.name.as_bytes(), function.code.as_bytes()];
    of_pieces(&path, Category::Code, function.code, &pieces)
}

/// A weight or a buffer.
pub(crate) fn tensor(path: &str, tensor: &Tensor) -> Part {
    let (readable, digest) = described(tensor);
    Part::new(path, Category::Weights, &readable, digest)
}

/// Collects the parts of one identity.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    pub(crate) parts: Vec<Part>,
}

impl Collector {
    pub(crate) fn add(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// BLAKE3 over every part's path, category and digest, each with its length.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for part in &self.parts {
            hasher.update(&(part.path.len() as u64).to_le_bytes());
            hasher.update(part.path.as_bytes());
            hasher.update(&[part.category as u8]);
            hasher.update(&part.digest);
        }
        *hasher.finalize().as_bytes()
    }
}

/// BLAKE3 over pieces, each with its length, so that nothing runs together.
fn digest(pieces: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        hasher.update(&(piece.len() as u64).to_le_bytes());
        hasher.update(piece);
    }
    hasher.finalize()
}

/// The digest of a tensor: of its layout, kind, shape and every byte that it stores.
///
/// # Errors
///
/// Whatever libtorch says when it cannot be read.
pub(crate) fn tensor_digest(tensor: &Tensor) -> Result<[u8; 32], TchError> {
    let mut hasher = begun(tensor);
    hash_elements(tensor, &mut hasher)?;
    Ok(*hasher.finalize().as_bytes())
}

/// The readable form of a tensor, and its digest. What cannot be read must not be taken for
/// something else: it is nobody's equal.
fn described(tensor: &Tensor) -> (String, [u8; 32]) {
    if !tensor.defined() {
        return ("undefined".into(), *digest(&[b"undefined"]).as_bytes());
    }
    let digest = tensor_digest(tensor).unwrap_or_else(|_| unique());
    let shown = blake3::Hash::from_bytes(digest).to_hex();
    (format!("{} {}", describe(tensor), &shown[..16]), digest)
}

fn begun(tensor: &Tensor) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    let value = describe(tensor);
    hasher.update(&(value.len() as u64).to_le_bytes());
    hasher.update(value.as_bytes());
    hasher
}

fn describe(tensor: &Tensor) -> String {
    match tensor.f_kind() {
        Ok(kind) => format!("{kind:?}{:?}", tensor.size()),
        Err(error) => format!("{error}{:?}", tensor.size()),
    }
}

fn hash_elements(tensor: &Tensor, hasher: &mut blake3::Hasher) -> Result<(), TchError> {
    if plain::is_plain(tensor) {
        return hash_plain(&tensor.f_detach()?, hasher);
    }
    // What is stored counts, a zero as well: there are operations that see the difference.
    let (layout, pieces) = stored(&tensor.f_detach()?)?;
    hasher.update(&(layout.len() as u64).to_le_bytes());
    hasher.update(layout.as_bytes());
    for piece in pieces {
        let shape = describe(&piece);
        hasher.update(&(shape.len() as u64).to_le_bytes());
        hasher.update(shape.as_bytes());
        hash_plain(&piece, hasher)?;
    }
    Ok(())
}

fn hash_plain(tensor: &Tensor, hasher: &mut blake3::Hasher) -> Result<(), TchError> {
    let elements = plain::on_cpu(tensor)?;
    parallel::update(hasher, raw::view(&elements)?);
    Ok(())
}

/// What a packed layout is called, and the plain tensors that it is made of.
fn stored(tensor: &Tensor) -> Result<(String, Vec<Tensor>), TchError> {
    if matches!(tensor.f_kind()?, Kind::QInt8 | Kind::QUInt8 | Kind::QInt32) {
        // One scale for all, or else one for each channel, which the values show.
        let scale = tensor.f_q_scale().map(f64::to_bits);
        let pieces = vec![tensor.f_int_repr()?, tensor.f_dequantize()?];
        return Ok((format!("quantized {:?}", scale.ok()), pieces));
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

/// Bytes that no other call in any process returns.
pub(crate) fn unique() -> [u8; 32] {
    use std::hash::{BuildHasher, RandomState};
    let random = [(); 4].map(|()| RandomState::new().hash_one(std::time::SystemTime::now()));
    *blake3::hash(&random.map(u64::to_le_bytes).concat()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn digest_of(tensor: &Tensor) -> [u8; 32] {
        super::tensor("", tensor).digest
    }

    #[test]
    fn packed_weights_are_known_by_their_elements() {
        let dense = |value: f32| Tensor::from_slice(&[0.0, value, 0.0, 2.0]).view([2, 2]);
        let sparse = |value: f32| dense(value).to_sparse(None, None::<&[i64]>, None);
        let quantized = |value: f32| dense(value).quantize_per_tensor(0.5, 0, Kind::QInt8);
        assert_eq!(digest_of(&sparse(1.0)), digest_of(&sparse(1.0)));
        assert_ne!(digest_of(&sparse(1.0)), digest_of(&sparse(3.0)));
        assert_eq!(digest_of(&quantized(1.0)), digest_of(&quantized(1.0)));
        assert_ne!(digest_of(&quantized(1.0)), digest_of(&quantized(3.0)));
        let scaled = |scale| {
            dense(0.0)
                .zeros_like()
                .quantize_per_tensor(scale, 0, Kind::QInt8)
        };
        assert_ne!(digest_of(&scaled(0.5)), digest_of(&scaled(0.25)));
    }

    /// There are operations that see a stored zero: a sparse softmax gives it a share.
    #[test]
    fn what_a_sparse_tensor_stores_counts_and_so_does_its_layout() {
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
            "it is not made dense"
        );
        assert_ne!(digest_of(&huge(1.0)), digest_of(&huge(2.0)));
    }

    #[test]
    fn kind_shape_and_layout_are_told_apart_as_they_should() {
        let tensor = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        let strided = tensor.tr().contiguous().tr();
        assert_eq!(digest_of(&tensor), digest_of(&strided));
        assert_ne!(digest_of(&tensor), digest_of(&tensor.view([3, 2])));
        assert_ne!(digest_of(&tensor), digest_of(&tensor.view_dtype(Kind::Int)));
        assert_ne!(digest_of(&Tensor::new()), digest_of(&tensor));
    }
}
