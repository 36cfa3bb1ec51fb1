//! From tokens to what is known to be right: each file reads one kind of item, checks it, and
//! collects every mistake. Nothing here generates code.

mod derives;
mod fields;
mod functions;
mod impls;
mod signature;
mod structs;

pub(crate) use derives::{Batched, Fingerprint, Shape, Variant};
pub(crate) use fields::{Field, bounds, take_skip};
pub(crate) use functions::Function;
pub(crate) use impls::{Impl, Method, has_arguments};
pub(crate) use signature::{Argument, Role, Wrapped, without_marks};
pub(crate) use structs::Struct;

use syn::{AttrStyle, Attribute, Generics, Item};

/// What to say of an item that is no struct, impl or function.
pub(crate) fn wrong_item(item: &Item) -> syn::Error {
    let message = |what: &str| {
        format!(
            "`#[torchcache]` goes on a struct, on its impl, or on a free function; this is {what}"
        )
    };
    match item {
        Item::Enum(item) => syn::Error::new_spanned(item.enum_token, message("an enum")),
        Item::Union(item) => syn::Error::new_spanned(item.union_token, message("a union")),
        Item::Trait(item) => syn::Error::new_spanned(item.trait_token, message("a trait")),
        Item::Mod(item) => syn::Error::new_spanned(item.mod_token, message("a module")),
        Item::Const(item) => syn::Error::new_spanned(item.const_token, message("a constant")),
        Item::Static(item) => syn::Error::new_spanned(item.static_token, message("a static")),
        Item::Type(item) => syn::Error::new_spanned(item.type_token, message("a type alias")),
        Item::Use(item) => syn::Error::new_spanned(item.use_token, message("an import")),
        other => syn::Error::new_spanned(other, message("something else")),
    }
}

/// The `#[cfg]`s among `attributes`: what is generated beside an item is there when the item is.
pub(crate) fn conditions(attributes: &[Attribute]) -> Vec<Attribute> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .cloned()
        .collect()
}

/// An attribute before the item. Those of a function that stand inside its braces cannot stay
/// there, where the body becomes a closure.
pub(crate) fn outer(mut attribute: Attribute) -> Attribute {
    attribute.style = AttrStyle::Outer;
    attribute
}

/// Whether there are parameters for types or constants; lifetimes are no types to tell apart.
pub(crate) fn is_generic(generics: &Generics) -> bool {
    generics.type_params().next().is_some() || generics.const_params().next().is_some()
}
