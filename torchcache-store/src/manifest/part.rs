//! The parts of an identity: what was hashed, with a readable value and a digest.

use std::fmt;

use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

/// Longer values and names are cut; the digest says whether a value changed.
pub(super) const MAX_LETTERS: usize = 120;

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
            value: shortened(readable, MAX_LETTERS),
            digest,
        }
    }
}

/// Cuts a text after so many letters, between grapheme clusters: what looks like one letter stays whole.
///
/// ```
/// use torchcache_store::manifest::shortened;
/// assert_eq!(shortened("layers", 6), "layers");
/// assert_eq!(shortened("layers", 5), "layer…");
/// assert_eq!(shortened("1\u{fe0f}\u{20e3}2\u{fe0f}\u{20e3}", 5), "1\u{fe0f}\u{20e3}…");
/// ```
pub fn shortened(text: &str, letters: usize) -> String {
    let Some((limit, _)) = text.char_indices().nth(letters) else {
        return text.to_owned();
    };
    let starts = text.grapheme_indices(true).map(|(at, _)| at);
    let end = starts.take_while(|at| *at <= limit).last();
    format!("{}…", &text[..end.unwrap_or(0)])
}
