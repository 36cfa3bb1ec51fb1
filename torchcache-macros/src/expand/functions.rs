//! The expansion of a function: the function with its body in a call, a module of the same name
//! with its cache, and an impl that connects them. The impl is outside the module, so that names in
//! the options resolve as they do at the function.

use proc_macro2::TokenStream;
use quote::quote;
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
    let module = module(item, &quote!(::torchcache::__private::handle::<Cached>()));
    let definition = definition::expand(&name.unraw().to_string(), &quote!(Self));
    let training = function.is_training();
    quote! {
        #(#attributes)*
        #vis #signature {
            ::torchcache::__private::call_function::<#name::Cached, #output>(
                #training, #arguments, #closure
            )
        }
        #module
        #(#cfgs)*
        impl ::torchcache::__private::CachedFunction for #name::Cached {
            const DEFINITION: ::torchcache::__private::Definition = #definition;
            const FUNCTION: ::torchcache::__private::Function = #constant;
            fn options() -> ::torchcache::__private::OptionsBuilder {
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

/// The function as written, the errors, and the module that callers may refer to. An impl cannot
/// hold a module, so a method has none.
pub(crate) fn fallback(item: &ItemFn, error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    let module = item
        .sig
        .receiver()
        .is_none()
        .then(|| module(item, &quote!(loop {})));
    let mut item = item.clone();
    remove_roles(&mut item.sig);
    quote!(#item #module #error)
}

fn module(item: &ItemFn, handle: &TokenStream) -> TokenStream {
    let cfgs = cfgs(&item.attrs);
    let (vis, name) = (&item.vis, &item.sig.ident);
    let module_doc = format!(" The cache of `{}`.", name.unraw());
    let handle_doc = format!(" The handle of the cache of `{}`.", name.unraw());
    quote! {
        #(#cfgs)*
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
