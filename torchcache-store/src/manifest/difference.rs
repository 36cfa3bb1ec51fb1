//! Describes what changed between two identities of a module.

use std::collections::HashMap;

use super::part::{Category, IdentityPart, shortened};

/// Describes what changed between two identities of a module, in one line. Names are shortened and
/// escaped, so that the line may be logged whatever a file contains.
pub fn difference(before: &[IdentityPart], after: &[IdentityPart]) -> String {
    let (mut changed, mut same) = (Vec::new(), Vec::new());
    for (category, one, name) in [
        (Category::Code, "the code of", "code"),
        (Category::Field, "the field", "fields"),
        (Category::Weights, "the weights of", "weights"),
        (Category::Option, "the option", "options"),
    ] {
        let paths = changed_paths(category, before, after);
        match paths.as_slice() {
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
    format!("`{}`", shortened(path).escape_debug())
}

/// The paths of a category whose parts differ or are in one list only.
fn changed_paths<'a>(
    category: Category,
    before: &'a [IdentityPart],
    after: &'a [IdentityPart],
) -> Vec<&'a str> {
    // Several parts may have one path, such as a layer's configuration and an enum's variant.
    let by_path = |parts: &'a [IdentityPart]| {
        let mut digests: HashMap<&'a str, Vec<&'a [u8; 32]>> = HashMap::new();
        for part in parts.iter().filter(|part| part.category == category) {
            digests.entry(&part.path).or_default().push(&part.digest);
        }
        digests
    };
    let (before, after) = (by_path(before), by_path(after));
    let differs = |path: &&'a str| before.get(path) != after.get(path);
    let mut paths: Vec<_> = after
        .keys()
        .chain(before.keys())
        .copied()
        .filter(differs)
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}
