//! The items of `#[derive(Fingerprint)]` and `#[derive(Batched)]`.

use syn::punctuated::Punctuated;
use syn::{
    Attribute, Data, DeriveInput, Fields, Generics, Ident, Lit, LitStr, MetaNameValue, Path, Token,
};

use crate::errors::Errors;
use crate::parse::attributes::{Inherited, inherited};
use crate::parse::fields::{Field, names, take_skip};
use crate::parse::options::path;
use crate::runtime::Runtime;
use crate::validate;

/// A checked struct or enum.
pub(crate) struct FingerprintDerive {
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    pub(crate) shape: Shape,
    /// Stands for the code of the type.
    pub(crate) version: Option<LitStr>,
    pub(crate) lints: Vec<Attribute>,
    pub(crate) runtime: Runtime,
}

/// The fields that are part of the identity.
pub(crate) enum Shape {
    Struct(Vec<Field>),
    Enum(Vec<Variant>),
}

/// A variant of an enum, with its fields that are part of the identity.
pub(crate) struct Variant {
    pub(crate) name: Ident,
    pub(crate) fields: Vec<Field>,
}

impl FingerprintDerive {
    /// Reads and checks the item.
    pub(crate) fn parse(input: DeriveInput) -> syn::Result<Self> {
        let mut errors = Errors::default();
        let (version, library) = fingerprint_arguments(&input.attrs, &mut errors);
        let shape = match input.data {
            Data::Struct(data) => Shape::Struct(identity_fields(data.fields, &mut errors)),
            Data::Enum(data) => Shape::Enum(
                data.variants
                    .into_iter()
                    .map(|variant| Variant {
                        name: variant.ident,
                        fields: identity_fields(variant.fields, &mut errors),
                    })
                    .collect(),
            ),
            Data::Union(data) => {
                errors.report(
                    data.union_token,
                    "`Fingerprint` cannot be derived for a union, whose active field is unknown; \
                     implement it by hand",
                );
                Shape::Struct(Vec::new())
            }
        };
        errors.finish(Self {
            name: input.ident,
            generics: input.generics,
            shape,
            version,
            lints: inherited(&input.attrs, &[Inherited::Lints]),
            runtime: Runtime::locate(library.as_ref()),
        })
    }

    /// All fields that are part of the identity.
    pub(crate) fn fields(&self) -> Box<dyn Iterator<Item = &Field> + '_> {
        match &self.shape {
            Shape::Struct(fields) => Box::new(fields.iter()),
            Shape::Enum(variants) => Box::new(variants.iter().flat_map(|variant| &variant.fields)),
        }
    }
}

/// The text in `#[fingerprint(version = "…")]`, and the path in `#[fingerprint(crate = …)]`.
fn fingerprint_arguments(
    attributes: &[Attribute],
    errors: &mut Errors,
) -> (Option<LitStr>, Option<Path>) {
    let (mut version, mut library) = (None, None);
    for attribute in attributes {
        if !attribute.path().is_ident("fingerprint") {
            continue;
        }
        let pairs =
            attribute.parse_args_with(Punctuated::<MetaNameValue, Token![,]>::parse_terminated);
        let pairs = pairs.ok().filter(|pairs| !pairs.is_empty());
        let is_known = pairs.is_some_and(|pairs| {
            pairs.iter().all(|pair| match version_text(pair) {
                Some(text) if version.is_none() => {
                    version = Some(text);
                    true
                }
                _ => is_library(pair, &mut library),
            })
        });
        if !is_known {
            errors.report(
                attribute,
                "expected one `#[fingerprint(version = \"1\")]`, whose text is not empty: it stands \
                 for the code of the type, and changes with it",
            );
        }
    }
    (version, library)
}

fn version_text(pair: &MetaNameValue) -> Option<LitStr> {
    match validate::options::literal(&pair.value)? {
        (false, Lit::Str(text)) if pair.path.is_ident("version") && !text.value().is_empty() => {
            Some(text.clone())
        }
        _ => None,
    }
}

/// Whether `pair` is `crate = path`, the first one. The path is then `library`.
fn is_library(pair: &MetaNameValue, library: &mut Option<Path>) -> bool {
    let path = path(&pair.value).filter(|_| pair.path.is_ident("crate") && library.is_none());
    let is_library = path.is_some();
    *library = library.take().or(path);
    is_library
}

/// The path in `#[batched(crate = …)]`.
fn batched_arguments(attributes: &[Attribute], errors: &mut Errors) -> Option<Path> {
    let mut library = None;
    for attribute in attributes {
        if attribute.path().is_ident("batched") {
            let pair = attribute.parse_args();
            if !pair.is_ok_and(|pair| is_library(&pair, &mut library)) {
                errors.report(
                    attribute,
                    "expected one `#[batched(crate = facade::torchcache)]`",
                );
            }
        }
    }
    library
}

/// A checked struct of tensors.
pub(crate) struct BatchedDerive {
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    pub(crate) fields: Vec<Field>,
    /// Whether its fields have names.
    pub(crate) is_named: bool,
    pub(crate) lints: Vec<Attribute>,
    pub(crate) runtime: Runtime,
}

impl BatchedDerive {
    /// Reads and checks the item.
    pub(crate) fn parse(input: DeriveInput) -> syn::Result<Self> {
        let fields = match input.data {
            Data::Struct(data) => data.fields,
            Data::Enum(data) => {
                return Err(syn::Error::new_spanned(
                    data.enum_token,
                    "`Batched` cannot be derived for an enum, since rows of different variants \
                     cannot be in one batch; use a struct with `Option` fields",
                ));
            }
            Data::Union(data) => {
                return Err(syn::Error::new_spanned(
                    data.union_token,
                    "`Batched` cannot be derived for a union, whose active field is unknown; use a \
                     struct",
                ));
            }
        };
        if fields.is_empty() {
            let message = format!(
                "`{}` has no fields, so there is nothing to cache; add a `Tensor`",
                input.ident
            );
            return Err(syn::Error::new_spanned(input.ident, message));
        }
        let mut errors = Errors::default();
        let library = batched_arguments(&input.attrs, &mut errors);
        for field in &fields {
            if names(&field.ty, &input.ident) {
                let message = format!(
                    "`{}` contains itself, so its number of tensors is unknown; give the inner \
                     value another type",
                    input.ident
                );
                errors.report(&field.ty, message);
            }
        }
        let members = fields.members().zip(&fields);
        let members = members.map(|(member, field)| Field::new(field, member));
        errors.finish(Self {
            name: input.ident,
            generics: input.generics,
            is_named: matches!(fields, Fields::Named(_)),
            fields: members.collect(),
            lints: inherited(&input.attrs, &[Inherited::Lints]),
            runtime: Runtime::locate(library.as_ref()),
        })
    }
}

fn identity_fields(mut fields: Fields, errors: &mut Errors) -> Vec<Field> {
    let members: Vec<_> = fields.members().collect();
    let mut kept = Vec::new();
    for (field, member) in fields.iter_mut().zip(members) {
        if take_skip(&mut field.attrs, errors).is_none() {
            kept.push(Field::new(field, member));
        }
    }
    kept
}
