//! The options: their names, what each takes, and the rules between them. Apart, because a
//! struct, a function and the override fields share this one table.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Expr, Lit, Token};

use crate::errors::Errors;
use crate::suggest;
use crate::values::{Value, literal};

/// What an override field's name starts with.
pub(crate) const OVERRIDE_PREFIX: &str = "torchcache_";

const TABLE: [(&str, Value); 16] = [
    ("enabled", Value::Flag),
    ("memory_cache_device", Value::Device),
    ("max_memory_cache_size", Value::Size { least: 0 }),
    ("eviction", Value::Eviction),
    ("subsample_count", Value::Count),
    ("persistent", Value::Flag),
    ("persistent_cache_dir", Value::Directory),
    ("persistent_module_hash", Value::ModuleHash),
    ("max_persistent_cache_size", Value::Size { least: 1 }),
    ("zstd_compression", Value::Flag),
    ("zstd_compression_level", Value::Level),
    ("zstd_compression_threads", Value::Threads),
    ("cache_dtype", Value::Dtype),
    ("use_mmap_on_load", Value::Flag),
    ("version", Value::Text),
    ("verify", Value::Share),
];

/// One `name = value`.
struct Given {
    name: Ident,
    value: Option<Expr>,
}

/// The options of one attribute, in the order written.
pub(crate) struct Options {
    given: Vec<Given>,
}

impl Options {
    /// Reads the arguments of the attribute. What follows a syntax error is not read.
    pub(crate) fn parse(arguments: TokenStream, errors: &mut Errors) -> Self {
        let mut given = Vec::new();
        let read = |input: ParseStream<'_>| {
            while !input.is_empty() {
                let name = input.call(Ident::parse_any)?;
                let value = match input.parse::<Option<Token![=]>>()? {
                    Some(_) => Some(input.parse()?),
                    None if input.is_empty() || input.peek(Token![,]) => None,
                    None => {
                        let known = find(&name.unraw().to_string());
                        let example = known.map_or("value", Value::example);
                        let message =
                            format!("expected `=` after `{name}`: write `{name} = {example}`");
                        return Err(syn::Error::new(name.span(), message));
                    }
                };
                given.push(Given { name, value });
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        if let Err(error) = read.parse2(arguments) {
            errors.include(error);
        }
        let options = Self { given };
        options.validate(errors);
        options
    }

    fn validate(&self, errors: &mut Errors) {
        for (index, given) in self.given.iter().enumerate() {
            let name = given.name.unraw().to_string();
            let Some(kind) = find(&name) else {
                let hint = suggest::hint(&name, &names(), "");
                errors.report(&given.name, format!("unknown option `{name}`{hint}"));
                continue;
            };
            if let Some(first) = self.given[..index].iter().find(|first| first.name == name) {
                let first = first.value.to_token_stream();
                errors.report(
                    &given.name,
                    format!("option `{name}` is given twice; the first is `{name} = {first}`"),
                );
            }
            match &given.value {
                Some(value) => {
                    if let Err(message) = kind.check(&name, value) {
                        errors.report(value, message);
                    }
                }
                None => {
                    let example = kind.example();
                    errors.report(
                        &given.name,
                        format!("option `{name}` has no value; write `{name} = {example}`"),
                    );
                }
            }
        }
    }

    /// Compression is for what goes to disk. `overridden`: a field can still turn `persistent`
    /// on, so that only a run can tell.
    pub(crate) fn require_persistence(&self, overridden: bool, errors: &mut Errors) {
        let Some(given) = self.find("zstd_compression") else {
            return;
        };
        let compresses = given.value.as_ref().and_then(flag) == Some(true);
        let persistent = match self.find("persistent") {
            Some(given) => given.value.as_ref().and_then(flag) != Some(false),
            None => false,
        };
        if compresses && !persistent && !overridden {
            errors.report(
                &given.name,
                "`zstd_compression` compresses what is kept on disk, but `persistent` is false; \
                 add `persistent = true` or remove `zstd_compression`",
            );
        }
    }

    fn find(&self, name: &str) -> Option<&Given> {
        self.given.iter().find(|given| given.name == name)
    }

    /// The expression that builds them: one call of the builder for each.
    pub(crate) fn expand(&self) -> TokenStream {
        let calls = self.given.iter().map(|Given { name, value }| {
            let span = name.span();
            let value = value.as_ref().map(|value| match find(&name.to_string()) {
                Some(kind) => kind.expand(value),
                None => value.to_token_stream(),
            });
            quote_spanned!(span=> .#name(#value))
        });
        let new = quote::quote!(::torchcache::__private::Options::new());
        quote::quote!(#new #(#calls)*)
    }
}

/// Checks the name of an override field; the option it overrides, if there is one.
pub(crate) fn overridden(field: &Ident, errors: &mut Errors) -> Option<Ident> {
    let name = field.unraw().to_string();
    let option = name.strip_prefix(OVERRIDE_PREFIX)?;
    if find(option).is_some() {
        return Some(Ident::new(option, field.span()));
    }
    let hint = suggest::hint(option, &names(), OVERRIDE_PREFIX);
    errors.report(
        field,
        format!("field `{name}` overrides no option: there is none called `{option}`{hint}"),
    );
    None
}

fn find(name: &str) -> Option<Value> {
    TABLE
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, kind)| *kind)
}

fn names() -> Vec<&'static str> {
    TABLE.iter().map(|(name, _)| *name).collect()
}

fn flag(value: &Expr) -> Option<bool> {
    match literal(value)? {
        (_, Lit::Bool(flag)) => Some(flag.value),
        _ => None,
    }
}
