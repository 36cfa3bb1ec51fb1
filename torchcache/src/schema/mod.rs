//! [`Schema`]: what the bytes of a row mean, in terms of tensors. The way between tensors and bytes is
//! in `packing.rs`, and the layout of the schema itself in `torchcache_store::schema`.
//!
//! In the tiers a row is one run of bytes: the elements of each output tensor for that row, one
//! after the other. So a batch of rows is one `[rows, row_bytes]` tensor of bytes ("packed"),
//! whatever kinds and shapes it holds, and gathering or storing it is one call.

mod packing;

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::schema as described;

use crate::tensor::layout;

/// What a row consists of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Schema {
    /// How the output is built of its parts, as text.
    structure: String,
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

impl Schema {
    /// The schema of a forward's outputs, which must be plain and have a batch dimension.
    pub(crate) fn of(
        structure: &str,
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
            structure: structure.to_owned(),
            parts: tensors.iter().map(part).collect::<Result<_, TchError>>()?,
            lengths,
        })
    }

    pub(crate) fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// A name for each part.
    pub(crate) fn names(&self) -> Vec<String> {
        described::names(&self.structure, &self.lengths, self.parts.len())
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
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.described().encode()
    }

    /// Whether [`encode`](Self::encode) can write this schema: outputs of hundreds of tensors are
    /// not cached.
    pub(crate) fn fits(&self) -> bool {
        self.described().fits()
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let described::Schema {
            structure,
            parts,
            lengths,
        } = described::Schema::decode(bytes)?;
        let parts = parts.into_iter().map(Part::of).collect::<Option<_>>()?;
        Some(Schema {
            structure,
            parts,
            lengths,
        })
    }

    /// The same where no tensor is known.
    fn described(&self) -> described::Schema {
        described::Schema {
            structure: self.structure.clone(),
            parts: self.parts.iter().map(Part::described).collect(),
            lengths: self.lengths.clone(),
        }
    }
}

impl Part {
    fn bytes(&self) -> usize {
        // Shapes of live tensors fit, and those of decoded schemas were found to.
        let elements: usize = self.shape.iter().map(|&extent| extent as usize).product();
        elements * self.stored.elt_size_in_bytes()
    }

    fn described(&self) -> described::Part {
        let element = |kind| layout::element(kind).expect("rows are cut from plain tensors");
        described::Part {
            stored: element(self.stored),
            output: element(self.output),
            place: self.place.code(),
            shape: self.shape.clone(),
        }
    }

    fn of(part: described::Part) -> Option<Self> {
        Some(Part {
            stored: layout::kind_of(part.stored),
            output: layout::kind_of(part.output),
            place: Place::of_code(part.place)?,
            shape: part.shape,
        })
    }

    fn device(&self, home: Device) -> Device {
        match self.place {
            Place::On(Device::Cuda(index)) if tch::Cuda::device_count() <= index as i64 => home,
            Place::On(device) => device,
            Place::AtHome => home,
        }
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
    fn schemas_come_back_from_their_bytes() {
        let tensors = [
            Tensor::zeros([1, 2, 3], tch::kind::FLOAT_CPU),
            Tensor::zeros([1], tch::kind::INT64_CPU),
        ];
        let half = Some(Kind::BFloat16);
        let schema = Schema::of("[?T]", &tensors, vec![2, 1, 1], half, Device::Cpu).unwrap();
        assert_eq!((schema.row_bytes(), schema.element_bytes()), (20, 1));
        assert_eq!(Schema::decode(&schema.encode()), Some(schema));
    }

    #[test]
    fn a_place_that_no_version_knows_is_refused() {
        let tensors = [Tensor::zeros([1, 4], tch::kind::FLOAT_CPU)];
        let schema = Schema::of("T", &tensors, Vec::new(), None, Device::Cpu).unwrap();
        let mut described = schema.described();
        described.parts[0].place = 9;
        assert_eq!(Schema::decode(&described.encode()), None);
    }
}
