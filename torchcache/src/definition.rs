//! [`Definition`]: the name and the place of an annotated item.
//!
//! The name alone tells items of modules apart. Items in bodies may share it: blocks and closures of
//! one function, impls, expansions of a macro. For these the place in the source counts as well, and
//! every edit above them gives them another identity.

use std::any::{TypeId, type_name};
use std::fmt::{self, Display};
use std::hash::{DefaultHasher, Hash, Hasher};

/// An annotated item.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// The module path and name.
    pub(crate) name: &'static str,
    /// The path that the type has if the item is in a module.
    path: &'static str,
    type_name: fn() -> &'static str,
    type_id: fn() -> TypeId,
    place: Place,
}

/// A place in the source.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Relative to the package.
    file: &'static str,
    /// The line and column, those of the outermost expansion if a macro made the item.
    position: (u32, u32),
    /// The line and column of the tokens.
    tokens: (u32, u32),
}

impl Definition {
    /// The definition of the item whose type is `T`.
    pub const fn of<T: ?Sized>(name: &'static str, place: Place) -> Self {
        Definition {
            name,
            path: name,
            type_name: type_name::<T>,
            type_id: typeid::of::<T>,
            place,
        }
    }

    /// The definition of a function, for which the type `T` stands. `path`: see the field.
    pub const fn of_function<T>(name: &'static str, path: &'static str, place: Place) -> Self {
        Definition {
            path,
            ..Definition::of::<T>(name, place)
        }
    }

    /// The name of the type, with its path and arguments; of a function in a module, its own.
    pub(crate) fn type_name(&self) -> &'static str {
        let is_of_function = self.path != self.name;
        match is_of_function && self.place().is_none() {
            true => self.name,
            false => (self.type_name)(),
        }
    }

    /// The type arguments, as in `<f64>`.
    pub(crate) fn arguments(&self) -> &'static str {
        split_arguments(self.type_name()).1
    }

    /// Which type of this process it is, whatever its name.
    pub(crate) fn type_id(&self) -> TypeId {
        (self.type_id)()
    }

    /// A number for the type that is the same in all processes of a build.
    pub(crate) fn type_number(&self) -> u64 {
        number_of(self.type_id())
    }

    /// The place, where the name may be that of other items as well.
    pub(crate) fn place(&self) -> Option<Place> {
        let (path, _) = split_arguments((self.type_name)());
        let is_in_module = is_same_path(path, self.path);
        (!is_in_module).then_some(self.place)
    }

    /// The name, with the arguments, and with the place where it counts: what the rows of a
    /// `persistent_module_hash` are kept apart by.
    pub(crate) fn full_name(&self) -> String {
        let (name, arguments) = (self.name, self.arguments());
        match self.place() {
            Some(place) => format!("{name}{arguments} at {place}"),
            None => format!("{name}{arguments}"),
        }
    }

    /// The name and the place, for messages.
    pub(crate) fn shown(&self) -> String {
        format!("`{}` at {}", self.name, self.place)
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.position.0, self.position.1)?;
        if self.is_in_expansion() {
            write!(f, " (from {}:{})", self.tokens.0, self.tokens.1)?;
        }
        Ok(())
    }
}

impl Place {
    /// A place: what `file!`, `line!` and `column!` are, and where the tokens of the item are.
    pub const fn new(
        file: &'static str,
        package: Option<&'static str>,
        position: (u32, u32),
        tokens: (u32, u32),
    ) -> Self {
        let file = match package {
            Some(package) => relative(file, package),
            None => file,
        };
        Place {
            file,
            position,
            tokens,
        }
    }

    /// Whether a macro made the item. One expansion may have made several from the same tokens.
    pub(crate) fn is_in_expansion(&self) -> bool {
        self.position != self.tokens
    }
}

