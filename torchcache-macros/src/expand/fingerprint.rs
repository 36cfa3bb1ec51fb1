//! The calls that take a field into the identity, and `#[derive(Fingerprint)]`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use crate::parse::{self, Field, Fingerprint, Shape, Variant};

impl Field {
    /// Where the field's type is, so that an error about the type points at it; but with the
    /// names of generated code.
    pub(crate) fn generated_span(&self) -> Span {
        Span::call_site().located_at(self.ty.span())
    }

    fn count(&self, value: &TokenStream) -> TokenStream {
        let (conditions, name) = (&self.conditions, self.name());
        quote_spanned!(self.generated_span()=> #(#conditions)* f.field(#name, #value);)
    }
}

/// `f.field("conv", &self.conv);` for each of `fields`.
pub(crate) fn fields(fields: &[Field]) -> TokenStream {
    let calls = fields.iter().map(|field| {
        let member = &field.member;
        field.count(&quote_spanned!(field.generated_span()=> &self.#member))
    });
    quote!(#(#calls)*)
}

/// The expansion of the derive.
pub(crate) fn expand(parsed: &Fingerprint) -> TokenStream {
    let Fingerprint {
        name,
        generics,
        shape,
    } = parsed;
    let bounded = parse::fingerprint_bounds(name, generics, parsed.fields());
    let (generics, arguments, bounds) = bounded.split_for_impl();
    let body = match shape {
        Shape::Struct(counted) => fields(counted),
        Shape::Enum(variants) => {
            let arms = variants.iter().map(arm);
            quote!(match *self { #(#arms)* })
        }
    };
    quote! {
        #[automatically_derived]
        impl #generics ::torchcache::__private::Fingerprint for #name #arguments #bounds {
            fn fingerprint(&self, f: &mut ::torchcache::__private::Fingerprinter<'_>) {
                ::torchcache::__private::type_of(self, f);
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
        .map(|(field, bound)| field.count(&quote!(#bound)));
    quote! {
        Self::#name { #(#members: ref #bound,)* .. } => {
            f.variant(#text);
            #(#calls)*
        }
    }
}
