//! What each kind of option takes. Only literals are judged here, since only they are known now;
//! every other expression goes to the builder as it is, whose types and checks judge it.

use proc_macro2::{Ident, Literal, TokenStream};
use quote::{ToTokens, quote};
use syn::spanned::Spanned;
use syn::{Expr, Lit, Path, UnOp};

use crate::{sizes, suggest};

/// The longest name of a subdirectory that is accepted.
const LONGEST_MODULE_HASH: usize = 128;

/// What a full tier may do, and the variants of `Eviction`.
const POLICIES: [(&str, &str); 3] = [("lru", "Lru"), ("never", "Never"), ("auto", "Auto")];

/// The variant of a policy.
fn policy_named(name: &str) -> Option<&'static str> {
    let known = POLICIES.into_iter().find(|(known, _)| *known == name);
    known.map(|(_, variant)| variant)
}

/// What an option takes.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    Flag,
    Device,
    /// In bytes.
    Size {
        least: u64,
    },
    Eviction,
    Count,
    Directory,
    ModuleHash,
    Level,
    Threads,
    Dtype,
    Text,
    /// Of rows.
    Share,
}

impl Value {
    /// A value that shows how it is written.
    pub(crate) fn example(self) -> &'static str {
        match self {
            Self::Flag => "true",
            Self::Device => "Device::Cpu",
            Self::Size { .. } => "\"5 GB\"",
            Self::Eviction => "\"auto\"",
            Self::Count => "1000",
            Self::Directory => "\"features\"",
            Self::ModuleHash => "\"resnet18-v1\"",
            Self::Level => "3",
            Self::Threads => "1",
            Self::Dtype => "Kind::Half",
            Self::Text => "\"1\"",
            Self::Share => "0.01",
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Flag => "`true` or `false`",
            Self::Device => "a device such as `Device::Cpu`, or `None`",
            Self::Size { least: 0 } => {
                "a size from 0 B to below 16 EiB, such as `5_000_000_000`, `5e9` or `\"5 GB\"`"
            }
            Self::Size { .. } => {
                "a size above 0 B and below 16 EiB, such as `5_000_000_000`, `5e9` or `\"5 GB\"`"
            }
            Self::Eviction => "`\"lru\"`, `\"never\"` or `\"auto\"`",
            Self::Count => "a whole number of at least 1, or `None`",
            Self::Directory => "a path such as `\"features\"`",
            Self::ModuleHash => "a name such as `\"resnet18-v1\"`",
            Self::Level => "a whole number from -7 to 22",
            Self::Threads => "a whole number from 0 (all cores) to 256",
            Self::Dtype => "a kind such as `Kind::Half`, or `None`",
            Self::Text => "a string such as `\"1\"`",
            Self::Share => "a share from 0.0 (off) to 1.0, such as `0.01`",
        }
    }

    /// What is wrong with `value`, if it is a literal that cannot be right.
    pub(crate) fn check(self, name: &str, value: &Expr) -> Result<(), String> {
        let Some((negative, literal)) = literal(value) else {
            return match (self, value) {
                (Self::Dtype, Expr::Path(path)) => dtype(name, &path.path),
                _ => Ok(()),
            };
        };
        let fits = match (self, literal) {
            (Self::Flag, Lit::Bool(_)) | (Self::Text, Lit::Str(_)) => !negative,
            (Self::Size { least }, Lit::Str(text)) if !negative => {
                let text = text.value();
                sizes::parse(&text).map_err(|why| format!("`{text}` is not a size: {why}"))?
                    >= least
            }
            (Self::Size { least }, Lit::Int(number)) => {
                !negative && whole(number, least.into()..=u64::MAX.into())
            }
            (Self::Size { least }, Lit::Float(number)) => {
                let bytes = number.base10_parse().ok().and_then(sizes::in_u64);
                !negative && bytes.is_some_and(|bytes| bytes >= least)
            }
            (Self::Eviction, Lit::Str(text)) => {
                let policy = text.value();
                if policy_named(&policy).is_some() {
                    return Ok(());
                }
                let hint = suggest::hint(&policy, &POLICIES.map(|(name, _)| name), "");
                return Err(format!("unknown eviction policy `{policy}`{hint}"));
            }
            (Self::Count, Lit::Int(number)) => !negative && whole(number, 1..=u64::MAX.into()),
            (Self::Level, Lit::Int(number)) => whole(number, 0..=if negative { 7 } else { 22 }),
            (Self::Threads, Lit::Int(number)) => !negative && whole(number, 0..=256),
            (Self::Share, Lit::Int(number)) => !negative && whole(number, 0..=1),
            (Self::Share, Lit::Float(number)) => {
                let share = number.base10_parse::<f64>();
                !negative && share.is_ok_and(|share| share <= 1.0)
            }
            (Self::Directory, Lit::Str(text)) => return directory(name, &text.value()),
            (Self::ModuleHash, Lit::Str(text)) => return module_hash(name, &text.value()),
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let expected = self.expected();
        let got = value.to_token_stream().to_string().replace(' ', "");
        Err(format!("`{name}` takes {expected}; got `{got}`"))
    }

    /// `value` for the builder. Sizes get a suffix, or `5_000_000_000` would be an `i32`, and so do
    /// shares, which may be written as `1`; the name of a policy becomes the policy.
    pub(crate) fn expand(self, value: &Expr) -> TokenStream {
        if let (Self::Eviction, Some((_, Lit::Str(text)))) = (self, literal(value))
            && let Some(policy) = policy_named(&text.value())
        {
            let policy = Ident::new(policy, text.span());
            return quote!(::torchcache::__private::Eviction::#policy);
        }
        let number = match (self, literal(value)) {
            (Self::Size { .. }, Some((false, Lit::Int(number)))) => {
                number.base10_parse().ok().map(Literal::u64_suffixed)
            }
            (Self::Size { .. } | Self::Share, Some((false, Lit::Float(number)))) => {
                number.base10_parse().ok().map(Literal::f64_suffixed)
            }
            (Self::Share, Some((false, Lit::Int(number)))) => {
                number.base10_parse().ok().map(Literal::f64_suffixed)
            }
            _ => None,
        };
        match number {
            Some(mut number) => {
                number.set_span(value.span());
                number.to_token_stream()
            }
            None => value.to_token_stream(),
        }
    }
}

/// The literal that `value` is, and whether a minus sign stands before it.
pub(crate) fn literal(value: &Expr) -> Option<(bool, &Lit)> {
    match value {
        Expr::Lit(literal) => Some((false, &literal.lit)),
        Expr::Group(group) => literal(&group.expr),
        Expr::Paren(paren) => literal(&paren.expr),
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => {
            literal(&unary.expr).map(|(negative, literal)| (!negative, literal))
        }
        _ => None,
    }
}

fn whole(number: &syn::LitInt, range: std::ops::RangeInclusive<u128>) -> bool {
    number
        .base10_parse()
        .is_ok_and(|number: u128| range.contains(&number))
}

/// Rounding is for floating point. A `Kind` is known by its name; nothing else is judged.
fn dtype(name: &str, path: &Path) -> Result<(), String> {
    const FLOATS: [&str; 4] = ["Half", "BFloat16", "Float", "Double"];
    let mut segments = path
        .segments
        .iter()
        .rev()
        .map(|segment| segment.ident.to_string());
    match (segments.next(), segments.next()) {
        (Some(kind), Some(parent)) if parent == "Kind" && !FLOATS.contains(&kind.as_str()) => {
            let known = FLOATS.map(|known| format!("`Kind::{known}`")).join(", ");
            Err(format!(
                "`{name}` is what floating-point outputs are rounded to: {known}; got `Kind::{kind}`"
            ))
        }
        _ => Ok(()),
    }
}

fn directory(name: &str, path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err(format!(
            "`{name}` is empty; leave it out for a private temporary directory"
        ));
    }
    if path.contains('\0') {
        return Err(format!(
            "`{name}` contains a NUL character, which no path can"
        ));
    }
    Ok(())
}

/// The hash is the name of a subdirectory on every file system, so the letters are few.
fn module_hash(name: &str, hash: &str) -> Result<(), String> {
    let foreign = |letter: &char| !letter.is_ascii_alphanumeric() && !"-_.".contains(*letter);
    let why = if hash.is_empty() {
        "it is empty; leave the option out to have it computed".to_owned()
    } else if let Some(letter) = hash.chars().find(foreign) {
        format!("it contains {letter:?}; letters, digits, `-`, `_` and `.` are allowed")
    } else if hash.starts_with('.') {
        "it begins with `.`".to_owned()
    } else if hash.len() > LONGEST_MODULE_HASH {
        format!(
            "it has {} characters; {LONGEST_MODULE_HASH} are allowed",
            hash.len()
        )
    } else {
        return Ok(());
    };
    Err(format!(
        "`{name}` names a subdirectory, and this cannot be one: {why}"
    ))
}
