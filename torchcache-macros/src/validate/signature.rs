//! The rules for the signature of a cached function or method.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{
    Attribute, FnArg, GenericArgument, GenericParam, Meta, PathArguments, ReceiverKind, ReturnType,
    Safety, Signature, Type,
};

use crate::build_inputs::conditional;
use crate::canonical;
use crate::errors::Errors;
use crate::types::{self, ungrouped};

/// The attributes of arguments. `#[skip]` may be on one next to `#[shared]` or `#[padded]`.
pub(crate) const MARKS: [&str; 4] = ["id", "padded", "shared", "skip"];

/// Refuses `const`, `async`, `unsafe`, `extern`, variadic and generic functions.
pub(crate) fn qualifiers(signature: &Signature, errors: &mut Errors) {
    let mut refuse = |tokens: TokenStream, what: &str, fix: &str| {
        errors.report(tokens, format!("{what} cannot be cached; {fix}"));
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
            "remove `unsafe` and put an `unsafe` block into the body",
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
            "write the type out, or cache `forward` of a generic struct",
        );
    }
}

/// Requires `&self`, or a reference to the type of the impl in its place.
pub(crate) fn receiver(signature: &Signature, module: &Type, errors: &mut Errors) {
    let name = &signature.ident;
    let Some(receiver) = signature.receiver() else {
        if !takes_module_first(signature, module) {
            errors.report(
                name,
                format!(
                    "`{name}` takes neither `&self` nor `&Self` first; a cached function of an impl takes the \
                     module, and one without it is a free function with `#[torchcache]`"
                ),
            );
        }
        return;
    };
    let is_shared = match &receiver.kind {
        ReceiverKind::Reference(_, _, mutability) => mutability.is_none(),
        ReceiverKind::Typed(_, ty) => {
            matches!(ungrouped(ty), Type::Reference(reference) if reference.mutability.is_none())
        }
        _ => false,
    };
    if !is_shared {
        errors.report(
            FnArg::Receiver(receiver.clone()),
            "a cached method takes `&self`: a hit does not run the body, so it can neither change \
             nor consume the module; take `&self`, and what changes as an argument that is returned",
        );
    }
}

/// Whether the first argument is `&Self` or a reference to `module`, by a name.
pub(crate) fn takes_module_first(signature: &Signature, module: &Type) -> bool {
    let Some(FnArg::Typed(first)) = signature.inputs.first() else {
        return false;
    };
    let Type::Reference(reference) = ungrouped(&first.ty) else {
        return false;
    };
    let to = ungrouped(&reference.elem);
    let text = |ty: &Type| canonical::text(ty.to_token_stream());
    reference.mutability.is_none()
        && (types::is_named(to, "Self") || text(to) == text(ungrouped(module)))
}

/// Refuses `#[cfg_attr]` with a mark, which nothing evaluates before the attribute of the function.
pub(crate) fn argument_attributes(attributes: &[Attribute], errors: &mut Errors) {
    for attribute in attributes {
        if attribute.path().is_ident("cfg_attr") && has_mark(&attribute.meta) {
            errors.report(
                attribute,
                "the attributes of an argument cannot depend on a condition; write the argument twice, each \
                 with a `#[cfg]`",
            );
        }
    }
}

/// Whether an attribute, or one inside `#[cfg_attr]`, is a mark of an argument.
fn has_mark(meta: &Meta) -> bool {
    match meta {
        Meta::List(list) if list.path.is_ident("cfg_attr") => {
            conditional(&list.tokens).1.iter().any(has_mark)
        }
        meta => MARKS.iter().any(|mark| meta.path().is_ident(mark)),
    }
}

