//! The expansions of `#[derive(Batched)]` and `#[derive(Argument)]`: a struct or an enum of tensors, taken
//! apart and built again by field.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{GenericParam, Lifetime, LifetimeParam, Member};

use crate::expand::local;
use crate::parse::derives::{Shape, TensorsDerive};
use crate::parse::fields::{Field, bounds};

/// The fields of a struct, or of a variant of an enum.
struct Part<'a> {
    /// `Self`, or `Self::Variant`.
    path: TokenStream,
    /// The name and number of the variant.
    variant: Option<(String, u32)>,
    fields: &'a [Field],
}

impl<'a> Part<'a> {
    fn all(shape: &'a Shape) -> Vec<Self> {
        match shape {
            Shape::Struct(fields) => vec![Part {
                path: quote!(Self),
                variant: None,
                fields,
            }],
            Shape::Enum(variants) => (0..)
                .zip(variants)
                .map(|(number, variant)| {
                    let name = &variant.name;
                    Part {
                        path: quote!(Self::#name),
                        variant: Some((name.unraw().to_string(), number)),
                        fields: &variant.fields,
                    }
                })
                .collect(),
        }
    }

    /// The variables that the fields are bound to.
    fn bound(&self) -> Vec<Ident> {
        let numbers = 0..self.fields.len();
        numbers
            .map(|number| local(&format!("field_{number}")))
            .collect()
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.fields.iter().map(|field| &field.member)
    }

    /// The text before each field, and after all of them.
    fn labels(&self) -> (Vec<String>, &'static str) {
        let is_named = matches!(self.members().next(), Some(Member::Named(_)));
        let variant = match &self.variant {
            Some((name, 0)) => format!("{name}:"),
            Some((name, _)) => format!(",{name}:"),
            None => String::new(),
        };
        let (begin, end) = if is_named { ("{", "}") } else { ("(", ")") };
        let mut before = format!("{variant}{begin}");
        let mut labels = Vec::new();
        for field in self.fields {
            let name = match is_named {
                true => format!("{}:", field.name()),
                false => String::new(),
            };
            labels.push(format!("{before}{name}"));
            before = if is_named {
                ",".to_owned()
            } else {
                String::new()
            };
        }
        if self.fields.is_empty() {
            labels.push(before);
        }
        (labels, end)
    }
}

/// The expansion of `#[derive(Batched)]`.
pub(crate) fn batched(parsed: &TensorsDerive) -> TokenStream {
    let TensorsDerive {
        name,
        generics,
        shape,
        lints,
        runtime,
    } = parsed;
    let tensors_of = shape.fields().filter(|field| !field.is_plain);
    let bounded = bounds(&quote!(Batched), name, generics, tensors_of, runtime);
    let (generics, arguments, bounds) = bounded.split_for_impl();
    let called = name.to_string();
    let [text, tensors, lengths] = ["text", "tensors", "lengths"].map(local);
    // An error about a type points at it.
    let of = |field: &Field| {
        let ty = &field.ty;
        let at = runtime.at(ty.span());
        match field.is_plain {
            true => quote_spanned!(ty.span()=> #at::ConstantField::<#ty>),
            false => quote_spanned!(ty.span()=> <#ty as #at::Batched>),
        }
    };
    let parts = Part::all(shape);
    let structure = parts.iter().map(|part| {
        let (labels, end) = part.labels();
        let types = part.fields.iter().map(of);
        let (first, labels) = labels.split_first().expect("one before the end");
        let mut types = types;
        let first_type = types.next().map(|ty| quote!(#ty::structure(#text);));
        quote! {
            #text.push_str(#first);
            #first_type
            #(#text.push_str(#labels); #types::structure(#text);)*
            #text.push_str(#end);
        }
    });
    let (begin, end) = match shape {
        Shape::Struct(_) => (None, None),
        Shape::Enum(_) => (
            Some(quote!(#text.push_str("<");)),
            Some(quote!(#text.push_str(">");)),
        ),
    };
    let flatten = parts.iter().map(|part| {
        let Part { path, variant, .. } = part;
        let number = variant.iter().map(|(_, number)| number);
        let (bound, members) = (part.bound(), part.members());
        let types = part.fields.iter().map(of);
        let allowed = part.fields.iter().map(|field| &field.lints);
        quote! {
            #path { #(#members: #bound),* } => {
                #(#lengths.push(#number);)*
                #(#(#allowed)* #types::flatten_into(#bound, #tensors, #lengths);)*
            }
        }
    });
    let build = |part: &Part<'_>| {
        let (path, members) = (&part.path, part.members());
        let types = part.fields.iter().map(of);
        let allowed = part.fields.iter().map(|field| &field.lints);
        quote! {
            #runtime::Option::Some(#path {
                #(#(#allowed)* #members: #types::unflatten(#tensors, #lengths)?,)*
            })
        }
    };
    let unflatten = match shape {
        Shape::Struct(_) => parts.iter().map(build).collect(),
        Shape::Enum(_) => {
            let numbers = parts
                .iter()
                .filter_map(|part| Some(part.variant.as_ref()?.1));
            let built = parts.iter().map(build);
            quote! {
                match #lengths.next()? {
                    #(#numbers => #built,)*
                    _ => #runtime::Option::None,
                }
            }
        }
    };
    quote! {
        #(#lints)*
        #[automatically_derived]
        impl #generics #runtime::Batched for #name #arguments #bounds {
            fn structure(#text: &mut #runtime::String) {
                #runtime::nested(#called, #text, |#text| {
                    #begin
                    #(#structure)*
                    #end
                });
            }
            fn flatten_into(
                self,
                #tensors: &mut #runtime::Vec<#runtime::Tensor>,
                #lengths: &mut #runtime::Vec<#runtime::u32>,
            ) {
                match self { #(#flatten)* }
            }
            fn unflatten(
                #tensors: &mut dyn #runtime::Iterator<
                    Item = #runtime::Tensor,
                >,
                #lengths: &mut dyn #runtime::Iterator<Item = #runtime::u32>,
            ) -> #runtime::Option<Self> {
                #unflatten
            }
        }
    }
}

/// The expansion of `#[derive(Argument)]`.
pub(crate) fn argument(parsed: &TensorsDerive) -> TokenStream {
    let TensorsDerive {
        name,
        generics,
        shape,
        lints,
        runtime,
    } = parsed;
    let is_batch = |field: &&Field| !field.is_plain;
    // Values that the body gets live as long as the references in them.
    let given = generics
        .lifetimes()
        .next()
        .map(|given| given.lifetime.clone());
    let of_rows = given
        .clone()
        .unwrap_or_else(|| Lifetime::new("'torchcache_rows", Span::mixed_site()));
    let bound = quote!(Argument<#of_rows>);
    let mut bounded = bounds(
        &bound,
        name,
        generics,
        shape.fields().filter(is_batch),
        runtime,
    );
    let (_, arguments, _) = generics.split_for_impl();
    if given.is_none() {
        let parameter = GenericParam::Lifetime(LifetimeParam::new(of_rows.clone()));
        bounded.params.insert(0, parameter);
    }
    let (impl_generics, _, bounds) = bounded.split_for_impl();
    let [described, tensors, held] = ["arguments", "tensors", "held"].map(local);
    let of = |field: &Field| {
        let ty = &field.ty;
        let at = runtime.at(ty.span());
        quote_spanned!(ty.span()=> <#ty as #at::Argument<#of_rows>>)
    };
    let batches: Vec<&Field> = shape.fields().filter(is_batch).collect();
    // Pairs, since only short tuples have a default value.
    let held_type = batches.iter().rev().fold(quote!(()), |rest, field| {
        let of = of(field);
        let held = quote_spanned!(field.ty.span()=> #of::Held);
        quote!((#held, #rest))
    });
    let parts = Part::all(shape);
    let describe = parts.iter().map(|part| {
        let (path, bound, members) = (&part.path, part.bound(), part.members());
        let (labels, end) = part.labels();
        let calls = part.fields.iter().zip(&bound).map(|(field, bound)| {
            let (of, allowed) = (of(field), &field.lints);
            match field.is_plain {
                true => {
                    let ty = &field.ty;
                    quote_spanned!(ty.span()=> #(#allowed)* #described.value::<#ty>(#bound);)
                }
                false => quote!(#(#allowed)* #of::describe(#bound, #described);),
            }
        });
        let calls: Vec<_> = calls.collect();
        let rest = calls.get(1..).unwrap_or_default();
        let (first, labels) = labels.split_first().expect("one before the end");
        let first_call = calls.first();
        quote! {
            #path { #(#members: ref #bound),* } => {
                #described.mark(#first.as_bytes());
                #first_call
                #(#described.mark(#labels.as_bytes()); #rest)*
                #described.mark(#end.as_bytes());
            }
        }
    });
    let mut before = 0;
    let rows = parts.iter().map(|part| {
        let (path, bound) = (&part.path, part.bound());
        let here = part.fields.iter().filter(is_batch).count();
        let held_here: Vec<_> = (0..here)
            .map(|number| local(&format!("held_{number}")))
            .collect();
        // What the fields of other variants hold is skipped.
        let pattern = held_here
            .iter()
            .rev()
            .fold(quote!(_), |rest, held| quote!((#held, #rest)));
        let pattern = (0..before).fold(pattern, |rest, _| quote!((_, #rest)));
        before += here;
        let mut held_here = held_here.iter();
        let values = part.fields.iter().zip(&bound).map(|(field, bound)| {
            let (of, member, allowed) = (of(field), &field.member, &field.lints);
            match field.is_plain {
                true => {
                    let at = runtime.at(field.ty.span());
                    let value = quote_spanned!(field.ty.span()=> #at::Clone::clone(#bound));
                    quote!(#(#allowed)* #member: #value)
                }
                false => {
                    let held = held_here.next();
                    quote!(#(#allowed)* #member: #of::rows(#bound, #tensors, #held))
                }
            }
        });
        let values: Vec<_> = values.collect();
        let members = part.members();
        quote! {
            #path { #(#members: ref #bound),* } => {
                let #pattern = #held;
                #path { #(#values),* }
            }
        }
    });
    let rows: Vec<_> = rows.collect();
    quote! {
        #(#lints)*
        #[automatically_derived]
        impl #impl_generics #runtime::Argument<#of_rows> for #name #arguments #bounds {
            type Held = #held_type;

            fn describe(&self, #described: &mut #runtime::Arguments) {
                match *self { #(#describe)* }
            }

            fn rows(
                &self,
                #tensors: &mut #runtime::RowTensors<#of_rows>,
                #held: &#of_rows mut Self::Held,
            ) -> Self {
                match *self { #(#rows)* }
            }
        }
    }
}
