//! tch's kinds and the store's element kinds. Nothing else maps one to the other.

use tch::Kind;
use torchcache_store::schema::ElementKind;

macro_rules! same_names {
    ($($name:ident)*) => {
        /// The element kind of tch's kind; `None` for the quantized ones that rows never have.
        pub(crate) fn element(kind: Kind) -> Option<ElementKind> {
            match kind {
                $(Kind::$name => Some(ElementKind::$name),)*
                Kind::QUInt8 | Kind::QInt32 => None,
            }
        }

        /// tch's kind of an element kind.
        pub(crate) fn from_element(element: ElementKind) -> Kind {
            match element { $(ElementKind::$name => Kind::$name,)* }
        }

        /// The code of a kind in keys and module hashes: that of libtorch, which never changes.
        pub(crate) fn code(kind: Kind) -> u8 {
            match kind {
                $(Kind::$name => ElementKind::$name.code(),)*
                Kind::QUInt8 => 13,
                Kind::QInt32 => 14,
            }
        }
    };
}

same_names! {
    Uint8 Int8 Int16 Int Int64 Half Float Double ComplexHalf ComplexFloat ComplexDouble Bool QInt8 BFloat16
    Float8e5m2 Float8e4m3fn Float8e5m2fnuz Float8e4m3fnuz
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_element_kinds_match_in_code_and_size() {
        for element in ElementKind::ALL {
            let kind = from_element(element);
            assert_eq!(super::element(kind), Some(element));
            assert_eq!(code(kind), element.code());
            assert_eq!(kind.elt_size_in_bytes(), element.size());
        }
        assert_eq!(element(Kind::QUInt8), None);
    }
}
