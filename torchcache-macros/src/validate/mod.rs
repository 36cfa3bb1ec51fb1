//! The rules that an annotated item must follow. A rule reports each mistake on its own token and
//! returns nothing, so that all mistakes of an item are shown at once.

pub(crate) mod options;
pub(crate) mod signature;
