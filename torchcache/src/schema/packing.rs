//! From tensors to packed rows and back.

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::schema::{ElementKind, TensorSpec};

use super::{CallDevices, TensorSchema, kind};
use crate::tensor::parallel::copy;
use crate::tensor::{layout, raw, staging};

/// Why tensors cannot be packed.
#[derive(Debug)]
pub(crate) enum Unpackable {
    /// A value that the kind that it is stored in does not have: one beyond its range, or that is not finite.
    Unrepresentable {
        value: f64,
        kind: Kind,
    },
    Libtorch(TchError),
}

impl From<TchError> for Unpackable {
    fn from(error: TchError) -> Self {
        Unpackable::Libtorch(error)
    }
}

impl TensorSchema {
    /// Tensors as `[rows, row_bytes]` bytes in new memory: a forward may return its input or a view
    /// of its weights, and writes to the output must reach neither.
    ///
    /// # Errors
    ///
    /// Values that the kinds in the cache do not have, and whatever libtorch reports.
    pub(crate) fn pack(&self, tensors: &[Tensor]) -> Result<Tensor, Unpackable> {
        let mut parts = Vec::with_capacity(tensors.len());
        for (spec, tensor) in self.tensors.iter().zip(tensors) {
            let tensor = layout::contiguous(tensor)?;
            match spec.stored {
                ElementKind::QInt8 => parts.extend(quantized(spec, &tensor)?),
                _ => parts.push(rounded(spec, &tensor)?),
            }
        }
        Ok(match &parts[..] {
            // Rounding it, or laying out its elements in order, has copied it already.
            [whole] if self.row_bytes() > 0 && whole.data_ptr() != tensors[0].data_ptr() => {
                bytes_of_rows(whole)?
            }
            _ if parts.iter().all(|part| part.device() == Device::Cpu) => {
                self.pack_on_cpu(&parts)?
            }
            _ => pack_on_device(&parts)?,
        })
    }

    /// Memory for `rows` packed rows on a device.
    ///
    /// # Errors
    ///
    /// No memory on the device.
    pub(crate) fn allocate(&self, rows: usize, device: Device) -> Result<Tensor, TchError> {
        let shape = [rows as i64, self.row_bytes() as i64];
        Tensor::f_empty(shape, (Kind::Uint8, device))
    }

    fn pack_on_cpu(&self, parts: &[Tensor]) -> Result<Tensor, TchError> {
        let row_bytes = self.row_bytes();
        let shape = [parts[0].size()[0], row_bytes as i64];
        let parts = parts.iter().map(raw::view).collect::<Result<Vec<_>, _>>()?;
        raw::tensor(&shape, Kind::Uint8, |out| match parts[..] {
            [whole] => copy(out, whole),
            _ => {
                let mut offset = 0;
                let lengths = self.tensors.iter().flat_map(parts_of);
                for ((_, length), bytes) in lengths.zip(&parts) {
                    if length > 0 {
                        let rows = out.chunks_exact_mut(row_bytes);
                        for (row, part) in rows.zip(bytes.chunks_exact(length)) {
                            row[offset..offset + length].copy_from_slice(part);
                        }
                    }
                    offset += length;
                }
            }
        })
    }

    /// The tensors of `packed` rows, in the forward's kinds and on its devices.
    pub(crate) fn unpack(
        &self,
        packed: &Tensor,
        devices: &CallDevices,
    ) -> Result<Vec<Tensor>, TchError> {
        let rows = packed.size()[0];
        let mut offset = 0;
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for spec in &self.tensors {
            let mut parts = Vec::new();
            for (kind, bytes) in parts_of(spec) {
                let bytes = bytes as i64;
                let is_whole = bytes > 0 && bytes as usize == self.row_bytes();
                parts.push(match (bytes, is_whole) {
                    (0, _) => Tensor::f_empty([rows, 0], (kind, packed.device()))?,
                    (_, true) => packed.f_view_dtype(kind)?,
                    // In memory of its own, since the offset in a row may not be a multiple of the element's size.
                    _ => packed.f_narrow_copy(1, offset, bytes)?.f_view_dtype(kind)?,
                });
                offset += bytes;
            }
            tensors.push(returned(spec, &parts, devices)?);
        }
        Ok(tensors)
    }

