//! The arguments of the attribute: `name = value, …`.

use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Expr, Lit, Token};

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

/// The options of one attribute, in the order written.
pub(crate) struct OptionAssignments {
    pub(crate) assignments: Vec<Assignment>,
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
                        let kind = OptionKind::from_name(&name.unraw().to_string());
                        let example = kind.map_or("value", OptionKind::example);
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
        let options = Self { assignments };
        options.check(errors);
        options
    }

    fn check(&self, errors: &mut Errors) {
        for (index, assignment) in self.assignments.iter().enumerate() {
            let name = assignment.name.unraw().to_string();
            let Some(kind) = OptionKind::from_name(&name) else {
                let hint = suggest::hint(&name, &options::names(), "");
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

    /// Reports `zstd_compression = true` where nothing is written to disk. `is_overridden`: a field
    /// can still set `persistent` when the program runs.
    pub(crate) fn require_persistence(&self, is_overridden: bool, errors: &mut Errors) {
        let Some(assignment) = self.find("zstd_compression") else {
            return;
        };
        let compresses = assignment.flag() == Some(true);
        let persistent = self.find("persistent");
        let may_persist = persistent.is_some_and(|persistent| persistent.flag() != Some(false));
        if compresses && !may_persist && !is_overridden {
            errors.report(
                &assignment.name,
                "`zstd_compression` is `true`, but `persistent` is `false`, and only rows on disk \
                 are compressed; add `persistent = true` or remove `zstd_compression`",
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