/// Refuses the argument types that no key can be made of.
pub(crate) fn argument_type(ty: &Type, is_skipped: bool, errors: &mut Errors) {
    struct Refuse<'a> {
        is_skipped: bool,
        errors: &'a mut Errors,
    }
    impl<'ast> Visit<'ast> for Refuse<'_> {
        fn visit_type_reference(&mut self, ty: &'ast syn::TypeReference) {
            if ty.mutability.is_some() {
                let fix = match types::is_named(&ty.elem, "Tensor") {
                    true => "take `&Tensor` and return the new tensor",
                    false if self.is_skipped => "take `&` of a `Cell`, `RefCell` or `Mutex`",
                    false => "take `&` and return the new value",
                };
                self.errors.report(
                    ty,
                    format!(
                        "a hit does not run the body, so it cannot write through a `&mut` \
                         argument; {fix}"
                    ),
                );
            }
            visit::visit_type_reference(self, ty);
        }

        fn visit_type_impl_trait(&mut self, ty: &'ast syn::TypeImplTrait) {
            self.errors.report(
                ty,
                "a generic function cannot be cached; write the type out",
            );
        }

        // What a callback takes is no argument.
        fn visit_parenthesized_generic_arguments(
            &mut self,
            _: &'ast syn::ParenthesizedGenericArguments,
        ) {
        }
        fn visit_type_fn_ptr(&mut self, _: &'ast syn::TypeFnPtr) {}
    }
    Refuse { is_skipped, errors }.visit_type(ty);
}

/// The return type, where it may hold tensors.
pub(crate) fn output<'a>(signature: &'a Signature, errors: &mut Errors) -> Option<&'a Type> {
    let fix = "return a `Tensor`, a tuple, `Vec` or struct of them, or a `Result` of these";
    let name = &signature.ident;
    let ty = match &signature.output {
        ReturnType::Default => {
            errors.report(name, format!("`{name}` returns nothing to cache; {fix}"));
            return None;
        }
        ReturnType::Type(_, ty) => &**ty,
    };
    let what = match ungrouped(ty) {
        Type::Tuple(tuple) if tuple.elems.is_empty() => "returns nothing to cache",
        Type::Never(_) => "never returns",
        Type::ImplTrait(_) => "returns an unnamed type, which a hit cannot build",
        Type::Reference(_) => "returns a reference, and a hit has nothing to borrow from",
        _ => return Some(ty),
    };
    errors.report(ty, format!("`{name}` {what}; {fix}"));
    None
}

/// Whether a type that is written with the name `Tensor` may hold one. Callbacks hold none.
pub(crate) fn names_tensor(ty: &Type) -> bool {
    match ungrouped(ty) {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| {
            let inner = match &last.arguments {
                PathArguments::AngleBracketed(inner) => &inner.args,
                _ => return last.ident == "Tensor",
            };
            let mut inner = inner.iter();
            inner.any(|inner| matches!(inner, GenericArgument::Type(inner) if names_tensor(inner)))
        }),
        Type::Reference(reference) => names_tensor(&reference.elem),
        Type::Slice(slice) => names_tensor(&slice.elem),
        Type::Array(array) => names_tensor(&array.elem),
        Type::Tuple(tuple) => tuple.elems.iter().any(names_tensor),
        _ => false,
    }
}

/// The names of types that hold no tensor.
pub(crate) const PLAIN: [&str; 20] = [
    "bool", "char", "str", "String", "Kind", "Device", "f32", "f64", "u8", "u16", "u32", "u64",
    "u128", "usize", "i8", "i16", "i32", "i64", "i128", "isize",
];

/// Whether a type is known to hold no tensor. An alias may hold one, so unknown names do not count.
pub(crate) fn has_no_tensor(ty: &Type) -> bool {
    match ungrouped(ty) {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| {
            let inner = match &last.arguments {
                PathArguments::None => return PLAIN.iter().any(|plain| last.ident == plain),
                PathArguments::AngleBracketed(inner) => inner,
                _ => return false,
            };
            (last.ident == "Option" || last.ident == "Vec")
                && inner.args.iter().all(
                    |inner| matches!(inner, GenericArgument::Type(inner) if has_no_tensor(inner)),
                )
        }),
        Type::Reference(reference) => has_no_tensor(&reference.elem),
        Type::Slice(slice) => has_no_tensor(&slice.elem),
        Type::Array(array) => has_no_tensor(&array.elem),
        Type::Tuple(tuple) => tuple.elems.iter().all(has_no_tensor),
        _ => false,
    }
}
