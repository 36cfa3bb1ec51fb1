//! What a struct becomes: itself, its identity, and `CachedStruct`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::{ItemStruct, parse_quote};

use crate::errors::Errors;
use crate::expand::{PAIRED, fingerprint};
use crate::parse::{self, Struct};

/// The expansion of a struct without mistakes.
pub(crate) fn expand(parsed: &Struct) -> TokenStream {
    let Struct {
        item,
        options,
        cache,
        overrides,
        fields,
    } = parsed;
    let name = &item.ident;
    let bounded = parse::bounds("Fingerprint", name, &item.generics, fields.iter());
    let (generics, arguments, bounds) = bounded.split_for_impl();
    let conditions = parse::conditions(&item.attrs);
    let fingerprint = fingerprint(item);
    let counter = if fields.is_empty() {
        quote!(_)
    } else {
        quote!(f)
    };
    let fields = fingerprint::fields(fields);
    let options = options.expand();
    let path = name.unraw().to_string();
    let parameter = if overrides.is_empty() {
        quote!(_)
    } else {
        quote!(overrides)
    };
    let overrides = overrides.iter().map(|over| {
        let (field, conditions) = (over.field.reference(), &over.field.conditions);
        let option = Ident::new(&over.option.to_string(), Span::call_site());
        quote!(#(#conditions)* overrides.#option(#field);)
    });
    let paired = paired(item, true);
    quote! {
        #item
        #(#conditions)*
        #[automatically_derived]
        impl #generics ::torchcache::__private::CachedStruct for #name #arguments #bounds {
            const NAME: &'static str = ::torchcache::__private::concat!(
                ::torchcache::__private::module_path!(), "::", #path
            );
            fn options() -> ::torchcache::__private::Options {
                #options
            }
            fn cache(&self) -> &::torchcache::__private::TorchCache {
                &self.#cache
            }
            fn overrides(&self, #parameter: &mut ::torchcache::__private::Overrides<'_>) {
                #(#overrides)*
            }
            fn fields(&self, #counter: &mut ::torchcache::__private::Fingerprinter<'_>) {
                #fields
            }
        }
        #fingerprint
        #paired
    }
}

/// The struct without our attributes, the error, and what the impl asks for.
pub(crate) fn fallback(mut item: ItemStruct, error: &syn::Error) -> TokenStream {
    for field in &mut item.fields {
        // Already part of `error`.
        parse::take_skip(&mut field.attrs, &mut Errors::default());
    }
    let error = error.to_compile_error();
    let name = &item.ident;
    let conditions = parse::conditions(&item.attrs);
    let (generics, arguments, bounds) = item.generics.split_for_impl();
    let paired = paired(&item, false);
    quote! {
        #item
        #error
        #(#conditions)*
        impl #generics ::torchcache::__private::Fingerprint for #name #arguments #bounds {
            fn fingerprint(&self, _: &mut ::torchcache::__private::Fingerprinter<'_>) {}
        }
        #(#conditions)*
        impl #generics ::torchcache::__private::CachedStruct for #name #arguments #bounds {
            const NAME: &'static str = "";
            fn options() -> ::torchcache::__private::Options {
                loop {}
            }
            fn cache(&self) -> &::torchcache::__private::TorchCache {
                loop {}
            }
            fn overrides(&self, _: &mut ::torchcache::__private::Overrides<'_>) {}
            fn fields(&self, _: &mut ::torchcache::__private::Fingerprinter<'_>) {}
        }
        #paired
    }
}

/// The struct's part in the identity of another one: what counts for its own cache, so its code
/// too. Without a cached impl there is no such thing: a generic struct's parameters decide
/// whether there is one, for any other struct the compiler finds out here.
fn fingerprint(item: &ItemStruct) -> TokenStream {
    let name = &item.ident;
    let mut generics = item.generics.clone();
    if parse::is_generic(&generics) {
        let bound = parse_quote!(Self: ::torchcache::__private::CachedForward);
        generics.make_where_clause().predicates.push(bound);
    }
    let conditions = parse::conditions(&item.attrs);
    let (generics, arguments, bounds) = generics.split_for_impl();
    let span = Span::call_site().located_at(name.span());
    let nested = quote_spanned! {span=>
        <Self as ::torchcache::__private::CachedForward>::nested(self, f)
    };
    quote! {
        #(#conditions)*
        #[automatically_derived]
        impl #generics ::torchcache::__private::Fingerprint for #name #arguments #bounds {
            fn fingerprint(&self, f: &mut ::torchcache::__private::Fingerprinter<'_>) {
                #nested
            }
        }
    }
}

/// What the expansion of a generic impl uses, and what is "never used" where there is none: no
/// trait can ask for it, since the impl may have narrower bounds than the struct.
///
/// Where every parameter has a default the impl may write the bare name and then does not look
/// generic, so nothing is asked.
fn paired(item: &ItemStruct, ask: bool) -> Option<TokenStream> {
    if !parse::is_generic(&item.generics) {
        return None;
    }
    let defaults = item
        .generics
        .type_params()
        .all(|parameter| parameter.default.is_some())
        && item
            .generics
            .const_params()
            .all(|parameter| parameter.default.is_some());
    // The lint lets generated code pass, and so it must take this for the user's.
    let span = if ask && !defaults {
        item.ident.span()
    } else {
        Span::mixed_site()
    };
    let lint = (ask && !defaults).then(|| quote_spanned!(span=> #[deny(dead_code)]));
    let (paired, name) = (Ident::new(PAIRED, span), &item.ident);
    let conditions = parse::conditions(&item.attrs);
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
        #(#conditions)*
        impl #generics #name #arguments #bounds {
            #function
        }
    })
}
