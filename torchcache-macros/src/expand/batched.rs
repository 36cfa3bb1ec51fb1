//! The expansion of `#[derive(Batched)]`: a struct of tensors, flattened and rebuilt by field.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use crate::parse::derives::BatchedDerive;
use crate::parse::fields::bounds;

/// The expansion of the derive.
pub(crate) fn expand(parsed: &BatchedDerive) -> TokenStream {
    let BatchedDerive {
        name,
        generics,
        fields,
        is_named,
    } = parsed;
    let bounded = bounds("Batched", name, generics, fields.iter());
    let (generics, arguments, bounds) = bounded.split_for_impl();
    let members: Vec<_> = fields.iter().map(|field| &field.member).collect();
    // An error about a type points at it.
    let parts: Vec<_> = fields
        .iter()
        .map(|field| {
            let ty = &field.ty;
            quote_spanned!(ty.span()=> <#ty as ::torchcache::__private::Batched>)
        })
        .collect();
    let (begin, end) = if *is_named { ("{", "}") } else { ("(", ")") };
    let called = name.to_string();
    let labels = fields.iter().enumerate().map(|(place, field)| match place {
        _ if !is_named => String::new(),
        0 => format!("{}:", field.name()),
        _ => format!(",{}:", field.name()),
    });
    quote! {
        #[automatically_derived]
        impl #generics ::torchcache::__private::Batched for #name #arguments #bounds {
            fn structure(text: &mut ::torchcache::__private::String) {
                ::torchcache::__private::nested(#called, text, |text| {
                    text.push_str(#begin);
                    #(text.push_str(#labels); #parts::structure(text);)*
                    text.push_str(#end);
                });
            }
            fn flatten(
                self,
                tensors: &mut ::torchcache::__private::Vec<::torchcache::__private::Tensor>,
                lengths: &mut ::torchcache::__private::Vec<u32>,
            ) {
                #(#parts::flatten(self.#members, tensors, lengths);)*
            }
            fn unflatten(
                tensors: &mut dyn ::torchcache::__private::Iterator<
                    Item = ::torchcache::__private::Tensor,
                >,
                lengths: &mut dyn ::torchcache::__private::Iterator<Item = u32>,
            ) -> ::torchcache::__private::Option<Self> {
                ::torchcache::__private::Option::Some(Self {
                    #(#members: #parts::unflatten(tensors, lengths)?,)*
                })
            }
        }
    }
}
