//! Schemas: what the bytes of a row mean, in numbers and names, so that rows are read where no
//! tensor is known. The store does not look into them; whoever computes rows and whoever shows them
//! does. The layout is in `docs/format.md`.
//!
//! ```
//! use torchcache_store::schema::{ElementKind, Part, Schema};
//!
//! let part = |shape| Part {
//!     stored: ElementKind::Half,
//!     output: ElementKind::Float,
//!     place: 0,
//!     shape,
//! };
//! let schema = Schema {
//!     structure: "{pooled:T,layers:[T]}".into(),
//!     parts: vec![part(vec![384]), part(vec![128, 384]), part(vec![128, 384])],
//!     lengths: vec![2],
//! };
//! assert_eq!(schema.names(), ["pooled", "layers.0", "layers.1"]);
//! assert_eq!(schema.parts[0].bytes(), Some(768));
//! assert_eq!(Schema::decode(&schema.encode()), Some(schema));
//! ```

mod kind;
mod names;

pub use kind::ElementKind;
pub use names::names;

/// The version of the layout.
const VERSION: u8 = 2;
const MAX_PARTS: usize = 256;
const MAX_DIMENSIONS: usize = 64;

/// What a row consists of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schema {
    /// How the output is built of its parts: `T` is a tensor, `(TT)` a tuple or an array, `[T]` a
    /// vector, `?T` an option, `{name:T,other:T}` a struct.
    pub structure: String,
    /// The tensors of the output, in order. A row has the elements of each, one after the other.
    pub parts: Vec<Part>,
    /// The lengths of the vectors in the output, in order. An option counts as one of 0 or 1.
    pub lengths: Vec<u32>,
}

/// One tensor of the output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// The kind of its elements as they are stored.
    pub stored: ElementKind,
    /// The kind that the forward gave, and hits are returned in.
    pub output: ElementKind,
    /// Where rows are returned: 0 where the module is at home, else a device by number.
    pub place: u32,
    /// The shape of a row, without the batch.
    pub shape: Vec<i64>,
}

impl Part {
    /// The bytes of a row; `None` where the shape is none, or is too large for any memory.
    pub fn bytes(&self) -> Option<usize> {
        let elements = self.shape.iter().try_fold(1usize, |product, &extent| {
            product.checked_mul(usize::try_from(extent).ok()?)
        })?;
        elements
            .checked_mul(self.stored.size())
            .filter(|&bytes| bytes < isize::MAX as usize)
    }
}

impl Schema {
    /// The bytes of a row; `None` where that is too large for any memory.
    pub fn row_bytes(&self) -> Option<usize> {
        self.parts
            .iter()
            .try_fold(0usize, |sum, part| sum.checked_add(part.bytes()?))
    }

    /// A name for each part: see [`names`].
    pub fn names(&self) -> Vec<String> {
        names(&self.structure, &self.lengths, self.parts.len())
    }

    /// The schema as bytes, as segments keep it.
    ///
    /// `version u8, structure_len u16, structure, parts u16, { stored u8, output u8, place u32,
    /// dimensions u8, extent i64 … } …, lengths u16, length u32 …`, little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend((self.structure.len() as u16).to_le_bytes());
        bytes.extend(self.structure.as_bytes());
        bytes.extend((self.parts.len() as u16).to_le_bytes());
        for part in &self.parts {
            bytes.push(part.stored.code());
            bytes.push(part.output.code());
            bytes.extend(part.place.to_le_bytes());
            bytes.push(part.shape.len() as u8);
            for extent in &part.shape {
                bytes.extend(extent.to_le_bytes());
            }
        }
        bytes.extend((self.lengths.len() as u16).to_le_bytes());
        for length in &self.lengths {
            bytes.extend(length.to_le_bytes());
        }
        bytes
    }

    /// Whether [`encode`](Self::encode) can write this schema: outputs of hundreds of tensors are
    /// not kept.
    pub fn fits(&self) -> bool {
        let dimensions = |part: &Part| part.shape.len() <= MAX_DIMENSIONS;
        self.structure.len() <= crate::segment::MAX_SCHEMA
            && self.parts.len() <= MAX_PARTS
            && self.lengths.len() <= MAX_PARTS
            && self.parts.iter().all(dimensions)
            && self.encode().len() <= crate::segment::MAX_SCHEMA
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else. Sizes are checked here, so
    /// that no later product overflows.
    pub fn decode(mut bytes: &[u8]) -> Option<Schema> {
        let bytes = &mut bytes;
        if take::<1>(bytes)? != [VERSION] {
            return None;
        }
        let length = count(bytes)?;
        let (structure, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        let structure = str::from_utf8(structure).ok()?.to_owned();
        let parts = count(bytes).filter(|&parts| parts <= MAX_PARTS)?;
        let parts: Option<Vec<_>> = (0..parts).map(|_| Part::decode(bytes)).collect();
        let parts = parts?;
        let lengths = (0..count(bytes)?).map(|_| Some(u32::from_le_bytes(take(bytes)?)));
        let lengths: Option<Vec<_>> = lengths.collect();
        let schema = Schema {
            structure,
            parts,
            lengths: lengths?,
        };
        (bytes.is_empty() && schema.row_bytes().is_some()).then_some(schema)
    }
}

impl Part {
    fn decode(bytes: &mut &[u8]) -> Option<Part> {
        let [stored, output] = take(bytes)?;
        let place = u32::from_le_bytes(take(bytes)?);
        let [dimensions] = take(bytes)?;
        if usize::from(dimensions) > MAX_DIMENSIONS {
            return None;
        }
        let shape = (0..dimensions).map(|_| Some(i64::from_le_bytes(take(bytes)?)));
        Some(Part {
            stored: ElementKind::of_code(stored)?,
            output: ElementKind::of_code(output)?,
            place,
            shape: shape.collect::<Option<Vec<_>>>()?,
        })
    }
}

fn count(bytes: &mut &[u8]) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(take(bytes)?)))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk()?;
    *bytes = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        let part = |stored, shape: &[i64]| Part {
            stored,
            output: ElementKind::Float,
            place: 17,
            shape: shape.to_vec(),
        };
        Schema {
            structure: "(T[T])".into(),
            parts: vec![
                part(ElementKind::BFloat16, &[2, 3]),
                part(ElementKind::Int64, &[]),
            ],
            lengths: vec![1],
        }
    }

    #[test]
    fn a_schema_is_laid_out_as_documented() {
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
    fn schemas_come_back_from_their_bytes_and_nothing_else_does() {
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
    fn what_cannot_be_written_does_not_fit() {
        assert!(schema().fits());
        for schema in [
            Schema {
                structure: "T".repeat(5000),
                ..schema()
            },
            Schema {
                parts: vec![schema().parts[1].clone(); 257],
                ..schema()
            },
            Schema {
                lengths: vec![0; 257],
                ..schema()
            },
        ] {
            assert!(!schema.fits(), "{} parts", schema.parts.len());
        }
    }
}
