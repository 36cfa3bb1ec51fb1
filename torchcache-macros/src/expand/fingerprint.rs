//! The calls that add a field to the identity, and the expansion of `#[derive(Fingerprint)]`.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::Member;
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use crate::expand::{definition, local};
use crate::parse::attributes::is_generic;
use crate::parse::derives::{FingerprintDerive, Shape, Variant};
use crate::parse::fields::{self, Field};
use crate::runtime::Runtime;

impl Field {
    /// `&self.conv`, with the span of the field's type, so that an error about the type underlines
    /// all of it, and with the hygiene of generated code.
    pub(crate) fn reference(&self) -> TokenStream {
        let last = self.ty.to_token_stream().into_iter().last();
        let end = last.map_or_else(Span::call_site, |last| match last {
            TokenTree::Group(group) => group.span_close(),
            last => last.span(),
        });
        let begin = self.span();
        let end = Span::call_site().located_at(end);
        let mut member = self.member.clone();
        match &mut member {
            Member::Named(name) => name.set_span(end),
            Member::Unnamed(index) => index.span = end,
        }
        quote_spanned!(begin=> &self.#member)
    }

    fn call(&self, value: &TokenStream, runtime: &Runtime) -> TokenStream {
        let (lints, name, f) = (&self.lints, self.name(), local("fingerprinter"));
        if self.may_be_cache {
            let (probe, span) = (self.probe(value, runtime), self.span());
            return quote_spanned!(span=> #(#lints)* #probe.field(#name, #f););
        }
        quote!(#(#lints)* #f.field(#name, #value);)
    }

    /// A value whose methods depend on whether `value` is a `TorchCache`.
    pub(crate) fn probe(&self, value: &TokenStream, runtime: &Runtime) -> TokenStream {
        let span = self.span();
        let at = runtime.at(span);
        quote_spanned!(span=> #at::FieldProbe(#value))
    }

    /// The place of the type, with the hygiene of generated code.
    fn span(&self) -> Span {
        Span::call_site().located_at(self.ty.span())
    }
}

/// `f.field("conv", &self.conv);` for each of `fields`.
pub(crate) fn fields(fields: &[Field], runtime: &Runtime) -> TokenStream {
    let calls = fields
        .iter()
        .map(|field| field.call(&field.reference(), runtime));
    let import = import(fields, runtime);
    quote!(#import #(#calls)*)
}

/// The import of what the probes of `fields` need.
pub(crate) fn import(fields: &[Field], runtime: &Runtime) -> Option<TokenStream> {
    let has_probe = fields.iter().any(|field| field.may_be_cache);
    has_probe.then(|| runtime.import("OtherField"))
}

/// The expansion of the derive.
pub(crate) fn expand(parsed: &FingerprintDerive) -> TokenStream {
    let FingerprintDerive {
        name,
        generics,
        shape,
        version,
        lints,
        runtime,
    } = parsed;
    let bounded = fields::bounds(
        &quote!(Fingerprint),
        name,
        generics,
        parsed.shape.fields(),
        runtime,
    );
    let (impl_generics, arguments, bounds) = bounded.split_for_impl();
    let definition = definition::of_type(&name.unraw().to_string(), &quote!(Self), runtime);
    let [f, before] = ["fingerprinter", "before"].map(local);
    let body = match shape {
        Shape::Struct(fields) => self::fields(fields, runtime),
        Shape::Enum(variants) => {
            let arms = variants.iter().map(|variant| arm(variant, runtime));
            quote!(match *self { #(#arms)* })
        }
    };
    let body = match version {
        Some(version) => quote!(#f.field("code version", #version); #body),
        // There is no value of an enum without variants.
        None if matches!(shape, Shape::Enum(variants) if variants.is_empty()) => body,
        None => {
            // Whether a generic type is a module may depend on its arguments.
            let is_module = match is_generic(generics) {
                true => quote!(true),
                false => runtime.is_module(),
            };
            quote! {
                let #before = #runtime::hashed_modules(#f);
                #body
                #runtime::unknown_code::<Self>(#is_module, #before, #f);
            }
        }
    };
    quote! {
        #(#lints)*
        #[automatically_derived]
        impl #impl_generics #runtime::Fingerprint for #name #arguments #bounds {
            fn fingerprint(&self, #f: &mut #runtime::Fingerprinter<'_>) {
                #runtime::type_of(&#definition, #f);
                #body
            }
        }
    }
}

fn arm(variant: &Variant, runtime: &Runtime) -> TokenStream {
    let name = &variant.name;
    let text = name.unraw().to_string();
    let bound: Vec<Ident> = (0..variant.fields.len())
        .map(|index| local(&format!("field_{index}")))
        .collect();
    let members = variant.fields.iter().map(|field| &field.member);
    let calls = variant
        .fields
        .iter()
        .zip(&bound)
        .map(|(field, bound)| field.call(&quote!(#bound), runtime));
    let f = local("fingerprinter");
    quote! {
        Self::#name { #(#members: ref #bound,)* .. } => {
            #f.variant(#text);
            #(#calls)*
        }
    }
}
