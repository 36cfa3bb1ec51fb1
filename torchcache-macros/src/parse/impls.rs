//! The attribute on an impl: which methods are wrapped.

use proc_macro2::TokenStream;
use syn::{
    FnArg, GenericArgument, ImplItem, ItemImpl, PathArguments, ReceiverKind, Signature, Type,
};

use crate::errors::Errors;
use crate::parse::conditions;
use crate::parse::signature::{Train, Wrapped};

/// An annotated impl without mistakes.
pub(crate) struct Impl {
    pub(crate) item: ItemImpl,
    /// In the order of the impl.
    pub(crate) methods: Vec<Method>,
}

/// A method that is wrapped.
pub(crate) struct Method {
    /// Its place among the items of the impl.
    pub(crate) place: usize,
    pub(crate) function: Wrapped,
}

/// What the impl is for.
#[derive(Clone, Copy)]
enum Kind {
    Module,
    ModuleT,
    Inherent,
}

impl Impl {
    /// Reads an impl and checks it.
    pub(crate) fn parse(arguments: TokenStream, item: &ItemImpl) -> syn::Result<Self> {
        let mut errors = Errors::default();
        if !arguments.is_empty() {
            errors.report(
                arguments,
                "options go on the struct; on the impl write `#[torchcache]` alone",
            );
        }
        let mut methods = Vec::new();
        if let Some(kind) = kind(item, &mut errors) {
            let mut found = false;
            for (place, member) in item.items.iter().enumerate() {
                let ImplItem::Fn(method) = member else {
                    continue;
                };
                let Some(train) = kind.wraps(&method.sig) else {
                    continue;
                };
                found = true;
                for condition in conditions(&method.attrs) {
                    errors.report(
                        condition,
                        "a cached method cannot depend on a condition; put `#[cfg]` on the impl",
                    );
                }
                check_receiver(&method.sig, &mut errors);
                let function = Wrapped::parse(&method.sig, &method.block, train, &mut errors);
                methods.extend(function.map(|function| Method { place, function }));
            }
            if !found && matches!(kind, Kind::Inherent) {
                errors.report(
                    &item.self_ty,
                    "this impl has neither `forward` nor `forward_t`, so there is nothing to \
                     cache; put the attribute on the impl that has one",
                );
            }
        }
        errors.finish(Self {
            item: item.clone(),
            methods,
        })
    }
}

impl Kind {
    /// Whether a method is wrapped, and where its `train` is.
    fn wraps(self, signature: &Signature) -> Option<Train> {
        match self {
            Self::Module | Self::Inherent if signature.ident == "forward" => Some(Train::Absent),
            Self::ModuleT if signature.ident == "forward_t" => Some(Train::Second),
            Self::Inherent if signature.ident == "forward_t" => Some(Train::Named),
            _ => None,
        }
    }
}

fn kind(item: &ItemImpl, errors: &mut Errors) -> Option<Kind> {
    let Some((path, _)) = &item.trait_ else {
        return Some(Kind::Inherent);
    };
    let name = path
        .segments
        .last()
        .map(|last| last.ident.to_string())
        .unwrap_or_default();
    match name.as_str() {
        "Module" => Some(Kind::Module),
        "ModuleT" => Some(Kind::ModuleT),
        _ => {
            errors.report(
                path,
                format!(
                    "`#[torchcache]` goes on an impl of `nn::Module` or `nn::ModuleT`, or on an \
                     inherent impl with `forward` or `forward_t`; this one is of `{name}`"
                ),
            );
            None
        }
    }
}

fn check_receiver(signature: &Signature, errors: &mut Errors) {
    let name = &signature.ident;
    let Some(receiver) = signature.receiver() else {
        errors.report(
            name,
            format!("`{name}` takes no `self`; a cached method takes `&self`"),
        );
        return;
    };
    let shared = match &receiver.kind {
        ReceiverKind::Reference(_, _, mutability) => mutability.is_none(),
        ReceiverKind::Typed(_, ty) => {
            matches!(&**ty, Type::Reference(reference) if reference.mutability.is_none())
        }
        _ => false,
    };
    if !shared {
        errors.report(
            FnArg::Receiver(receiver.clone()),
            "a cached method takes `&self`: a hit does not run the body, so it can neither change \
             nor consume the module",
        );
    }
}

/// Whether the type names arguments that are not lifetimes: `Backbone<M>`, `Backbone<Linear>`.
pub(crate) fn has_arguments(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|last| match &last.arguments {
                PathArguments::AngleBracketed(inner) => inner
                    .args
                    .iter()
                    .any(|inner| !matches!(inner, GenericArgument::Lifetime(_))),
                _ => false,
            }),
        Type::Group(group) => has_arguments(&group.elem),
        Type::Paren(paren) => has_arguments(&paren.elem),
        _ => false,
    }
}
