//! The function that is wrapped: what its signature may be, and how it comes out. Apart, because
//! methods and free functions obey the same rules.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::visit::{self, Visit};
use syn::{
    Attribute, Block, FnArg, GenericParam, Ident, Meta, Pat, PatType, ReturnType, Safety,
    Signature, Type,
};

use crate::code;
use crate::errors::Errors;
use crate::suggest;

/// Which argument says whether the module is being trained. It is no part of the key.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Train {
    /// None does.
    Absent,
    /// The second one after `self`, as in `nn::ModuleT`.
    Second,
    /// The `bool` called `train` or `_train`.
    Named,
}

/// A function whose body becomes a closure.
pub(crate) struct Wrapped {
    /// As it comes out: each argument has a name.
    pub(crate) signature: Signature,
    /// In the order of the signature, without `train`.
    pub(crate) arguments: Vec<Argument>,
    pub(crate) train: Option<Argument>,
    pub(crate) output: Type,
    pub(crate) block: Block,
    /// The text that goes into the identity.
    pub(crate) code: String,
}

/// An argument.
pub(crate) struct Argument {
    /// Its name in the signature that comes out.
    pub(crate) name: Ident,
    /// What the body knows it by.
    pub(crate) pattern: Pat,
    pub(crate) ty: Type,
    pub(crate) role: Role,
}

/// What an argument is to the cache.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Role {
    /// Rows, or a plain value: its type says which.
    Rows,
    /// `#[id]`: what rows are keyed by.
    Id,
    /// `#[shared]`: a tensor that is the same for all rows.
    Shared,
}

