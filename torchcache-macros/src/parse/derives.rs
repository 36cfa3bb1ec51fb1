//! The items of `#[derive(Fingerprint)]` and `#[derive(Batched)]`.

use syn::{Data, DeriveInput, Fields, Generics, Ident};

use crate::errors::Errors;
use crate::parse::fields::{Field, names, take_skip};

/// A struct or an enum without mistakes.
pub(crate) struct Fingerprint {
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    pub(crate) shape: Shape,
}

/// Where the fields are.
pub(crate) enum Shape {
    Struct(Vec<Field>),
    Enum(Vec<Variant>),
}

/// A variant of an enum, with the fields that count.
pub(crate) struct Variant {
    pub(crate) name: Ident,
    pub(crate) fields: Vec<Field>,
}

impl Fingerprint {
    /// Checks what the compiler has read.
    pub(crate) fn parse(input: DeriveInput) -> syn::Result<Self> {
        let mut errors = Errors::default();
        let shape = match input.data {
            Data::Struct(data) => Shape::Struct(counted(data.fields, &mut errors)),
            Data::Enum(data) => Shape::Enum(
                data.variants
                    .into_iter()
                    .map(|variant| Variant {
                        name: variant.ident,
                        fields: counted(variant.fields, &mut errors),
                    })
                    .collect(),
            ),
            Data::Union(data) => {
                errors.report(
                    data.union_token,
                    "`Fingerprint` cannot be derived for a union: nothing says which field holds; \
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

    /// All fields that count.
    pub(crate) fn fields(&self) -> Box<dyn Iterator<Item = &Field> + '_> {
        match &self.shape {
            Shape::Struct(fields) => Box::new(fields.iter()),
            Shape::Enum(variants) => Box::new(variants.iter().flat_map(|variant| &variant.fields)),
        }
    }
}

/// A struct of tensors, without mistakes.
pub(crate) struct Batched {
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    pub(crate) fields: Vec<Field>,
    /// Whether its fields have names.
    pub(crate) is_named: bool,
}

impl Batched {
    /// Checks what the compiler has read.
    pub(crate) fn parse(input: DeriveInput) -> syn::Result<Self> {
        let fields = match input.data {
            Data::Struct(data) => data.fields,
            Data::Enum(data) => {
                return Err(syn::Error::new_spanned(
                    data.enum_token,
                    "`Batched` cannot be derived for an enum: rows of different variants do not \
                     stand in one batch; return a struct, with `Option` for what may be absent",
                ));
            }
            Data::Union(data) => {
                return Err(syn::Error::new_spanned(
                    data.union_token,
                    "`Batched` cannot be derived for a union: nothing says which field holds; \
                     return a struct",
                ));
            }
        };
        if fields.is_empty() {
            let message = format!(
                "`{}` has no fields, so there is nothing to cache",
                input.ident
            );
            return Err(syn::Error::new_spanned(input.ident, message));
        }
        let mut errors = Errors::default();
        for field in &fields {
            if names(&field.ty, &input.ident) {
                let message = format!(
                    "`{}` is made of itself, so nobody could say how many tensors it has; give the \
                     inner one a type of its own",
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

fn counted(mut fields: Fields, errors: &mut Errors) -> Vec<Field> {
    let members: Vec<_> = fields.members().collect();
    let mut counted = Vec::new();
    for (field, member) in fields.iter_mut().zip(members) {
        if take_skip(&mut field.attrs, errors).is_none() {
            counted.push(Field::new(field, member));
        }
    }
    counted
}
