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
    Part::new(path, Category::Weights, &readable, *digest.as_bytes())
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

/// The digest of a tensor: of its kind, its shape and every byte of its elements.
pub(crate) fn tensor_digest(tensor: &Tensor) -> [u8; 32] {
    *described(tensor).1.as_bytes()
}

/// The readable form of a tensor, and its digest.
fn described(tensor: &Tensor) -> (String, blake3::Hash) {
    if !tensor.defined() {
        return ("undefined".into(), digest(&[b"undefined"]));
    }
    let mut hasher = blake3::Hasher::new();
    let value = describe(tensor);
    hasher.update(&(value.len() as u64).to_le_bytes());
    hasher.update(value.as_bytes());
    // What cannot be read must not be taken for something else: it is nobody's equal.
    if hash_elements(tensor, &mut hasher).is_err() {
        hasher.update(&unique());
    }
    let digest = hasher.finalize();
    (format!("{value} {}", &digest.to_hex()[..16]), digest)
}

fn describe(tensor: &Tensor) -> String {
    match tensor.f_kind() {
        Ok(kind) => format!("{kind:?}{:?}", tensor.size()),
        Err(error) => format!("{error}{:?}", tensor.size()),
    }
}

fn hash_elements(tensor: &Tensor, hasher: &mut blake3::Hasher) -> Result<(), TchError> {
    for elements in elements(tensor)? {
        let elements = plain::on_cpu(&elements)?;
        parallel::update(hasher, raw::view(&elements)?);
    }
    Ok(())
}

/// The tensors whose memory holds the elements: itself, or for packed layouts what they unpack to.
fn elements(tensor: &Tensor) -> Result<Vec<Tensor>, TchError> {
    if plain::is_plain(tensor) {
        return Ok(vec![tensor.f_detach()?]);
    }
    match tensor.f_kind()? {
        Kind::QInt8 | Kind::QUInt8 | Kind::QInt32 => {
            Ok(vec![tensor.f_int_repr()?, tensor.f_dequantize()?])
        }
        _ => Ok(vec![tensor.f_detach()?.f_to_dense(None, false)?]),
    }
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
