//! How the attributes of a struct and of its impls require each other. No trait can ask for an impl: there may be
//! several, with narrower bounds than the struct. So the struct has a function that only an
//! impl's expansion uses: without the impl it is "never used", and without the struct that of a trait
//! takes its place, whose bound says what is missing.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{GenericParam, Generics, ItemImpl, ItemStruct};

use crate::parse::attributes::is_generic;
use crate::parse::fields;
use crate::runtime::Runtime;

/// The name of the function, which the compiler prints where one of the attributes is missing.
/// After an underscore the compiler would print nothing.
const NAME: &str = "torchcache_is_needed_on_both_the_struct_and_its_impl";

/// The function of a struct. `ask`: deny that it is unused.
///
/// Where every parameter has a default, the impl may write the bare name and then does not look
/// generic, so the function may stay unused.
pub(crate) fn definition(item: &ItemStruct, ask: bool) -> TokenStream {
    let mut types = item.generics.type_params();
    let mut constants = item.generics.const_params();
    let has_defaults = is_generic(&item.generics)
        && types.all(|parameter| parameter.default.is_some())
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
    let generics = anonymous(&item.generics);
    let (generics, arguments, bounds) = match &generics {
        Some(arguments) => (None, arguments.to_token_stream(), None),
        None => {
            let (generics, arguments, bounds) = item.generics.split_for_impl();
            (Some(generics), arguments.to_token_stream(), bounds)
        }
    };
    let function = quote_spanned! {span=>
        #lint
        #[doc(hidden)]
        pub(crate) const fn #paired() {}
    };
    quote! {
        impl #generics #name #arguments #bounds {
            #function
        }
    }
}

/// `<'_, '_>` for the arguments of a struct whose parameters are lifetimes without bounds: an impl that
/// names them would use each only once, of which a lint warns.
fn anonymous(generics: &Generics) -> Option<TokenStream> {
    let is_plain = |parameter: &GenericParam| match parameter {
        GenericParam::Lifetime(lifetime) => lifetime.bounds.is_empty(),
        GenericParam::Type(_) | GenericParam::Const(_) => false,
    };
    let is_plain = generics.where_clause.is_none() && generics.params.iter().all(is_plain);
    let arguments = generics.params.iter().map(|_| quote!('_));
    (is_plain && !generics.params.is_empty()).then(|| quote!(<#(#arguments),*>))
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
