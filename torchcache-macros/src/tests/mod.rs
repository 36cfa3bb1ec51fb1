//! What the attribute makes of source text, without a compiler behind it: expansions as
//! snapshots, mistakes by message and place.

mod canonical;
mod expansion;
mod messages;

use proc_macro2::TokenStream;

/// Source text as tokens that know where they stand.
fn tokens(source: &str) -> TokenStream {
    source
        .parse()
        .unwrap_or_else(|error| panic!("{error}: {source}"))
}
