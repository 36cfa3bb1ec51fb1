//! The expansion of `#[derive(Batched)]`: a struct of tensors, flattened and rebuilt by field.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use crate::expand::local;
use crate::parse::derives::BatchedDerive;
use crate::parse::fields::bounds;

/// The expansion of the derive.
pub(crate) fn expand(parsed: &BatchedDerive) -> TokenStream {
    let BatchedDerive {
        name,
        generics,
        fields,
        is_named,
        lints,
        runtime,
    } = parsed;
    let bounded = bounds("Batched", name, generics, fields.iter(), runtime);
    let (generics, arguments, bounds) = bounded.split_for_impl();
    let members: Vec<_> = fields.iter().map(|field| &field.member).collect();
    // An error about a type points at it.
    let parts: Vec<_> = fields
        .iter()
        .map(|field| {
            let ty = &field.ty;
            let at = runtime.at(ty.span());
            quote_spanned!(ty.span()=> <#ty as #at::Batched>)
        })
        .collect();
    let (begin, end) = if *is_named { ("{", "}") } else { ("(", ")") };
    let called = name.to_string();
    let labels = fields.iter().enumerate().map(|(place, field)| match place {
        _ if !is_named => String::new(),
        0 => format!("{}:", field.name()),
        _ => format!(",{}:", field.name()),
    });
    let [text, tensors, lengths] = ["text", "tensors", "lengths"].map(local);
    let allowed: Vec<_> = fields.iter().map(|field| &field.lints).collect();
    quote! {
        #(#lints)*
        #[automatically_derived]
        impl #generics #runtime::Batched for #name #arguments #bounds {
            fn structure(#text: &mut #runtime::String) {
                #runtime::nested(#called, #text, |#text| {
                    #text.push_str(#begin);
                    #(#text.push_str(#labels); #parts::structure(#text);)*
                    #text.push_str(#end);
                });
            }
            fn flatten_into(
                self,
                #tensors: &mut #runtime::Vec<#runtime::Tensor>,
                #lengths: &mut #runtime::Vec<#runtime::u32>,
            ) {
                #(#(#allowed)* #parts::flatten_into(self.#members, #tensors, #lengths);)*
            }
            fn unflatten(
                #tensors: &mut dyn #runtime::Iterator<
                    Item = #runtime::Tensor,
                >,
                #lengths: &mut dyn #runtime::Iterator<Item = #runtime::u32>,
            ) -> #runtime::Option<Self> {
                #runtime::Option::Some(Self {
                    #(#(#allowed)* #members: #parts::unflatten(#tensors, #lengths)?,)*
                })
            }
        }
    }
}
