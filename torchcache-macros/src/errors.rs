//! Every mistake of one item, each on its own token. Apart, because parsing goes on after a
//! mistake and only the end decides whether there was any.

use std::fmt::Display;

use quote::ToTokens;

/// The mistakes found so far.
#[derive(Default)]
pub(crate) struct Errors(Option<syn::Error>);

impl Errors {
    /// Adds a mistake that the compiler shows under `tokens`.
    pub(crate) fn report(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.include(syn::Error::new_spanned(tokens, message));
    }

    /// Adds a mistake that somebody else found.
    pub(crate) fn include(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            none => *none = Some(error),
        }
    }

    /// `value`, if there was no mistake.
    pub(crate) fn finish<T>(self, value: T) -> syn::Result<T> {
        self.0.map_or(Ok(value), Err)
    }
}
