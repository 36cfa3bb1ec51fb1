//! From checked items to code: one call and one constant for each kind of item. Nothing here
//! reports mistakes; a `fallback` is the item next to its errors, with the items that other code
//! refers to, so that one mistake gives one message.

mod definition;
pub(crate) mod fingerprint;
pub(crate) mod functions;
pub(crate) mod impls;
mod options;
mod paired;
pub(crate) mod structs;
pub(crate) mod tensors;
mod wrapped;

use proc_macro2::{Ident, Span};

/// The name of a variable of generated code. A name that a constant or static of the user's has would
/// be a pattern that refers to it, in spite of hygiene.
fn local(name: &str) -> Ident {
    Ident::new(&format!("torchcache_{name}"), Span::mixed_site())
}
