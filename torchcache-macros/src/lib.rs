//! The `#[torchcache]` attribute and the derives `Fingerprint`, `Batched` and `Argument`.
//!
//! An item is parsed (`parse`) and checked (`validate`), then expanded (`expand`). Generated
//! code refers to the library only by its module `__private` (`runtime`), where everything is that
//! can be an ordinary function. Names that it binds begin with `torchcache_`, since a pattern may be
//! the name of a constant of the user's.

mod build_inputs;
mod canonical;
mod errors;
mod expand;
mod options;
mod parse;
mod runtime;
mod suggest;
#[cfg(test)]
mod tests;
mod types;
mod validate;

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Item, ItemStruct};

use crate::errors::Errors;
use crate::parse::derives::{ARGUMENT, BATCHED, FingerprintDerive, TensorsDerive, TensorsTrait};
use crate::parse::functions::FunctionItem;
use crate::parse::impls::ModuleImpl;
use crate::parse::options::OptionAssignments;
use crate::parse::structs::Struct;
use crate::runtime::Runtime;

/// Caches a module or a function row by row: see the `torchcache` crate.
#[proc_macro_attribute]
pub fn torchcache(
    arguments: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    attribute(arguments.into(), item.into()).into()
}

/// Implements `Fingerprint`, so that a struct or an enum can be part of a module's identity: every
/// field without `#[torchcache(skip)]`, and what stands for its code.
#[proc_macro_derive(Fingerprint, attributes(torchcache, fingerprint))]
pub fn fingerprint(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    derive(input.into()).into()
}

/// Implements `Batched`, so that a cached function can return a struct or an enum of tensors. A field marked
/// `#[batched(constant)]` is a plain value.
#[proc_macro_derive(Batched, attributes(batched))]
pub fn batched(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    derive_tensors(input.into(), BATCHED, expand::tensors::batched).into()
}

/// Implements `Argument`, so that a cached function can take a struct or an enum of tensors. A field marked
/// `#[argument(plain)]` is a plain argument.
#[proc_macro_derive(Argument, attributes(argument))]
pub fn argument(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    derive_tensors(input.into(), ARGUMENT, expand::tensors::argument).into()
}

/// What the attribute on a struct expands to. A derive sees the fields without those that a `#[cfg]`
/// removes, and with the attributes of their `#[cfg_attr]`s.
#[doc(hidden)]
#[proc_macro_derive(CachedStruct, attributes(torchcache, torchcache_struct))]
pub fn cached_struct(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    derive_struct(input.into()).into()
}

fn attribute(arguments: TokenStream, item: TokenStream) -> TokenStream {
    // Mistakes in them are reported below.
    let given = OptionAssignments::parse(arguments.clone(), &mut Errors::default());
    let runtime = Runtime::locate(given.library.as_ref());
    match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Struct(item)) => expand::structs::derive(&arguments, item, &runtime),
        Ok(Item::Impl(item)) => match ModuleImpl::parse(arguments, &item) {
            Ok(parsed) => expand::impls::expand(&parsed, &runtime),
            Err(error) => expand::impls::fallback(&item, &error, &runtime),
        },
        Ok(Item::Fn(item)) => match FunctionItem::parse(arguments, &item) {
            Ok(parsed) => expand::functions::expand(&parsed, &runtime),
            Err(error) => {
                expand::functions::fallback(&item, &error, given.handle.as_ref(), &runtime)
            }
        },
        Ok(other) => keep(item, &parse::wrong_item(&other)),
        Err(error) => keep(item, &error),
    }
}

fn derive_struct(input: TokenStream) -> TokenStream {
    let item: ItemStruct = match syn::parse2(input) {
        Ok(item) => item,
        Err(error) => return error.to_compile_error(),
    };
    let arguments = parse::structs::arguments(&item);
    let given = arguments.clone().unwrap_or_default();
    let given = OptionAssignments::parse(given, &mut Errors::default());
    let runtime = Runtime::locate(given.library.as_ref());
    match arguments.and_then(|arguments| Struct::parse(arguments, item.clone())) {
        Ok(parsed) => expand::structs::expand(&parsed, &runtime),
        Err(error) => expand::structs::fallback(&item, &error, &runtime),
    }
}

fn derive(input: TokenStream) -> TokenStream {
    match syn::parse2(input).and_then(FingerprintDerive::parse) {
        Ok(parsed) => expand::fingerprint::expand(&parsed),
        Err(error) => error.to_compile_error(),
    }
}

fn derive_tensors(
    input: TokenStream,
    of: TensorsTrait,
    expand: impl FnOnce(&TensorsDerive) -> TokenStream,
) -> TokenStream {
    let parsed = syn::parse2(input).and_then(|input| TensorsDerive::parse(input, of));
    match parsed {
        Ok(parsed) => expand(&parsed),
        Err(error) => error.to_compile_error(),
    }
}

/// The item as written, and the error.
fn keep(item: TokenStream, error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    quote!(#item #error)
}
