//! The `#[torchcache]` attribute and the derives `Fingerprint` and `Batched`.
//!
//! An item is parsed (`parse`) and checked (`validate`), then expanded (`expand`). Generated
//! code refers to the runtime only by `torchcache::__private`, where everything is that can be an
//! ordinary function.

mod build_inputs;
mod canonical;
mod errors;
mod expand;
mod options;
mod parse;
mod suggest;
#[cfg(test)]
mod tests;
mod validate;

use proc_macro2::TokenStream;
use quote::quote;
use syn::Item;

use crate::parse::derives::{BatchedDerive, FingerprintDerive};
use crate::parse::functions::FunctionItem;
use crate::parse::impls::ModuleImpl;
use crate::parse::structs::Struct;

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

/// Implements `Batched`, so that a cached function can return a struct of tensors.
#[proc_macro_derive(Batched)]
pub fn batched(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    derive_batched(input.into()).into()
}

fn attribute(arguments: TokenStream, item: TokenStream) -> TokenStream {
    match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Struct(item)) => match Struct::parse(arguments, item.clone()) {
            Ok(parsed) => expand::structs::expand(&parsed),
            Err(error) => expand::structs::fallback(item, &error),
        },
        Ok(Item::Impl(item)) => match ModuleImpl::parse(arguments, &item) {
            Ok(parsed) => expand::impls::expand(&parsed),
            Err(error) => expand::impls::fallback(&item, &error),
        },
        Ok(Item::Fn(item)) => match FunctionItem::parse(arguments, &item) {
            Ok(parsed) => expand::functions::expand(&parsed),
            Err(error) => expand::functions::fallback(&item, &error),
        },
        Ok(other) => keep(item, &parse::wrong_item(&other)),
        Err(error) => keep(item, &error),
    }
}

fn derive(input: TokenStream) -> TokenStream {
    match syn::parse2(input).and_then(FingerprintDerive::parse) {
        Ok(parsed) => expand::fingerprint::expand(&parsed),
        Err(error) => error.to_compile_error(),
    }
}

fn derive_batched(input: TokenStream) -> TokenStream {
    match syn::parse2(input).and_then(BatchedDerive::parse) {
        Ok(parsed) => expand::batched::expand(&parsed),
        Err(error) => error.to_compile_error(),
    }
}

/// The item as written, and the error.
fn keep(item: TokenStream, error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    quote!(#item #error)
}
