//! The parts of an identity: a digest of each hashed value, in the order of the walk, with its
//! readable form.

use std::any::Any;
use std::collections::BTreeSet;
use std::iter;
use std::sync::Arc;

use tch::Tensor;
pub(crate) use torchcache_store::manifest::{Category, IdentityPart};

use crate::function::{BuildInput, BuildValue, Function};
use crate::sync::Progress;
use crate::tensor::digest::{describe, tensor_digest};

/// A part with the digest of some pieces, each with its length, so that nothing runs together.
fn part(path: &str, category: Category, readable: &str, pieces: &[&[u8]]) -> IdentityPart {
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        hasher.update(&(piece.len() as u64).to_le_bytes());
        hasher.update(piece);
    }
    IdentityPart::new(path, category, readable, *hasher.finalize().as_bytes())
}

/// A plain value.
pub(crate) fn plain(path: &str, type_name: &str, bytes: &[u8], readable: &str) -> IdentityPart {
    part(
        path,
        Category::Field,
        readable,
        &[type_name.as_bytes(), bytes],
    )
}

/// An option of the cache.
pub(crate) fn option(name: &str, value: &str) -> IdentityPart {
    part(name, Category::Option, value, &[value.as_bytes()])
}

/// The code of a function, and what the compiler put into it.
pub(crate) fn code(path: &str, function: &Function) -> impl Iterator<Item = IdentityPart> {
    let path = match path {
        "" => function.name.to_owned(),
        path => format!("{path}.{}", function.name),
    };
    let name = function.full_name();
    let version = function.options.version;
    let pieces = [
        name.as_bytes(),
        function.code.as_bytes(),
        version.as_bytes(),
    ];
    let code = part(&path, Category::Code, function.code, &pieces);
    let inputs = function.inputs.iter();
    let inputs = inputs.map(move |input| build_input(&format!("{path}: {}", input.name), input));
    iter::once(code).chain(inputs)
}

fn build_input(path: &str, input: &BuildInput) -> IdentityPart {
    let (kind, bytes) = input.value.bytes();
    let readable = match &input.value {
        BuildValue::Cfg(value) => value.to_string(),
        BuildValue::Variable(None) => "not set".to_owned(),
        // Not readable, since it may be a secret.
        BuildValue::Variable(Some(_)) | BuildValue::File(_) => shown(bytes),
    };
    part(path, Category::Code, &readable, &[kind, bytes])
}

/// How many bytes, and which.
fn shown(bytes: &[u8]) -> String {
    format!(
        "{} bytes {}",
        bytes.len(),
        &blake3::hash(bytes).to_hex()[..16]
    )
}

/// What stands for code that is unknown.
pub(crate) fn unknown_code(path: &str, type_name: &str, program: [u8; 32]) -> IdentityPart {
    let readable = format!("the program or library, for the code of {type_name}");
    part(
        path,
        Category::Code,
        &readable,
        &[type_name.as_bytes(), &program],
    )
}

/// A weight or a buffer. One that cannot be read gets a unique digest, so that it equals no other.
pub(crate) fn tensor(path: &str, tensor: &Tensor) -> IdentityPart {
    if !tensor.defined() {
        return part(path, Category::Weights, "undefined", &[b"undefined"]);
    }
    let digest = tensor_digest(tensor).unwrap_or_else(|_| unique());
    let shown = blake3::Hash::from_bytes(digest).to_hex();
    let described = describe(tensor).unwrap_or_else(|_| "unreadable".into());
    let readable = format!("{described} {}", &shown[..16]);
    IdentityPart::new(path, Category::Weights, &readable, digest)
}

/// A claim that ends when it is dropped.
pub(crate) type Claim = Arc<dyn Any + Send + Sync>;

/// Collects the parts of one identity.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    pub(crate) parts: Vec<IdentityPart>,
    /// A value could not be read, since another thread holds its lock.
    pub(crate) locked: bool,
    /// A tensor cannot be hashed.
    pub(crate) unreadable: bool,
    /// Gradients are recorded for a tensor.
    pub(crate) records_gradients: bool,
    /// Whether a TorchScript module in train mode is among them.
    pub(crate) in_train_mode: bool,
    /// Whether the weights of a module among them are watched only through a `VarStore`.
    pub(crate) needs_variables: bool,
    /// Whether a `VarStore` is among them.
    pub(crate) has_variables: bool,
    /// How many weights and modules are among them. A type with one of these in its fields has code.
    pub(crate) modules: usize,
    /// The types whose code is unknown.
    pub(crate) unknown_code: BTreeSet<&'static str>,
    /// The claims of what is hashed.
    pub(crate) claims: Vec<Claim>,
    /// The functions whose code is hashed, with their modules, and the modules whose options are.
    pub(crate) functions: BTreeSet<[u8; 32]>,
    /// Shows that hashing goes on.
    pub(crate) progress: Arc<Progress>,
}

impl Collector {
    pub(crate) fn add(&mut self, part: IdentityPart) {
        self.parts.push(part);
    }

    /// BLAKE3 over every part's path, category and digest, each with its length.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest_from(0, "")
    }

    /// The same for the parts from `start` on, with their paths below `parent`.
    pub(crate) fn digest_from(&self, start: usize, parent: &str) -> [u8; 32] {
        digest(&self.parts[start..], parent)
    }
}

/// BLAKE3 over the path below `parent`, the category and the digest of each part.
pub(super) fn digest<'p>(
    parts: impl IntoIterator<Item = &'p IdentityPart>,
    parent: &str,
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        let path = part.path.strip_prefix(parent).unwrap_or(&part.path);
        let path = match parent {
            "" => path,
            _ => path.strip_prefix('.').unwrap_or(path),
        };
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path.as_bytes());
        hasher.update(&[part.category as u8]);
        hasher.update(&part.digest);
    }
    *hasher.finalize().as_bytes()
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

    #[test]
    fn an_undefined_tensor_has_a_digest_of_its_own() {
        let undefined = tensor("", &Tensor::new()).digest;
        assert_eq!(tensor("", &Tensor::new()).digest, undefined);
        assert_ne!(
            tensor("", &Tensor::from_slice(&[0i64; 0])).digest,
            undefined
        );
    }
}
