//! The items of `#[derive(Fingerprint)]`, `#[derive(Batched)]` and `#[derive(Argument)]`.

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

/// The fields that count.
pub(crate) enum Shape {
    Struct(Vec<Field>),
    Enum(Vec<Variant>),
}

/// A variant of an enum, with its fields that count.
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
}

impl Shape {
    /// All fields.
    pub(crate) fn fields(&self) -> Box<dyn Iterator<Item = &Field> + '_> {
        match self {
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

/// What `#[derive(Batched)]` and `#[derive(Argument)]` do not share.
#[derive(Clone, Copy)]
pub(crate) struct TensorsTrait {
    name: &'static str,
    attribute: &'static str,
    /// On fields that are no tensors.
    mark: &'static str,
}

/// Outputs.
pub(crate) const BATCHED: TensorsTrait = TensorsTrait {
    name: "Batched",
    attribute: "batched",
    mark: "constant",
};

/// Arguments.
pub(crate) const ARGUMENT: TensorsTrait = TensorsTrait {
    name: "Argument",
    attribute: "argument",
    mark: "plain",
};

/// A checked struct or enum of tensors.
pub(crate) struct TensorsDerive {
    pub(crate) name: Ident,
    pub(crate) generics: Generics,
    pub(crate) shape: Shape,
    pub(crate) lints: Vec<Attribute>,
    pub(crate) runtime: Runtime,
}

impl TensorsDerive {
    /// Reads and checks the item.
    pub(crate) fn parse(input: DeriveInput, of: TensorsTrait) -> syn::Result<Self> {
        let TensorsTrait { name, .. } = of;
        let mut errors = Errors::default();
        let library = library_argument(&input.attrs, of, &mut errors);
        let item = &input.ident;
        let mut fields = |fields: Fields| tensor_fields(fields, item, of, &mut errors);
        let shape = match input.data {
            Data::Struct(data) => Shape::Struct(fields(data.fields)),
            Data::Enum(data) => {
                let variants = data.variants.into_iter();
                let variants = variants.map(|variant| Variant {
                    name: variant.ident,
                    fields: fields(variant.fields),
                });
                Shape::Enum(variants.collect())
            }
            Data::Union(data) => {
                return Err(syn::Error::new_spanned(
                    data.union_token,
                    format!(
                        "`{name}` cannot be derived for a union, whose active field is unknown; use a struct"
                    ),
                ));
            }
        };
        let missing = match &shape {
            Shape::Struct(fields) if fields.is_empty() => Some("fields"),
            Shape::Enum(variants) if variants.is_empty() => Some("variants"),
            _ => None,
        };
        if let Some(missing) = missing {
            let message =
                format!("`{item}` has no {missing}, so there is nothing to cache; add a `Tensor`");
            return Err(syn::Error::new_spanned(item, message));
        }
        let mut lifetimes = input.generics.lifetimes().skip(1);
        if let Some(second) = lifetimes.next().filter(|_| name == ARGUMENT.name) {
            let message = format!(
                "the references in `{item}` have one lifetime in an argument; use the first one for all"
            );
            errors.report(second, message);
        }
        errors.finish(Self {
            name: input.ident,
            generics: input.generics,
            shape,
            lints: inherited(&input.attrs, &[Inherited::Lints]),
            runtime: Runtime::locate(library.as_ref()),
        })
    }
}

/// The path in `#[batched(crate = …)]` or `#[argument(crate = …)]`.
fn library_argument(
    attributes: &[Attribute],
    of: TensorsTrait,
    errors: &mut Errors,
) -> Option<Path> {
    let TensorsTrait {
        attribute: ours, ..
    } = of;
    let mut library = None;
    for attribute in attributes {
        if attribute.path().is_ident(ours) {
            let pair = attribute.parse_args();
            if !pair.is_ok_and(|pair| is_library(&pair, &mut library)) {
                errors.report(
                    attribute,
                    format!("expected one `#[{ours}(crate = facade::torchcache)]`"),
                );
            }
        }
    }
    library
}

/// The fields of `item`, each with whether it is marked to be no tensor.
fn tensor_fields(
    fields: Fields,
    item: &Ident,
    of: TensorsTrait,
    errors: &mut Errors,
) -> Vec<Field> {
    let TensorsTrait {
        attribute: ours,
        mark,
        ..
    } = of;
    let members: Vec<_> = fields.members().collect();
    let fields = fields.into_iter().zip(members).map(|(field, member)| {
        let mut parsed = Field::new(&field, member);
        for attribute in &field.attrs {
            if attribute.path().is_ident(ours) {
                parsed.is_plain = attribute
                    .parse_args::<Ident>()
                    .is_ok_and(|word| word == mark);
                if !parsed.is_plain {
                    errors.report(attribute, format!("expected `#[{ours}({mark})]`"));
                }
            }
        }
        if !parsed.is_plain && names(&field.ty, item) {
            let message = format!(
                "`{item}` contains itself, so its number of tensors is unknown; give the inner \
                 value another type"
            );
            errors.report(&field.ty, message);
        }
        parsed
    });
    fields.collect()
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
