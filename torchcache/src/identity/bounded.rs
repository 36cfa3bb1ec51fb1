//! Bounds how many parts of an identity are kept and written to its manifest: those of large collections
//! become one part with their number and digest. The identity itself is over all parts.

use std::collections::{HashMap, HashSet};

use torchcache_store::manifest::shortened;

use super::parts::{Category, IdentityPart, digest};

/// The most parts. A manifest of so many is well below the size that its readers accept.
const MAX_PARTS: usize = 4096;

/// Only more parts than this become one.
const MIN_JOINED: usize = 256;

/// Longer paths are cut.
const MAX_PATH_LETTERS: usize = 240;

/// Parts that are nested deeper count as if they were in the value at this depth.
const MAX_DEPTH: usize = 32;

/// The path of parts that are in no collection.
const ALL: &str = "*";

/// Joins the parts of the largest collections until at most [`MAX_PARTS`] are left, and cuts long paths.
pub(super) fn bounded(mut parts: Vec<IdentityPart>) -> Vec<IdentityPart> {
    while parts.len() > MAX_PARTS {
        let excess = parts.len() - MAX_PARTS;
        parts = join(&parts, &largest(&parts, excess));
    }
    for part in &mut parts {
        if part.path.len() > MAX_PATH_LETTERS {
            part.path = shortened(&part.path, MAX_PATH_LETTERS);
        }
    }
    parts
}

/// The paths above a path, from the root on.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    let dots = path.match_indices('.').take(MAX_DEPTH);
    std::iter::once("").chain(dots.map(|(at, _)| &path[..at]))
}

fn may_be_joined(part: &IdentityPart) -> bool {
    part.category != Category::Option
}

/// Of the values with more than [`MIN_JOINED`] parts that contain no other such value, the largest ones that
/// have more than `excess` parts together.
fn largest(parts: &[IdentityPart], excess: usize) -> HashSet<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let joinable = || parts.iter().filter(|part| may_be_joined(part));
    for parent in joinable().flat_map(|part| parents(&part.path)) {
        *counts.entry(parent).or_default() += 1;
    }
    counts.retain(|_, count| *count > MIN_JOINED);
    let around: HashSet<&str> = counts
        .keys()
        .flat_map(|path| parents(path).filter(move |parent| parent != path))
        .collect();
    let innermost = counts.iter().filter(|(path, _)| !around.contains(*path));
    let mut innermost: Vec<(&str, usize)> =
        innermost.map(|(path, count)| (*path, *count)).collect();
    innermost.sort_by_key(|(path, count)| (std::cmp::Reverse(*count), *path));
    let mut removed = 0;
    let needed = innermost.into_iter().take_while(|(_, count)| {
        let is_needed = removed < excess;
        removed += count - 1;
        is_needed
    });
    needed.map(|(path, _)| path.to_owned()).collect()
}

/// Replaces all parts within each of these values by one of each category, in the place of the first.
fn join(parts: &[IdentityPart], joined: &HashSet<String>) -> Vec<IdentityPart> {
    let value_of = |path| parents(path).find(|parent| joined.contains(*parent));
    let is_joined = |part: &&IdentityPart| may_be_joined(part);
    let mut members: HashMap<(&str, Category), Vec<&IdentityPart>> = HashMap::new();
    for part in parts.iter().filter(is_joined) {
        if let Some(value) = value_of(&part.path) {
            members
                .entry((value, part.category))
                .or_default()
                .push(part);
        }
    }
    let kept = parts.iter().filter_map(|part| {
        match Some(part)
            .filter(is_joined)
            .and_then(|part| value_of(&part.path))
        {
            None => Some(part.clone()),
            // `None` after the first.
            Some(value) => {
                let members = members.remove(&(value, part.category))?;
                Some(summary(value, part.category, members))
            }
        }
    });
    kept.collect()
}

