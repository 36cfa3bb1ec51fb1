//! The canonical text of a function, which is hashed into the identity. It does not depend on white
//! space, comments, or how the compiler prints tokens, so nothing here uses `TokenStream`'s
//! `Display`. Any change of its output invalidates every cache on disk.

use proc_macro2::{Delimiter, Ident, Spacing, TokenStream, TokenTree};

/// The operators of more than one character. Other characters are separated even where the source
/// has no space between them: `[a,-b]` and `[a, -b]` are the same code.
const OPERATORS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "+=", "-=", "*=", "/=", "%=", "^=", "&=", "|=", "<<", ">>",
    "<<=", ">>=", "..", "...", "..=", "::", "->", "=>",
];

/// The text of `tokens` with one space between tokens, without documentation and without the last
/// comma of a list, which `rustfmt` adds and removes with the line breaks.
///
/// The tokens of a macro are all kept, since a macro may tell `m![a]` from `m![a,]`. So are attributes
/// inside a body: `#[cfg]` decides what is computed, others are macros.
pub(crate) fn text(tokens: TokenStream) -> String {
    let mut text = String::new();
    write(&mut text, tokens, Tokens::Code);
    text
}

/// What tokens are.
#[derive(Clone, Copy, PartialEq)]
enum Tokens {
    /// Rust, in which a comma at the end of a list has no meaning.
    Code,
    /// Those of a macro or an attribute.
    Macro,
}

fn write(text: &mut String, tokens: TokenStream, kind: Tokens) {
    // The operator that the next punctuation character may extend.
    let mut open = String::new();
    // Whether a parenthesis that follows holds arguments rather than a tuple.
    let mut callee = false;
    // Whether a group that follows belongs to a macro: `name!(…)`, `macro_rules! name {…}`.
    let mut invocation = false;
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if let TokenTree::Punct(punct) = &token {
            if punct.as_char() == '#' {
                open.clear();
                let inner = tokens
                    .next_if(|next| matches!(next, TokenTree::Punct(p) if p.as_char() == '!'));
                if kind == Tokens::Code && tokens.next_if(is_documentation).is_some() {
                    continue;
                }
                push(text, "#");
                if inner.is_some() {
                    push(text, "!");
                }
                invocation = true;
                continue;
            }
            invocation = callee && punct.as_char() == '!' && punct.spacing() == Spacing::Alone;
            callee = false;
            open.push(punct.as_char());
            if open.len() > 1 && OPERATORS.contains(&open.as_str()) {
                text.push(punct.as_char());
            } else {
                open = punct.as_char().to_string();
                push(text, &open);
            }
            if punct.spacing() == Spacing::Alone {
                open.clear();
            }
            continue;
        }
        let lifetime = open == "'";
        open.clear();
        let called = std::mem::replace(&mut callee, is_name(&token));
        let in_macro = invocation;
        invocation &= callee;
        match token {
            TokenTree::Ident(ident) if lifetime => text.push_str(&ident.to_string()),
            TokenTree::Ident(ident) => push(text, &ident.to_string()),
            TokenTree::Literal(literal) => push(text, &literal.to_string()),
            TokenTree::Group(group) => {
                let (left, right) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    // The value of a `macro_rules!` variable binds like parentheses: without a
                    // mark, `1 + 2 * 3` and `(1 + 2) * 3` would have the same text.
                    Delimiter::None => ("«", "»"),
                };
                let kind = if in_macro { Tokens::Macro } else { kind };
                // `(a,)` is a tuple, and the content of an invisible group is unknown.
                let list = match group.delimiter() {
                    _ if kind == Tokens::Macro => false,
                    Delimiter::Brace | Delimiter::Bracket => true,
                    Delimiter::Parenthesis => called,
                    Delimiter::None => false,
                };
                push(text, left);
                let inner = match list {
                    true => without_last_comma(group.stream()),
                    false => group.stream(),
                };
                write(text, inner, kind);
                push(text, right);
            }
            TokenTree::Punct(_) => unreachable!("punctuation was written above"),
        }
    }
}

fn push(text: &mut String, token: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(token);
}

/// Whether a token is an identifier and not a keyword: `f` in `f(a,)`, but not `return (a,)`.
fn is_name(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Ident(_)) && syn::parse2::<Ident>(token.clone().into()).is_ok()
}

fn without_last_comma(tokens: TokenStream) -> TokenStream {
    let mut tokens: Vec<_> = tokens.into_iter().collect();
    tokens.pop_if(|last| matches!(last, TokenTree::Punct(last) if last.as_char() == ','));
    tokens.into_iter().collect()
}

/// Whether a token is `[doc = "…"]`, as in the attribute that a doc comment becomes.
fn is_documentation(token: &TokenTree) -> bool {
    let TokenTree::Group(group) = token else {
        return false;
    };
    group.delimiter() == Delimiter::Bracket
        && group
            .stream()
            .into_iter()
            .next()
            .is_some_and(|first| matches!(first, TokenTree::Ident(ident) if ident == "doc"))
}
