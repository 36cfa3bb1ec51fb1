//! The function that is wrapped, and what each of its arguments is to the cache. Methods and free
//! functions follow the same rules.

use proc_macro2::Span;
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::{Attribute, Block, Expr, FnArg, Ident, Meta, Pat, PatType, Signature, Type};

use crate::build_inputs::{self, BuildInput};
use crate::canonical;
use crate::errors::Errors;
use crate::parse::attributes::{Inherited, inherited, is_lint};
use crate::suggest;
use crate::types;
use crate::validate::signature::{self as validate, MARKS};

/// The names of arguments that say whether the module is being trained, if they are of type `bool`;
/// with an underscore in front of them as well.
const TRAINING: [&str; 3] = ["train", "training", "is_training"];

/// Which arguments, other than those named so, say whether the module is being trained.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Training {
    /// No other, and there may be none.
    Named,
    /// No other, and there must be one: `forward_t`.
    Required,
    /// The second one after `self`, as in `nn::ModuleT`.
    Second,
}

/// A function whose body becomes a closure.
pub(crate) struct WrappedFn {
    /// The signature of the expansion, in which each argument has a name.
    pub(crate) signature: Signature,
    /// The module of an associated function, in the place of `self`.
    pub(crate) module: Option<WrappedArgument>,
    /// In the order of the signature, without those that mean training.
    pub(crate) arguments: Vec<WrappedArgument>,
    /// The arguments with which the call bypasses the cache if they are true. They are not part of
    /// the key.
    pub(crate) training: Vec<WrappedArgument>,
    /// Which of `arguments` mean training if their type is another name of `bool`.
    pub(crate) flags: Vec<usize>,
    pub(crate) output: Type,
    pub(crate) block: Block,
    /// The canonical text, which is part of the identity.
    pub(crate) code: String,
    /// What the compiler puts into the body, which is part of the identity.
    pub(crate) inputs: Vec<BuildInput>,
}

/// An argument of a wrapped function.
pub(crate) struct WrappedArgument {
    /// Its name in the signature of the expansion.
    pub(crate) name: Ident,
    /// Its pattern in the signature as written, which the body uses.
    pub(crate) pattern: Pat,
    pub(crate) ty: Type,
    pub(crate) role: ArgumentRole,
    /// `#[skip]`: it is not part of the key.
    pub(crate) is_skipped: bool,
    /// `#[padded(v)]`: its rows end in this value, which is not part of their keys.
    pub(crate) padding: Option<Expr>,
    /// The conditions under which there is such an argument.
    pub(crate) cfgs: Vec<Attribute>,
    /// What the user allows of it, which holds where the pattern is.
    pub(crate) lints: Vec<Attribute>,
}

/// What an argument is to the cache.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum ArgumentRole {
    /// Rows or a plain value, depending on its type.
    Rows,
    /// `#[id]`: the ids that rows are keyed by, with `any_shape` whatever their shape.
    Id { any_shape: bool },
    /// `#[shared]`: a tensor that is the same for all rows.
    Shared,
}

