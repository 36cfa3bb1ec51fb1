//! The fields of a struct: those that are part of the identity, and `#[torchcache(skip)]` on those
//! that are not. The attribute and the derives read fields alike.

use std::collections::HashSet;

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Generics, Member, Meta, Token, Type, TypePath, parse_quote};

use crate::build_inputs::split;
use crate::errors::Errors;
use crate::parse::attributes::{Inherited, inherited};
use crate::runtime::Runtime;
use crate::suggest;

/// A field of a struct or a variant.
#[derive(Clone)]
pub(crate) struct Field {
    /// What the user allows and denies of it.
    pub(crate) lints: Vec<Attribute>,
    pub(crate) member: Member,
    pub(crate) ty: Type,
    /// Whether its type may be another name of `TorchCache`, so that it is the cache.
    pub(crate) may_be_cache: bool,
    /// Whether a mark says that it is no tensor.
    pub(crate) is_plain: bool,
}

impl Field {
    pub(crate) fn new(field: &syn::Field, member: Member) -> Self {
        Self {
            lints: inherited(&field.attrs, &[Inherited::Lints]),
            member,
            ty: field.ty.clone(),
            may_be_cache: false,
            is_plain: false,
        }
    }

    /// The name in the identity and in outputs.
    pub(crate) fn name(&self) -> String {
        match &self.member {
            Member::Named(name) => name.unraw().to_string(),
            Member::Unnamed(index) => index.index.to_string(),
        }
    }
}

/// Writes `#[torchcache(…)]` on a field without a path, as the attribute of a derive must be, also
/// inside `#[cfg_attr]`. `alias`: another name of the attribute.
pub(crate) fn without_path(meta: &mut Meta, alias: Option<&str>) {
    let last = meta.path().segments.last().map(|last| last.ident.clone());
    let Some(last) = last else { return };
    let Meta::List(list) = meta else { return };
    if last == "torchcache" || alias.is_some_and(|alias| last == alias) {
        list.path = Ident::new("torchcache", last.span()).into();
    } else if list.path.is_ident("cfg_attr") {
        let parts = split(list.tokens.clone()).into_iter();
        let parts = parts.map(|part| match syn::parse2::<Meta>(part.clone()) {
            Ok(mut meta) => {
                without_path(&mut meta, alias);
                meta.to_token_stream()
            }
            Err(_) => part,
        });
        list.tokens = quote!(#(#parts),*);
    }
}

/// Removes the `#[torchcache(…)]` attributes of a field and returns the word `skip` in them.
pub(crate) fn take_skip(attributes: &mut Vec<Attribute>, errors: &mut Errors) -> Option<Meta> {
    const EMPTY: &str = "this field attribute is empty; write `#[torchcache(skip)]` to leave the \
                         field out of the identity, or remove it";
    let ours = |attribute: &mut Attribute| attribute.path().is_ident("torchcache");
    let mut skip = None;
    for attribute in attributes.extract_if(.., ours) {
        if matches!(attribute.meta, Meta::Path(_)) {
            errors.report(&attribute, EMPTY);
            continue;
        }
        let words = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
        match words {
            Ok(words) if words.is_empty() => {
                errors.report(&attribute, EMPTY);
            }
            Ok(words) => {
                for word in words {
                    if matches!(&word, Meta::Path(path) if path.is_ident("skip")) {
                        skip = Some(word);
                    } else {
                        let name = word.path().to_token_stream().to_string();
                        let message = if name == "skip" {
                            "`skip` takes no value; write `#[torchcache(skip)]`".to_owned()
                        } else {
                            let hint = suggest::hint(&name, &["skip"], "");
                            format!("unknown field attribute `{name}`{hint}")
                        };
                        errors.report(word.path(), message);
                    }
                }
            }
            Err(error) => errors.include(error),
        }
    }
    skip
}

/// `generics` with a bound on `bound` for each field type that depends on a parameter.
///
/// A type that names its own struct has none: the bound would require itself.
pub(crate) fn bounds<'a>(
    bound: &TokenStream,
    name: &syn::Ident,
    generics: &Generics,
    fields: impl Iterator<Item = &'a Field>,
    runtime: &Runtime,
) -> Generics {
    let mut bounded = generics.clone();
    let parameters: HashSet<String> = generics
        .type_params()
        .map(|parameter| parameter.ident.to_string())
        .collect();
    let mut seen = HashSet::new();
    for Field { ty, .. } in fields {
        let tokens = ty.to_token_stream();
        if mentions(&tokens, &parameters) && !names(ty, name) && seen.insert(ty.clone()) {
            bounded
                .make_where_clause()
                .predicates
                .push(parse_quote!(#ty: #runtime::#bound));
        }
    }
    bounded
}

/// Whether a type names the type `name` of its own module: `Name`, `self::Name` or `Self`. Other
/// paths that end in the same name are other types.
pub(crate) fn names(ty: &Type, name: &Ident) -> bool {
    struct Search<'a>(&'a Ident, bool);
    impl<'ast> Visit<'ast> for Search<'_> {
        fn visit_type_path(&mut self, path: &'ast TypePath) {
            let mut segments = path.path.segments.iter().map(|segment| &segment.ident);
            let mut first = segments.next();
            if first.is_some_and(|first| first == "self") {
                first = segments.next();
            }
            let is_here = path.qself.is_none() && path.path.leading_colon.is_none();
            self.1 |= is_here
                && segments.next().is_none()
                && first.is_some_and(|first| first == self.0 || first == "Self");
            visit::visit_type_path(self, path);
        }
    }
    let mut search = Search(name, false);
    search.visit_type(ty);
    search.1
}

/// Whether `Self` is in `node`.
pub(crate) fn mentions_self(node: &impl ToTokens) -> bool {
    mentions(&node.to_token_stream(), &HashSet::from(["Self".to_owned()]))
}

fn mentions(tokens: &TokenStream, names: &HashSet<String>) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => names.contains(&ident.to_string()),
        TokenTree::Group(group) => mentions(&group.stream(), names),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}
