//! Elements of 8 bits as `f32`, for readers without libtorch.

use super::kind::{ElementClass, ElementKind};
use super::tensor::TensorSpec;

impl TensorSpec {
    /// The elements of a row of this tensor as `f32`, if they are 8-bit floats, which is exact, or quantized, which is
    /// what hits are rounded from. `None` for other kinds.
    pub fn widen<'r>(&self, row: &'r [u8]) -> Option<impl Iterator<Item = f32> + use<'r>> {
        let kind = self.stored;
        let (scale, elements) = match kind.class() {
            ElementClass::Quantized => {
                let (scale, elements) = row.split_first_chunk()?;
                (f32::from_le_bytes(*scale), elements)
            }
            ElementClass::MlFloat if kind.size() == 1 => (1.0, row),
            _ => return None,
        };
        let value = move |&element: &u8| match kind.class() {
            ElementClass::Quantized => f32::from(element as i8) * scale,
            _ => float8(kind, element),
        };
        Some(elements.iter().map(value))
    }
}

/// The value of an 8-bit float.
fn float8(kind: ElementKind, bits: u8) -> f32 {
    let (mantissa_bits, bias) = match kind {
        ElementKind::Float8e4m3fn => (3, 7),
        ElementKind::Float8e4m3fnuz => (3, 8),
        ElementKind::Float8e5m2fnuz => (2, 16),
        _ => (2, 15),
    };
    let magnitude = bits & 0x7f;
    let special = match (kind, magnitude) {
        (ElementKind::Float8e5m2, 0x7c) => Some(f32::INFINITY),
        (ElementKind::Float8e5m2, 0x7d..) | (ElementKind::Float8e4m3fn, 0x7f) => Some(f32::NAN),
        (ElementKind::Float8e4m3fnuz | ElementKind::Float8e5m2fnuz, 0) if bits != 0 => {
            return f32::NAN;
        }
        _ => None,
    };
    let value = special.unwrap_or_else(|| {
        let exponent = i32::from(magnitude >> mantissa_bits);
        let mantissa = magnitude & ((1 << mantissa_bits) - 1);
        // Without the leading one, numbers are subnormal.
        let leading = u8::from(exponent > 0) << mantissa_bits;
        let power = exponent.max(1) - bias - mantissa_bits;
        f32::from(leading + mantissa) * f32::from_bits(((power + 127) as u32) << 23)
    });
    if bits & 0x80 == 0 { value } else { -value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::OutputDevice;

    fn widened(stored: ElementKind, row: &[u8]) -> Option<Vec<f32>> {
        let spec = TensorSpec {
            stored,
            output: ElementKind::Float,
            device: OutputDevice::Module,
            shape: vec![3],
        };
        Some(spec.widen(row)?.collect())
    }

    #[test]
    fn the_scale_comes_before_the_elements() {
        let row = [&0.5f32.to_le_bytes()[..], &[127, 0, 0x81]].concat();
        let values = widened(ElementKind::QInt8, &row);
        assert_eq!(values, Some(vec![63.5, 0.0, -63.5]));
        assert_eq!(widened(ElementKind::Half, &row), None);
        assert_eq!(widened(ElementKind::Int8, &row), None);
    }

    // All values are compared with libtorch's in torchcache/src/schema/packing.rs.
    #[test]
    fn the_limits_of_8_bit_floats_are_exact() {
        use ElementKind::{Float8e4m3fn, Float8e4m3fnuz, Float8e5m2, Float8e5m2fnuz};
        let small = |power| 2f32.powi(power);
        for (kind, bits, value) in [
            (Float8e4m3fn, 0x7e, 448.0),
            (Float8e4m3fn, 0x01, small(-9)),
            (Float8e4m3fn, 0x08, small(-6)),
            (Float8e4m3fn, 0xb8, -1.0),
            (Float8e5m2, 0x7b, 57_344.0),
            (Float8e5m2, 0xfc, f32::NEG_INFINITY),
            (Float8e5m2, 0x01, small(-16)),
            (Float8e4m3fnuz, 0x7f, 240.0),
            (Float8e5m2fnuz, 0x7f, 57_344.0),
        ] {
            assert_eq!(widened(kind, &[bits]), Some(vec![value]), "{kind} {bits:x}");
        }
        for (kind, bits) in [
            (Float8e4m3fn, 0xff),
            (Float8e5m2, 0x7e),
            (Float8e5m2fnuz, 0x80),
        ] {
            assert!(widened(kind, &[bits]).unwrap()[0].is_nan(), "{kind}");
        }
    }
}
