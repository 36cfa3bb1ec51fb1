//! The path of the library in the program that is compiled.

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::Path;

/// The path of the hidden module that generated code refers to.
#[derive(Clone)]
pub(crate) struct Runtime(TokenStream);

impl Runtime {
    /// In the crate at `given`, the argument `crate` of an attribute; else in the dependency of the
    /// package that is compiled, under the name that its manifest gives it.
    pub(crate) fn locate(given: Option<&Path>) -> Self {
        if let Some(path) = given {
            // As in generated code, so that lints skip the imports. Only the crate of a macro must be
            // where it is.
            let path = path.to_token_stream().into_iter().map(|mut token| {
                if !is_macro_crate(&token) {
                    token.set_span(Span::call_site().located_at(token.span()));
                }
                token
            });
            let path: TokenStream = path.collect();
            return Self(quote!(#path::__private));
        }
        let name = match crate_name("torchcache") {
            Ok(FoundCrate::Name(name)) => name,
            // A target of the library's own package, or a build without a manifest.
            Ok(FoundCrate::Itself) | Err(_) => "torchcache".to_owned(),
        };
        let name = Ident::new(&name, Span::call_site());
        Self(quote!(::#name::__private))
    }

    /// The import of a trait that the compiler may not need.
    pub(crate) fn import(&self, name: &str) -> TokenStream {
        let name = Ident::new(name, Span::call_site());
        let is_linted = self
            .0
            .clone()
            .into_iter()
            .any(|token| is_macro_crate(&token));
        let allow = is_linted.then(|| quote!(#[allow(unused_imports)]));
        quote!(#allow use #self::#name as _;)
    }

    /// Whether `Self`, which is not generic, is a module.
    pub(crate) fn is_module(&self) -> TokenStream {
        let import = self.import("NoModule");
        quote!({ #import #self::ModuleProbe::<Self>::IS_MODULE })
    }

    /// The path, such that an error about it is shown at `span`.
    pub(crate) fn at(&self, span: Span) -> TokenStream {
        let tokens = self.0.clone().into_iter();
        let located = tokens.map(|mut token| {
            token.set_span(token.span().located_at(span));
            token
        });
        located.collect()
    }
}

impl ToTokens for Runtime {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.extend(self.0.clone());
    }
}

/// Whether a token is `$crate`.
fn is_macro_crate(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Ident(name) if name == "$crate")
}
