//! The `#[torchcache]` attribute and the derives `Fingerprint` and `Batched`: parse, validate, expand, nothing
//! else. This file only finds out what kind of item it was given; everything that can be an
//! ordinary function is one in `torchcache::__private`, the only path generated code names.

mod code;
mod errors;
mod expand;
mod options;
mod parse;
mod sizes;
mod suggest;
#[cfg(test)]
mod tests;
mod values;

use proc_macro2::TokenStream;
use quote::quote;
use syn::Item;

/// See the documentation of the attribute in the `torchcache` crate.
#[proc_macro_attribute]
pub fn torchcache(
    arguments: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    attribute(arguments.into(), item.into()).into()
}

/// Makes a struct or an enum part of the identity of a cached module: every field counts, but
/// those marked `#[torchcache(skip)]`.
#[proc_macro_derive(Fingerprint, attributes(torchcache))]
pub fn fingerprint(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    derive(input.into()).into()
}

/// Makes a struct of tensors something that a cached function may return: every field is part of the
/// output, under its name.
#[proc_macro_derive(Batched)]
pub fn batched(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    derive_batched(input.into()).into()
}

fn attribute(arguments: TokenStream, item: TokenStream) -> TokenStream {
    match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Struct(item)) => match parse::Struct::parse(arguments, item.clone()) {
            Ok(parsed) => expand::structs::expand(&parsed),
            Err(error) => expand::structs::fallback(item, &error),
        },
        Ok(Item::Impl(item)) => match parse::Impl::parse(arguments, &item) {
            Ok(parsed) => expand::impls::expand(&parsed),
            Err(error) => expand::impls::fallback(&item, &error),
        },
        Ok(Item::Fn(item)) => match parse::Function::parse(arguments, &item) {
            Ok(parsed) => expand::functions::expand(&parsed),
            Err(error) => expand::functions::fallback(&item, &error),
        },
        Ok(other) => keep(item, &parse::wrong_item(&other)),
        Err(error) => keep(item, &error),
    }
}

fn derive(input: TokenStream) -> TokenStream {
    match syn::parse2(input).and_then(parse::Fingerprint::parse) {
        Ok(parsed) => expand::fingerprint::expand(&parsed),
        Err(error) => error.to_compile_error(),
    }
}

fn derive_batched(input: TokenStream) -> TokenStream {
    match syn::parse2(input).and_then(parse::Batched::parse) {
        Ok(parsed) => expand::batched::expand(&parsed),
        Err(error) => error.to_compile_error(),
    }
}

/// The item as it was, and the error beside it.
fn keep(item: TokenStream, error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    quote!(#item #error)
}
