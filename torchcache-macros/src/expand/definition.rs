//! The value that describes an item: its name and its place in the source.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::ext::IdentExt;

use crate::runtime::Runtime;

/// The value of type `Definition` of the item whose type is `ty`. `name`: its path within the module.
pub(crate) fn of_type(name: &str, ty: &TokenStream, runtime: &Runtime) -> TokenStream {
    let place = place(runtime);
    quote! {
        #runtime::Definition::of::<#ty>(
            #runtime::concat!(#runtime::module_path!(), "::", #name),
            #place,
        )
    }
}

/// The value of type `Definition` of the function `name`, in the static `cached` next to it. A type in it
/// stands for the function: a use of the function itself would hide that no other code uses it.
pub(crate) fn of_function(name: &Ident, cached: &Ident, runtime: &Runtime) -> TokenStream {
    let name = name.unraw().to_string();
    let place = place(runtime);
    let path = format!("::{cached}::TorchcacheFunction");
    quote!({
        enum TorchcacheFunction {}
        #runtime::Definition::of_function::<TorchcacheFunction>(
            #runtime::concat!(#runtime::module_path!(), "::", #name),
            #runtime::concat!(#runtime::module_path!(), #path),
            #place,
        )
    })
}

/// The place.
///
/// `line!` and `column!` are those of the outermost expansion; in the expansion of a macro the tokens
/// of the item are elsewhere.
fn place(runtime: &Runtime) -> TokenStream {
    let (line, column) = call_site();
    quote! {
        #runtime::Place::new(
            #runtime::file!(),
            #runtime::option_env!("CARGO_MANIFEST_DIR"),
            (#runtime::line!(), #runtime::column!()),
            (#line, #column),
        )
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
