//! What one file says about modules: its `mod` and `use` items, the names that it defines, and the
//! paths that its code mentions. The arguments and rules of a macro are tokens, in which only paths are
//! found: a `use` item there may be in another module.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, File, Item, Lit, Meta, Path, UseTree, Visibility};

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

impl Contents {
    pub(crate) fn parse(tokens: TokenStream) -> syn::Result<Self> {
        let file: File = syn::parse2(tokens)?;
        let mut contents = Self::default();
        contents.visit_file(&file);
        Ok(contents)
    }

    /// Adds what `tree` brings into scope, below `path`.
    fn add_use(&mut self, tree: &UseTree, path: &[String], public: bool) {
        let below = |name: &syn::Ident| [path, &[name.to_string()]].concat();
        let (path, name) = match tree {
            UseTree::Path(tree) => return self.add_use(&tree.tree, &below(&tree.ident), public),
            UseTree::Group(group) => {
                let trees = group.items.iter();
                return trees.for_each(|tree| self.add_use(tree, path, public));
            }
            UseTree::Glob(_) => (path.to_vec(), "*".to_owned()),
            UseTree::Rename(tree) => (below(&tree.ident), tree.rename.to_string()),
            UseTree::Name(tree) if tree.ident == "self" => {
                (path.to_vec(), path[path.len() - 1].clone())
            }
            UseTree::Name(tree) => (below(&tree.ident), tree.ident.to_string()),
        };
        self.uses.push(Use { path, name, public });
    }

    fn add_path(&mut self, path: Vec<String>) {
        self.idents.extend(path.first().cloned());
        if path.len() > 1 {
            self.paths.push(path);
        }
    }

    /// Finds paths in the arguments or rules of a macro.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        // Between the names of a path: two colons.
        let mut colons = 0;
        let mut after_dollar = false;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' && colons < 2 => colons += 1,
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    self.add_path(std::mem::take(&mut path));
                    colons = 0;
                    let dollar =
                        matches!(&other, TokenTree::Punct(punct) if punct.as_char() == '$');
                    match other {
                        TokenTree::Ident(ident) if !after_dollar => path.push(ident.to_string()),
                        TokenTree::Group(group) => self.scan(group.stream()),
                        _ => {}
                    }
                    after_dollar = dollar;
                }
            }
        }
        self.add_path(path);
    }
}

impl Visit<'_> for Contents {
    fn visit_item(&mut self, item: &Item) {
        let (attributes, name) = match item {
            Item::Const(item) => (&item.attrs, Some(&item.ident)),
            Item::Enum(item) => (&item.attrs, Some(&item.ident)),
            Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
            Item::Impl(item) => (&item.attrs, None),
            Item::Macro(item) => (&item.attrs, item.ident.as_ref()),
            Item::Mod(item) => (&item.attrs, None),
            Item::Static(item) => (&item.attrs, Some(&item.ident)),
            Item::Struct(item) => (&item.attrs, Some(&item.ident)),
            Item::Trait(item) => (&item.attrs, Some(&item.ident)),
            Item::Type(item) => (&item.attrs, Some(&item.ident)),
            Item::Union(item) => (&item.attrs, Some(&item.ident)),
            Item::Use(item) => (&item.attrs, None),
            _ => return visit::visit_item(self, item),
        };
        if attributes.iter().any(is_test) {
            return;
        }
        self.defined.extend(name.map(ToString::to_string));
        match item {
            Item::Mod(item) => {
                let inline = item.content.as_ref().map(|(_, items)| {
                    let mut inner = Self::default();
                    items.iter().for_each(|item| inner.visit_item(item));
                    inner
                });
                self.modules.push(Declared {
                    name: item.ident.to_string(),
                    path: item.attrs.iter().find_map(path_of),
                    inline,
                });
            }
            Item::Use(item) => {
                let public = !matches!(item.vis, Visibility::Inherited);
                self.add_use(&item.tree, &[], public);
            }
            item => visit::visit_item(self, item),
        }
    }

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        if !item.attrs.iter().any(is_test) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &Path) {
        let names = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string());
        self.add_path(names.collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &syn::Macro) {
        self.scan(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}

/// `cfg(test)` and `cfg(all(test, …))`.
fn is_test(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return false;
    };
    let condition = list.tokens.to_string().replace(' ', "");
    list.path.is_ident("cfg") && (condition == "test" || condition.starts_with("all(test,"))
}

/// The value of `path = "…"`.
fn path_of(attribute: &Attribute) -> Option<String> {
    let meta = attribute.meta.require_name_value().ok()?;
    match &meta.value {
        Expr::Lit(value) if meta.path.is_ident("path") => match &value.lit {
            Lit::Str(path) => Some(path.value()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(text: &str) -> Contents {
        Contents::parse(text.parse().unwrap()).unwrap()
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
    fn an_item_of_a_macro_does_not_belong_to_its_module() {
        let found = contents("macro_rules! m { () => { mod n { use super::{A, B}; c::d() } } }");
        assert!(found.uses.is_empty() && found.modules.is_empty());
        assert_eq!(found.paths, [["c", "d"]]);
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
