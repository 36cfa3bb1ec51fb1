//! The item of `#[derive(Fingerprint)]`.

use syn::{Data, DeriveInput, Fields, Generics, Ident};

use crate::errors::Errors;
use crate::parse::fields::{Field, take_skip};

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
