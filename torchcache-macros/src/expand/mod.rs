//! From checked items to code: one call and one constant for each kind of item. Nothing here
//! reports mistakes; a `fallback` is the item next to its errors, with the items that other code
//! refers to, so that one mistake gives one message.

pub(crate) mod batched;
mod definition;
pub(crate) mod fingerprint;
pub(crate) mod functions;
pub(crate) mod impls;
mod options;
mod paired;
pub(crate) mod structs;
mod wrapped;
