//! Schemas: what the bytes of a row mean. The store keeps them as bytes and does not look into them;
//! the library that computes rows and the command line that shows them do. The layout is in
//! [`Schema::encode`] and in `docs/format.md`.
//!
//! ```
//! use torchcache_store::schema::{ElementKind, OutputDevice, Schema, TensorSpec};
//!
//! let tensor = |shape| TensorSpec {
//!     stored: ElementKind::Half,
//!     output: ElementKind::Float,
//!     device: OutputDevice::Module,
//!     shape,
//! };
//! let schema = Schema {
//!     structure: "{pooled:T,layers:[T]}".into(),
//!     tensors: vec![tensor(vec![384]), tensor(vec![128, 384]), tensor(vec![128, 384])],
//!     lengths: vec![2],
//! };
//! assert_eq!(schema.names(), ["pooled", "layers.0", "layers.1"]);
//! assert_eq!(schema.tensors[0].bytes(), Some(768));
//! assert_eq!(Schema::decode(&schema.encode()), Some(schema));
//! ```

mod kind;
mod names;
mod tensor;
mod widen;

pub use self::kind::{ElementClass, ElementKind};
pub use self::names::names;
use self::tensor::{MAX_DIMENSIONS, take_bytes};
pub use self::tensor::{OutputDevice, TensorSpec};
use crate::segment::MAX_SCHEMA;

/// The version of the layout.
const VERSION: u8 = 2;

/// The most tensors of an output, and the most vectors and options in it.
const MAX_TENSORS: usize = 256;

/// What a row consists of: the elements of each tensor for that row, contiguous, one tensor after
/// the other. Quantized elements follow their scale, an `f32`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schema {
    /// How the output is built of its tensors: `T` is a tensor, `(TT)` a tuple or an array, `[T]` a
    /// vector, `?T` an option, `%T` a map, `{name:T,other:T}` a struct, `<One:(T),Other:{name:T}>` an enum, and `=` a
    /// plain value.
    pub structure: String,
    /// The tensors of the output, in order.
    pub tensors: Vec<TensorSpec>,
    /// The lengths of the vectors in the output, in order. An option counts as a vector of 0 or 1. An enum has the number
    /// of its variant here, a plain value the number of its bytes and then these, four in a word, and a map its length
    /// and each key, as a plain value, before what it stands for.
    pub lengths: Vec<u32>,
}

impl Schema {
    /// The bytes of a row; `None` if that is too large for any memory.
    pub fn row_bytes(&self) -> Option<usize> {
        self.tensors
            .iter()
            .try_fold(0usize, |sum, tensor| sum.checked_add(tensor.bytes()?))
    }

    /// A name for each tensor: see [`names`].
    pub fn names(&self) -> Vec<String> {
        names(&self.structure, &self.lengths, self.tensors.len())
    }

    /// The bytes of an element, if all tensors are stored in elements of one size; else 1.
    pub fn element_bytes(&self) -> u8 {
        let mut sizes = self.tensors.iter().map(|tensor| tensor.stored.size());
        let first = sizes.next().unwrap_or(1);
        match sizes.all(|size| size == first) {
            true => first as u8,
            false => 1,
        }
    }

    /// Whether both have as many tensors, of the same kinds and numbers of dimensions.
    pub fn has_kinds_of(&self, other: &Schema) -> bool {
        let kinds = |schema: &Schema| -> Vec<_> {
            let tensors = schema.tensors.iter();
            tensors
                .map(|it| (it.stored, it.output, it.shape.len()))
                .collect()
        };
        kinds(self) == kinds(other)
    }

    /// Whether rows of both can be in one batch. The device may differ.
    pub fn agrees(&self, other: &Schema) -> bool {
        let agree = |(left, right): (&TensorSpec, &TensorSpec)| {
            (left.stored, left.output) == (right.stored, right.output) && left.shape == right.shape
        };
        self.lengths == other.lengths
            && self.tensors.len() == other.tensors.len()
            && self.tensors.iter().zip(&other.tensors).all(agree)
    }

