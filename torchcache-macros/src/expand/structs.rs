//! The expansion of a struct: the struct with a derive, which makes its identity and `CachedStruct`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::{ItemStruct, Lifetime, parse_quote};

use crate::expand::{definition, fingerprint, local, options, paired};
use crate::parse::attributes::{Inherited, alias, inherited};
use crate::parse::fields::{self, Field};
use crate::parse::structs::{CacheField, DERIVED, Struct, no_cache};
use crate::runtime::Runtime;

/// The struct with the derive, which reads the arguments and the attributes of the fields.
pub(crate) fn derive(
    arguments: &TokenStream,
    mut item: ItemStruct,
    runtime: &Runtime,
) -> TokenStream {
    let alias = alias();
    for field in &mut item.fields {
        for attribute in &mut field.attrs {
            fields::without_path(&mut attribute.meta, alias.as_deref());
        }
    }
    let derived = Ident::new(DERIVED, Span::call_site());
    quote! {
        #[derive(#runtime::CachedStruct)]
        #[#derived(#arguments)]
        #item
    }
}

/// The expansion of the derive of a checked struct.
pub(crate) fn expand(parsed: &Struct, runtime: &Runtime) -> TokenStream {
    let Struct {
        item,
        options,
        cache,
        overrides,
        fields: identity,
    } = parsed;
    let name = &item.ident;
    let bounded = fields::bounds(
        &quote!(Fingerprint),
        name,
        &item.generics,
        identity.iter(),
        runtime,
    );
    let (generics, arguments, bounds) = bounded.split_for_impl();
    let lints = inherited(&item.attrs, &[Inherited::Lints]);
    let nested = nested(item, runtime);
    let f = local("fingerprinter");
    let fingerprinter = if identity.is_empty() {
        quote!(_)
    } else {
        f.to_token_stream()
    };
    let identity = fingerprint::fields(identity, runtime);
    let options = options::expand(options, runtime);
    let definition = definition::of_type(&name.unraw().to_string(), &quote!(Self), runtime);
    let overridden = local("overrides");
    let parameter = if overrides.is_empty() {
        quote!(_)
    } else {
        overridden.to_token_stream()
    };
    let overrides = overrides.iter().map(|over| {
        let (field, lints) = (over.field.reference(), &over.field.lints);
        let option = Ident::new(&over.option.to_string(), Span::call_site());
        quote!(#(#lints)* #overridden.#option(#field);)
    });
    let (cache, check) = match cache {
        CacheField::Named(member) => (quote!(&self.#member), None),
        CacheField::Among(fields) => (
            among(fields, runtime),
            Some(one_cache(item, fields, runtime)),
        ),
    };
    let paired = paired::definition(item, true);
    quote! {
        #(#lints)*
        #[automatically_derived]
        impl #generics #runtime::CachedStruct for #name #arguments #bounds {
            const DEFINITION: #runtime::Definition = #definition;
            fn options() -> #runtime::OptionsBuilder {
                #options
            }
            fn cache(&self) -> &#runtime::TorchCache {
                #cache
            }
            fn overrides(&self, #parameter: &mut #runtime::Overrides<'_>) {
                #(#overrides)*
            }
            fn fields(&self, #fingerprinter: &mut #runtime::Fingerprinter<'_>) {
                #identity
            }
        }
        #check
        #nested
        #paired
    }
}

/// The one of `fields` that is a `TorchCache`.
fn among(fields: &[Field], runtime: &Runtime) -> TokenStream {
    let import = fingerprint::import(fields, runtime);
    let probes = fields
        .iter()
        .map(|field| field.probe(&field.reference(), runtime));
    quote! {
        #import
        #runtime::found([#(#probes.cache()),*])
    }
}

