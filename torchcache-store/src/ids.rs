//! Ids of samples, and the keys of rows that have them. `docs/format.md` has the layout.

use blake3::BLOCK_LEN;

use crate::key::Key;

/// The kind of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// An integer of any size.
    Integer,
    /// Text, or a path.
    Text,
    /// Bytes.
    Bytes,
    /// Several ids.
    Tuple,
    /// A list of integers other than bytes.
    Integers,
}

impl IdKind {
    /// Its name in the prefix of keys.
    pub fn name(self) -> &'static str {
        match self {
            IdKind::Integer => "integer id",
            IdKind::Text => "text id",
            IdKind::Bytes => "bytes id",
            IdKind::Tuple => "tuple id",
            IdKind::Integers => "integers id",
        }
    }
}

/// What the key of a row has of its id: no other id of the kind has the same.
pub type IdBytes = [u8; 32];

/// An integer, by its bytes in two's complement, the lowest first. Equal integers of all sizes are equal.
///
/// # Panics
///
/// More than 32 bytes.
pub fn integer(bytes: &[u8], is_negative: bool) -> IdBytes {
    let mut id = [if is_negative { 0xff } else { 0 }; 32];
    id[..bytes.len()].copy_from_slice(bytes);
    id
}

/// The bytes of a text, a path or bytes.
pub fn bytes(bytes: &[u8]) -> IdBytes {
    *blake3::hash(bytes).as_bytes()
}

/// A list of integers.
pub fn integers(list: impl IntoIterator<Item = i128>) -> IdBytes {
    let mut hasher = blake3::Hasher::new();
    for integer in list {
        hasher.update(&integer.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Several ids, in order.
pub fn tuple(elements: impl IntoIterator<Item = (IdKind, IdBytes)>) -> IdBytes {
    // Each element takes 33 bytes.
    let mut hasher = blake3::Hasher::new();
    for (kind, id) in elements {
        hasher.update(&[kind as u8]).update(&id);
    }
    *hasher.finalize().as_bytes()
}

/// The key of the row with an id. `prefix`: what all keys of the call have in common.
pub fn row_key(prefix: &Key, id: &IdBytes) -> Key {
    let mut block = [0; BLOCK_LEN];
    block[..id.len()].copy_from_slice(id);
    *blake3::keyed_hash(prefix, &block).as_bytes()
}
