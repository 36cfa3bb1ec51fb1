//! The expansion of a function: the function with its body in a call, a static with its cache, and
//! a function that returns the handle. None of them has a name in the namespace of types and modules.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::ItemFn;
use syn::ext::IdentExt;

use crate::expand::{definition, local, options};
use crate::parse::attributes::{Inherited, inherited, wrapped};
use crate::parse::functions::FunctionItem;
use crate::parse::signature::remove_marks;
use crate::runtime::Runtime;

/// The expansion of a checked function.
pub(crate) fn expand(parsed: &FunctionItem, runtime: &Runtime) -> TokenStream {
    let FunctionItem {
        item,
        options,
        function,
    } = parsed;
    let attributes = wrapped(&item.attrs);
    let cfgs = inherited(&item.attrs, &[Inherited::Cfgs]);
    let lints = inherited(&item.attrs, &[Inherited::Lints]);
    let (vis, signature, name) = (&item.vis, &function.signature, &item.sig.ident);
    let (arguments, closure, constant) = (
        function.arguments(runtime),
        function.closure(runtime),
        function.constant(None, &[], &quote!(#runtime::FunctionOptions::NONE), runtime),
    );
    let cached = format_ident!("TORCHCACHE_{}", name.unraw(), span = span(name));
    let value = quote!(#runtime::handle(&#cached));
    let handle = handle(item, options.handle.as_ref(), &value, runtime);
    let (options, output) = (options::expand(options, runtime), &function.output);
    let definition = definition::of_function(name, &cached, runtime);
    let described = local("function");
    let training = function.is_training(runtime);
    let body = function.body(quote! {
        #runtime::call_function::<#output>(&#cached, #training, #arguments, #closure)
    });
    quote! {
        #(#attributes)*
        #vis #signature #body
        #(#cfgs)*
        static #cached: #runtime::CachedFunction = {
            #(#lints)*
            let #described = #runtime::CachedFunction::new(#definition, #constant, || #options);
            #described
        };
        #handle
    }
}

/// The function as written, the errors, and the handle that callers may refer to. A method has none.
pub(crate) fn fallback(
    item: &ItemFn,
    error: &syn::Error,
    renamed: Option<&Ident>,
    runtime: &Runtime,
) -> TokenStream {
    let error = error.to_compile_error();
    let handle = item
        .sig
        .receiver()
        .is_none()
        .then(|| handle(item, renamed, &quote!(loop {}), runtime));
    let mut item = item.clone();
    remove_marks(&mut item.sig);
    quote!(#item #handle #error)
}

/// The function that returns the handle, `renamed` or with the name of the function in its name.
fn handle(
    item: &ItemFn,
    renamed: Option<&Ident>,
    value: &TokenStream,
    runtime: &Runtime,
) -> TokenStream {
    let marks = inherited(&item.attrs, &[Inherited::Cfgs, Inherited::Marks]);
    let (vis, name) = (&item.vis, &item.sig.ident);
    let handle = renamed.cloned();
    let handle =
        handle.unwrap_or_else(|| format_ident!("{}_cache", name.unraw(), span = span(name)));
    let doc = format!(" The handle of the cache of `{}`.", name.unraw());
    quote! {
        #(#marks)*
        #[doc = #doc]
        #vis fn #handle() -> &'static #runtime::TorchCache {
            #value
        }
    }
}

/// The place of `name`, for a name of generated code.
fn span(name: &Ident) -> Span {
    Span::call_site().located_at(name.span())
}
