//! [`Schema`]: what the bytes of a row mean, and the way between tensors and bytes.
//!
//! In the tiers a row is one run of bytes: the elements of each output tensor for that row, one
//! after the other. So a batch of rows is one `[rows, row_bytes]` tensor of bytes ("packed"),
//! whatever kinds and shapes it holds, and gathering or storing it is one call.

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

    /// Where rows are returned: all parts of an output live together but in rare models, so
    /// packed rows are gathered on the device of the first.
    pub(crate) fn device(&self, home: Device) -> Device {
        self.parts.first().map_or(home, |part| part.device(home))
    }

    /// The tensors of `[rows, row_bytes]` bytes.
    pub(crate) fn pack(&self, tensors: &[Tensor]) -> Result<Tensor, TchError> {
        let device = tensors[0].device();
        let packed = self
            .parts
            .iter()
            .zip(tensors)
            .map(|(part, tensor)| {
                let rows = tensor.size()[0];
                let tensor = plain::materialised(tensor)?.f_to_kind(part.stored)?;
                if part.bytes() == 0 {
                    return Tensor::f_empty([rows, 0], (Kind::Uint8, device));
                }
                tensor
                    .f_view([rows, -1])?
                    .f_view_dtype(Kind::Uint8)?
                    .f_to_device(device)
            })
            .collect::<Result<Vec<_>, _>>()?;
        if packed.len() == 1 {
            Ok(packed.into_iter().next().expect("one part"))
        } else {
            Tensor::f_cat(&packed, 1)
        }
    }

    /// The tensors that `packed` rows stand for, in the forward's kinds and on its devices.
    pub(crate) fn unpack(&self, packed: &Tensor, home: Device) -> Result<Vec<Tensor>, TchError> {
        let rows = packed.size()[0];
        let mut offset = 0;
        let mut tensors = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let shape: Vec<i64> = [rows].iter().chain(&part.shape).copied().collect();
            let device = part.device(home);
            let bytes = part.bytes() as i64;
            let tensor = if bytes == 0 {
                Tensor::f_empty(&shape, (part.output, device))?
            } else {
                let whole = self.parts.len() == 1;
                let own = if whole {
                    packed.shallow_clone()
                } else {
                    packed.f_narrow_copy(1, offset, bytes)?
                };
                let typed = own.f_view_dtype(part.stored)?.f_view(shape.as_slice())?;
                typed.f_to_kind(part.output)?.f_to_device(device)?
            };
            offset += bytes;
            tensors.push(tensor);
        }
        Ok(tensors)
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

    fn schema(tensors: &[Tensor], cache_dtype: Option<Kind>) -> Schema {
        Schema::of(tensors, vec![2, 0], cache_dtype, Device::Cpu).unwrap()
    }

    fn assert_same(left: &Tensor, right: &Tensor) {
        assert_eq!((left.kind(), left.size()), (right.kind(), right.size()));
        let (left, right) = (left.contiguous().view(-1), right.contiguous().view(-1));
        if left.numel() > 0 {
            assert!(
                left.view_dtype(Kind::Uint8)
                    .equal(&right.view_dtype(Kind::Uint8))
            );
        }
    }

    #[test]
    fn outputs_of_any_kind_and_shape_pack_and_unpack_to_the_same_bits() {
        let float = Tensor::randn([3, 2, 5], tch::kind::FLOAT_CPU);
        let kinds = [
            Kind::Uint8,
            Kind::Int8,
            Kind::Int16,
            Kind::Int,
            Kind::Int64,
            Kind::Half,
            Kind::Float,
            Kind::Double,
            Kind::ComplexFloat,
            Kind::ComplexDouble,
            Kind::Bool,
            Kind::BFloat16,
            Kind::Float8e5m2,
            Kind::Float8e4m3fn,
        ];
        let mut tensors: Vec<_> = kinds.iter().map(|&kind| float.to_kind(kind)).collect();
        tensors.push(Tensor::from_slice(&[1i64, 2, 3]));
        tensors.push(Tensor::zeros([3, 0], tch::kind::FLOAT_CPU));
        for tensor in &tensors {
            let one = std::slice::from_ref(tensor);
            let schema = schema(one, None);
            let packed = schema.pack(one).unwrap();
            assert_eq!(packed.size(), [3, schema.row_bytes() as i64]);
            assert_same(&schema.unpack(&packed, Device::Cpu).unwrap()[0], tensor);
        }
        let all = schema(&tensors, None);
        let unpacked = all
            .unpack(&all.pack(&tensors).unwrap(), Device::Cpu)
            .unwrap();
        tensors
            .iter()
            .zip(&unpacked)
            .for_each(|(before, after)| assert_same(before, after));
    }

    #[test]
    fn only_floats_are_rounded() {
        let tensors = [
            Tensor::from_slice(&[70_000i64]),
            Tensor::from_slice(&[0.1f32]),
        ];
        let schema = schema(&tensors, Some(Kind::Half));
        let unpacked = schema
            .unpack(&schema.pack(&tensors).unwrap(), Device::Cpu)
            .unwrap();
        assert_eq!(unpacked[0].int64_value(&[0]), 70_000);
        assert_eq!(unpacked[1].kind(), Kind::Float);
        assert_eq!(unpacked[1].double_value(&[0]), f64::from(0.099_975_586f32));
    }

    #[test]
    fn a_conjugated_view_packs_its_values_and_not_its_memory() {
        let tensor = Tensor::complex(&Tensor::from_slice(&[1f32]), &Tensor::from_slice(&[2f32]));
        let conjugated = tensor.conj();
        let schema = schema(std::slice::from_ref(&conjugated), None);
        let packed = schema.pack(&[conjugated]).unwrap();
        let imaginary = schema.unpack(&packed, Device::Cpu).unwrap()[0].imag();
        assert_eq!(imaginary.double_value(&[0]), -2.0);
    }

    #[test]
    fn schemas_come_back_from_their_bytes_and_nothing_else_does() {
        let tensors = [
            Tensor::zeros([1, 2, 3], tch::kind::FLOAT_CPU),
            Tensor::zeros([1], tch::kind::INT64_CPU),
        ];
        let schema = schema(&tensors, Some(Kind::BFloat16));
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