impl WrappedFn {
    /// Reads and checks a function, except for its receiver. `module`: the type of the impl that it is in, which a
    /// function without a receiver takes first.
    pub(crate) fn parse(
        signature: &Signature,
        block: &Block,
        module: Option<&Type>,
        means_training: Training,
        errors: &mut Errors,
    ) -> Option<Self> {
        validate::qualifiers(signature, errors);
        let mut renamed = signature.clone();
        refuse_marks_of_receiver(&mut renamed, errors);
        let mut arguments = Vec::new();
        let mut training = Vec::new();
        let mut flags = Vec::new();
        let takes_module = module.is_some_and(|it| validate::takes_module_first(signature, it));
        let mut typed = renamed
            .inputs
            .iter_mut()
            .filter_map(|input| match input {
                FnArg::Typed(typed) => Some(typed),
                FnArg::Receiver(_) => None,
            })
            .peekable();
        let module = typed
            .next_if(|_| takes_module)
            .map(|typed| WrappedArgument::of_module(typed, errors));
        for (position, typed) in typed.enumerate() {
            validate::argument_attributes(&typed.attrs, errors);
            let marks = take_marks(&mut typed.attrs, errors);
            let is_training = match means_training {
                Training::Second => position == 1,
                Training::Named | Training::Required => {
                    is_named_training(typed) && is_bool(&typed.ty)
                }
            };
            let may_be_training = is_named_training(typed) && may_be_bool(&typed.ty);
            if !is_training {
                validate::argument_type(&typed.ty, marks.is_skipped(), errors);
            } else if !marks.is_empty() {
                errors.report(
                    &typed.pat,
                    format!(
                        "`{}` is not part of the key; remove its attribute",
                        typed.pat.to_token_stream()
                    ),
                );
            }
            let argument = WrappedArgument::rename(typed, &format!("argument_{position}"), marks);
            if is_training {
                training.push(argument);
            } else {
                flags.extend(may_be_training.then_some(arguments.len()));
                arguments.push(argument);
            }
        }
        refuse_second_id(&arguments, errors);
        let name = &signature.ident;
        if means_training == Training::Required && training.is_empty() && flags.is_empty() {
            errors.report(
                name,
                "`forward_t` needs an argument `train: bool`, as in `fn forward_t(&self, xs: \
                 &Tensor, train: bool) -> Tensor`; without one, call the method `forward`",
            );
        }
        if !arguments.iter().any(WrappedArgument::may_have_rows) {
            errors.report(
                name,
                format!(
                    "`{name}` has no tensor argument, so there are no rows to cache; take at least \
                     one `&Tensor` without `#[shared]` and `#[skip]`, or ids marked `#[id]`"
                ),
            );
        }
        let output = validate::output(signature, errors)?.clone();
        Some(Self {
            signature: renamed,
            module,
            arguments,
            training,
            flags,
            output,
            block: block.clone(),
            code: canonical::text(quote!(#signature #block)),
            inputs: build_inputs::find(signature, block),
        })
    }
}

impl WrappedArgument {
    /// The first argument of an associated function.
    fn of_module(typed: &mut PatType, errors: &mut Errors) -> Self {
        for attribute in &typed.attrs {
            if mark_name(attribute).is_some() {
                errors.report(attribute, MODULE_MARKED);
            }
        }
        take_marks(&mut typed.attrs, &mut Errors::default());
        WrappedArgument::rename(typed, "module", Marks::default())
    }

    /// Replaces a pattern in the signature by a name; the pattern is matched where the body begins.
    fn rename(typed: &mut PatType, name: &str, marks: Marks) -> Self {
        let pattern = (*typed.pat).clone();
        let name = match &pattern {
            Pat::Ident(ident) if ident.by_ref.is_none() && ident.subpat.is_none() => {
                ident.ident.clone()
            }
            _ => Ident::new(&format!("torchcache_{name}"), Span::mixed_site()),
        };
        let lints = typed
            .attrs
            .extract_if(.., |attribute| is_lint(attribute))
            .collect();
        let cfgs = inherited(&typed.attrs, &[Inherited::Cfgs]);
        *typed.pat = syn::parse_quote!(#name);
        Self {
            name,
            pattern,
            ty: (*typed.ty).clone(),
            role: marks.role(),
            is_skipped: marks.is_skipped(),
            padding: marks.padding,
            cfgs,
            lints,
        }
    }

    /// The name, for messages.
    pub(crate) fn shown_name(&self) -> String {
        let name = self.name.unraw().to_string();
        let argument = name.strip_prefix("torchcache_").map(str::to_owned);
        argument.unwrap_or(name)
    }

    /// The type by which the compiler finds out what an argument without `#[id]` and `#[shared]` is.
    pub(crate) fn probe(&self) -> Ident {
        // What is written with a tensor must be an argument, also where it is skipped.
        let is_any = self.is_skipped && !validate::names_tensor(&self.ty);
        let name = if is_any { "SkipProbe" } else { "ArgumentProbe" };
        Ident::new(name, Span::call_site())
    }

    fn may_have_rows(&self) -> bool {
        match self.role {
            ArgumentRole::Rows => !self.is_skipped && !validate::has_no_tensor(&self.ty),
            ArgumentRole::Id { .. } => true,
            ArgumentRole::Shared => false,
        }
    }
}

/// The attributes of an argument among [`MARKS`].
#[derive(Default)]
struct Marks {
    names: Vec<String>,
    /// Of `#[id(any_shape)]`.
    any_shape: bool,
    /// The value of `#[padded(…)]`.
    padding: Option<Expr>,
}

impl Marks {
    fn role(&self) -> ArgumentRole {
        match () {
            () if self.has("id") => ArgumentRole::Id {
                any_shape: self.any_shape,
            },
            () if self.has("shared") => ArgumentRole::Shared,
            () => ArgumentRole::Rows,
        }
    }

    fn is_skipped(&self) -> bool {
        self.has("skip")
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|given| given == name)
    }

    /// The one that `name` cannot be next to.
    fn conflict(&self, name: &str) -> Option<&str> {
        let mut given = self.names.iter().map(String::as_str);
        given.find(|&given| {
            let pair = [given, name];
            given == name
                || pair.contains(&"id")
                || pair.iter().all(|name| ROWS_OR_NOT.contains(name))
        })
    }

    /// Reads what is in the parentheses of a mark.
    fn read_value(&mut self, name: &str, meta: &Meta) -> Result<(), String> {
        match (name, meta) {
            ("padded", Meta::List(list)) => {
                let value = list.parse_args().map_err(|_| {
                    "`#[padded(…)]` takes the value that ends the rows, one expression such as `0`"
                })?;
                self.padding = Some(value);
            }
            ("padded", _) => {
                return Err(
                    "`#[padded]` needs the value that ends the rows; write it as in `#[padded(0)]`"
                        .to_owned(),
                );
            }
            ("id", Meta::List(list)) => {
                if list.tokens.to_string() != "any_shape" {
                    return Err(
                        "`#[id]` takes `any_shape` or nothing; write `#[id]` or `#[id(any_shape)]`"
                            .to_owned(),
                    );
                }
                self.any_shape = true;
            }
            (_, Meta::Path(_)) => {}
            _ => return Err(format!("`#[{name}]` takes no value; write `#[{name}]`")),
        }
        Ok(())
    }
}

/// A shared tensor has no rows, and padding ends rows.
const ROWS_OR_NOT: [&str; 2] = ["padded", "shared"];

/// Removes the marks of an argument, misspelt ones included: the compiler knows none of them.
fn take_marks(attributes: &mut Vec<Attribute>, errors: &mut Errors) -> Marks {
    let mut marks = Marks::default();
    for attribute in attributes.extract_if(.., |attribute| mark_name(attribute).is_some()) {
        let Some(name) = mark_name(&attribute) else {
            continue;
        };
        if !MARKS.contains(&name.as_str()) {
            let hint = suggest::hint(&name, &MARKS, "");
            errors.report(
                attribute.path(),
                format!("unknown argument attribute `{name}`{hint}"),
            );
            continue;
        }
        if let Err(message) = marks.read_value(&name, &attribute.meta) {
            errors.report(&attribute, message);
        }
        match marks.conflict(&name) {
            None => marks.names.push(name),
            Some(before) => errors.report(
                &attribute,
                format!("this argument already has `#[{before}]`; remove one of the two"),
            ),
        }
    }
    marks
}

/// The name of a mark, right or misspelt; `None` for attributes of the compiler.
fn mark_name(attribute: &Attribute) -> Option<String> {
    const OTHERS: [&str; 8] = [
        "allow", "cfg", "cfg_attr", "deny", "doc", "expect", "forbid", "warn",
    ];
    let name = attribute.path().get_ident()?.to_string();
    (!OTHERS.contains(&name.as_str())).then_some(name)
}

const MODULE_MARKED: &str = "this is the module, which rows are stored under; remove this attribute, and leave a field \
     out of the module hash with `#[torchcache(skip)]` on it";

/// Refuses marks on `self`, and removes them.
fn refuse_marks_of_receiver(signature: &mut Signature, errors: &mut Errors) {
    let Some(FnArg::Receiver(receiver)) = signature.inputs.first_mut() else {
        return;
    };
    for attribute in receiver.attrs.extract_if(.., |it| mark_name(it).is_some()) {
        errors.report(&attribute, MODULE_MARKED);
    }
}

/// Removes all marks from a signature that is emitted unchanged next to an error.
pub(crate) fn remove_marks(signature: &mut Signature) {
    refuse_marks_of_receiver(signature, &mut Errors::default());
    for input in &mut signature.inputs {
        if let FnArg::Typed(typed) = input {
            take_marks(&mut typed.attrs, &mut Errors::default());
        }
    }
}

fn refuse_second_id(arguments: &[WrappedArgument], errors: &mut Errors) {
    // Of several under conditions, one may be left.
    let mut ids = arguments.iter().filter(|argument| {
        matches!(argument.role, ArgumentRole::Id { .. }) && argument.cfgs.is_empty()
    });
    let Some(first) = ids.next() else { return };
    for second in ids {
        errors.report(
            &second.pattern,
            format!(
                "rows have one id, and `{}` is already marked `#[id]`; combine the two into \
                 tuples, or take this argument without `#[id]`",
                first.shown_name()
            ),
        );
    }
}

/// Whether an argument means training by its name.
fn is_named_training(typed: &PatType) -> bool {
    let mut pattern = &*typed.pat;
    while let Pat::Reference(reference) = pattern {
        pattern = &reference.pat;
    }
    let Pat::Ident(pattern) = pattern else {
        return false;
    };
    let name = pattern.ident.unraw().to_string();
    TRAINING.contains(&name.trim_start_matches('_'))
}

/// Whether the second argument after `self` is a `bool`, as in `nn::ModuleT::forward_t`, and the last.
pub(crate) fn has_second_flag(signature: &Signature) -> bool {
    let mut typed = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(&*typed.ty),
        FnArg::Receiver(_) => None,
    });
    typed.nth(1).is_some_and(is_bool) && typed.next().is_none()
}

/// Whether a type may be another name of `bool`, or a reference to one.
fn may_be_bool(ty: &Type) -> bool {
    if let Type::Reference(reference) = ty {
        return is_bool(&reference.elem) || may_be_bool(&reference.elem);
    }
    types::path(ty).is_some() && !validate::has_no_tensor(ty)
}

fn is_bool(ty: &Type) -> bool {
    types::is_named(ty, "bool")
}
