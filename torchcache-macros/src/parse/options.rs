//! The arguments of the attribute: `name = value, …`.

use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Expr, Lit, Path, Token};

use crate::errors::Errors;
use crate::options::{self, OVERRIDE_PREFIX, OptionKind};
use crate::suggest;
use crate::validate;

/// One `name = value`.
pub(crate) struct Assignment {
    pub(crate) name: Ident,
    /// `None` was reported as a mistake.
    pub(crate) value: Option<Expr>,
}

/// The arguments that are no options: how they are written.
const OTHERS: [(&str, &str); 2] = [
    ("crate", "facade::torchcache"),
    ("handle", "\"embed_rows\""),
];

/// The arguments of one attribute.
#[derive(Default)]
pub(crate) struct OptionAssignments {
    /// The options, in the order written.
    pub(crate) assignments: Vec<Assignment>,
    /// `crate`: the path of the library.
    pub(crate) library: Option<Path>,
    /// `handle`: the name of the function that returns the handle.
    pub(crate) handle: Option<Ident>,
}

impl OptionAssignments {
    /// Reads and checks the arguments of the attribute, up to the first syntax error.
    pub(crate) fn parse(arguments: TokenStream, errors: &mut Errors) -> Self {
        let mut assignments = Vec::new();
        let read = |input: ParseStream<'_>| {
            while !input.is_empty() {
                let name = input.call(Ident::parse_any)?;
                let value = match input.parse::<Option<Token![=]>>()? {
                    Some(_) => Some(input.parse()?),
                    None if input.is_empty() || input.peek(Token![,]) => None,
                    None => {
                        let example = example(&name.unraw().to_string());
                        let message =
                            format!("expected `=` after `{name}`: write `{name} = {example}`");
                        return Err(syn::Error::new(name.span(), message));
                    }
                };
                assignments.push(Assignment { name, value });
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        if let Err(error) = read.parse2(arguments) {
            errors.include(error);
        }
        let library = take_path(&mut assignments, "crate", errors);
        let handle = take_path(&mut assignments, "handle", errors);
        let handle = handle.and_then(|path| match path.get_ident() {
            Some(name) => Some(name.clone()),
            None => {
                errors.report(path, "expected a name: write `handle = \"embed_rows\"`");
                None
            }
        });
        let options = Self {
            assignments,
            library,
            handle,
        };
        options.check(errors);
        options
    }

    /// Reports the arguments that only a function takes.
    pub(crate) fn refuse_handle(&self, errors: &mut Errors) {
        if let Some(name) = &self.handle {
            errors.report(
                name,
                "`handle` names the function that returns the handle of a function; the handle of a \
                 module is its field",
            );
        }
    }

    /// Reports options that a single method does not take.
    pub(crate) fn require_method_options(&self, errors: &mut Errors) {
        let known = |name: &&Ident| OptionKind::from_name(&name.unraw().to_string()).is_some();
        let names = self.assignments.iter().map(|assignment| &assignment.name);
        for name in names.filter(known) {
            if !options::OF_METHODS.contains(&name.unraw().to_string().as_str()) {
                errors.report(
                    name,
                    format!(
                        "option `{name}` goes on the struct: all methods of a module share its identity \
                         and its tiers; a method takes `{}`",
                        options::OF_METHODS.join("`, `")
                    ),
                );
            }
        }
        self.refuse_handle(errors);
    }

    fn check(&self, errors: &mut Errors) {
        for (index, assignment) in self.assignments.iter().enumerate() {
            let name = assignment.name.unraw().to_string();
            let Some(kind) = OptionKind::from_name(&name) else {
                let mut known = options::names().to_vec();
                known.extend(OTHERS.map(|(name, _)| name));
                let hint = suggest::hint(&name, &known, "");
                errors.report(&assignment.name, format!("unknown option `{name}`{hint}"));
                continue;
            };
            let mut earlier = self.assignments[..index].iter();
            if let Some(first) = earlier.find(|first| first.name == name) {
                let first = first.value.to_token_stream();
                errors.report(
                    &assignment.name,
                    format!(
                        "option `{name}` is given twice, first as `{name} = {first}`; remove one \
                         of them"
                    ),
                );
            }
            match &assignment.value {
                Some(value) => {
                    if let Err(message) = validate::options::value(&name, kind, value) {
                        errors.report(value, message);
                    }
                }
                None => {
                    let example = kind.example();
                    errors.report(
                        &assignment.name,
                        format!("option `{name}` has no value; write `{name} = {example}`"),
                    );
                }
            }
        }
    }

    /// Reports `zstd_compression = true` and `remote` where nothing is written to disk. `is_overridden`: a field
    /// can still set `persistent` when the program runs.
    pub(crate) fn require_persistence(&self, is_overridden: bool, errors: &mut Errors) {
        let persistent = self.find("persistent");
        let may_persist = persistent.is_some_and(|persistent| persistent.flag() != Some(false));
        if may_persist || is_overridden {
            return;
        }
        let compression = self.find("zstd_compression");
        if let Some(compression) = compression.filter(|it| it.flag() == Some(true)) {
            errors.report(
                &compression.name,
                "`zstd_compression` is `true`, but `persistent` is `false`, and only rows on disk \
                 are compressed; add `persistent = true` or remove `zstd_compression`",
            );
        }
        if let Some(remote) = self.find("remote") {
            errors.report(
                &remote.name,
                "`remote` is set, but `persistent` is `false`, and rows get to the remote by the disk; \
                 add `persistent = true` or remove `remote`",
            );
        }
    }

    fn find(&self, name: &str) -> Option<&Assignment> {
        self.assignments
            .iter()
            .find(|assignment| assignment.name == name)
    }
}

impl Assignment {
    /// The value, where it is the literal `true` or `false`.
    fn flag(&self) -> Option<bool> {
        match validate::options::literal(self.value.as_ref()?)? {
            (_, Lit::Bool(flag)) => Some(flag.value),
            _ => None,
        }
    }
}

/// The value of an argument as it is written.
fn example(name: &str) -> &'static str {
    let other = OTHERS.into_iter().find(|(other, _)| *other == name);
    let option = OptionKind::from_name(name).map(OptionKind::example);
    option
        .or(other.map(|(_, example)| example))
        .unwrap_or("value")
}