/// Checks that one of `fields` is a `TorchCache`, in a constant.
fn one_cache(item: &ItemStruct, fields: &[Field], runtime: &Runtime) -> TokenStream {
    let lints = inherited(&item.attrs, &[Inherited::Lints]);
    let span = Span::call_site().located_at(item.ident.span());
    let at = runtime.at(span);
    let import = fingerprint::import(fields, runtime);
    let types = fields.iter().map(|field| &field.ty);
    let message = no_cache(item);
    let check = quote_spanned!(span=> #at::one_cache);
    quote! {
        #(#lints)*
        const _: () = {
            #import
            #check(&[#(#runtime::FieldProbe::<&#types>::IS_CACHE),*], #message)
        };
    }
}

/// The errors, and the items that the impl refers to.
pub(crate) fn fallback(item: &ItemStruct, error: &syn::Error, runtime: &Runtime) -> TokenStream {
    let error = error.to_compile_error();
    let name = &item.ident;
    let lints = inherited(&item.attrs, &[Inherited::Lints]);
    let (generics, arguments, bounds) = item.generics.split_for_impl();
    let paired = paired::definition(item, false);
    let definition = definition::of_type("", &quote!(Self), runtime);
    let argument = plain_argument(item, runtime);
    quote! {
        #error
        #(#lints)*
        #[automatically_derived]
        impl #generics #runtime::Fingerprint for #name #arguments #bounds {
            fn fingerprint(&self, _: &mut #runtime::Fingerprinter<'_>) {}
        }
        #(#lints)*
        #[automatically_derived]
        impl #generics #runtime::CachedStruct for #name #arguments #bounds {
            const DEFINITION: #runtime::Definition = #definition;
            fn options() -> #runtime::OptionsBuilder {
                loop {}
            }
            fn cache(&self) -> &#runtime::TorchCache {
                loop {}
            }
            fn overrides(&self, _: &mut #runtime::Overrides<'_>) {}
            fn fields(&self, _: &mut #runtime::Fingerprinter<'_>) {}
        }
        #argument
        #paired
    }
}

/// The struct as a part of another identity: everything in its own identity, and the code of its cached
/// impl with `forward`, or what stands for it where the struct is a module without that impl. A struct with parameters
/// requires that impl, which may be for some of them alone.
fn nested(item: &ItemStruct, runtime: &Runtime) -> TokenStream {
    let name = &item.ident;
    let mut generics = item.generics.clone();
    let span = Span::call_site().located_at(name.span());
    let (at, f) = (runtime.at(span), local("fingerprinter"));
    let functions = if generics.params.is_empty() {
        let (import, is_module) = (runtime.import("NoForward"), runtime.is_module());
        quote! {
            { #import #runtime::ForwardProbe::<Self>::FUNCTIONS },
            #is_module
        }
    } else {
        let bound =
            parse_quote!(Self: #runtime::CachedStruct + #runtime::OneImplWithForwardPerStruct);
        generics.make_where_clause().predicates.push(bound);
        quote! {
            #runtime::Option::Some(<Self as #runtime::OneImplWithForwardPerStruct>::FUNCTIONS),
            true
        }
    };
    let lints = inherited(&item.attrs, &[Inherited::Lints]);
    let argument = plain_argument(item, runtime);
    let (generics, arguments, bounds) = generics.split_for_impl();
    let nested = quote_spanned! {span=>
        <Self as #at::CachedStruct>::nested(self, #functions, #f)
    };
    quote! {
        #(#lints)*
        #[automatically_derived]
        impl #generics #runtime::Fingerprint for #name #arguments #bounds {
            fn fingerprint(&self, #f: &mut #runtime::Fingerprinter<'_>) {
                #nested
            }
        }
        #argument
    }
}

/// A reference to the struct as an argument of a cached function.
fn plain_argument(item: &ItemStruct, runtime: &Runtime) -> TokenStream {
    let name = &item.ident;
    let reference = Lifetime::new("'torchcache_module", Span::mixed_site());
    let (_, arguments, _) = item.generics.split_for_impl();
    let module = quote!(#name #arguments);
    let mut generics = item.generics.clone();
    if !generics.params.is_empty() {
        let bounds = &mut generics.make_where_clause().predicates;
        bounds.push(parse_quote!(#module: #reference + #runtime::Fingerprint));
    }
    generics.params.insert(0, parse_quote!(#reference));
    let lints = inherited(&item.attrs, &[Inherited::Lints]);
    let (generics, _, bounds) = generics.split_for_impl();
    quote! {
        #(#lints)*
        #[automatically_derived]
        impl #generics #runtime::PlainArgument for &#reference #module #bounds {}
    }
}
