//! Attributes and generics of items, read alike for every kind of item.

use syn::{AttrStyle, Attribute, Generics};

/// The `#[cfg]`s among `attributes`. Generated items have those of the item that they belong to.
pub(crate) fn cfgs(attributes: &[Attribute]) -> Vec<Attribute> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .cloned()
        .collect()
}

/// `attribute` as one before the item. An attribute inside the braces of a function cannot stay
/// there, where the body becomes a closure.
pub(crate) fn outer(mut attribute: Attribute) -> Attribute {
    attribute.style = AttrStyle::Outer;
    attribute
}

/// Whether there are type or constant parameters.
pub(crate) fn is_generic(generics: &Generics) -> bool {
    generics.type_params().next().is_some() || generics.const_params().next().is_some()
}