/// A number for a type that is the same in all processes of a build.
pub(crate) fn number_of(id: TypeId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// Splits the name of a type into its path and its arguments.
pub(crate) fn split_arguments(name: &str) -> (&str, &str) {
    if !name.ends_with('>') {
        return (name, "");
    }
    let mut depth = 0;
    for (at, byte) in name.bytes().enumerate().rev() {
        match byte {
            // Not of `fn() -> T`.
            b'>' if !name[..at].ends_with('-') => depth += 1,
            b'<' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return name.split_at(at);
        }
    }
    (name, "")
}

/// Whether two paths are equal, where one of them writes `r#` in front of keywords.
fn is_same_path(one: &str, other: &str) -> bool {
    let plain = |segment| str::strip_prefix(segment, "r#").unwrap_or(segment);
    one.split("::").map(plain).eq(other.split("::").map(plain))
}

/// `file` relative to the directory of its package. Cargo passes the compiler absolute paths of
/// dependencies, and those of workspace members relative to the workspace.
const fn relative(file: &'static str, package: &str) -> &'static str {
    let (bytes, directory) = (file.as_bytes(), package.as_bytes());
    // Where the file is inside the package, the directory ends with what precedes the rest.
    let mut end = bytes.len();
    while end > 0 {
        end -= 1;
        if bytes[end] == b'/' && ends_with_path(directory, bytes, end) {
            return file.split_at(end + 1).1;
        }
    }
    file
}

/// Whether `directory` is, or ends with the components of, the first `length` bytes of `path`.
const fn ends_with_path(directory: &[u8], path: &[u8], length: usize) -> bool {
    if length == 0 || directory.len() < length {
        return false;
    }
    let start = directory.len() - length;
    let mut at = 0;
    while at < length {
        if directory[start + at] != path[at] {
            return false;
        }
        at += 1;
    }
    start == 0 || directory[start - 1] == b'/'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_are_split_before_their_arguments() {
        for (path, arguments) in [
            ("a::Plain", ""),
            ("a::Wrap", "<f64>"),
            ("a::Wrap", "<fn(&'_ u8) -> a::Inner<'_, char>>"),
            ("a::Wrap<_>::method::Inner", ""),
            ("<a::Wrap<_> as b::Trait>::method::Inner", "<a::Wrap<u8>>"),
        ] {
            let name = format!("{path}{arguments}");
            assert_eq!(split_arguments(&name), (path, arguments));
        }
    }

    #[test]
    fn files_are_relative_to_their_package() {
        for (file, package, expected) in [
            ("src/lib.rs", "/home/a/net", "src/lib.rs"),
            ("net/src/lib.rs", "/home/a/net", "src/lib.rs"),
            ("crates/net/src/lib.rs", "/home/a/crates/net", "src/lib.rs"),
            ("/b/net-1.0/src/lib.rs", "/b/net-1.0", "src/lib.rs"),
            ("shared/lib.rs", "/home/a/net", "shared/lib.rs"),
            ("et/src/lib.rs", "/home/a/net", "et/src/lib.rs"),
            ("main.rs", "/", "main.rs"),
            ("/rustc/1/core.rs", "/home/a/net", "/rustc/1/core.rs"),
        ] {
            assert_eq!(relative(file, package), expected, "{file} in {package}");
        }
    }

    mod r#mod {
        pub(super) struct r#Item;
    }

    #[test]
    fn the_place_counts_where_the_name_may_be_another_items() {
        let place = Place::new("src/lib.rs", None, (1, 2), (1, 2));
        let module = module_path!();
        let name = |name: &str| -> &'static str { format!("{module}::{name}").leak() };
        let found = |definition: Definition| definition.place();
        assert_eq!(
            found(Definition::of::<Place>(name("Place"), place)),
            Some(place)
        );
        assert_eq!(
            found(Definition::of::<r#mod::Item>(name("r#mod::Item"), place)),
            None
        );
        struct Local;
        assert_eq!(
            found(Definition::of::<Local>(name("Local"), place)),
            Some(place)
        );
        let local = "the_place_counts_where_the_name_may_be_another_items::Local";
        assert_eq!(found(Definition::of::<Local>(name(local), place)), None);
    }
}
