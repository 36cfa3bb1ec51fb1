//! The macros on source text, without the compiler: expansions and error messages as snapshots.

mod build_inputs;
mod canonical;
mod expansion;
mod messages;
mod options;

use proc_macro2::TokenStream;

/// Source text as tokens with spans.
fn tokens(source: &str) -> TokenStream {
    source
        .parse()
        .unwrap_or_else(|error| panic!("{error}: {source}"))
}
