//! Attributes and generics of items, read alike for every kind of item.

use syn::{AttrStyle, Attribute, Generics, parse_quote};

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
fn outer(mut attribute: Attribute) -> Attribute {
    attribute.style = AttrStyle::Outer;
    attribute
}

/// The attributes of a wrapped function: its own, and `#[track_caller]`, so that a panic on misuse
/// points at the call.
pub(crate) fn wrapped(attributes: &[Attribute]) -> Vec<Attribute> {
    let mut attributes: Vec<_> = attributes.iter().cloned().map(outer).collect();
    let is_tracked = |attribute: &Attribute| attribute.path().is_ident("track_caller");
    if !attributes.iter().any(is_tracked) {
        attributes.push(parse_quote!(#[track_caller]));
    }
    attributes
}

/// Whether there are type or constant parameters.
pub(crate) fn is_generic(generics: &Generics) -> bool {
    generics.type_params().next().is_some() || generics.const_params().next().is_some()
}
