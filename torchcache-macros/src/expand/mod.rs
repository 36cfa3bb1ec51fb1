//! From what is known to be right to code: one call and one constant for each form. Nothing here
//! finds mistakes; `fallback` is what comes out beside an error, so that one mistake gives one
//! message.

pub(crate) mod batched;
pub(crate) mod fingerprint;
pub(crate) mod functions;
pub(crate) mod impls;
pub(crate) mod structs;
mod wrapped;

/// The item that a generic struct has and the impl's expansion uses. Its name is what the
/// compiler prints when one of the two attributes is missing; after an underscore it would not.
const PAIRED: &str = "torchcache_is_needed_on_both_the_struct_and_its_impl";
