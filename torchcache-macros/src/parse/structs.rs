//! The attribute on a struct: its cache field, its override fields, and the fields that are part
//! of the identity.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{Ident, ItemStruct, Member, Type};

use crate::errors::Errors;
use crate::options::OVERRIDE_PREFIX;
use crate::parse::fields::{Field, take_skip};
use crate::parse::options::{OptionAssignments, overridden};

/// A checked struct.
pub(crate) struct Struct {
    /// The struct without `#[torchcache(skip)]`.
    pub(crate) item: ItemStruct,
    pub(crate) options: OptionAssignments,
    /// The field of type `TorchCache`.
    pub(crate) cache: Member,
    pub(crate) overrides: Vec<Override>,
    /// The fields that are part of the identity.
    pub(crate) fields: Vec<Field>,
}

/// A field `torchcache_<option>`.
pub(crate) struct Override {
    pub(crate) option: Ident,
    pub(crate) field: Field,
}

impl Struct {
    /// Reads and checks a struct.
    pub(crate) fn parse(arguments: TokenStream, mut item: ItemStruct) -> syn::Result<Self> {
        let mut errors = Errors::default();
        let options = OptionAssignments::parse(arguments, &mut errors);
        let mut caches = Vec::new();
        let mut overrides = Vec::new();
        let mut fields = Vec::new();
        let members: Vec<Member> = item.fields.members().collect();
        for (field, member) in item.fields.iter_mut().zip(members) {
            let skip = take_skip(&mut field.attrs, &mut errors);
            let override_name = field
                .ident
                .as_ref()
                .filter(|name| name.to_string().starts_with(OVERRIDE_PREFIX));
            let role = if is_cache(&field.ty) {
                caches.push(member);
                "the cache"
            } else if let Some(name) = override_name {
                if let Some(option) = overridden(name, &mut errors) {
                    overrides.push(Override {
                        option,
                        field: Field::new(field, member),
                    });
                }
                "an override"
            } else {
                if skip.is_none() {
                    fields.push(Field::new(field, member));
                }
                continue;
            };
            if let Some(skip) = skip {
                errors.report(
                    skip,
                    format!("this field is {role} and never part of the identity; remove `skip`"),
                );
            }
        }
        let persistence = overrides.iter().any(|field| field.option == "persistent");
        options.require_persistence(persistence, &mut errors);
        let cache = one_cache(&item, caches, &mut errors);
        let parsed = cache.map(|cache| Self {
            item,
            options,
            cache,
            overrides,
            fields,
        });
        errors
            .finish(parsed)
            .map(|parsed| parsed.expect("a missing cache field was reported"))
    }
}

/// Whether a type is `TorchCache`, under any path.
fn is_cache(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|last| last.ident == "TorchCache"),
        Type::Group(group) => is_cache(&group.elem),
        Type::Paren(paren) => is_cache(&paren.elem),
        _ => false,
    }
}

fn one_cache(item: &ItemStruct, caches: Vec<Member>, errors: &mut Errors) -> Option<Member> {
    let mut caches = caches.into_iter();
    let Some(first) = caches.next() else {
        let name = &item.ident;
        let (field, value) = if matches!(item.fields, syn::Fields::Unnamed(_)) {
            ("", "")
        } else {
            ("torchcache: ", "torchcache: ")
        };
        errors.report(
            name,
            format!(
                "`{name}` has no field for its cache; add these two lines:\n    \
                 {field}torchcache::TorchCache,             // in the struct\n    \
                 {value}torchcache::TorchCache::default(),  // where it is built"
            ),
        );
        return None;
    };
    let shown = first.to_token_stream();
    for second in caches {
        let field = item
            .fields
            .iter()
            .zip(item.fields.members())
            .find(|(_, member)| *member == second);
        let tokens = match &second {
            Member::Named(name) => name.to_token_stream(),
            Member::Unnamed(_) => field.map(|(field, _)| &field.ty).to_token_stream(),
        };
        errors.report(
            tokens,
            format!(
                "a struct has one cache, and the field `{shown}` holds it already; remove one of the two"
            ),
        );
    }
    Some(first)
}
