//! From tensors to packed rows and back.

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::schema::TensorSpec;

use super::{CallDevices, TensorSchema, kind};
use crate::tensor::parallel::copy;
use crate::tensor::{layout, raw, staging};

/// Why tensors cannot be packed.
#[derive(Debug)]
pub(crate) enum Unpackable {
    /// A finite value is infinite in the kind that it is stored in.
    Overflow {
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
    /// Values that rounding makes infinite, and whatever libtorch reports.
    pub(crate) fn pack(&self, tensors: &[Tensor]) -> Result<Tensor, Unpackable> {
        let parts = self
            .tensors
            .iter()
            .zip(tensors)
            .map(|(spec, tensor)| {
                layout::contiguous(tensor)?.f_to_kind(kind::from_element(spec.stored))
            })
            .collect::<Result<Vec<_>, TchError>>()?;
        for (kinds, (tensor, part)) in self.kinds().zip(tensors.iter().zip(&parts)) {
            if let Some(value) = overflowed(kinds, tensor, part)? {
                let kind = kinds.0;
                return Err(Unpackable::Overflow { value, kind });
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
            _ => self.pack_on_device(&parts)?,
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
                for (spec, bytes) in self.tensors.iter().zip(&parts) {
                    let length = bytes_of(spec);
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

    fn pack_on_device(&self, parts: &[Tensor]) -> Result<Tensor, TchError> {
        let device = parts[0].device();
        let packed = self
            .tensors
            .iter()
            .zip(parts)
            .map(|(spec, tensor)| {
                if bytes_of(spec) == 0 {
                    return Tensor::f_empty([tensor.size()[0], 0], (Kind::Uint8, device));
                }
                bytes_of_rows(tensor)?.f_to_device(device)
            })
            .collect::<Result<Vec<_>, _>>()?;
        match &packed[..] {
            [whole] => whole.f_detach_copy(),
            _ => Tensor::f_cat(&packed, 1),
        }
    }

    /// The tensors of `packed` rows, in the forward's kinds and on its devices. They are no views to
    /// autograd, which forbids some writes to those.
    pub(crate) fn unpack(
        &self,
        packed: &Tensor,
        devices: &CallDevices,
    ) -> Result<Vec<Tensor>, TchError> {
        let rows = packed.size()[0];
        let specs = &self.tensors;
        let mut offset = 0;
        let mut tensors = Vec::with_capacity(specs.len());
        for spec in specs {
            let shape = batch_shape(spec, rows);
            let bytes = bytes_of(spec) as i64;
            let tensor = if bytes == 0 {
                let device = devices.hit_device(spec);
                Tensor::f_empty(&shape, (kind::from_element(spec.output), device))?
            } else {
                let whole = specs.len() == 1;
                let own = if whole {
                    packed.shallow_clone()
                } else {
                    packed.f_narrow_copy(1, offset, bytes)?
                };
                let stored = own.f_view_dtype(kind::from_element(spec.stored))?;
                returned(spec, stored.f_view(shape.as_slice())?, devices)?
            };
            offset += bytes;
            tensors.push(tensor.f_detach()?);
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
        let specs = &self.tensors;
        let mut offset = 0;
        let mut part_of_rows = Vec::new();
        let mut tensors = Vec::with_capacity(specs.len());
        for spec in specs {
            let bytes = bytes_of(spec);
            let rows = if specs.len() == 1 {
                rows
            } else {
                part_of_rows.clear();
                part_of_rows.extend(rows.iter().map(|row| &row[offset..offset + bytes]));
                &part_of_rows
            };
            let shape = batch_shape(spec, rows.len() as i64);
            let kind = kind::from_element(spec.stored);
            let device = devices.hit_device(spec);
            // Other devices than these lack some kinds: the host converts from those.
            let device = match device {
                Device::Cuda(_) => device,
                _ => Device::Cpu,
            };
            let tensor = staging::upload_rows(rows, &shape, kind, device)?;
            tensors.push(returned(spec, tensor, devices)?);
            offset += bytes;
        }
        Ok(tensors)
    }
}

/// A finite value of a tensor that is infinite after it was rounded. `kinds` are the kind in the cache and
/// that of the output.
fn overflowed(
    kinds: (Kind, Kind),
    tensor: &Tensor,
    rounded: &Tensor,
) -> Result<Option<f64>, TchError> {
    if largest(kinds.0) >= largest(kinds.1) {
        return Ok(None);
    }
    let infinite = rounded.f_isinf()?;
    if infinite.f_any()?.f_int64_value(&[])? == 0 {
        return Ok(None);
    }
    let lost = infinite.f_logical_and(&tensor.f_isfinite()?)?;
    let lost = tensor.f_masked_select(&lost)?;
    match lost.numel() {
        0 => Ok(None),
        _ => lost.f_double_value(&[0]).map(Some),
    }
}

/// The largest finite value of a floating-point kind, as far as these differ in their range.
fn largest(kind: Kind) -> f64 {
    match kind {
        Kind::Half => 65_504.0,
        Kind::BFloat16 => 3.389_531_389_251_535_5e38,
        Kind::Float => f64::from(f32::MAX),
        Kind::Double => f64::MAX,
        // Kinds that nothing is rounded to.
        _ => 0.0,
    }
}

/// The elements of each row of a contiguous tensor as bytes, where they lie.
fn bytes_of_rows(tensor: &Tensor) -> Result<Tensor, TchError> {
    let rows = tensor.size()[0];
    tensor.f_view([rows, -1])?.f_view_dtype(Kind::Uint8)
}

/// The bytes of a row of a tensor.
fn bytes_of(spec: &TensorSpec) -> usize {
    let bytes = spec.bytes();
    bytes.expect("rows of live tensors and of decoded schemas fit into memory")
}

/// The shape of the tensor of `rows` rows.
fn batch_shape(spec: &TensorSpec, rows: i64) -> Vec<i64> {
    [rows].iter().chain(&spec.shape).copied().collect()
}

/// Turns a tensor as it is stored into one as the forward gave it.
fn returned(spec: &TensorSpec, stored: Tensor, devices: &CallDevices) -> Result<Tensor, TchError> {
    let tensor = match spec.output == spec.stored {
        true => stored,
        false => stored.f_to_kind(kind::from_element(spec.output))?,
    };
    match devices.hit_device(spec) {
        Device::Cpu if tensor.device() == Device::Cpu => Ok(tensor),
        device => tensor.f_to_device(device),
    }
}

#[cfg(test)]
mod tests {
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
    fn a_finite_value_is_not_packed_as_infinity() {
        let (half, bfloat, float) = (Kind::Half, Kind::BFloat16, Kind::Float);
        for (value, kind, stored, overflows) in [
            (1e6, float, half, true),
            (-1e6, float, half, true),
            (65_520.0, Kind::Double, half, true),
            (65_519.0, float, half, false),
            (1e6, float, bfloat, false),
            (f64::from(f32::MAX), float, bfloat, true),
            (1e39, Kind::Double, float, true),
            (1e39, Kind::Double, Kind::Double, false),
            (1e6, bfloat, half, true),
            (f64::INFINITY, float, half, false),
            (f64::NEG_INFINITY, Kind::Double, float, false),
            (f64::NAN, float, half, false),
        ] {
            let tensors = [
                Tensor::from_slice(&[1i64, 2]),
                Tensor::from_slice(&[0.5, value]).to_kind(kind),
            ];
            let packed = schema(&tensors, Some(stored)).pack(&tensors);
            match packed {
                Err(Unpackable::Overflow { value: got, kind }) => {
                    assert!(overflows && kind == stored, "{value}");
                    assert!((got - value).abs() <= 0.01 * value.abs(), "{got}");
                }
                Err(Unpackable::Libtorch(error)) => panic!("{error}"),
                Ok(_) => assert!(!overflows, "{value} as {stored:?}"),
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