    /// The tensors of rows in CPU memory, each copied once, in the forward's kinds and on its
    /// devices.
    pub(crate) fn gather(
        &self,
        rows: &[&[u8]],
        devices: &CallDevices,
    ) -> Result<Vec<Tensor>, TchError> {
        let mut offset = 0;
        let mut part_of_rows = Vec::new();
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for spec in &self.tensors {
            // Other devices than these lack some kinds: the host converts from those.
            let device = match devices.hit_device(spec) {
                device @ Device::Cuda(_) => device,
                _ => Device::Cpu,
            };
            let mut parts = Vec::new();
            for (kind, bytes) in parts_of(spec) {
                let rows = if bytes == self.row_bytes() {
                    rows
                } else {
                    part_of_rows.clear();
                    part_of_rows.extend(rows.iter().map(|row| &row[offset..offset + bytes]));
                    &part_of_rows
                };
                let elements = bytes / kind.elt_size_in_bytes();
                let shape = [rows.len() as i64, elements as i64];
                parts.push(staging::upload_rows(rows, &shape, kind, device)?);
                offset += bytes;
            }
            tensors.push(returned(spec, &parts, devices)?);
        }
        Ok(tensors)
    }
}

fn pack_on_device(parts: &[Tensor]) -> Result<Tensor, TchError> {
    let device = parts[0].device();
    let packed = parts
        .iter()
        .map(|part| {
            if part.numel() == 0 {
                return Tensor::f_empty([part.size()[0], 0], (Kind::Uint8, device));
            }
            bytes_of_rows(part)?.f_to_device(device)
        })
        .collect::<Result<Vec<_>, _>>()?;
    match &packed[..] {
        [whole] => whole.f_detach_copy(),
        _ => Tensor::f_cat(&packed, 1),
    }
}

/// What a row has of a tensor: runs of elements of one kind, and their bytes. The scale of quantized elements, which
/// are integers, comes before them.
fn parts_of(spec: &TensorSpec) -> impl Iterator<Item = (Kind, usize)> {
    let scale = spec.stored.scale_bytes();
    let elements = match spec.stored {
        ElementKind::QInt8 => Kind::Int8,
        stored => kind::from_element(stored),
    };
    let scale_part = (scale > 0).then_some((Kind::Float, scale));
    let bytes = spec.bytes();
    let bytes = bytes.expect("rows of live tensors and of decoded schemas fit into memory");
    scale_part.into_iter().chain([(elements, bytes - scale)])
}

/// A contiguous tensor in the kind that it is stored in.
fn rounded(spec: &TensorSpec, tensor: &Tensor) -> Result<Tensor, Unpackable> {
    let stored = kind::from_element(spec.stored);
    let rounded = tensor.f_to_kind(stored)?;
    match lost(tensor, &rounded, kind::from_element(spec.output), stored)? {
        Some(value) => Err(Unpackable::Unrepresentable {
            value,
            kind: stored,
        }),
        None => Ok(rounded),
    }
}

/// A value that was lost when it was rounded from one kind to another: a finite one that is infinite now, or one beyond
/// the range of a kind without infinities.
fn lost(tensor: &Tensor, rounded: &Tensor, from: Kind, to: Kind) -> Result<Option<f64>, TchError> {
    let has_infinities = to != Kind::Float8e4m3fn;
    if from == to || (has_infinities && largest(to) >= largest(from)) {
        return Ok(None);
    }
    let tensor = computable(tensor)?;
    let beyond = match to {
        // Beyond this some versions of libtorch return NaN, and some the largest number, also for infinity.
        Kind::Float8e4m3fn => tensor.f_abs()?.f_gt(ROUNDED_TO_448)?,
        // libtorch does not compute with the rounded numbers.
        Kind::Float8e5m2 => tensor.f_abs()?.f_ge(ROUNDED_TO_INFINITY)?,
        _ => rounded.f_isinf()?,
    };
    if beyond.f_any()?.f_int64_value(&[])? == 0 {
        return Ok(None);
    }
    match has_infinities {
        true => first(&tensor, &beyond.f_logical_and(&tensor.f_isfinite()?)?),
        false => first(&tensor, &beyond),
    }
}

