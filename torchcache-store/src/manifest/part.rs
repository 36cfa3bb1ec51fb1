//! The parts of an identity: what was hashed, with a readable value and a digest.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longer values and names are cut; the digest says whether a value changed.
const MAX_LETTERS: usize = 120;

/// One part of an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityPart {
    /// The category.
    pub category: Category,
    /// The path in the module. Several parts may have one path.
    pub path: String,
    /// A short readable value. Only the digest decides whether parts are equal.
    pub value: String,
    /// The BLAKE3 digest of its bytes.
    #[serde(with = "hex")]
    pub digest: [u8; 32],
}

/// The category of a part. The numbers are part of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// The code of a function.
    Code = 0,
    /// A plain value.
    Field = 1,
    /// A tensor.
    Weights = 2,
    /// An option that changes the contents of rows.
    Option = 3,
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Category::Code => "code",
            Category::Field => "field",
            Category::Weights => "weights",
            Category::Option => "option",
        })
    }
}

impl IdentityPart {
    /// A part with a readable value of any length, which is cut if necessary.
    pub fn new(path: &str, category: Category, readable: &str, digest: [u8; 32]) -> IdentityPart {
        IdentityPart {
            category,
            path: path.to_owned(),
            value: shortened(readable),
            digest,
        }
    }
}

/// Cuts a text after [`MAX_LETTERS`].
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_LETTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
