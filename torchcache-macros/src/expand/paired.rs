//! How the two attributes of a generic struct require each other. No trait can ask for the impl,
//! which may have narrower bounds than the struct, so the struct has a function that only the
//! impl's expansion uses: without the impl it is "never used", and without the struct that of a trait
//! takes its place, whose bound says what is missing.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{ItemImpl, ItemStruct};

use crate::parse::attributes::is_generic;
use crate::parse::fields;
use crate::runtime::Runtime;

/// The name of the function, which the compiler prints where one of the attributes is missing.
/// After an underscore the compiler would print nothing.
const NAME: &str = "torchcache_is_needed_on_both_the_struct_and_its_impl";

/// The function of a generic struct. `ask`: deny that it is unused.
///
/// Where every parameter has a default, the impl may write the bare name and then does not look
/// generic, so the function may stay unused.
pub(crate) fn definition(item: &ItemStruct, ask: bool) -> Option<TokenStream> {
    if !is_generic(&item.generics) {
        return None;
    }
    let mut types = item.generics.type_params();
    let mut constants = item.generics.const_params();
    let has_defaults = types.all(|parameter| parameter.default.is_some())
        && constants.all(|parameter| parameter.default.is_some());
    let denies = ask && !has_defaults;
    // The lint ignores generated code, so the function has the span of the user's.
    let span = if denies {
        item.ident.span()
    } else {
        Span::mixed_site()
    };
    let lint = denies.then(|| quote_spanned!(span=> #[deny(dead_code)]));
    let (paired, name) = (Ident::new(NAME, span), &item.ident);
    let (generics, arguments, bounds) = item.generics.split_for_impl();
    let function = quote_spanned! {span=>
        #lint
        #[doc(hidden)]
        pub(crate) const fn #paired() {}
    };
    Some(quote! {
        impl #generics #name #arguments #bounds {
            #function
        }
    })
}

/// The use of the function next to an impl: in an item of `TorchcacheImpl`, which is in use itself even
/// where the struct is not.
pub(crate) fn usage(item: &ItemImpl, runtime: &Runtime) -> TokenStream {
    let ty = &item.self_ty;
    let mut generics = item.generics.clone();
    if let Some(clause) = &mut generics.where_clause {
        let predicates = std::mem::take(&mut clause.predicates).into_iter();
        // `Self` is another type here.
        let others = predicates.filter(|predicate| !fields::mentions_self(predicate));
        clause.predicates = others.collect();
    }
    let (generics, _, bounds) = generics.split_for_impl();
    let path = path(item, &quote!(#ty), runtime);
    quote! {
        #[automatically_derived]
        impl #generics #runtime::Paired<#ty> for TorchcacheImpl #bounds {
            const PAIRED: fn() = {
                #path
            };
        }
        { let _ = #runtime::Option::None::<TorchcacheImpl>; }
    }
}

/// The use of the function in the impl of a type without arguments, which may be an alias of one with
/// them. Where it is none, the function is one of a trait.
pub(crate) fn usage_of_alias(item: &ItemImpl, runtime: &Runtime) -> TokenStream {
    let path = path(item, &quote!(Self), runtime);
    quote!(let _: fn() = { #path };)
}

fn path(item: &ItemImpl, ty: &TokenStream, runtime: &Runtime) -> TokenStream {
    let span = item.self_ty.span();
    let name = Ident::new(NAME, span);
    let path = quote_spanned!(span=> <#ty>::#name);
    // The bounds of an impl without parameters report by themselves that the struct is not annotated.
    let other = match is_generic(&item.generics) {
        true => runtime.import("Unannotated"),
        false => runtime.import("Unpaired"),
    };
    quote!(#other #path)
}
