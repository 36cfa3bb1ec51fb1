//! What one file says about modules: its `mod` and `use` items, the names that it defines, and the
//! paths that its code mentions. Works on tokens: a full parser is not needed for that.

use std::collections::BTreeSet;
use std::iter::Peekable;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The contents of a module, without its test code.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) modules: Vec<Declared>,
    pub(crate) uses: Vec<Use>,
    /// Paths of two or more segments outside of `use` items.
    pub(crate) paths: Vec<Vec<String>>,
    /// Names of items.
    pub(crate) defined: BTreeSet<String>,
    /// Every identifier outside of `use` items.
    pub(crate) idents: BTreeSet<String>,
}

/// A `mod` item.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) name: String,
    /// The `#[path]` attribute.
    pub(crate) path: Option<String>,
    /// `None` where it is in a file.
    pub(crate) inline: Option<Contents>,
}

/// One name that a `use` item brings into scope; `*` for all names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Use {
    pub(crate) path: Vec<String>,
    pub(crate) name: String,
    pub(crate) public: bool,
}

type Tokens = Peekable<proc_macro2::token_stream::IntoIter>;

impl Contents {
    pub(crate) fn of(tokens: TokenStream) -> Self {
        let mut contents = Self::default();
        contents.add(tokens);
        contents
    }

    fn add(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        let mut path_attribute = None;
        let mut public = false;
        // Whether the token before makes an identifier the start of a path: not after `.`, `$`, `::`.
        let mut starts = true;
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    let attribute = match tokens.peek() {
                        Some(TokenTree::Group(group)) => group.stream(),
                        _ => continue,
                    };
                    tokens.next();
                    match is_test(&attribute) {
                        true => skip_item(&mut tokens),
                        false => path_attribute = path_of(&attribute).or(path_attribute),
                    }
                    starts = true;
                }
                TokenTree::Punct(punct) => starts = !matches!(punct.as_char(), '.' | '$' | '\''),
                TokenTree::Group(group) => {
                    // `pub(crate)` is still in front of its item.
                    if !(public && group.delimiter() == Delimiter::Parenthesis) {
                        self.add(group.stream());
                        public = false;
                    }
                    starts = true;
                }
                TokenTree::Ident(ident) => {
                    let word = ident.to_string();
                    match word.as_str() {
                        "pub" => {
                            public = true;
                            continue;
                        }
                        "mod" => self.module(&mut tokens, path_attribute.take()),
                        "use" => {
                            let mut found = Vec::new();
                            use_tree(&mut tokens, &[], &mut found);
                            self.uses.extend(found.into_iter().map(|(path, name)| Use {
                                path,
                                name,
                                public,
                            }));
                        }
                        "struct" | "enum" | "union" | "trait" | "fn" | "type" | "const"
                        | "static" => {
                            self.define(&mut tokens);
                        }
                        "macro_rules" => {
                            tokens.next();
                            self.define(&mut tokens);
                        }
                        _ if starts => self.path(word, &mut tokens),
                        _ => _ = self.idents.insert(word),
                    }
                    public = false;
                    starts = true;
                }
                TokenTree::Literal(_) => starts = true,
            }
        }
    }

    fn module(&mut self, tokens: &mut Tokens, path: Option<String>) {
        let Some(TokenTree::Ident(name)) = tokens.next() else {
            return;
        };
        let inline = match tokens.next() {
            Some(TokenTree::Group(group)) => Some(Contents::of(group.stream())),
            _ => None,
        };
        self.modules.push(Declared {
            name: name.to_string(),
            path,
            inline,
        });
    }

    fn define(&mut self, tokens: &mut Tokens) {
        while let Some(TokenTree::Ident(word)) = tokens.peek() {
            let word = word.to_string();
            match word.as_str() {
                "mut" => _ = tokens.next(),
                // `const fn name`: the last keyword is followed by the name.
                "fn" | "unsafe" | "extern" | "async" => return,
                _ => {
                    tokens.next();
                    self.defined.insert(word);
                    return;
                }
            }
        }
    }

    /// The rest of a path that begins with `first`.
    fn path(&mut self, first: String, tokens: &mut Tokens) {
        let mut path = vec![first];
        while double_colon(tokens) {
            match tokens.peek() {
                Some(TokenTree::Ident(next)) => path.push(next.to_string()),
                _ => break, // `::<T>`
            }
            tokens.next();
        }
        self.idents.extend(path.first().cloned());
        if path.len() > 1 {
            self.paths.push(path);
        }
    }
}

