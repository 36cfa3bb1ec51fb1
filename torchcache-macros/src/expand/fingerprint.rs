//! The calls that add a field to the identity, and the expansion of `#[derive(Fingerprint)]`.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::Member;
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use crate::expand::definition;
use crate::parse::attributes::is_generic;
use crate::parse::derives::{FingerprintDerive, Shape, Variant};
use crate::parse::fields::{self, Field};

impl Field {
    /// `&self.conv`, with the span of the field's type, so that an error about the type underlines
    /// all of it, and with the hygiene of generated code.
    pub(crate) fn reference(&self) -> TokenStream {
        let last = self.ty.to_token_stream().into_iter().last();
        let end = last.map_or_else(Span::call_site, |last| match last {
            TokenTree::Group(group) => group.span_close(),
            last => last.span(),
        });
        let begin = Span::call_site().located_at(self.ty.span());
        let end = Span::call_site().located_at(end);
        let mut member = self.member.clone();
        match &mut member {
            Member::Named(name) => name.set_span(end),
            Member::Unnamed(index) => index.span = end,
        }
        quote_spanned!(begin=> &self.#member)
    }

    fn call(&self, value: &TokenStream) -> TokenStream {
        let (cfgs, name) = (&self.cfgs, self.name());
        quote!(#(#cfgs)* f.field(#name, #value);)
    }
}

/// `f.field("conv", &self.conv);` for each of `fields`.
pub(crate) fn fields(fields: &[Field]) -> TokenStream {
    let calls = fields.iter().map(|field| field.call(&field.reference()));
    quote!(#(#calls)*)
}

/// The expansion of the derive.
pub(crate) fn expand(parsed: &FingerprintDerive) -> TokenStream {
    let FingerprintDerive {
        name,
        generics,
        shape,
        version,
    } = parsed;
    let bounded = fields::bounds("Fingerprint", name, generics, parsed.fields());
    let (impl_generics, arguments, bounds) = bounded.split_for_impl();
    let definition = definition::of_type(&name.unraw().to_string(), &quote!(Self));
    let body = match shape {
        Shape::Struct(fields) => self::fields(fields),
        Shape::Enum(variants) => {
            let arms = variants.iter().map(arm);
            quote!(match *self { #(#arms)* })
        }
    };
    let body = match version {
        Some(version) => quote!(f.field("code version", #version); #body),
        // There is no value of an enum without variants.
        None if matches!(shape, Shape::Enum(variants) if variants.is_empty()) => body,
        None => {
            // Whether a generic type is a module may depend on its arguments.
            let is_module = if is_generic(generics) {
                quote!(true)
            } else {
                quote!(::torchcache::__private::ModuleProbe::<Self>::new().is_module())
            };
            quote! {
                let before = ::torchcache::__private::hashed_modules(f);
                #body
                ::torchcache::__private::unknown_code::<Self>(#is_module, before, f);
            }
        }
    };
    quote! {
        #[automatically_derived]
        impl #impl_generics ::torchcache::__private::Fingerprint for #name #arguments #bounds {
            fn fingerprint(&self, f: &mut ::torchcache::__private::Fingerprinter<'_>) {
                ::torchcache::__private::type_of(&#definition, f);
                #body
            }
        }
    }
}

fn arm(variant: &Variant) -> TokenStream {
    let name = &variant.name;
    let text = name.unraw().to_string();
    let bound: Vec<Ident> = (0..variant.fields.len())
        .map(|index| format_ident!("field_{index}"))
        .collect();
    let members = variant.fields.iter().map(|field| &field.member);
    let calls = variant
        .fields
        .iter()
        .zip(&bound)
        .map(|(field, bound)| field.call(&quote!(#bound)));
    quote! {
        Self::#name { #(#members: ref #bound,)* .. } => {
            f.variant(#text);
            #(#calls)*
        }
    }
}
