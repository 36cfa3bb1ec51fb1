//! The expansion of a struct: the struct, its identity, and `CachedStruct`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::{ItemStruct, parse_quote};

use crate::errors::Errors;
use crate::expand::{definition, fingerprint, options, paired};
use crate::parse::attributes::{cfgs, is_generic};
use crate::parse::fields;
use crate::parse::structs::Struct;

/// The expansion of a checked struct.
pub(crate) fn expand(parsed: &Struct) -> TokenStream {
    let Struct {
        item,
        options,
        cache,
        overrides,
        fields: identity,
    } = parsed;
    let name = &item.ident;
    let bounded = fields::bounds("Fingerprint", name, &item.generics, identity.iter());
    let (generics, arguments, bounds) = bounded.split_for_impl();
    let cfgs = cfgs(&item.attrs);
    let nested = nested(item);
    let fingerprinter = if identity.is_empty() {
        quote!(_)
    } else {
        quote!(f)
    };
    let identity = fingerprint::fields(identity);
    let options = options::expand(options);
    let definition = definition::of_type(&name.unraw().to_string(), &quote!(Self));
    let parameter = if overrides.is_empty() {
        quote!(_)
    } else {
        quote!(overrides)
    };
    let overrides = overrides.iter().map(|over| {
        let (field, cfgs) = (over.field.reference(), &over.field.cfgs);
        let option = Ident::new(&over.option.to_string(), Span::call_site());
        quote!(#(#cfgs)* overrides.#option(#field);)
    });
    let paired = paired::definition(item, true);
    quote! {
        #item
        #(#cfgs)*
        #[automatically_derived]
        impl #generics ::torchcache::__private::CachedStruct for #name #arguments #bounds {
            const DEFINITION: ::torchcache::__private::Definition = #definition;
            fn options() -> ::torchcache::__private::OptionsBuilder {
                #options
            }
            fn cache(&self) -> &::torchcache::__private::TorchCache {
                &self.#cache
            }
            fn overrides(&self, #parameter: &mut ::torchcache::__private::Overrides<'_>) {
                #(#overrides)*
            }
            fn fields(&self, #fingerprinter: &mut ::torchcache::__private::Fingerprinter<'_>) {
                #identity
            }
        }
        #nested
        #paired
    }
}

/// The struct without our attributes, the errors, and the items that the impl refers to.
pub(crate) fn fallback(mut item: ItemStruct, error: &syn::Error) -> TokenStream {
    for field in &mut item.fields {
        // Its mistakes are in `error`.
        fields::take_skip(&mut field.attrs, &mut Errors::default());
    }
    let error = error.to_compile_error();
    let name = &item.ident;
    let cfgs = cfgs(&item.attrs);
    let (generics, arguments, bounds) = item.generics.split_for_impl();
    let paired = paired::definition(&item, false);
    let definition = definition::of_type("", &quote!(Self));
    quote! {
        #item
        #error
        #(#cfgs)*
        impl #generics ::torchcache::__private::Fingerprint for #name #arguments #bounds {
            fn fingerprint(&self, _: &mut ::torchcache::__private::Fingerprinter<'_>) {}
        }
        #(#cfgs)*
        impl #generics ::torchcache::__private::CachedStruct for #name #arguments #bounds {
            const DEFINITION: ::torchcache::__private::Definition = #definition;
            fn options() -> ::torchcache::__private::OptionsBuilder {
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

/// The struct as a part of another identity: everything in its own identity, its code included.
/// This needs the cached impl; for a generic struct its parameters decide whether there is one.
fn nested(item: &ItemStruct) -> TokenStream {
    let name = &item.ident;
    let mut generics = item.generics.clone();
    if is_generic(&generics) {
        let bound = parse_quote!(Self: ::torchcache::__private::CachedForward);
        generics.make_where_clause().predicates.push(bound);
    }
    let cfgs = cfgs(&item.attrs);
    let (generics, arguments, bounds) = generics.split_for_impl();
    let span = Span::call_site().located_at(name.span());
    let nested = quote_spanned! {span=>
        <Self as ::torchcache::__private::CachedForward>::nested(self, f)
    };
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #generics ::torchcache::__private::Fingerprint for #name #arguments #bounds {
            fn fingerprint(&self, f: &mut ::torchcache::__private::Fingerprinter<'_>) {
                #nested
            }
        }
    }
}
