//! What a function becomes: the function with its body in a call, a module of the same name with
//! its cache, and the impl that ties them. The impl stays outside the module, where the options
//! mean what they mean at the function.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ItemFn;
use syn::ext::IdentExt;

use crate::parse::{self, Function};

/// The expansion of a function without mistakes.
pub(crate) fn expand(parsed: &Function) -> TokenStream {
    let Function {
        item,
        options,
        function,
    } = parsed;
    let outer = item.attrs.iter().cloned().map(parse::outer);
    let conditions = parse::conditions(&item.attrs);
    let (vis, signature, name) = (&item.vis, &function.signature, &item.sig.ident);
    let (arguments, closure, constant) = (
        function.arguments(),
        function.closure(),
        function.constant(),
    );
    let (options, output) = (options.expand(), &function.output);
    let module = module(item, &quote!(::torchcache::__private::handle::<Cached>()));
    let path = name.unraw().to_string();
    quote! {
        #(#outer)*
        #vis #signature {
            ::torchcache::__private::call_function::<#name::Cached, #output>(#arguments, #closure)
        }
        #module
        #(#conditions)*
        impl ::torchcache::__private::CachedFunction for #name::Cached {
            const NAME: &'static str = ::torchcache::__private::concat!(
                ::torchcache::__private::module_path!(), "::", #path
            );
            const FUNCTION: ::torchcache::__private::Function = #constant;
            fn options() -> ::torchcache::__private::Options {
                #options
            }
            fn cache() -> &'static ::torchcache::__private::TorchCache {
                static CACHE: ::torchcache::__private::TorchCache =
                    ::torchcache::__private::TorchCache::new();
                &CACHE
            }
        }
    }
}

/// The function as it was, the error, and the module that callers may name. A method has no
/// place for a module.
pub(crate) fn fallback(item: &ItemFn, error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    let module = item
        .sig
        .receiver()
        .is_none()
        .then(|| module(item, &quote!(loop {})));
    let mut item = item.clone();
    parse::without_marks(&mut item.sig);
    quote!(#item #module #error)
}

fn module(item: &ItemFn, handle: &TokenStream) -> TokenStream {
    let conditions = parse::conditions(&item.attrs);
    let (vis, name) = (&item.vis, &item.sig.ident);
    let module_doc = format!(" The cache of `{}`.", name.unraw());
    let handle_doc = format!(" The handle of the cache of `{}`.", name.unraw());
    quote! {
        #(#conditions)*
        #[doc = #module_doc]
        #vis mod #name {
            /// The function, as a type.
            pub enum Cached {}
            #[doc = #handle_doc]
            pub fn cache() -> &'static ::torchcache::__private::TorchCache {
                #handle
            }
        }
    }
}
