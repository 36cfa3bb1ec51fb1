//! [`Schema`]: what the bytes of a row mean. The way between tensors and bytes is in `packing.rs`.
//!
//! In the tiers a row is one run of bytes: the elements of each output tensor for that row, one
//! after the other. So a batch of rows is one `[rows, row_bytes]` tensor of bytes ("packed"),
//! whatever kinds and shapes it holds, and gathering or storing it is one call.

mod packing;

use tch::{Device, Kind, TchError, Tensor};

use crate::plain;

/// What a row consists of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Schema {
    parts: Vec<Part>,
    /// The lengths of the vectors in the output, in order.
    lengths: Vec<u32>,
}

/// One output tensor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Part {
    /// The kind in the cache.
    stored: Kind,
    /// The kind the forward gave, and hits are returned in.
    output: Kind,
    place: Place,
    /// The shape of a row.
    shape: Vec<i64>,
}

/// Where the forward left its output. In terms of where the module is at home (the device of its
/// weights, or where it has none, of its input) where it can be, so that a cache made on a GPU
/// serves a run without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    AtHome,
    On(Device),
}

/// The version of [`Schema::encode`]'s layout.
const VERSION: u8 = 1;
const MAX_PARTS: usize = 256;
const MAX_DIMENSIONS: usize = 64;

impl Schema {
    /// The schema of a forward's outputs, which must be plain and have a batch dimension.
    pub(crate) fn of(
        tensors: &[Tensor],
        lengths: Vec<u32>,
        cache_dtype: Option<Kind>,
        home: Device,
    ) -> Result<Self, TchError> {
        let part = |tensor: &Tensor| {
            let output = tensor.f_kind()?;
            let device = tensor.device();
            Ok(Part {
                stored: cache_dtype.filter(|_| is_float(output)).unwrap_or(output),
                output,
                place: if device == home {
                    Place::AtHome
                } else {
                    Place::On(device)
                },
                shape: tensor.size()[1..].to_vec(),
            })
        };
        Ok(Schema {
            parts: tensors.iter().map(part).collect::<Result<_, TchError>>()?,
            lengths,
        })
    }

    pub(crate) fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// For each part its kind in the cache, and the one that the forward gave.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (Kind, Kind)> {
        self.parts.iter().map(|part| (part.stored, part.output))
    }

    /// Whether rows of both can stand in one batch: where they were computed does not matter.
    pub(crate) fn agrees(&self, other: &Schema) -> bool {
        let same = |(left, right): (&Part, &Part)| {
            (left.stored, left.output) == (right.stored, right.output) && left.shape == right.shape
        };
        self.lengths == other.lengths
            && self.parts.len() == other.parts.len()
            && self.parts.iter().zip(&other.parts).all(same)
    }

    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.parts.iter().map(Part::bytes).sum()
    }

    /// Bytes of an element, where all of them are of one size; else 1.
    pub(crate) fn element_bytes(&self) -> u8 {
        let mut sizes = self
            .parts
            .iter()
            .map(|part| part.stored.elt_size_in_bytes());
        let first = sizes.next().unwrap_or(1);
        if sizes.all(|size| size == first) {
            first as u8
        } else {
            1
        }
    }

    /// Where rows are returned: all parts of an output live together but in rare models, so
    /// packed rows are gathered on the device of the first.
    pub(crate) fn device(&self, home: Device) -> Device {
        self.parts.first().map_or(home, |part| part.device(home))
    }

    /// The schema as bytes, as the store keeps it beside its rows. See `docs/format.md`.
    ///
    /// `version u8, parts u16, { stored u8, output u8, place u32, dimensions u8, extent i64 … } …,
    /// lengths u16, length u32 …`, little-endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend((self.parts.len() as u16).to_le_bytes());
        for part in &self.parts {
            bytes.push(plain::kind_code(part.stored));
            bytes.push(plain::kind_code(part.output));
            bytes.extend(part.place.code().to_le_bytes());
            bytes.push(part.shape.len() as u8);
            part.shape
                .iter()
                .for_each(|extent| bytes.extend(extent.to_le_bytes()));
        }
        bytes.extend((self.lengths.len() as u16).to_le_bytes());
        self.lengths
            .iter()
            .for_each(|length| bytes.extend(length.to_le_bytes()));
        bytes
    }

    /// Whether [`encode`](Self::encode) can write this schema: outputs of hundreds of tensors are
    /// not cached.
    pub(crate) fn fits(&self) -> bool {
        self.parts.len() <= MAX_PARTS
            && self.lengths.len() <= MAX_PARTS
            && self
                .parts
                .iter()
                .all(|part| part.shape.len() <= MAX_DIMENSIONS)
            && self.encode().len() <= 4096
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        if take::<1>(bytes)? != [VERSION] {
            return None;
        }
        let count = usize::from(u16::from_le_bytes(take(bytes)?));
        if count > MAX_PARTS {
            return None;
        }
        let parts = (0..count)
            .map(|_| Part::decode(bytes))
            .collect::<Option<Vec<_>>>()?;
        let count = usize::from(u16::from_le_bytes(take(bytes)?));
        let lengths = (0..count).map(|_| Some(u32::from_le_bytes(take(bytes)?)));
        let schema = Schema {
            parts,
            lengths: lengths.collect::<Option<Vec<_>>>()?,
        };
        // Sizes from disk are checked here once, so that no later product overflows.
        let total = schema
            .parts
            .iter()
            .try_fold(0usize, |sum, part| sum.checked_add(part.checked_bytes()?));
        (bytes.is_empty() && total.is_some()).then_some(schema)
    }
}

