//! The parts of an identity: what was hashed, in the order of the walk, with readable values.

use tch::{Kind, Tensor};

use crate::function::Function;
use crate::{bytes, plain};

/// What a part is, in the words of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Category {
    Code,
    Field,
    Weights,
    Option,
}

/// One thing that went into the hash.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) path: String,
    pub(crate) category: Category,
    /// A short readable value; the digest decides.
    pub(crate) value: String,
    pub(crate) digest: [u8; 32],
}

/// Longer values are cut in the manifest: their digest says whether they changed.
const READABLE: usize = 120;

impl Part {
    fn new(path: &str, category: Category, value: String, digest: blake3::Hash) -> Self {
        Part {
            path: path.to_owned(),
            category,
            value,
            digest: *digest.as_bytes(),
        }
    }

    pub(crate) fn plain(path: &str, type_name: &str, bytes: &[u8], readable: &str) -> Self {
        let digest = digest(&[type_name.as_bytes(), bytes]);
        Part::new(path, Category::Field, shortened(readable), digest)
    }

    pub(crate) fn option(name: &str, value: &str) -> Self {
        Part::new(
            name,
            Category::Option,
            shortened(value),
            digest(&[value.as_bytes()]),
        )
    }

    pub(crate) fn code(path: &str, function: &Function) -> Self {
        let path = if path.is_empty() {
            function.name.to_owned()
        } else {
            format!("{path}.{}", function.name)
        };
        let digest = digest(&[function.name.as_bytes(), function.code.as_bytes()]);
        Part::new(&path, Category::Code, shortened(function.code), digest)
    }

    pub(crate) fn tensor(path: &str, tensor: &Tensor) -> Self {
        let (value, digest) = tensor_digest(tensor);
        Part::new(path, Category::Weights, value, digest)
    }
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

fn shortened(text: &str) -> String {
    match text.char_indices().nth(READABLE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The readable form and digest of a tensor: kind, shape and every byte of its elements.
fn tensor_digest(tensor: &Tensor) -> (String, blake3::Hash) {
    if !tensor.defined() {
        return ("undefined".into(), digest(&[b"undefined"]));
    }
    let mut hasher = blake3::Hasher::new();
    let value = describe(tensor);
    hasher.update(&(value.len() as u64).to_le_bytes());
    hasher.update(value.as_bytes());
    for elements in elements(tensor) {
        // What cannot be read as plain memory on the CPU stands for itself by its printed value.
        let hashed = plain::on_cpu(&elements).and_then(|elements| {
            bytes::read(&elements, |bytes| hasher.update_rayon(bytes).count())
        });
        if hashed.is_err() {
            hasher.update(elements.to_string(80).unwrap_or_default().as_bytes());
        }
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

/// The tensors whose memory holds the elements: itself, or for packed layouts what they unpack to.
fn elements(tensor: &Tensor) -> Vec<Tensor> {
    if plain::is_plain(tensor) {
        return vec![tensor.detach()];
    }
    match tensor.f_kind() {
        Ok(Kind::QInt8 | Kind::QUInt8 | Kind::QInt32) => {
            [tensor.f_int_repr(), tensor.f_dequantize()]
                .into_iter()
                .flatten()
                .collect()
        }
        Ok(kind) => tensor.f_to_dense(kind, false).into_iter().collect(),
        Err(_) => vec![tensor.shallow_clone()],
    }
}