/// One part in place of several.
fn summary(path: &str, category: Category, parts: Vec<&IdentityPart>) -> IdentityPart {
    let count = parts.len();
    let digest = digest(parts, path);
    let shown = blake3::Hash::from_bytes(digest).to_hex();
    let readable = format!("{count} values {}", &shown[..16]);
    let path = if path.is_empty() { ALL } else { path };
    IdentityPart::new(path, category, &readable, digest)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use torchcache_store::admin::{Keep, Root, prune};
    use torchcache_store::fs::{FileSystem, Os};
    use torchcache_store::manifest::{FILE, Manifest, difference};

    use crate::identity::{Fingerprint, Fingerprinter, Identity, manifest};
    use crate::options::Options;

    fn identity(walk: impl FnOnce(&mut Fingerprinter<'_>)) -> Identity {
        Identity::compute("m", &Options::default(), &Default::default(), walk).unwrap()
    }

    fn vocabulary(changed: i64) -> HashMap<String, i64> {
        (0..50_257)
            .map(|n| (format!("token {n}"), if n == 77 { changed } else { n }))
            .collect()
    }

    /// What changed between two values of a field next to weights, and how many parts both have at most.
    fn explained<T: Fingerprint>(values: [T; 2]) -> (String, usize) {
        let [before, after] = values.map(|value| {
            identity(|f| {
                f.field("fc.ws", &tch::Tensor::from_slice(&[1.0]));
                f.field("vocabulary", &value);
                f.field("scale", &2.5);
            })
        });
        assert_ne!(before.hash, after.hash);
        let parts = before.parts.len().max(after.parts.len());
        (difference(&before.parts, &after.parts), parts)
    }

    #[test]
    fn a_change_in_a_large_collection_is_explained_in_few_parts() {
        let changed = "the field `vocabulary` changed; weights and options did not";
        assert_eq!(explained([0, 1].map(vocabulary)), (changed.to_owned(), 7));
        let list = |n: u8| vec![n; 50_000];
        assert_eq!(explained([list(1), list(2)]), (changed.to_owned(), 7));
        let nested = |n| HashMap::from([(1, HashMap::from([(2, vec![vec![n]; 20_000])]))]);
        let (nested, parts) = explained([nested(1), nested(2)]);
        assert!(
            nested.starts_with("the field `vocabulary.{0}.1"),
            "{nested}"
        );
        assert!(parts < 20, "{parts}");
    }

    #[test]
    fn a_large_collection_leaves_the_others_as_they_are() {
        let layers: Vec<f64> = (0..2000).map(f64::from).collect();
        let all = identity(|f| {
            f.field("layers", &layers);
            f.field("vocabulary", &vocabulary(0));
        });
        let of = |path: &str| all.parts.iter().filter(|part| part.path == path).count();
        assert_eq!((of("layers.1999"), of("vocabulary")), (1, 2));
    }

    #[test]
    fn collections_of_weights_and_fields_without_a_collection_are_joined() {
        let weights = |n: f64| {
            let of = |k| tch::Tensor::from_slice(&[n, f64::from(k)]);
            (0..5000).map(of).collect::<Vec<_>>()
        };
        let (changed, _) = explained([weights(1.0), weights(2.0)]);
        let same = "; fields and options did not";
        assert_eq!(
            changed,
            format!("the weights of `vocabulary` changed{same}")
        );
        let flat = |f: &mut Fingerprinter<'_>| {
            (0..9000).for_each(|n| f.field(&format!("{n}"), &n));
        };
        let flat = identity(flat).parts;
        let [.., all] = &flat[..] else {
            panic!("{flat:?}")
        };
        assert_eq!((flat.len(), &*all.path), (4, "*"));
        assert!(all.value.starts_with("9000 values "), "{}", all.value);
    }

    #[test]
    fn administration_knows_modules_with_large_collections() {
        let root = tempfile::tempdir().unwrap();
        for changed in [0, 1] {
            let identity = identity(|f| f.field("vocabulary", &vocabulary(changed)));
            let directory = root.path().join(&identity.hash);
            std::fs::create_dir(&directory).unwrap();
            manifest::write(&directory, "m", &identity).unwrap();
            let len = directory.join(FILE).metadata().unwrap().len();
            assert!(len < 4096, "{len}");
        }
        let root = Root::open(root.path()).unwrap();
        for cache in root.list().unwrap().caches {
            assert_eq!(cache.summary().unwrap().manifest.unwrap().module, "m");
        }
        let pruned = prune(&root, Keep::LatestPerModule(1), true).unwrap();
        assert_eq!(pruned.caches.len(), 1);
    }

    #[test]
    fn a_manifest_is_read_however_long_names_and_values_are() {
        let long = "\u{1}é\"".repeat(5000);
        let identity = identity(|f| {
            for n in 0..4000 {
                f.field(&format!("{n}{long}"), long.as_str());
            }
        });
        let directory = tempfile::tempdir().unwrap();
        manifest::write(directory.path(), "m", &identity).unwrap();
        let directory = Os.open_dir(directory.path(), false).unwrap();
        let read = Manifest::read(&*directory).unwrap();
        assert_eq!(read.parts, identity.parts);
    }
}
