//! The kinds of elements that rows have: one table of everything that is known about them.

use std::fmt;

/// What the elements of a kind are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementClass {
    /// `true` or `false`.
    Bool,
    /// An integer without a sign.
    Unsigned,
    /// An integer with a sign.
    Signed,
    /// A floating-point number of IEEE 754.
    Float,
    /// A floating-point number of another format, as used in machine learning.
    MlFloat,
    /// A complex number of two IEEE 754 floating-point numbers.
    Complex,
    /// A floating-point number as an integer times the scale of its row.
    Quantized,
}

macro_rules! element_kinds {
    ($($variant:ident = $code:literal, $size:literal, $class:ident, $name:literal;)*) => {
        /// The kind of a tensor's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ElementKind {
            $(#[doc = concat!("PyTorch's `", $name, "`.")] $variant = $code,)*
        }

        impl ElementKind {
            /// Every kind, by code.
            pub const ALL: [ElementKind; [$($code),*].len()] = [$(ElementKind::$variant),*];

            /// The bytes of an element.
            pub fn size(self) -> usize {
                match self { $(ElementKind::$variant => $size,)* }
            }

            /// What the elements are.
            pub fn class(self) -> ElementClass {
                match self { $(ElementKind::$variant => ElementClass::$class,)* }
            }

            /// PyTorch's name of the kind.
            pub fn name(self) -> &'static str {
                match self { $(ElementKind::$variant => $name,)* }
            }
        }
    };
}

// The codes are those of libtorch's scalar types. They are in schemas and row keys, so they never
// change. Quantized tensors of libtorch (12 to 14) never reach a row: `QInt8` is how rows of floats are stored.
element_kinds! {
    // variant     code  bytes  class     name in PyTorch
    Uint8          =  0,  1, Unsigned, "uint8";
    Int8           =  1,  1, Signed,   "int8";
    Int16          =  2,  2, Signed,   "int16";
    Int            =  3,  4, Signed,   "int32";
    Int64          =  4,  8, Signed,   "int64";
    Half           =  5,  2, Float,    "float16";
    Float          =  6,  4, Float,    "float32";
    Double         =  7,  8, Float,    "float64";
    ComplexHalf    =  8,  4, Complex,  "complex32";
    ComplexFloat   =  9,  8, Complex,  "complex64";
    ComplexDouble  = 10, 16, Complex,  "complex128";
    Bool           = 11,  1, Bool,     "bool";
    QInt8          = 12,  1, Quantized, "qint8";
    BFloat16       = 15,  2, MlFloat,  "bfloat16";
    Float8e5m2     = 23,  1, MlFloat,  "float8_e5m2";
    Float8e4m3fn   = 24,  1, MlFloat,  "float8_e4m3fn";
    Float8e5m2fnuz = 25,  1, MlFloat,  "float8_e5m2fnuz";
    Float8e4m3fnuz = 26,  1, MlFloat,  "float8_e4m3fnuz";
}

impl ElementKind {
    /// The code of the kind in schemas and row keys.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind of a code; `None` if rows never have that kind, or only in a later version.
    pub fn from_code(code: u8) -> Option<ElementKind> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The bytes of the scale before the elements of a row: an `f32` of quantized ones.
    pub fn scale_bytes(self) -> usize {
        match self.class() {
            ElementClass::Quantized => size_of::<f32>(),
            _ => 0,
        }
    }

    /// Whether tensors have elements of this kind; the others are only stored.
    pub fn is_of_tensors(self) -> bool {
        self.class() != ElementClass::Quantized
    }

    /// Whether the elements are real floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self.class(), ElementClass::Float | ElementClass::MlFloat)
    }
}

impl fmt::Display for ElementKind {
    /// PyTorch's name: `float32`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_in_ascending_order() {
        let kinds = (0..=u8::MAX).filter_map(ElementKind::from_code);
        assert_eq!(kinds.collect::<Vec<_>>(), ElementKind::ALL);
    }
}