    /// The schema as bytes, as segments keep it:
    ///
    /// ```text
    /// version        u8      2
    /// structure_len  u16
    /// structure      UTF-8
    /// tensors        u16     how many
    /// each tensor    stored u8, output u8, device u32, dimensions u8, extents i64 each
    /// lengths        u16     how many
    /// each length    u32
    /// ```
    ///
    /// All numbers are little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend((self.structure.len() as u16).to_le_bytes());
        bytes.extend(self.structure.as_bytes());
        bytes.extend((self.tensors.len() as u16).to_le_bytes());
        for tensor in &self.tensors {
            tensor.encode(&mut bytes);
        }
        bytes.extend((self.lengths.len() as u16).to_le_bytes());
        for length in &self.lengths {
            bytes.extend(length.to_le_bytes());
        }
        bytes
    }

    /// Whether [`encode`](Self::encode) can write this schema. Outputs of hundreds of tensors are not
    /// cached.
    pub fn fits(&self) -> bool {
        let dimensions = |tensor: &TensorSpec| tensor.shape.len() <= MAX_DIMENSIONS;
        self.structure.len() <= MAX_SCHEMA
            && self.tensors.len() <= MAX_TENSORS
            && self.lengths.len() <= MAX_TENSORS
            && self.tensors.iter().all(dimensions)
            && self.encode().len() <= MAX_SCHEMA
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else. Sizes are checked, so
    /// that [`row_bytes`](Self::row_bytes) of the result is never `None`.
    pub fn decode(mut bytes: &[u8]) -> Option<Schema> {
        let bytes = &mut bytes;
        if take_bytes::<1>(bytes)? != [VERSION] {
            return None;
        }
        let length = count(bytes)?;
        let (structure, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        let structure = str::from_utf8(structure).ok()?.to_owned();
        let tensors = count(bytes).filter(|&tensors| tensors <= MAX_TENSORS)?;
        let tensors: Option<Vec<_>> = (0..tensors).map(|_| TensorSpec::decode(bytes)).collect();
        let tensors = tensors?;
        let lengths = (0..count(bytes)?).map(|_| Some(u32::from_le_bytes(take_bytes(bytes)?)));
        let lengths: Option<Vec<_>> = lengths.collect();
        let schema = Schema {
            structure,
            tensors,
            lengths: lengths?,
        };
        (bytes.is_empty() && schema.row_bytes().is_some()).then_some(schema)
    }
}

fn count(bytes: &mut &[u8]) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(take_bytes(bytes)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        let tensor = |stored, shape: &[i64]| TensorSpec {
            stored,
            output: ElementKind::Float,
            device: OutputDevice::Cuda(1),
            shape: shape.to_vec(),
        };
        Schema {
            structure: "(T[T])".into(),
            tensors: vec![
                tensor(ElementKind::BFloat16, &[2, 3]),
                tensor(ElementKind::Int64, &[]),
            ],
            lengths: vec![1],
        }
    }

    #[test]
    fn schema_bytes_are_as_documented() {
        let bytes = [
            &[2, 6, 0][..],
            b"(T[T])",
            &[2, 0],
            &[15, 6, 17, 0, 0, 0, 2],
            &[2, 0, 0, 0, 0, 0, 0, 0],
            &[3, 0, 0, 0, 0, 0, 0, 0],
            &[4, 6, 17, 0, 0, 0, 0],
            &[1, 0, 1, 0, 0, 0],
        ];
        assert_eq!(schema().encode(), bytes.concat());
    }

    #[test]
    fn rows_of_quantized_elements_have_their_scale() {
        let mut schema = schema();
        schema.tensors[0].stored = ElementKind::QInt8;
        assert_eq!(schema.tensors[0].bytes(), Some(4 + 6));
        assert_eq!(schema.row_bytes(), Some(4 + 6 + 8));
        let bytes = schema.encode();
        assert_eq!(bytes[11..13], [12, 6]);
        assert_eq!(Schema::decode(&bytes), Some(schema.clone()));
        // Only floats are quantized, and no tensor is returned so.
        for (stored, output) in [(12, 3), (12, 12), (6, 12)] {
            let mut bytes = bytes.clone();
            bytes[11..13].copy_from_slice(&[stored, output]);
            assert_eq!(Schema::decode(&bytes), None, "{stored} as {output}");
        }
    }

    #[test]
    fn only_encoded_schemas_decode() {
        let bytes = schema().encode();
        assert_eq!(Schema::decode(&bytes), Some(schema()));
        for end in 0..bytes.len() {
            assert_eq!(Schema::decode(&bytes[..end]), None, "prefix of {end}");
        }
        assert_eq!(Schema::decode(&[bytes.as_slice(), &[0]].concat()), None);
        let mut older = bytes.clone();
        older[0] = 1;
        assert_eq!(Schema::decode(&older), None);
        for extent in [i64::MAX, -1] {
            let mut huge = bytes.clone();
            huge[18..26].copy_from_slice(&extent.to_le_bytes());
            assert_eq!(Schema::decode(&huge), None, "{extent}");
        }
    }

    #[test]
    fn schemas_that_cannot_be_encoded_do_not_fit() {
        assert!(schema().fits());
        for schema in [
            Schema {
                structure: "T".repeat(5000),
                ..schema()
            },
            Schema {
                tensors: vec![schema().tensors[1].clone(); 257],
                ..schema()
            },
            Schema {
                lengths: vec![0; 257],
                ..schema()
            },
        ] {
            assert!(!schema.fits(), "{} tensors", schema.tensors.len());
        }
    }
}