/// The largest number that is rounded to 448, the largest of `Float8e4m3fn`, by halves to even.
const ROUNDED_TO_448: f64 = 464.0;

/// The least number that `Float8e5m2` has infinity for: a `Double` is rounded to a `Float` before, which is 61,440 then.
const ROUNDED_TO_INFINITY: f64 = 61_440.0 - 1.0 / 512.0;

/// The first element of a tensor where a mask is set.
fn first(tensor: &Tensor, mask: &Tensor) -> Result<Option<f64>, TchError> {
    let selected = tensor.f_masked_select(mask)?;
    match selected.numel() {
        0 => Ok(None),
        _ => selected.f_double_value(&[0]).map(Some),
    }
}

/// The same values in a kind that libtorch computes with.
fn computable(tensor: &Tensor) -> Result<Tensor, TchError> {
    match tensor.f_kind()?.elt_size_in_bytes() {
        1 => tensor.f_to_kind(Kind::Float),
        _ => Ok(tensor.shallow_clone()),
    }
}

/// The largest finite value of a floating-point kind, as far as these differ in their range.
fn largest(kind: Kind) -> f64 {
    match kind {
        Kind::Float8e4m3fnuz => 240.0,
        Kind::Float8e4m3fn => 448.0,
        Kind::Float8e5m2 | Kind::Float8e5m2fnuz => 57_344.0,
        Kind::Half => 65_504.0,
        Kind::BFloat16 => 3.389_531_389_251_535_5e38,
        Kind::Float => f64::from(f32::MAX),
        Kind::Double => f64::MAX,
        // Kinds that nothing is rounded to.
        _ => 0.0,
    }
}

/// The largest integer of a quantized row; the least is its negative.
const QUANTIZED: f64 = 127.0;

/// The least scale, which rows of zeros have as well: smaller ones have fewer bits, and are zero on devices without
/// subnormal numbers.
const LEAST_SCALE: f32 = f32::MIN_POSITIVE;

/// The largest scale of which 127 times is finite.
const LARGEST_SCALE: f32 = f32::from_bits(0x7c01_0203);

/// The scale of each row of a contiguous tensor, and its elements as integers: `x / scale`, rounded to the nearest. A
/// row's largest value is 127 times its scale. Nothing here depends on the other rows or on the device.
fn quantized(spec: &TensorSpec, tensor: &Tensor) -> Result<[Tensor; 2], Unpackable> {
    let elements = spec.elements().unwrap_or(0) as i64;
    let tensor = tensor.f_view([tensor.size()[0], elements])?;
    let values = tensor.f_to_kind(Kind::Float)?;
    let largest = values.f_abs()?.f_amax([1], true)?;
    // With NaN and infinity these are.
    if largest.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
        let mask = values.f_isfinite()?.f_logical_not()?;
        let value = first(&tensor, &mask)?.unwrap_or(f64::NAN);
        let kind = Kind::QInt8;
        return Err(Unpackable::Unrepresentable { value, kind });
    }
    // Not by a number, whose reciprocal a GPU multiplies with.
    let scales = largest.f_divide(&largest.f_full_like(QUANTIZED)?)?;
    let scales = scales.f_clamp(f64::from(LEAST_SCALE), f64::from(LARGEST_SCALE))?;
    let integers = values.f_divide(&scales)?.f_round()?;
    Ok([scales, integers.f_to_kind(Kind::Int8)?])
}

/// The elements of each row of a contiguous tensor as bytes, where they lie.
fn bytes_of_rows(tensor: &Tensor) -> Result<Tensor, TchError> {
    let rows = tensor.size()[0];
    tensor.f_view([rows, -1])?.f_view_dtype(Kind::Uint8)
}

/// The shape of the tensor of `rows` rows.
fn batch_shape(spec: &TensorSpec, rows: i64) -> Vec<i64> {
    [rows].iter().chain(&spec.shape).copied().collect()
}

