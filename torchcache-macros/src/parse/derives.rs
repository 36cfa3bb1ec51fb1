//! The items of `#[derive(Fingerprint)]` and `#[derive(Batched)]`.

use syn::{Data, DeriveInput, Fields, Generics, Ident};

use crate::errors::Errors;
use crate::parse::fields::{Field, names, take_skip};

/// A checked struct or enum.
pub(crate) struct Fingerprint {
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    pub(crate) shape: Shape,
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

impl Fingerprint {
    /// Reads and checks the item.
    pub(crate) fn parse(input: DeriveInput) -> syn::Result<Self> {
        let mut errors = Errors::default();
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

/// A checked struct of tensors.
pub(crate) struct Batched {
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    pub(crate) fields: Vec<Field>,
    /// Whether its fields have names.
    pub(crate) is_named: bool,
}

impl Batched {
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
