//! The options as an expression: one call of the option builder for each.

use proc_macro2::{Ident, Literal, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Expr, Lit};

use crate::options::OptionKind;
use crate::parse::options::{Assignment, OptionAssignments};
use crate::runtime::Runtime;
use crate::validate::options::literal;

/// The expression that makes the option builder.
pub(crate) fn expand(options: &OptionAssignments, runtime: &Runtime) -> TokenStream {
    let calls = calls(options, runtime);
    quote!(#runtime::Options::builder() #calls)
}

/// The constant that has the options of a single method.
pub(crate) fn of_function(options: &OptionAssignments, runtime: &Runtime) -> TokenStream {
    let calls = calls(options, runtime);
    quote!(#runtime::FunctionOptions::NONE #calls)
}

fn calls(options: &OptionAssignments, runtime: &Runtime) -> TokenStream {
    options
        .assignments
        .iter()
        .map(|Assignment { name, value }| {
            let span = name.span();
            let value = value.as_ref().map(|value| {
                OptionKind::from_name(&name.to_string())
                    .and_then(|kind| converted(kind, value, runtime))
                    .unwrap_or_else(|| value.to_token_stream())
            });
            quote_spanned!(span=> .#name(#value))
        })
        .collect()
}

/// A literal in the type of the builder's parameter, where it would have another one.
fn converted(kind: OptionKind, value: &Expr, runtime: &Runtime) -> Option<TokenStream> {
    let span = value.span();
    let literal = literal(value)?;
    if let (Some(choice), (_, Lit::Str(text))) = (kind.choice(), literal) {
        let type_name = Ident::new(choice.type_name, text.span());
        let variant = Ident::new(choice.variant(&text.value())?, text.span());
        return Some(quote!(#runtime::#type_name::#variant));
    }
    let mut number = match (kind, literal) {
        // A constant item is evaluated in a generic impl as well, and the error is at the literal.
        (OptionKind::Size { least }, (false, Lit::Str(text))) => {
            let at = runtime.at(span);
            return Some(quote_spanned! {span=> {
                const TORCHCACHE_SIZE: #at::u64 = #at::size(#text, #least);
                TORCHCACHE_SIZE
            }});
        }
        (OptionKind::Size { .. }, (false, Lit::Int(number))) => {
            Literal::u64_suffixed(number.base10_parse().ok()?)
        }
        (
            OptionKind::Size { .. } | OptionKind::Share | OptionKind::Seconds,
            (false, Lit::Float(number)),
        ) => Literal::f64_suffixed(number.base10_parse().ok()?),
        (OptionKind::Share | OptionKind::Seconds, (false, Lit::Int(number))) => {
            Literal::f64_suffixed(number.base10_parse().ok()?)
        }
        _ => return None,
    };
    number.set_span(span);
    Some(number.to_token_stream())
}