/// Takes `::`, if it is next.
fn double_colon(tokens: &mut Tokens) -> bool {
    let mut ahead = tokens.clone();
    let mut colon =
        || matches!(ahead.next(), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    let found = colon() && colon();
    if found {
        *tokens = ahead;
    }
    found
}

/// Reads `a::{b, c as d, e::*}` up to its `;`, `,` or end.
fn use_tree(tokens: &mut Tokens, before: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let mut path = before.to_vec();
    let mut name = None;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) if ident == "as" => {
                name = tokens.next().map(|token| token.to_string());
            }
            TokenTree::Ident(ident) if ident == "self" && !path.is_empty() => {}
            TokenTree::Ident(ident) => path.push(ident.to_string()),
            TokenTree::Punct(punct) if matches!(punct.as_char(), ';' | ',') => break,
            TokenTree::Punct(punct) if punct.as_char() == '*' => name = Some("*".to_owned()),
            TokenTree::Group(group) => {
                let mut inner = group.stream().into_iter().peekable();
                while inner.peek().is_some() {
                    use_tree(&mut inner, &path, found);
                }
                path.clear();
            }
            _ => {}
        }
    }
    if let Some(last) = path.last() {
        let name = name.unwrap_or_else(|| last.clone());
        found.push((path, name));
    }
}

/// `cfg(test)` and `cfg(all(test, …))`.
fn is_test(attribute: &TokenStream) -> bool {
    let mut tokens = attribute.clone().into_iter();
    let is_cfg = matches!(tokens.next(), Some(TokenTree::Ident(name)) if name == "cfg");
    let condition = tokens
        .next()
        .map(|token| token.to_string().replace(' ', ""));
    let condition = condition.unwrap_or_default();
    is_cfg && (condition == "(test)" || condition.starts_with("(all(test,"))
}

/// The value of `path = "…"`.
fn path_of(attribute: &TokenStream) -> Option<String> {
    let text = attribute.to_string();
    let value = text.strip_prefix("path")?.trim_start().strip_prefix('=')?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// Skips up to the `;` or the braces that end an item.
fn skip_item(tokens: &mut Tokens) {
    for token in tokens.by_ref() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ';' => return,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(text: &str) -> Contents {
        Contents::of(text.parse().unwrap())
    }

    #[test]
    fn use_trees_give_each_name_with_its_path() {
        let found = contents("pub(crate) use crate::a::{self, B, c::{D as E, f::*}}; use std::fs;");
        let found: Vec<_> = found
            .uses
            .iter()
            .map(|one| format!("{} {} {}", one.path.join("::"), one.name, one.public))
            .collect();
        let expected = [
            "crate::a a true",
            "crate::a::B B true",
            "crate::a::c::D E true",
            "crate::a::c::f * true",
            "std::fs fs false",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn paths_in_bodies_macros_and_generics_are_found() {
        let found = contents(
            "fn f(x: super::X) -> Vec<crate::y::Y> { g!(a::b(), x.c::<d::E>(), $crate::z) }",
        );
        let found: Vec<_> = found.paths.iter().map(|path| path.join("::")).collect();
        assert_eq!(found, ["super::X", "crate::y::Y", "a::b", "d::E"]);
    }

    #[test]
    fn test_code_is_left_out() {
        let found = contents(
            "#[cfg(test)] mod tests { use super::*; } #[cfg(all(test, unix))] use a::b; \
             #[cfg(not(test))] use c::d; #[path = \"x/y.rs\"] mod e; mod f { use g::h; }",
        );
        assert_eq!(found.uses.len(), 1);
        let [e, f] = &found.modules[..] else {
            panic!("{found:?}")
        };
        assert_eq!((e.name.as_str(), e.path.as_deref()), ("e", Some("x/y.rs")));
        assert_eq!(f.inline.as_ref().unwrap().uses.len(), 1);
    }

    #[test]
    fn names_of_items_are_known() {
        let found = contents(
            "const fn a() {} pub struct B; macro_rules! c { () => {} } static mut D: u8 = 0;",
        );
        for name in ["a", "B", "c", "D"] {
            assert!(found.defined.contains(name), "{name}: {found:?}");
        }
    }
}
