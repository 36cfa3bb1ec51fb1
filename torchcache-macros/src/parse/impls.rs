//! The attribute on an impl, and which methods it wraps.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{GenericArgument, ImplItem, ItemImpl, PathArguments, Signature, Type};

use crate::errors::Errors;
use crate::parse::options::OptionAssignments;
use crate::parse::signature::{Training, WrappedFn, has_second_flag};
use crate::types::{self, ends_in};
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
    /// The trait `ModuleT`.
    ModuleT,
    /// Another trait. The name says nothing: `nn::Module` and `nn::ModuleT` may be imported under others.
    Trait,
    Inherent,
}

impl ModuleImpl {
    /// Reads and checks an impl.
    pub(crate) fn parse(arguments: TokenStream, item: &ItemImpl) -> syn::Result<Self> {
        let mut errors = Errors::default();
        let mut mistakes = Errors::default();
        let options = OptionAssignments::parse(arguments.clone(), &mut mistakes);
        let has_options = !options.assignments.is_empty() || options.handle.is_some();
        if has_options || mistakes.finish(()).is_err() {
            errors.report(
                arguments,
                "options go on the struct; on the impl write `#[torchcache]` alone",
            );
        }
        let mut methods = Vec::new();
        let kind = kind(item);
        let mut found = false;
        for (index, member) in item.items.iter().enumerate() {
            let ImplItem::Fn(method) = member else {
                continue;
            };
            let Some(training) = kind.wraps(&method.sig) else {
                continue;
            };
            found = true;
            validate::signature::receiver(&method.sig, &mut errors);
            let function = WrappedFn::parse(&method.sig, &method.block, training, &mut errors);
            methods.extend(function.map(|function| Method { index, function }));
        }
        if !found {
            report_nothing_to_cache(item, &mut errors);
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
        if signature.ident == "forward" {
            return Some(Training::Named);
        }
        if signature.ident != "forward_t" {
            return None;
        }
        Some(match self {
            Self::ModuleT => Training::Second,
            Self::Trait if has_second_flag(signature) => Training::Second,
            Self::Trait | Self::Inherent => Training::Required,
        })
    }
}

fn kind(item: &ItemImpl) -> ImplKind {
    match &item.trait_ {
        None => ImplKind::Inherent,
        Some((path, _)) if ends_in(path, "ModuleT") => ImplKind::ModuleT,
        Some(_) => ImplKind::Trait,
    }
}

fn report_nothing_to_cache(item: &ItemImpl, errors: &mut Errors) {
    match &item.trait_ {
        // The compiler reports that the method is missing.
        Some((path, _)) if ends_in(path, "Module") || ends_in(path, "ModuleT") => {}
        Some((path, _)) => {
            let name = path.segments.last().map(|last| &last.ident);
            let message = format!(
                "`#[torchcache]` goes on an impl of `nn::Module` or `nn::ModuleT`, or on another impl \
                 with `forward` or `forward_t`; this is an impl of `{}`",
                name.to_token_stream()
            );
            errors.report(path, message);
        }
        None => errors.report(
            &item.self_ty,
            "this impl has neither `forward` nor `forward_t`, so there is nothing to cache; move the \
             attribute to the impl that has one of them",
        ),
    }
}

/// Whether a type has arguments other than lifetimes: `Backbone<M>`, `Backbone<Linear>`.
pub(crate) fn has_arguments(ty: &Type) -> bool {
    let last = types::path(ty).and_then(|path| path.segments.last());
    let Some(PathArguments::AngleBracketed(inner)) = last.map(|last| &last.arguments) else {
        return false;
    };
    let mut arguments = inner.args.iter();
    arguments.any(|inner| !matches!(inner, GenericArgument::Lifetime(_)))
}
