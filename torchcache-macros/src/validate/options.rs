//! The rules for option values. Only literals are judged: other expressions are known when the
//! program runs, and the option builder judges them.

use quote::ToTokens;
use syn::{Expr, Lit, LitInt, Path, UnOp};

use crate::options::{Choice, FLOAT_KINDS, MAX_MODULE_HASH, OptionKind};
use crate::suggest;

/// Checks a literal value of the option `name`; the message is the error.
pub(crate) fn value(name: &str, kind: OptionKind, value: &Expr) -> Result<(), String> {
    let fits = match (kind, value) {
        (OptionKind::Dtype, Expr::Path(path)) => may_be_float_kind(&path.path),
        _ => match (literal(value), kind.choice()) {
            (Some((false, Lit::Str(text))), Some(choice)) => {
                return is_variant(choice, &text.value());
            }
            (Some((is_negative, literal)), _) => fits(kind, is_negative, literal),
            (None, _) => true,
        },
    };
    if fits {
        return Ok(());
    }
    let expected = kind.expected();
    let got = value.to_token_stream().to_string().replace(' ', "");
    Err(format!("option `{name}`: got `{got}`; expected {expected}"))
}

/// The literal that `value` is, and whether it is negated.
pub(crate) fn literal(value: &Expr) -> Option<(bool, &Lit)> {
    match value {
        Expr::Lit(literal) => Some((false, &literal.lit)),
        Expr::Group(group) => literal(&group.expr),
        Expr::Paren(paren) => literal(&paren.expr),
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => {
            literal(&unary.expr).map(|(is_negative, literal)| (!is_negative, literal))
        }
        _ => None,
    }
}

fn fits(kind: OptionKind, is_negative: bool, literal: &Lit) -> bool {
    match (kind, literal) {
        (OptionKind::Level, Lit::Int(number)) => {
            is_within(number, 0..=if is_negative { 7 } else { 22 })
        }
        _ if is_negative => false,
        (OptionKind::Flag, Lit::Bool(_)) | (OptionKind::Text, Lit::Str(_)) => true,
        // The text is parsed when the expansion is compiled.
        (OptionKind::Size { .. }, Lit::Str(_)) => true,
        (OptionKind::Size { least }, Lit::Int(number)) => {
            is_within(number, least.into()..=u64::MAX.into())
        }
        (OptionKind::Size { least }, Lit::Float(number)) => {
            let range = least as f64..u64::MAX as f64;
            number
                .base10_parse()
                .is_ok_and(|bytes| range.contains(&bytes))
        }
        (OptionKind::Count, Lit::Int(number)) => is_within(number, 1..=u64::MAX.into()),
        (OptionKind::Threads, Lit::Int(number)) => is_within(number, 0..=256),
        (OptionKind::Share, Lit::Int(number)) => is_within(number, 0..=1),
        (OptionKind::Share, Lit::Float(number)) => {
            number.base10_parse().is_ok_and(|share: f64| share <= 1.0)
        }
        (OptionKind::Seconds, Lit::Int(number)) => is_within(number, 0..=86_400),
        (OptionKind::Seconds, Lit::Float(number)) => {
            let parsed = number.base10_parse();
            parsed.is_ok_and(|seconds: f64| seconds <= 86_400.0)
        }
        (OptionKind::Directory, Lit::Str(path)) => {
            let path = path.value();
            !path.is_empty() && !path.contains('\0') && !path.starts_with(['~', '$'])
        }
        (OptionKind::ModuleHash, Lit::Str(hash)) => is_directory_name(&hash.value()),
        // The library knows the schemes.
        (OptionKind::Url, Lit::Str(url)) => url.value().contains("://"),
        _ => false,
    }
}

fn is_within(number: &LitInt, range: std::ops::RangeInclusive<u128>) -> bool {
    number
        .base10_parse()
        .is_ok_and(|number: u128| range.contains(&number))
}

fn is_variant(choice: Choice, text: &str) -> Result<(), String> {
    if choice.variant(text).is_some() {
        return Ok(());
    }
    let hint = suggest::hint(text, &choice.variants.map(|(text, _)| text), "");
    Err(format!("unknown {} `{text}`{hint}", choice.what))
}

/// Whether `path` is a floating-point `Kind`, or something other than a `Kind`, such as a constant.
fn may_be_float_kind(path: &Path) -> bool {
    let mut segments = path.segments.iter().rev().map(|segment| &segment.ident);
    match (segments.next(), segments.next()) {
        (Some(kind), Some(parent)) if parent == "Kind" => {
            FLOAT_KINDS.iter().any(|float| kind == float)
        }
        _ => true,
    }
}

/// Whether `name` can name a subdirectory on every file system.
fn is_directory_name(name: &str) -> bool {
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    (1..=MAX_MODULE_HASH).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(is_allowed)
}
