//! The attribute on a free function.

use proc_macro2::TokenStream;
use syn::ItemFn;

use crate::errors::Errors;
use crate::options::Options;
use crate::parse::signature::{Train, Wrapped};

/// An annotated function without mistakes.
pub(crate) struct Function {
    pub(crate) item: ItemFn,
    pub(crate) options: Options,
    pub(crate) function: Wrapped,
}

impl Function {
    /// Reads a function and checks it.
    pub(crate) fn parse(arguments: TokenStream, item: &ItemFn) -> syn::Result<Self> {
        let mut errors = Errors::default();
        if let Some(receiver) = item.sig.receiver() {
            errors.report(
                receiver,
                "this is a method; put `#[torchcache]` on the impl that holds it, and on the struct",
            );
            return errors
                .finish(())
                .map(|()| unreachable!("an error was reported"));
        }
        let options = Options::parse(arguments, &mut errors);
        options.require_persistence(false, &mut errors);
        let function = Wrapped::parse(&item.sig, &item.block, Train::Absent, &mut errors);
        let parsed = function.map(|function| Self {
            item: item.clone(),
            options,
            function,
        });
        errors
            .finish(parsed)
            .map(|parsed| parsed.expect("what kept it from being read was reported"))
    }
}