impl Part {
    fn bytes(&self) -> usize {
        self.checked_bytes()
            .expect("shapes of live tensors and decoded schemas fit")
    }

    fn checked_bytes(&self) -> Option<usize> {
        let elements = self.shape.iter().try_fold(1usize, |product, &extent| {
            product.checked_mul(usize::try_from(extent).ok()?)
        })?;
        elements
            .checked_mul(self.stored.elt_size_in_bytes())
            .filter(|&bytes| bytes < isize::MAX as usize)
    }

    fn device(&self, home: Device) -> Device {
        match self.place {
            Place::On(Device::Cuda(index)) if tch::Cuda::device_count() <= index as i64 => home,
            Place::On(device) => device,
            Place::AtHome => home,
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let [stored, output] = take(bytes)?;
        let place = Place::of_code(u32::from_le_bytes(take(bytes)?))?;
        let [dimensions] = take(bytes)?;
        if usize::from(dimensions) > MAX_DIMENSIONS {
            return None;
        }
        let shape = (0..dimensions).map(|_| Some(i64::from_le_bytes(take(bytes)?)));
        Some(Part {
            stored: plain::kind_of(stored)?,
            output: plain::kind_of(output)?,
            place,
            shape: shape.collect::<Option<Vec<_>>>()?,
        })
    }
}

impl Place {
    fn code(self) -> u32 {
        match self {
            Place::AtHome => 0,
            Place::On(Device::Cpu) => 1,
            Place::On(Device::Mps) => 2,
            Place::On(Device::Vulkan) => 3,
            Place::On(Device::Cuda(index)) => 16 + index as u32,
        }
    }

    fn of_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Place::AtHome,
            1 => Place::On(Device::Cpu),
            2 => Place::On(Device::Mps),
            3 => Place::On(Device::Vulkan),
            16.. => Place::On(Device::Cuda((code - 16) as usize)),
            _ => return None,
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk()?;
    *bytes = tail;
    Some(*head)
}

fn is_float(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Half
            | Kind::BFloat16
            | Kind::Float
            | Kind::Double
            | Kind::Float8e5m2
            | Kind::Float8e4m3fn
            | Kind::Float8e5m2fnuz
            | Kind::Float8e4m3fnuz
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_come_back_from_their_bytes_and_nothing_else_does() {
        let tensors = [
            Tensor::zeros([1, 2, 3], tch::kind::FLOAT_CPU),
            Tensor::zeros([1], tch::kind::INT64_CPU),
        ];
        let schema = Schema::of(&tensors, vec![2, 0], Some(Kind::BFloat16), Device::Cpu).unwrap();
        let bytes = schema.encode();
        assert_eq!(Schema::decode(&bytes), Some(schema));
        for end in 0..bytes.len() {
            assert_eq!(Schema::decode(&bytes[..end]), None, "prefix of {end}");
        }
        assert_eq!(Schema::decode(&[bytes.as_slice(), &[0]].concat()), None);
        let mut huge = bytes;
        huge[10..18].copy_from_slice(&i64::MAX.to_le_bytes());
        assert_eq!(Schema::decode(&huge), None);
    }
}
