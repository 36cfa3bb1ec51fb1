//! Attributes and generics of items, read alike for every kind of item.

use proc_macro2::Span;
use syn::{AttrStyle, Attribute, Generics, Ident, Meta, parse_quote};

use crate::build_inputs::conditional;

/// Attributes of an item, for the items that are generated for it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Inherited {
    /// Under which conditions it is compiled.
    Cfgs,
    /// What the user allows and denies in it.
    Lints,
    /// That it is not to be used or shown.
    Marks,
}

/// Those among `attributes` that are of one of `kinds`, also inside `#[cfg_attr]`.
pub(crate) fn inherited(attributes: &[Attribute], kinds: &[Inherited]) -> Vec<Attribute> {
    let metas = attributes.iter().map(|attribute| &attribute.meta);
    let metas = metas.filter_map(|meta| inherited_meta(meta, kinds));
    metas.map(|meta| parse_quote!(#[#meta])).collect()
}

fn inherited_meta(meta: &Meta, kinds: &[Inherited]) -> Option<Meta> {
    let kind = match meta.path().get_ident()?.to_string().as_str() {
        "cfg" => Inherited::Cfgs,
        "allow" | "warn" | "deny" | "forbid" => Inherited::Lints,
        // An expectation is fulfilled in the item itself.
        "expect" if kinds.contains(&Inherited::Lints) => {
            let lints = &meta.require_list().ok()?.tokens;
            return Some(parse_quote!(allow(#lints)));
        }
        "deprecated" => Inherited::Marks,
        "doc" if matches!(meta, Meta::List(_)) => Inherited::Marks,
        "cfg_attr" => {
            let (predicate, metas) = conditional(&meta.require_list().ok()?.tokens);
            let kept = metas.iter().filter_map(|meta| inherited_meta(meta, kinds));
            let kept: Vec<_> = kept.collect();
            return (!kept.is_empty()).then(|| parse_quote!(cfg_attr(#predicate, #(#kept),*)));
        }
        _ => return None,
    };
    kinds.contains(&kind).then(|| meta.clone())
}

/// Whether an attribute sets the level of lints.
pub(crate) fn is_lint(attribute: &Attribute) -> bool {
    let name = attribute.path();
    ["allow", "expect", "warn", "deny", "forbid"]
        .iter()
        .any(|lint| name.is_ident(lint))
}

/// `attribute` as one before the item. An attribute inside the braces of a function cannot stay
/// there, where the body becomes a closure.
fn outer(mut attribute: Attribute) -> Attribute {
    attribute.style = AttrStyle::Outer;
    attribute
}

/// The attributes of a wrapped function: its own, and `#[track_caller]`, so that a panic on misuse
/// points at the call.
pub(crate) fn wrapped(attributes: &[Attribute]) -> Vec<Attribute> {
    let mut attributes: Vec<_> = attributes.iter().cloned().map(outer).collect();
    let is_tracked = |attribute: &Attribute| attribute.path().is_ident("track_caller");
    if !attributes.iter().any(is_tracked) {
        attributes.push(parse_quote!(#[track_caller]));
    }
    attributes
}

/// Whether there are type or constant parameters.
pub(crate) fn is_generic(generics: &Generics) -> bool {
    generics.type_params().next().is_some() || generics.const_params().next().is_some()
}

/// The name that the program has imported the attribute by, where that can be read.
pub(crate) fn alias() -> Option<String> {
    attribute_name(&Span::call_site().source_text().unwrap_or_default())
}

/// The name in the text of the attribute: `#[name(…)]`, or `name(…)` in a
/// `cfg_attr`.
fn attribute_name(text: &str) -> Option<String> {
    let text = text.trim_start();
    let path = text.strip_prefix("#[").unwrap_or(text);
    let path = path.split(['(', ']']).next()?;
    let name = path.rsplit("::").next()?.trim();
    let name = syn::parse_str::<Ident>(name).ok()?;
    (name != "cfg_attr").then(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::attribute_name;

    #[test]
    fn the_text_of_an_attribute_has_its_name() {
        for text in [
            "#[cached]",
            "#[cached(persistent = true)]",
            "#[library::cached(version = \"a::b\")]",
            "#[ ::library :: cached ]",
            "#[cached (\n    enabled = false,\n)]",
            "cached",
            "library::cached(version = \"a::b\")",
        ] {
            assert_eq!(attribute_name(text).as_deref(), Some("cached"), "{text}");
        }
        for text in [
            "",
            "struct S;",
            "#[]",
            "$item",
            "#[cfg_attr(all(), cached)]",
            "cfg_attr(all(), cached)",
        ] {
            assert_eq!(attribute_name(text), None, "{text}");
        }
    }
}
