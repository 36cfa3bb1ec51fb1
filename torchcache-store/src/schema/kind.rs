//! The kinds of elements that rows have, by the numbers that libtorch gives them.

/// The kind of a tensor's elements. Its number is libtorch's code of the scalar type, in schemas and
/// keys alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum ElementKind {
    Uint8 = 0,
    Int8 = 1,
    Int16 = 2,
    Int = 3,
    Int64 = 4,
    Half = 5,
    Float = 6,
    Double = 7,
    ComplexHalf = 8,
    ComplexFloat = 9,
    ComplexDouble = 10,
    Bool = 11,
    BFloat16 = 15,
    Float8e5m2 = 23,
    Float8e4m3fn = 24,
    Float8e5m2fnuz = 25,
    Float8e4m3fnuz = 26,
}

impl ElementKind {
    /// Every kind, by number.
    pub const ALL: [ElementKind; 17] = [
        ElementKind::Uint8,
        ElementKind::Int8,
        ElementKind::Int16,
        ElementKind::Int,
        ElementKind::Int64,
        ElementKind::Half,
        ElementKind::Float,
        ElementKind::Double,
        ElementKind::ComplexHalf,
        ElementKind::ComplexFloat,
        ElementKind::ComplexDouble,
        ElementKind::Bool,
        ElementKind::BFloat16,
        ElementKind::Float8e5m2,
        ElementKind::Float8e4m3fn,
        ElementKind::Float8e5m2fnuz,
        ElementKind::Float8e4m3fnuz,
    ];

    /// Its number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind of a number; `None` for those of a later version, and for kinds that rows never have.
    pub fn of_code(code: u8) -> Option<ElementKind> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::Uint8 | Self::Int8 | Self::Bool => 1,
            Self::Float8e5m2 | Self::Float8e4m3fn => 1,
            Self::Float8e5m2fnuz | Self::Float8e4m3fnuz => 1,
            Self::Int16 | Self::Half | Self::BFloat16 => 2,
            Self::Int | Self::Float | Self::ComplexHalf => 4,
            Self::Int64 | Self::Double | Self::ComplexFloat => 8,
            Self::ComplexDouble => 16,
        }
    }
}

impl std::fmt::Display for ElementKind {
    /// As PyTorch calls it: `float32`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int => "int32",
            Self::Int64 => "int64",
            Self::Half => "float16",
            Self::Float => "float32",
            Self::Double => "float64",
            Self::ComplexHalf => "complex32",
            Self::ComplexFloat => "complex64",
            Self::ComplexDouble => "complex128",
            Self::Bool => "bool",
            Self::BFloat16 => "bfloat16",
            Self::Float8e5m2 => "float8_e5m2",
            Self::Float8e4m3fn => "float8_e4m3fn",
            Self::Float8e5m2fnuz => "float8_e5m2fnuz",
            Self::Float8e4m3fnuz => "float8_e4m3fnuz",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_comes_back_from_its_number() {
        let kinds = (0..=u8::MAX).filter_map(ElementKind::of_code);
        assert_eq!(kinds.collect::<Vec<_>>(), ElementKind::ALL);
    }
}
