//! The expansion of a function: the function with its body in a call, a static with its cache, and
//! a function that returns the handle. None of them has a name in the namespace of types and modules.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::ItemFn;
use syn::ext::IdentExt;

use crate::expand::{definition, options};
use crate::parse::attributes::{cfgs, wrapped};
use crate::parse::functions::FunctionItem;
use crate::parse::signature::remove_roles;

/// The expansion of a checked function.
pub(crate) fn expand(parsed: &FunctionItem) -> TokenStream {
    let FunctionItem {
        item,
        options,
        function,
    } = parsed;
    let attributes = wrapped(&item.attrs);
    let cfgs = cfgs(&item.attrs);
    let (vis, signature, name) = (&item.vis, &function.signature, &item.sig.ident);
    let (arguments, closure, constant) = (
        function.arguments(),
        function.closure(),
        function.constant(),
    );
    let (options, output) = (options::expand(options), &function.output);
    let cached = format_ident!("TORCHCACHE_{}", name.unraw(), span = span(name));
    let handle = handle(item, &quote!(::torchcache::__private::handle(&#cached)));
    let definition = definition::of_function(name);
    let training = function.is_training();
    quote! {
        #(#attributes)*
        #vis #signature {
            ::torchcache::__private::call_function::<#output>(
                &#cached, #training, #arguments, #closure
            )
        }
        #(#cfgs)*
        static #cached: ::torchcache::__private::CachedFunction =
            ::torchcache::__private::CachedFunction::new(#definition, #constant, || #options);
        #handle
    }
}

/// The function as written, the errors, and the handle that callers may refer to. A
/// method has none.
pub(crate) fn fallback(item: &ItemFn, error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    let handle = item
        .sig
        .receiver()
        .is_none()
        .then(|| handle(item, &quote!(loop {})));
    let mut item = item.clone();
    remove_roles(&mut item.sig);
    quote!(#item #handle #error)
}

/// The function that returns the handle.
fn handle(item: &ItemFn, value: &TokenStream) -> TokenStream {
    let cfgs = cfgs(&item.attrs);
    let (vis, name) = (&item.vis, &item.sig.ident);
    let handle = format_ident!("{}_cache", name.unraw(), span = span(name));
    let doc = format!(" The handle of the cache of `{}`.", name.unraw());
    quote! {
        #(#cfgs)*
        #[doc = #doc]
        #vis fn #handle() -> &'static ::torchcache::__private::TorchCache {
            #value
        }
    }
}

/// The place of `name`, for a name of generated code.
fn span(name: &Ident) -> Span {
    Span::call_site().located_at(name.span())
}
