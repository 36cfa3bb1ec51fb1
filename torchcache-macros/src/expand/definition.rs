//! The value that describes an item: its name and its place in the source.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::ext::IdentExt;

/// The value of type `Definition` of the item whose type is `ty`. `name`: its path within the module.
pub(crate) fn of_type(name: &str, ty: &TokenStream) -> TokenStream {
    let arguments = arguments(name);
    quote!(::torchcache::__private::Definition::of::<#ty>(#arguments))
}

/// The value of type `Definition` of the function `name`.
pub(crate) fn of_function(name: &Ident) -> TokenStream {
    let arguments = arguments(&name.unraw().to_string());
    quote!(::torchcache::__private::Definition::of_function(&#name, #arguments))
}

/// The name, and the place.
///
/// `line!` and `column!` are those of the outermost expansion; in the expansion of a macro the tokens
/// of the item are elsewhere.
fn arguments(name: &str) -> TokenStream {
    let (line, column) = call_site();
    quote! {
        ::torchcache::__private::concat!(::torchcache::__private::module_path!(), "::", #name),
        ::torchcache::__private::Place::new(
            ::torchcache::__private::file!(),
            ::torchcache::__private::option_env!("CARGO_MANIFEST_DIR"),
            (::torchcache::__private::line!(), ::torchcache::__private::column!()),
            (#line, #column),
        ),
    }
}

/// The line and column of the attribute.
fn call_site() -> (u32, u32) {
    if !proc_macro::is_available() {
        return (1, 1); // a test of the macros
    }
    let place = proc_macro::Span::call_site();
    (place.line() as u32, place.column() as u32)
}
