//! The attribute on an impl, and which methods it wraps.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::{Attribute, Block, ImplItem, ItemImpl, Meta, Path, Signature};

use crate::build_inputs::conditional;
use crate::canonical;
use crate::errors::Errors;
use crate::parse::attributes::alias;
use crate::parse::options::OptionAssignments;
use crate::parse::signature::{Training, WrappedFn, has_second_flag};
use crate::types::ends_in;
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
    /// The path of the trait, where that tells the method apart from others of its name; else empty. A struct
    /// has one impl with `forward`.
    pub(crate) of: String,
    pub(crate) options: OptionAssignments,
    pub(crate) function: WrappedFn,
    /// The methods of `self` that its body names, each once.
    pub(crate) callees: Vec<String>,
}

/// The methods that are cached without an attribute of their own.
const FORWARD: [&str; 2] = ["forward", "forward_t"];

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
        let (kind, alias) = (kind(item), alias());
        let mut item = item.clone();
        let of = item.trait_.as_ref().map(|(path, _)| path);
        let of = of.map_or_else(String::new, |path| canonical::text(quote!(#path)));
        let module = item.self_ty.clone();
        let mut found = false;
        for (index, member) in item.items.iter_mut().enumerate() {
            let ImplItem::Fn(method) = member else {
                continue;
            };
            let marked = take_mark(&mut method.attrs, alias.as_deref(), &mut errors);
            let training = kind.training(&method.sig);
            let is_forward = is_forward(&method.sig);
            if !is_forward && marked.is_none() {
                continue;
            }
            found = true;
            validate::signature::receiver(&method.sig, &module, &mut errors);
            let (signature, block) = (&method.sig, &method.block);
            let function = WrappedFn::parse(signature, block, Some(&module), training, &mut errors);
            let options = marked.unwrap_or_default();
            let method = |function: WrappedFn| Method {
                index,
                of: if is_forward {
                    String::new()
                } else {
                    of.clone()
                },
                options,
                callees: callees(&function.block),
                function,
            };
            methods.extend(function.map(method));
        }
        if !found {
            report_nothing_to_cache(&item, &mut errors);
        }
        errors.finish(Self { item, methods })
    }

    /// Whether this is the impl that holds `forward` or `forward_t`.
    pub(crate) fn has_forward(&self) -> bool {
        has_forward(&self.item)
    }
}

/// Whether `forward` or `forward_t` is in an impl.
pub(crate) fn has_forward(item: &ItemImpl) -> bool {
    let is_one = |member: &ImplItem| matches!(member, ImplItem::Fn(it) if is_forward(&it.sig));
    item.items.iter().any(is_one)
}

fn is_forward(signature: &Signature) -> bool {
    FORWARD.iter().any(|name| signature.ident == name)
}

/// Removes `#[torchcache]` from a method and returns its options; `None` where there is none.
fn take_mark(
    attributes: &mut Vec<Attribute>,
    alias: Option<&str>,
    errors: &mut Errors,
) -> Option<OptionAssignments> {
    for attribute in attributes.iter() {
        if attribute.path().is_ident("cfg_attr") && has_mark(&attribute.meta, alias) {
            errors.report(
                attribute,
                "whether a method is cached cannot depend on a condition; write the method twice, each \
                 with a `#[cfg]`",
            );
        }
    }
    let is_mark = |attribute: &mut Attribute| is_mark(attribute.path(), alias);
    let mut options = None;
    for attribute in attributes.extract_if(.., is_mark) {
        if options.is_some() {
            errors.report(
                &attribute,
                "this method already has `#[torchcache]`; remove one",
            );
        }
        let arguments = match &attribute.meta {
            Meta::Path(_) => TokenStream::new(),
            Meta::List(list) => list.tokens.clone(),
            Meta::NameValue(_) => {
                errors.report(
                    &attribute,
                    "expected `#[torchcache]` or `#[torchcache(version = \"1\")]`",
                );
                continue;
            }
        };
        let given = OptionAssignments::parse(arguments, errors);
        given.require_method_options(errors);
        options = Some(given);
    }
    options
}

/// Whether a path is that of the attribute. `alias`: another name of it.
fn is_mark(path: &Path, alias: Option<&str>) -> bool {
    ends_in(path, "torchcache") || alias.is_some_and(|alias| ends_in(path, alias))
}

fn has_mark(meta: &Meta, alias: Option<&str>) -> bool {
    match meta {
        Meta::List(list) if list.path.is_ident("cfg_attr") => {
            let (_, metas) = conditional(&list.tokens);
            metas.iter().any(|meta| has_mark(meta, alias))
        }
        meta => is_mark(meta.path(), alias),
    }
}

/// Removes the attribute from the methods of an impl that is emitted unchanged next to an error.
pub(crate) fn remove_marks(attributes: &mut Vec<Attribute>) {
    let alias = alias();
    take_mark(attributes, alias.as_deref(), &mut Errors::default());
}

/// The methods that a body calls as `self.name(…)` or `Self::name(…)`, each once.
fn callees(block: &Block) -> Vec<String> {
    fn search(tokens: TokenStream, found: &mut Vec<String>) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for token in &tokens {
            if let TokenTree::Group(group) = token {
                search(group.stream(), found);
            }
        }
        let is_punct = |token: &TokenTree, of: char| matches!(token, TokenTree::Punct(it) if it.as_char() == of);
        let is_ident =
            |token: &TokenTree, name: &str| matches!(token, TokenTree::Ident(it) if it == name);
        for at in 0..tokens.len() {
            let name = match &tokens[at..] {
                [this, dot, name, TokenTree::Group(_), ..]
                    if is_ident(this, "self") && is_punct(dot, '.') =>
                {
                    name
                }
                [this, colon, other, name, ..]
                    if is_ident(this, "Self") && is_punct(colon, ':') && is_punct(other, ':') =>
                {
                    name
                }
                _ => continue,
            };
            if let TokenTree::Ident(name) = name {
                let name = name.unraw().to_string();
                if !found.contains(&name) {
                    found.push(name);
                }
            }
        }
    }
    let mut found = Vec::new();
    search(block.to_token_stream(), &mut found);
    found
}

impl ImplKind {
    /// Which arguments of a method mean training.
    fn training(self, signature: &Signature) -> Training {
        if signature.ident != "forward_t" {
            return Training::Named;
        }
        match self {
            Self::ModuleT => Training::Second,
            Self::Trait if has_second_flag(signature) => Training::Second,
            Self::Trait | Self::Inherent => Training::Required,
        }
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
                "this impl of `{}` has neither `forward` nor `forward_t`, and no method with `#[torchcache]`, \
                 so there is nothing to cache; put `#[torchcache]` on the methods to cache as well",
                name.to_token_stream()
            );
            errors.report(path, message);
        }
        None => errors.report(
            &item.self_ty,
            "this impl has neither `forward` nor `forward_t`, and no method with `#[torchcache]`, so there is \
             nothing to cache; put `#[torchcache]` on the methods to cache as well",
        ),
    }
}
