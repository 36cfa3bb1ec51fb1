//! From tokens to checked items: each file reads one kind of item and reports every mistake in it.
//! No code is generated here.

pub(crate) mod attributes;
pub(crate) mod derives;
pub(crate) mod fields;
pub(crate) mod functions;
pub(crate) mod impls;
pub(crate) mod options;
pub(crate) mod signature;
pub(crate) mod structs;

use syn::Item;

/// The error for an item that is not a struct, impl or function.
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
        other => syn::Error::new_spanned(other, message("another kind of item")),
    }
}
