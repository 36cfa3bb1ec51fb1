//! Questions about types as they are written. The value of a macro variable is in an invisible group.

use syn::{Path, Type};

/// A type without parentheses and invisible groups around it.
pub(crate) fn ungrouped(mut ty: &Type) -> &Type {
    loop {
        ty = match ty {
            Type::Group(group) => &group.elem,
            Type::Paren(paren) => &paren.elem,
            _ => return ty,
        };
    }
}

/// The path that a type is.
pub(crate) fn path(ty: &Type) -> Option<&Path> {
    match ungrouped(ty) {
        Type::Path(path) if path.qself.is_none() => Some(&path.path),
        _ => None,
    }
}

/// Whether a type is written as `name`, under any path.
pub(crate) fn is_named(ty: &Type, name: &str) -> bool {
    path(ty).is_some_and(|path| ends_in(path, name))
}

/// Whether the last segment of a path is `name`.
pub(crate) fn ends_in(path: &Path, name: &str) -> bool {
    path.segments.last().is_some_and(|last| last.ident == name)
}
