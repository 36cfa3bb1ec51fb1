//! The padding that ends rows: its value, and the lengths of rows without it.

use std::fmt;

use tch::{Kind, TchError, Tensor};

use crate::tensor::raw;

/// The value of `#[padded(…)]`.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the value of padding",
    label = "neither a number nor `bool`",
    note = "it is a value of the tensor's elements, such as `0`, `-100`, `0.0`, `f32::NAN` or `false`"
)]
pub trait PaddingElement {
    fn value(self) -> PaddingValue;
}

/// See [`PaddingElement`].
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub enum PaddingValue {
    Integer(i64),
    Float(f64),
    Bool(bool),
}

/// The padding of a tensor.
#[derive(Debug)]
pub(crate) struct Padding {
    pub(super) value: PaddingValue,
    /// One element of it on the CPU; `None` where the tensor's kind has no such value.
    pub(super) element: Option<Tensor>,
}

/// The length of each row of a tensor of contiguous memory on the CPU; `None` of others.
pub(super) fn lengths_on_host(
    tensor: &Tensor,
    padding: &Tensor,
) -> Result<Option<Vec<i64>>, TchError> {
    let (shape, Ok(bytes)) = (raw::shape(tensor)?, raw::view(tensor)) else {
        return Ok(None);
    };
    let (rows, length) = (shape[0] as usize, shape[1] as usize);
    if bytes.is_empty() {
        return Ok(Some(vec![0; rows]));
    }
    let padding = raw::view(padding)?;
    // Several at a time first.
    let block = padding.repeat(16);
    let content = |row: &[u8]| {
        let blocks = row.rchunks_exact(block.len());
        let blocks = blocks.take_while(|part| *part == block).count();
        let rest = &row[..row.len() - blocks * block.len()];
        let elements = rest.rchunks_exact(padding.len());
        rest.len() - elements.take_while(|part| *part == padding).count() * padding.len()
    };
    let row_bytes = bytes.len() / rows;
    let place_bytes = row_bytes / length;
    let lengths = bytes.chunks_exact(row_bytes);
    let lengths = lengths.map(|row| content(row).div_ceil(place_bytes) as i64);
    Ok(Some(lengths.collect()))
}

/// The length of each row of any tensor, where it is.
pub(super) fn lengths_by_libtorch(tensor: &Tensor, padding: &Tensor) -> Result<Tensor, TchError> {
    let kind = match tensor.f_kind()?.elt_size_in_bytes() {
        1 => Kind::Uint8,
        2 => Kind::Int16,
        4 => Kind::Int,
        _ => Kind::Int64,
    };
    // As integers, elements are compared bit for bit.
    let bits = |tensor: &Tensor| tensor.f_view_dtype(kind);
    let padding = bits(padding)?.f_int64_value(&[])?;
    let mut is_content = bits(tensor)?.f_ne(padding)?;
    if is_content.dim() > 2 {
        is_content = is_content.f_flatten(2, -1)?.f_any_dim(2, false)?;
    }
    let options = (Kind::Int64, tensor.device());
    if is_content.numel() == 0 {
        return Tensor::f_zeros([tensor.size()[0]], options);
    }
    let numbers = Tensor::f_arange_start(1, tensor.size()[1] + 1, options)?;
    (is_content.f_mul(&numbers)?).f_amax([1], false)
}

impl PaddingValue {
    /// One element of this value on the CPU; `None` where the kind has none. A float is rounded to one that the kind has.
    fn element(self, kind: Kind) -> Option<Tensor> {
        use Kind::{BFloat16, Bool, Double, Float, Half, Int, Int8, Int16, Int64, Uint8};
        let is_float = matches!(kind, Half | BFloat16 | Float | Double);
        let is_integer = matches!(kind, Uint8 | Int8 | Int16 | Int | Int64);
        let as_kind = |value: Tensor| value.f_to_kind(kind).ok();
        match self {
            PaddingValue::Bool(value) => as_kind(value.into()).filter(|_| kind == Bool),
            PaddingValue::Float(value) => as_kind(value.into()).filter(|element| {
                let is_finite = element.double_value(&[]).is_finite();
                is_float && is_finite == value.is_finite()
            }),
            PaddingValue::Integer(value) if is_float || is_integer || kind == Bool => {
                let is_same = |element: &Tensor| element.int64_value(&[]) == value;
                as_kind(value.into()).filter(is_same)
            }
            PaddingValue::Integer(_) => None,
        }
    }
}

impl fmt::Display for PaddingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PaddingValue::Integer(value) => value.fmt(f),
            PaddingValue::Float(value) => write!(f, "{value:?}"),
            PaddingValue::Bool(value) => value.fmt(f),
        }
    }
}

