//! Compares two identities of a module: part by part, and in a sentence.

use std::collections::{BTreeSet, HashMap};

use super::part::{Category, IdentityPart, MAX_LETTERS, shortened};

/// A part that differs between two identities, or is in only one of them.
#[derive(Clone, Copy, Debug)]
pub struct PartChange<'a> {
    /// The category of the part.
    pub category: Category,
    /// The path of the part.
    pub path: &'a str,
    /// The part in the first identity.
    pub before: Option<&'a IdentityPart>,
    /// The part in the second identity.
    pub after: Option<&'a IdentityPart>,
}

/// Lists the parts that differ, in the order of the second identity. Several parts may have one path, such
/// as a layer's configuration and an enum's variant: these are compared in order.
pub fn changes<'a>(before: &'a [IdentityPart], after: &'a [IdentityPart]) -> Vec<PartChange<'a>> {
    // Linear in the number of parts, since a manifest may be large and not trusted.
    let (mut before_at, mut after_at) = (by_place(before), by_place(after));
    let mut changes = Vec::new();
    for part in after.iter().chain(before) {
        let place = (part.category, part.path.as_str());
        let before = before_at.remove(&place).unwrap_or_default();
        let after = after_at.remove(&place).unwrap_or_default();
        for at in 0..before.len().max(after.len()) {
            let (before, after) = (before.get(at).copied(), after.get(at).copied());
            if before.map(|part| part.digest) != after.map(|part| part.digest) {
                changes.push(PartChange {
                    category: part.category,
                    path: &part.path,
                    before,
                    after,
                });
            }
        }
    }
    changes
}

/// The parts of each category and path, in their order.
fn by_place(parts: &[IdentityPart]) -> HashMap<(Category, &str), Vec<&IdentityPart>> {
    let mut places: HashMap<_, Vec<&IdentityPart>> = HashMap::new();
    for part in parts {
        let place = (part.category, part.path.as_str());
        places.entry(place).or_default().push(part);
    }
    places
}

/// Describes what changed between two identities of a module, in one line. Names are shortened and
/// escaped, so that the line may be logged whatever a file contains.
pub fn difference(before: &[IdentityPart], after: &[IdentityPart]) -> String {
    let changes = changes(before, after);
    let (mut changed, mut same) = (Vec::new(), Vec::new());
    let mut parts = before.iter().chain(after);
    let has_code = parts.any(|part| part.category == Category::Code);
    for (category, one, name) in [
        (Category::Code, "the code of", "code"),
        (Category::Field, "the field", "fields"),
        (Category::Weights, "the weights of", "weights"),
        (Category::Option, "the option", "options"),
    ] {
        let paths = changed_paths(category, &changes);
        match paths.as_slice() {
            // A manifest without code says nothing of it: that of functions is in the keys of rows.
            [] if category == Category::Code && !has_code => {}
            [] => same.push(name),
            [first, rest @ ..] if rest.len() < 3 => {
                let rest: String = rest
                    .iter()
                    .map(|path| format!(", {}", shown(path)))
                    .collect();
                changed.push(format!("{one} {}{rest} changed", shown(first)));
            }
            [first, rest @ ..] => {
                let (first, more) = (shown(first), rest.len());
                changed.push(format!("{one} {first} and {more} more changed"));
            }
        }
    }
    if changed.is_empty() {
        return "nothing in the manifest changed; the format of the identity may have".into();
    }
    let same = match same.as_slice() {
        [] => String::new(),
        [only] => format!("; {only} did not"),
        [first @ .., last] => format!("; {} and {last} did not", first.join(", ")),
    };
    changed.join("; ") + &same
}

fn shown(path: &str) -> String {
    format!("`{}`", shortened(path, MAX_LETTERS).escape_debug())
}

/// The sorted paths of the changes of a category.
fn changed_paths<'a>(category: Category, changes: &[PartChange<'a>]) -> Vec<&'a str> {
    let of_category = changes.iter().filter(|change| change.category == category);
    let paths: BTreeSet<&str> = of_category.map(|change| change.path).collect();
    paths.into_iter().collect()
}
