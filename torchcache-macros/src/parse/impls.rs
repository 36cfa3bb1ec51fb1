//! The attribute on an impl, and which methods it wraps.

use proc_macro2::TokenStream;
use syn::{GenericArgument, ImplItem, ItemImpl, PathArguments, Signature, Type};

use crate::errors::Errors;
use crate::parse::attributes::cfgs;
use crate::parse::signature::{Training, WrappedFn};
use crate::validate;

/// A checked impl.
pub(crate) struct ModuleImpl {
    pub(crate) item: ItemImpl,
    /// In the order of the impl.
    pub(crate) methods: Vec<Method>,
}

/// A method that is wrapped.
pub(crate) struct Method {
    /// Its index among the items of the impl.
    pub(crate) index: usize,
    pub(crate) function: WrappedFn,
}

/// What an impl is of.
#[derive(Clone, Copy)]
enum ImplKind {
    Module,
    ModuleT,
    Inherent,
}

impl ModuleImpl {
    /// Reads and checks an impl.
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
            for (index, member) in item.items.iter().enumerate() {
                let ImplItem::Fn(method) = member else {
                    continue;
                };
                let Some(training) = kind.wraps(&method.sig) else {
                    continue;
                };
                found = true;
                for cfg in cfgs(&method.attrs) {
                    errors.report(
                        cfg,
                        "a cached method cannot have `#[cfg]`; put it on the impl",
                    );
                }
                validate::signature::receiver(&method.sig, &mut errors);
                let function = WrappedFn::parse(&method.sig, &method.block, training, &mut errors);
                methods.extend(function.map(|function| Method { index, function }));
            }
            if !found && matches!(kind, ImplKind::Inherent) {
                errors.report(
                    &item.self_ty,
                    "this impl has neither `forward` nor `forward_t`, so there is nothing to \
                     cache; move the attribute to the impl that has one of them",
                );
            }
        }
        errors.finish(Self {
            item: item.clone(),
            methods,
        })
    }
}

impl ImplKind {
    /// Which arguments of a wrapped method mean training; `None` for a method that is not wrapped.
    fn wraps(self, signature: &Signature) -> Option<Training> {
        match self {
            Self::Module | Self::Inherent if signature.ident == "forward" => Some(Training::Named),
            Self::ModuleT if signature.ident == "forward_t" => Some(Training::Second),
            Self::Inherent if signature.ident == "forward_t" => Some(Training::Required),
            _ => None,
        }
    }
}

fn kind(item: &ItemImpl, errors: &mut Errors) -> Option<ImplKind> {
    let Some((path, _)) = &item.trait_ else {
        return Some(ImplKind::Inherent);
    };
    let name = path
        .segments
        .last()
        .map(|last| last.ident.to_string())
        .unwrap_or_default();
    match name.as_str() {
        "Module" => Some(ImplKind::Module),
        "ModuleT" => Some(ImplKind::ModuleT),
        _ => {
            errors.report(
                path,
                format!(
                    "`#[torchcache]` goes on an impl of `nn::Module` or `nn::ModuleT`, or on an \
                     inherent impl with `forward` or `forward_t`; this is an impl of `{name}`"
                ),
            );
            None
        }
    }
}

/// Whether a type has arguments other than lifetimes: `Backbone<M>`, `Backbone<Linear>`.
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