impl Wrapped {
    /// Reads a function without its receiver and checks it.
    pub(crate) fn parse(
        signature: &Signature,
        block: &Block,
        train: Train,
        errors: &mut Errors,
    ) -> Option<Self> {
        refuse_qualifiers(signature, errors);
        let mut renamed = signature.clone();
        let mut arguments = Vec::new();
        let mut found_train = None;
        let typed = renamed.inputs.iter_mut().filter_map(|input| match input {
            FnArg::Typed(typed) => Some(typed),
            FnArg::Receiver(_) => None,
        });
        for (position, typed) in typed.enumerate() {
            refuse_conditions(&typed.attrs, errors);
            let role = take_role(&mut typed.attrs, errors);
            let is_train = match train {
                Train::Absent => false,
                Train::Second => position == 1,
                Train::Named => is_called_train(typed),
            };
            if !is_train {
                refuse_type(&typed.ty, errors);
            } else if role != Role::Rows {
                errors.report(&typed.pat, "`train` is no part of a key; remove its mark");
            }
            let argument = Argument::take(typed, position, role);
            if is_train {
                found_train = Some(argument);
            } else {
                arguments.push(argument);
            }
        }
        refuse_second_id(&arguments, errors);
        if train == Train::Named && found_train.is_none() {
            errors.report(
                &signature.ident,
                "`forward_t` needs an argument `train: bool`, as in `fn forward_t(&self, xs: \
                 &Tensor, train: bool) -> Tensor`; without one, call the method `forward`",
            );
        }
        if !arguments.iter().any(Argument::has_rows) {
            errors.report(
                &signature.ident,
                format!(
                    "`{}` has no tensor argument, so there are no rows to cache; pass at least one \
                     `&Tensor` that is not shared, or `#[id]`s",
                    signature.ident
                ),
            );
        }
        let output = output(signature, errors)?;
        let code = code::canonical(quote!(#signature #block));
        let block = block.clone();
        Some(Self {
            signature: renamed,
            arguments,
            train: found_train,
            output,
            block,
            code,
        })
    }
}

impl Argument {
    /// Leaves a plain name in the signature: a pattern is matched where the body begins.
    fn take(typed: &mut PatType, position: usize, role: Role) -> Self {
        let pattern = (*typed.pat).clone();
        let name = match &pattern {
            Pat::Ident(ident) if ident.by_ref.is_none() && ident.subpat.is_none() => {
                ident.ident.clone()
            }
            _ => Ident::new(&format!("argument_{position}"), Span::mixed_site()),
        };
        *typed.pat = syn::parse_quote!(#name);
        Self {
            name,
            pattern,
            ty: (*typed.ty).clone(),
            role,
        }
    }

    /// Whether it may say how many rows there are.
    fn has_rows(&self) -> bool {
        match self.role {
            Role::Rows => !is_plain(&self.ty),
            Role::Id => true,
            Role::Shared => false,
        }
    }
}

/// The marks of arguments.
const MARKS: [(&str, Role); 2] = [("id", Role::Id), ("shared", Role::Shared)];

/// Takes the marks off an argument, and what looks like one: the compiler knows none of them.
fn take_role(attributes: &mut Vec<Attribute>, errors: &mut Errors) -> Role {
    let mut first: Option<(String, Role)> = None;
    for attribute in attributes.extract_if(.., |attribute| mark(attribute).is_some()) {
        let Some(name) = mark(&attribute) else {
            continue;
        };
        let Some((_, role)) = MARKS.into_iter().find(|(known, _)| name == *known) else {
            let hint = suggest::hint(&name, &MARKS.map(|(known, _)| known), "");
            errors.report(attribute.path(), format!("unknown mark `{name}`{hint}"));
            continue;
        };
        if !matches!(attribute.meta, Meta::Path(_)) {
            errors.report(&attribute, format!("write `#[{name}]` alone"));
        }
        match &first {
            None => first = Some((name, role)),
            Some((before, _)) => errors.report(
                &attribute,
                format!("this argument is `#[{before}]` already; remove one of the marks"),
            ),
        }
    }
    first.map_or(Role::Rows, |(_, role)| role)
}

/// The name of a mark, right or misspelt; `None` for what the compiler knows.
fn mark(attribute: &Attribute) -> Option<String> {
    const OTHERS: [&str; 8] = [
        "allow", "cfg", "cfg_attr", "deny", "doc", "expect", "forbid", "warn",
    ];
    let name = attribute.path().get_ident()?.to_string();
    (!OTHERS.contains(&name.as_str())).then_some(name)
}

/// Takes all marks off a signature that comes out as it was, beside an error.
pub(crate) fn without_marks(signature: &mut Signature) {
    for input in &mut signature.inputs {
        if let FnArg::Typed(typed) = input {
            take_role(&mut typed.attrs, &mut Errors::default());
        }
    }
}

fn refuse_second_id(arguments: &[Argument], errors: &mut Errors) {
    let mut ids = arguments
        .iter()
        .filter(|argument| argument.role == Role::Id);
    let Some(first) = ids.next() else { return };
    for second in ids {
        errors.report(
            &second.pattern,
            format!(
                "rows have one id, and `{}` is it already; join the two in one text, or pass this \
                 one without `#[id]`",
                first.name
            ),
        );
    }
}

fn is_called_train(typed: &PatType) -> bool {
    matches!(&*typed.pat, Pat::Ident(name) if name.ident == "train" || name.ident == "_train")
        && matches!(&*typed.ty, Type::Path(path) if path.path.is_ident("bool"))
}

fn refuse_qualifiers(signature: &Signature, errors: &mut Errors) {
    let mut refuse = |tokens: TokenStream, what: &str, instead: &str| {
        errors.report(tokens, format!("{what} cannot be cached; {instead}"));
    };
    if let Some(token) = signature.constness {
        refuse(
            token.to_token_stream(),
            "a `const` function",
            "remove `const`",
        );
    }
    if let Some(token) = signature.asyncness {
        refuse(
            token.to_token_stream(),
            "an `async` function",
            "remove `async`, or await its inputs before the call",
        );
    }
    if let Safety::Unsafe(token) = signature.safety {
        refuse(
            token.to_token_stream(),
            "an `unsafe` function",
            "remove `unsafe`: a hit does not run the body that asks for it",
        );
    }
    if let Some(abi) = &signature.abi {
        refuse(
            abi.to_token_stream(),
            "an `extern` function",
            "remove `extern`",
        );
    }
    if let Some(variadic) = &signature.variadic {
        refuse(
            variadic.dots.to_token_stream(),
            "a variadic function",
            "take a slice",
        );
    }
    for parameter in &signature.generics.params {
        let name = match parameter {
            GenericParam::Lifetime(_) => continue,
            GenericParam::Type(parameter) => &parameter.ident,
            GenericParam::Const(parameter) => &parameter.ident,
        };
        refuse(
            name.to_token_stream(),
            "a generic function",
            "write the type out; a generic struct may have a cached impl",
        );
    }
}

fn refuse_conditions(attributes: &[Attribute], errors: &mut Errors) {
    for attribute in attributes {
        if attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr") {
            errors.report(
                attribute,
                "an argument of a cached function cannot depend on a condition; put `#[cfg]` on \
                 the whole item",
            );
        }
    }
}

/// Refuses the types that no key can be made of.
fn refuse_type(ty: &Type, errors: &mut Errors) {
    struct Refuse<'a>(&'a mut Errors);
    impl<'ast> Visit<'ast> for Refuse<'_> {
        fn visit_type_reference(&mut self, ty: &'ast syn::TypeReference) {
            if ty.mutability.is_some() {
                let elem = &ty.elem;
                let message = if is_tensor(elem) {
                    "a hit does not run the body, so nothing would be written into a `&mut \
                     Tensor`; take `&Tensor` and return the new tensor"
                } else {
                    "a hit does not run the body, so nothing would be written through a `&mut` \
                     argument; take `&` and return what changes"
                };
                self.0.report(ty, message);
            }
            visit::visit_type_reference(self, ty);
        }

        fn visit_type_impl_trait(&mut self, ty: &'ast syn::TypeImplTrait) {
            self.0.report(
                ty,
                "a generic function cannot be cached; write the type out",
            );
        }
    }
    Refuse(errors).visit_type(ty);
}

