//! The attribute on a free function.

use proc_macro2::TokenStream;
use syn::ItemFn;

use crate::errors::Errors;
use crate::parse::options::OptionAssignments;
use crate::parse::signature::{Training, WrappedFn};

/// A checked function.
pub(crate) struct FunctionItem {
    pub(crate) item: ItemFn,
    pub(crate) options: OptionAssignments,
    pub(crate) function: WrappedFn,
}

impl FunctionItem {
    /// Reads and checks a function.
    pub(crate) fn parse(arguments: TokenStream, item: &ItemFn) -> syn::Result<Self> {
        let mut errors = Errors::default();
        if let Some(receiver) = item.sig.receiver() {
            errors.report(
                receiver,
                "this is a method; put `#[torchcache]` on its impl and on the struct as well",
            );
            return errors
                .finish(())
                .map(|()| unreachable!("an error was reported"));
        }
        let options = OptionAssignments::parse(arguments, &mut errors);
        options.require_persistence(false, &mut errors);
        let function = WrappedFn::parse(&item.sig, &item.block, None, Training::Named, &mut errors);
        let parsed = function.map(|function| Self {
            item: item.clone(),
            options,
            function,
        });
        errors
            .finish(parsed)
            .map(|parsed| parsed.expect("a function that cannot be read was reported"))
    }
}
