//! The attribute on a struct: its cache field, its override fields, and the fields that are part
//! of the identity.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{Ident, ItemStruct, Member, Type};

use crate::errors::Errors;
use crate::options::OVERRIDE_PREFIX;
use crate::parse::fields::{Field, names, take_skip};
use crate::parse::options::{OptionAssignments, overridden};
use crate::types;
use crate::validate::signature::PLAIN;

/// The attribute of the derive that the attribute on a struct becomes, with its arguments.
pub(crate) const DERIVED: &str = "torchcache_struct";

/// A checked struct.
pub(crate) struct Struct {
    pub(crate) item: ItemStruct,
    pub(crate) options: OptionAssignments,
    pub(crate) cache: CacheField,
    pub(crate) overrides: Vec<Override>,
    /// The fields that are part of the identity.
    pub(crate) fields: Vec<Field>,
}

/// The field that holds the cache.
pub(crate) enum CacheField {
    /// Its type is written as `TorchCache`.
    Named(Member),
    /// No type is, and those of these fields may be another name of it.
    Among(Vec<Field>),
}

/// A field `torchcache_<option>`.
pub(crate) struct Override {
    pub(crate) option: Ident,
    pub(crate) field: Field,
}

/// The arguments of the attribute that became the derive of `item`.
pub(crate) fn arguments(item: &ItemStruct) -> syn::Result<TokenStream> {
    const TWICE: &str = "this struct has `#[torchcache]` twice; write all options into one";
    let mut arguments = None;
    for attribute in &item.attrs {
        if attribute.path().is_ident(DERIVED) && arguments.is_none() {
            arguments = Some(attribute.meta.require_list()?.tokens.clone());
        } else if types::ends_in(attribute.path(), "torchcache")
            || attribute.path().is_ident(DERIVED)
        {
            // A second one is an attribute of the derive, unless it was imported under another name.
            return Err(syn::Error::new_spanned(attribute, TWICE));
        }
    }
    Ok(arguments.unwrap_or_default())
}

impl Struct {
    /// Reads and checks a struct.
    pub(crate) fn parse(arguments: TokenStream, mut item: ItemStruct) -> syn::Result<Self> {
        let mut errors = Errors::default();
        let options = OptionAssignments::parse(arguments, &mut errors);
        options.refuse_handle(&mut errors);
        let mut caches = Vec::new();
        let mut overrides = Vec::new();
        let mut fields = Vec::new();
        let mut skipped = Vec::new();
        let members: Vec<Member> = item.fields.members().collect();
        for (field, member) in item.fields.iter_mut().zip(members) {
            let skip = take_skip(&mut field.attrs, &mut errors);
            let override_name = field
                .ident
                .as_ref()
                .filter(|name| name.to_string().starts_with(OVERRIDE_PREFIX));
            let role = if types::is_named(&field.ty, "TorchCache") {
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
                let list = if skip.is_some() {
                    &mut skipped
                } else {
                    &mut fields
                };
                list.push(Field::new(field, member));
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
        if caches.is_empty() {
            for field in fields.iter_mut().chain(&mut skipped) {
                field.may_be_cache = may_be_cache(&field.ty, &item);
            }
        }
        let others = fields.iter().chain(&skipped);
        let others = others.filter(|field| field.may_be_cache).cloned().collect();
        let cache = one_cache(&item, caches, others, &mut errors);
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

/// Whether a type may be another name of `TorchCache`.
fn may_be_cache(ty: &Type, item: &ItemStruct) -> bool {
    let Some(path) = types::path(ty) else {
        return false;
    };
    let mut parameters = item.generics.type_params();
    let is_other = path.get_ident().is_some_and(|name| {
        PLAIN.iter().any(|plain| name == plain) || parameters.any(|other| other.ident == *name)
    });
    let has_arguments = path
        .segments
        .iter()
        .any(|segment| !segment.arguments.is_none());
    !is_other && !has_arguments && !names(ty, &item.ident)
}

/// What to do about a struct without a cache.
pub(crate) fn no_cache(item: &ItemStruct) -> String {
    let name = &item.ident;
    let label = match item.fields {
        syn::Fields::Unnamed(_) => "",
        _ => "torchcache: ",
    };
    format!(
        "`{name}` has no field for its cache; add these two lines:\n    \
         {label}torchcache::TorchCache,             // in the struct\n    \
         {label}torchcache::TorchCache::default(),  // where it is built"
    )
}

fn one_cache(
    item: &ItemStruct,
    caches: Vec<Member>,
    others: Vec<Field>,
    errors: &mut Errors,
) -> Option<CacheField> {
    let mut caches = caches.into_iter();
    let Some(first) = caches.next() else {
        if others.is_empty() {
            errors.report(&item.ident, no_cache(item));
            return None;
        }
        return Some(CacheField::Among(others));
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
    Some(CacheField::Named(first))
}