/// Turns the parts of a tensor as it is stored, `[rows, elements]` each, into the tensor as the forward gave it. It is
/// no view to autograd, which forbids some writes to those.
fn returned(
    spec: &TensorSpec,
    parts: &[Tensor],
    devices: &CallDevices,
) -> Result<Tensor, TchError> {
    let stored = match parts {
        [scales, integers] => integers.f_to_kind(Kind::Float)?.f_mul_(scales)?,
        parts => parts[0].shallow_clone(),
    };
    let shape = batch_shape(spec, stored.size()[0]);
    let tensor = stored.f_view(shape.as_slice())?.f_detach()?;
    let output = kind::from_element(spec.output);
    let tensor = match tensor.f_kind()? == output {
        true => tensor,
        false => tensor.f_to_kind(output)?,
    };
    match devices.hit_device(spec) {
        Device::Cpu if tensor.device() == Device::Cpu => Ok(tensor),
        device => tensor.f_to_device(device),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schema(tensors: &[Tensor], cache_dtype: Option<Kind>) -> TensorSchema {
        TensorSchema::from_outputs("", tensors, vec![2, 0], cache_dtype, &CallDevices::CPU).unwrap()
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
    fn packing_keeps_every_bit_of_any_kind_and_shape() {
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
            assert_same(
                &schema.unpack(&packed, &CallDevices::CPU).unwrap()[0],
                tensor,
            );
        }
        let all = schema(&tensors, None);
        let unpacked = all
            .unpack(&all.pack(&tensors).unwrap(), &CallDevices::CPU)
            .unwrap();
        tensors
            .iter()
            .zip(&unpacked)
            .for_each(|(before, after)| assert_same(before, after));
    }

    #[test]
    fn cache_dtype_rounds_only_floats() {
        let tensors = [
            Tensor::from_slice(&[70_000i64]),
            Tensor::from_slice(&[0.1f32]),
        ];
        let schema = schema(&tensors, Some(Kind::Half));
        let unpacked = schema
            .unpack(&schema.pack(&tensors).unwrap(), &CallDevices::CPU)
            .unwrap();
        assert_eq!(unpacked[0].int64_value(&[0]), 70_000);
        assert_eq!(unpacked[1].kind(), Kind::Float);
        assert_eq!(unpacked[1].double_value(&[0]), f64::from(0.099_975_586f32));
    }

    #[test]
    fn only_values_that_the_stored_kind_has_are_packed() {
        let (half, bfloat, float) = (Kind::Half, Kind::BFloat16, Kind::Float);
        let (e5m2, e4m3fn, int8) = (Kind::Float8e5m2, Kind::Float8e4m3fn, Kind::QInt8);
        for (value, kind, stored, overflows) in [
            (1e6, float, half, true),
            (-1e6, float, half, true),
            (65_520.0, Kind::Double, half, true),
            (65_519.0, float, half, false),
            (1e6, float, bfloat, false),
            (f64::from(f32::MAX), float, bfloat, true),
            (2f64.powi(128) - 2f64.powi(119), float, bfloat, true),
            (
                2f64.powi(128) - 2f64.powi(119) - 2f64.powi(104),
                float,
                bfloat,
                false,
            ),
            (1e39, Kind::Double, float, true),
            (2f64.powi(128) - 2f64.powi(103), Kind::Double, float, true),
            (
                2f64.powi(128) - 2f64.powi(103) - 2f64.powi(75),
                Kind::Double,
                float,
                false,
            ),
            (1e39, Kind::Double, Kind::Double, false),
            (1e6, bfloat, half, true),
            (f64::INFINITY, float, half, false),
            (f64::NEG_INFINITY, Kind::Double, float, false),
            (f64::NAN, float, half, false),
            (61_439.0, float, e5m2, false),
            (-61_440.0, float, e5m2, true),
            (61_440.0, half, e5m2, true),
            (61_440.0, bfloat, e5m2, true),
            // A `Float` between, which it is rounded to first, is 61,440.
            (61_440.0 - 2f64.powi(-9), Kind::Double, e5m2, true),
            (61_440.0 - 2f64.powi(-8), Kind::Double, e5m2, false),
            (f64::INFINITY, bfloat, e5m2, false),
            (f64::NAN, half, e5m2, false),
            (464.0, float, e4m3fn, false),
            (465.0, Kind::Double, e4m3fn, true),
            (-480.0, half, e4m3fn, true),
            (512.0, e5m2, e4m3fn, true),
            (f64::NAN, bfloat, e4m3fn, false),
            (f64::INFINITY, float, e4m3fn, true),
            (f64::NEG_INFINITY, e5m2, e4m3fn, true),
            (f64::from(f32::MAX), float, int8, false),
            (3.39e38, bfloat, int8, false),
            (-65_504.0, half, int8, false),
            (1e39, Kind::Double, int8, true),
            (f64::INFINITY, half, int8, true),
            (f64::NAN, float, int8, true),
        ] {
            let tensors = [
                Tensor::from_slice(&[1i64, 2]),
                // With rows of one element, no integers were smaller.
                Tensor::from_slice(&[0.5, value])
                    .to_kind(kind)
                    .unsqueeze(1)
                    .repeat([1, 6]),
            ];
            let schema = schema(&tensors, Some(stored));
            assert_eq!(schema.tensors[1].stored, kind::element(stored).unwrap());
            let packed = schema.pack(&tensors);
            match packed {
                Err(Unpackable::Unrepresentable { value: got, kind }) => {
                    assert!(overflows && kind == stored, "{value} as {stored:?}");
                    let is_it = (got - value).abs() <= 0.01 * value.abs();
                    assert!(
                        is_it || !value.is_finite() && got.to_bits() == value.to_bits(),
                        "{got}"
                    );
                }
                Err(Unpackable::Libtorch(error)) => panic!("{error}"),
                Ok(packed) => {
                    assert!(!overflows, "{value} as {stored:?}");
                    let unpacked = schema.unpack(&packed, &CallDevices::CPU).unwrap();
                    let got = unpacked[1].double_value(&[1, 0]);
                    assert_eq!(
                        (got.is_nan(), got.is_infinite()),
                        (value.is_nan(), value.is_infinite())
                    );
                }
            }
        }
    }

    /// `bits` as elements of a kind.
    fn of_bits(bits: &[u8], kind: Kind) -> Tensor {
        Tensor::from_slice(bits).view_dtype(kind)
    }

    fn widened(spec: &TensorSpec, row: &[u8]) -> Tensor {
        let values: Vec<f32> = spec.widen(row).unwrap().collect();
        Tensor::from_slice(&values)
    }

    #[test]
    fn readers_without_libtorch_widen_rows_as_it_does() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        for kind in [
            Kind::Float8e5m2,
            Kind::Float8e4m3fn,
            Kind::Float8e5m2fnuz,
            Kind::Float8e4m3fnuz,
        ] {
            let row = of_bits(&all, kind).unsqueeze(0);
            let spec = &schema(&[row.shallow_clone()], None).tensors[0];
            let (ours, its) = (widened(spec, &all), row.to_kind(Kind::Float).view(-1));
            assert!(ours.isnan().equal(&its.isnan()), "{kind:?}");
            assert_same(
                &ours.nan_to_num(0.0, None, None),
                &its.nan_to_num(0.0, None, None),
            );
        }
        let row = [Tensor::randn([1, 100], tch::kind::FLOAT_CPU)];
        let schema = schema(&row, Some(Kind::QInt8));
        let packed = schema.pack(&row).unwrap();
        let hit = schema.unpack(&packed, &CallDevices::CPU).unwrap().remove(0);
        assert_same(
            &widened(&schema.tensors[0], raw::view(&packed).unwrap()),
            &hit.view(-1),
        );
    }

    #[test]
    fn rows_are_quantized_where_that_makes_them_smaller() {
        for (kind, elements, is_smaller) in [
            (Kind::Float, 0, false),
            (Kind::Float, 1, false),
            (Kind::Float, 2, true),
            (Kind::Half, 4, false),
            (Kind::BFloat16, 5, true),
            (Kind::Double, 1, true),
            (Kind::Float8e5m2, 1000, false),
            (Kind::ComplexFloat, 1000, false),
            (Kind::Int64, 1000, false),
        ] {
            let tensors = [Tensor::zeros([3, elements], (kind, Device::Cpu))];
            let schema = schema(&tensors, Some(Kind::QInt8));
            let is_quantized = schema.tensors[0].stored == ElementKind::QInt8;
            assert_eq!(is_quantized, is_smaller, "{elements} of {kind:?}");
            let unpacked = schema.unpack(&schema.pack(&tensors).unwrap(), &CallDevices::CPU);
            assert_same(&unpacked.unwrap()[0], &tensors[0]);
        }
    }

    #[test]
    fn quantized_rows_have_a_scale_each() {
        let tiny = f32::from_bits(3);
        let tensors = [Tensor::from_slice2(&[
            [254f32, -1.0, 0.9, 1.5],
            [0.0, -0.0, 0.0, 0.0],
            [tiny, -tiny, 0.0, tiny],
            [f32::MAX, f32::MIN, 0.0, 1e30],
        ])];
        let schema = schema(&tensors, Some(Kind::QInt8));
        let packed = schema.pack(&tensors).unwrap();
        assert_eq!(packed.size(), [4, 8]);
        let rows = |from| {
            Vec::<i8>::try_from(
                packed
                    .narrow_copy(1, from, 4)
                    .view_dtype(Kind::Int8)
                    .view(-1),
            )
        };
        let integers = rows(4).unwrap();
        assert_eq!(integers[..4], [127, 0, 0, 1], "halves are rounded to even");
        assert_eq!(integers[4..12], [0; 8]);
        assert_eq!(integers[12..], [127, -127, 0, 0]);
        let scales: Vec<f32> = packed
            .narrow_copy(1, 0, 4)
            .view_dtype(Kind::Float)
            .view(-1)
            .try_into()
            .unwrap();
        assert_eq!(scales, [2.0, LEAST_SCALE, LEAST_SCALE, LARGEST_SCALE]);
        assert!((LARGEST_SCALE * 127.0).is_finite());
        assert!((f32::from_bits(LARGEST_SCALE.to_bits() + 1) * 127.0).is_infinite());
        let unpacked = schema.unpack(&packed, &CallDevices::CPU).unwrap().remove(0);
        assert_same(&unpacked.get(1), &Tensor::zeros([4], tch::kind::FLOAT_CPU));
        assert!(bool::try_from(unpacked.isfinite().all()).unwrap());
    }

    /// A number of any size that has no more digits than half precision: by its sign, exponent and digits.
    fn numbers() -> impl Strategy<Value = f64> {
        let power = |(negative, exponent, digits): (bool, i32, u32)| {
            let value = (1.0 + f64::from(digits) / 1024.0) * 2f64.powi(exponent);
            if negative { -value } else { value }
        };
        prop_oneof![
            6 => (any::<bool>(), -12..8, 0..1024u32).prop_map(power),
            2 => (any::<bool>(), -150..127, 0..1024u32).prop_map(power),
            1 => prop::sample::select(vec![0.0, -0.0, 448.0, -464.0, 57_344.0, 65_504.0, f64::from(f32::MAX)]),
        ]
    }

    /// How far a returned value may be from that of the forward, in a row with this largest value.
    fn error_bound(stored: ElementKind, value: f64, largest: f64) -> f64 {
        // The arithmetic of `f32`.
        let more = 1.0 + 2f64.powi(-14);
        match stored {
            ElementKind::Float8e4m3fn => (value.abs() * 2f64.powi(-4)).max(2f64.powi(-10)) * more,
            ElementKind::Float8e5m2 => (value.abs() * 2f64.powi(-3)).max(2f64.powi(-17)) * more,
            ElementKind::QInt8 => (largest / 254.0).max(2f64.powi(-127)) * more,
            _ => 0.0,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rows_of_8_bits_are_within_their_bounds_and_independent_of_their_batch(
            shape in prop::collection::vec(0i64..5, 0..3),
            rows in 1usize..6,
            numbers in prop::collection::vec(numbers(), 5 * 16 + 5 * 16),
            kinds in prop::sample::select(vec![Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double]),
            other in prop::sample::select(vec![Kind::Half, Kind::Float, Kind::Uint8, Kind::Int64]),
            stored in prop::sample::select(vec![Kind::Float8e4m3fn, Kind::Float8e5m2, Kind::QInt8]),
        ) {
            let full = [&[rows as i64][..], &shape].concat();
            let elements: i64 = full.iter().product();
            let of_kind = |values: &[f64], shape: &[i64], kind| {
                let tensor = Tensor::from_slice(values).view(shape).to_kind(kind);
                // Only what the kind of the output has.
                let mask = tensor.isfinite();
                tensor.where_scalarother(&mask, 1.0).to_kind(kind)
            };
            // Three bytes in front, so that nothing is aligned.
            let tensors = [
                Tensor::ones([rows as i64, 3], (Kind::Uint8, Device::Cpu)),
                of_kind(&numbers[..elements as usize], &full, kinds),
                of_kind(&numbers[80..80 + 3 * rows], &[rows as i64, 3], other),
            ];
            let schema = schema(&tensors, Some(stored));
            let packed = match schema.pack(&tensors) {
                Ok(packed) => packed,
                Err(Unpackable::Unrepresentable { value, kind }) => {
                    let limit = if kind == Kind::Float8e4m3fn { 464.1 } else { 61_440.0 };
                    prop_assert!(kind != Kind::QInt8 && value.abs() >= limit, "{} as {:?}", value, kind);
                    return Ok(());
                }
                Err(Unpackable::Libtorch(error)) => panic!("{error}"),
            };
            prop_assert_eq!(packed.size(), [rows as i64, schema.row_bytes() as i64]);
            let bytes = raw::view(&packed).unwrap();
            let all: Vec<&[u8]> = bytes.chunks_exact(schema.row_bytes()).collect();
            let unpacked = schema.unpack(&packed, &CallDevices::CPU).unwrap();
            let gathered = schema.gather(&all, &CallDevices::CPU).unwrap();
            for (left, right) in unpacked.iter().zip(&gathered) {
                assert_same(left, right);
            }
            for (row, packed) in all.iter().enumerate() {
                let alone = tensors.each_ref().map(|it| it.narrow(0, row as i64, 1));
                let alone = schema.pack(&alone).unwrap();
                prop_assert_eq!(raw::view(&alone).unwrap(), *packed);
            }
            for (spec, (before, after)) in schema.tensors.iter().zip(tensors.iter().zip(&unpacked)) {
                prop_assert_eq!((before.kind(), before.size()), (after.kind(), after.size()));
                let values = |it: &Tensor| Vec::<f64>::try_from(it.to_kind(Kind::Double).view(-1)).unwrap();
                let (before, after) = (values(before), values(after));
                let length = spec.elements().unwrap().max(1);
                for (before, after) in before.chunks(length).zip(after.chunks(length)) {
                    let largest = before.iter().fold(0.0, |all: f64, it| all.max(it.abs()));
                    for (&before, &after) in before.iter().zip(after) {
                        // A quantized value is rounded to the kind of the output as well.
                        let kept = match spec.output {
                            ElementKind::BFloat16 => after.abs() * 2f64.powi(-8),
                            ElementKind::Half => after.abs() * 2f64.powi(-11) + 2f64.powi(-25),
                            _ => 0.0,
                        };
                        let bound = error_bound(spec.stored, before, largest) + kept;
                        prop_assert!((before - after).abs() <= bound, "{} as {}, at most {}", before, after, bound);
                    }
                }
            }
        }
    }

    #[test]
    fn unpacking_one_tensor_copies_nothing() {
        let tensors = [Tensor::randn([3, 4], tch::kind::FLOAT_CPU)];
        let schema = schema(&tensors, None);
        let packed = schema.pack(&tensors).unwrap();
        let unpacked = schema.unpack(&packed, &CallDevices::CPU).unwrap();
        assert_eq!(unpacked[0].data_ptr(), packed.data_ptr());
    }

    #[test]
    fn conjugated_views_pack_their_values() {
        let tensor = Tensor::complex(&Tensor::from_slice(&[1f32]), &Tensor::from_slice(&[2f32]));
        let conjugated = tensor.conj();
        let schema = schema(std::slice::from_ref(&conjugated), None);
        let packed = schema.pack(&[conjugated]).unwrap();
        let imaginary = schema.unpack(&packed, &CallDevices::CPU).unwrap()[0].imag();
        assert_eq!(imaginary.double_value(&[0]), -2.0);
    }
}
