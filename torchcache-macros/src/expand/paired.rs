//! How the two attributes of a generic struct require each other. No trait can ask for the impl,
//! which may have narrower bounds than the struct, so the struct has a function that only the
//! impl's expansion uses: without the impl it is "never used", without the struct it is missing.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{ItemStruct, Type};

use crate::parse::attributes::{cfgs, is_generic};

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
    let cfgs = cfgs(&item.attrs);
    let (generics, arguments, bounds) = item.generics.split_for_impl();
    let functions = quote_spanned!(span=> &'static [::torchcache::__private::Function]);
    let function = quote_spanned! {span=>
        #lint
        #[doc(hidden)]
        pub(crate) const fn #paired(functions: #functions) -> #functions {
            functions
        }
    };
    Some(quote! {
        #(#cfgs)*
        impl #generics #name #arguments #bounds {
            #function
        }
    })
}

/// The path of the function in an impl of `ty`.
pub(crate) fn path(ty: &Type) -> TokenStream {
    let name = Ident::new(NAME, ty.span());
    quote_spanned!(ty.span()=> Self::#name)
}
