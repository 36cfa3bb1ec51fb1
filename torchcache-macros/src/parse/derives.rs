//! The items of `#[derive(Fingerprint)]` and `#[derive(Batched)]`.

use syn::{Attribute, Data, DeriveInput, Fields, Generics, Ident, Lit, LitStr, Meta};

use crate::errors::Errors;
use crate::parse::fields::{Field, names, take_skip};
use crate::validate;

/// A checked struct or enum.
pub(crate) struct FingerprintDerive {
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    pub(crate) shape: Shape,
    /// Stands for the code of the type.
    pub(crate) version: Option<LitStr>,
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
        let version = version(&input.attrs, &mut errors);
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

/// The text in `#[fingerprint(version = "…")]`.
fn version(attributes: &[Attribute], errors: &mut Errors) -> Option<LitStr> {
    let mut version = None;
    for attribute in attributes {
        if !attribute.path().is_ident("fingerprint") {
            continue;
        }
        let parsed = attribute.parse_args().ok().and_then(version_text);
        match parsed {
            Some(text) if !text.value().is_empty() && version.is_none() => version = Some(text),
            _ => errors.report(
                attribute,
                "expected one `#[fingerprint(version = \"1\")]`, whose text is not empty: it stands \
                 for the code of the type, and changes with it",
            ),
        }
    }
    version
}

fn version_text(meta: Meta) -> Option<LitStr> {
    let Meta::NameValue(pair) = meta else {
        return None;
    };
    match validate::options::literal(&pair.value)? {
        (false, Lit::Str(text)) if pair.path.is_ident("version") => Some(text.clone()),
        _ => None,
    }
}

/// A checked struct of tensors.
pub(crate) struct BatchedDerive {
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    pub(crate) fields: Vec<Field>,
    /// Whether its fields have names.
    pub(crate) is_named: bool,
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