fn output(signature: &Signature, errors: &mut Errors) -> Option<Type> {
    let advice = "return a `Tensor`, a tuple, `Vec` or struct of them, or a `Result` of these";
    match &signature.output {
        ReturnType::Default => {
            let message = format!("`{}` returns nothing to cache; {advice}", signature.ident);
            errors.report(&signature.ident, message);
            None
        }
        ReturnType::Type(_, ty) => {
            let what = match &**ty {
                Type::Tuple(tuple) if tuple.elems.is_empty() => "nothing",
                Type::Never(_) => "nothing",
                Type::ImplTrait(_) => "a type without a name",
                Type::Reference(_) => "a reference, which a hit does not have",
                ty => return Some(ty.clone()),
            };
            errors.report(ty, format!("this returns {what}; {advice}"));
            None
        }
    }
}

fn is_tensor(ty: &Type) -> bool {
    matches!(ty, Type::Path(path)
        if path.path.segments.last().is_some_and(|last| last.ident == "Tensor"))
}

/// Whether a type is known to hold no tensor. An alias may, so an unknown name is not plain.
fn is_plain(ty: &Type) -> bool {
    const PLAIN: [&str; 20] = [
        "bool", "char", "str", "String", "Kind", "Device", "f32", "f64", "u8", "u16", "u32", "u64",
        "u128", "usize", "i8", "i16", "i32", "i64", "i128", "isize",
    ];
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| {
            let inner = match &last.arguments {
                syn::PathArguments::None => return PLAIN.iter().any(|plain| last.ident == plain),
                syn::PathArguments::AngleBracketed(inner) => inner,
                _ => return false,
            };
            (last.ident == "Option" || last.ident == "Vec")
                && inner.args.iter().all(
                    |inner| matches!(inner, syn::GenericArgument::Type(inner) if is_plain(inner)),
                )
        }),
        Type::Reference(reference) => is_plain(&reference.elem),
        Type::Slice(slice) => is_plain(&slice.elem),
        Type::Array(array) => is_plain(&array.elem),
        Type::Group(group) => is_plain(&group.elem),
        Type::Paren(paren) => is_plain(&paren.elem),
        Type::Tuple(tuple) => tuple.elems.iter().all(is_plain),
        _ => false,
    }
}