impl Padding {
    pub(super) fn new(value: PaddingValue, tensor: &Tensor) -> Self {
        let kind = tensor.f_kind().ok();
        let element = kind.and_then(|kind| value.element(kind));
        Padding { value, element }
    }
}

macro_rules! padding_elements {
    ($($variant:ident: $($type:ty)*;)*) => {$($(
        impl PaddingElement for $type {
            fn value(self) -> PaddingValue {
                PaddingValue::$variant(self.into())
            }
        }
    )*)*};
}

padding_elements! {
    Integer: i8 i16 i32 i64 u8 u16 u32;
    Float: f32 f64;
    Bool: bool;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// The lengths as both ways find them.
    fn lengths(tensor: &Tensor, value: impl PaddingElement) -> Vec<i64> {
        let element = value.value().element(tensor.kind()).unwrap();
        let on_host = lengths_on_host(&tensor.contiguous(), &element).unwrap();
        let by_libtorch = lengths_by_libtorch(tensor, &element).unwrap();
        let by_libtorch: Vec<i64> = by_libtorch.try_into().unwrap();
        assert_eq!(on_host, Some(by_libtorch.clone()), "{tensor:?}");
        by_libtorch
    }

    #[test]
    fn the_length_of_a_row_ends_at_its_last_element_that_is_no_padding() {
        for kind in [
            Kind::Uint8,
            Kind::Int16,
            Kind::Int,
            Kind::Int64,
            Kind::Half,
            Kind::Double,
        ] {
            let mut rows = Vec::new();
            for length in 0..=40i64 {
                let row = Tensor::zeros([40], (kind, Device::Cpu));
                if length > 0 {
                    let _ = row.narrow(0, length - 1, 1).fill_(3);
                }
                rows.push(row);
            }
            let tensor = Tensor::stack(&rows, 0);
            let expected: Vec<i64> = (0..=40).collect();
            assert_eq!(lengths(&tensor, 0), expected, "{kind:?}");
            let strided = tensor.tr().contiguous().tr();
            assert_eq!(lengths(&strided, 0), expected, "{kind:?}");
            // Of several elements at each place, the last of one.
            let features = Tensor::stack(&[tensor.zeros_like(), tensor], 2);
            assert_eq!(lengths(&features, 0), expected, "{kind:?}");
        }
        let empty = |shape: [i64; 3]| lengths(&Tensor::zeros(shape, tch::kind::FLOAT_CPU), 0.0);
        assert_eq!(empty([2, 3, 0]), [0, 0]);
        assert_eq!(empty([2, 0, 3]), [0, 0]);
    }

    #[test]
    fn padding_is_compared_bit_for_bit() {
        let row = |values: &[f32]| Tensor::from_slice(values).unsqueeze(0);
        assert_eq!(lengths(&row(&[1.0, -0.0, 0.0]), 0.0), [2]);
        assert_eq!(lengths(&row(&[1.0, -0.0, -0.0]), -0.0), [1]);
        let nan = f32::from_bits(0x7fc0_0001);
        assert_eq!(lengths(&row(&[1.0, nan, f32::NAN]), f32::NAN), [2]);
        assert_eq!(lengths(&row(&[0.1, 0.1]), 0.1), [0]);
        let infinite = f32::NEG_INFINITY;
        assert_eq!(lengths(&row(&[1.0, infinite]), infinite), [1]);
        let flags = Tensor::from_slice(&[true, false, false]).unsqueeze(0);
        assert_eq!(lengths(&flags, false), [1]);
        assert_eq!(lengths(&flags, 0), [1]);
        let labels = Tensor::from_slice(&[7i64, -100, -100]).unsqueeze(0);
        assert_eq!(lengths(&labels, -100), [1]);
    }

    #[test]
    fn values_that_a_kind_does_not_have_are_refused() {
        let has = |value: PaddingValue, kind| value.element(kind).is_some();
        let (integer, float) = (PaddingValue::Integer, PaddingValue::Float);
        assert!(has(integer(255), Kind::Uint8) && !has(integer(256), Kind::Uint8));
        assert!(!has(integer(-1), Kind::Uint8) && has(integer(-1), Kind::Half));
        assert!(has(integer(1), Kind::Bool) && !has(integer(2), Kind::Bool));
        assert!(!has(integer(2049), Kind::Half), "rounded");
        assert!(!has(float(0.0), Kind::Int64) && !has(float(1e6), Kind::Half));
        assert!(has(float(0.1), Kind::BFloat16) && has(float(f64::NAN), Kind::Half));
        assert!(!has(PaddingValue::Bool(false), Kind::Int64));
        assert!(!has(integer(0), Kind::ComplexFloat) && !has(integer(0), Kind::QInt8));
    }
}