/// Removes the argument `name`, whose value is a path, or text with one.
fn take_path(assignments: &mut Vec<Assignment>, name: &str, errors: &mut Errors) -> Option<Path> {
    let mut found = None;
    for Assignment { name: given, value } in
        assignments.extract_if(.., |assignment| assignment.name == name)
    {
        match value.as_ref().map(path) {
            Some(Some(path)) if found.is_none() => found = Some(path),
            Some(Some(_)) => errors.report(given, format!("`{name}` is given twice; remove one")),
            Some(None) => errors.report(
                value,
                format!("expected a path: write `{name} = {}`", example(name)),
            ),
            None => errors.report(
                given,
                format!("`{name}` has no value; write `{name} = {}`", example(name)),
            ),
        }
    }
    found
}

/// The path that `value` is, or that its text is.
pub(crate) fn path(value: &Expr) -> Option<Path> {
    match value {
        Expr::Path(value) if value.qself.is_none() => Some(value.path.clone()),
        Expr::Group(group) => path(&group.expr),
        _ => match validate::options::literal(value)? {
            (false, Lit::Str(text)) => text.parse().ok(),
            _ => None,
        },
    }
}

/// The option that the field `torchcache_<option>` overrides. An unknown one is reported.
pub(crate) fn overridden(field: &Ident, errors: &mut Errors) -> Option<Ident> {
    let name = field.unraw().to_string();
    let option = name.strip_prefix(OVERRIDE_PREFIX)?;
    if OptionKind::from_name(option).is_some() {
        return Some(Ident::new(option, field.span()));
    }
    let hint = suggest::hint(option, &options::names(), OVERRIDE_PREFIX);
    errors.report(
        field,
        format!("field `{name}` overrides an unknown option `{option}`{hint}"),
    );
    None
}
