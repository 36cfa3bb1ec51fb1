//! `manifest.json`: what went into a directory's hash, so that an unexpected miss can be explained.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use super::{Category, Identity, Part};

const FILE: &str = "manifest.json";

/// Manifests are small; a larger file is not ours.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Manifest {
    /// The version of this file's layout.
    format: u32,
    module: String,
    hash: String,
    created_by: String,
    parts: Vec<Entry>,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Entry {
    category: Category,
    path: String,
    value: String,
    digest: String,
}

/// Writes the manifest of `identity` into its directory, unless one is there.
///
/// # Errors
///
/// Whatever the file system says. The cache works without its manifest.
pub(crate) fn write(directory: &Path, module: &str, identity: &Identity) -> std::io::Result<()> {
    let path = directory.join(FILE);
    if path.exists() {
        return Ok(());
    }
    let manifest = Manifest {
        format: 1,
        module: module.to_owned(),
        hash: identity.hash.clone(),
        created_by: concat!("torchcache ", env!("CARGO_PKG_VERSION")).to_owned(),
        parts: identity.parts.iter().map(Entry::from).collect(),
    };
    let mut file = tempfile::Builder::new()
        // The store clears away temporary files of this name that a crash left behind.
        .prefix(".tmp-manifest-")
        .suffix(".tcs")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)?;
    serde_json::to_writer_pretty(&mut file, &manifest)?;
    file.write_all(b"\n")?;
    // Another process with this identity writes the same content: either may win.
    file.persist(path)?;
    Ok(())
}

/// Why `identity` is not one of the identities that `root` holds for this module, in words;
/// `None` where it holds none, or holds this one.
pub(crate) fn explain(root: &Path, module: &str, identity: &Identity) -> Option<String> {
    if root.join(&identity.hash).join(FILE).exists() {
        return None;
    }
    let newest = std::fs::read_dir(root)
        .ok()?
        .flatten()
        .filter_map(|entry| read(&entry.path().join(FILE)))
        .filter(|(_, manifest)| manifest.module == module)
        .max_by_key(|(written, _)| *written)?
        .1;
    let before: Vec<_> = newest.parts.iter().map(Fact::from_entry).collect();
    Some(difference(&before, &facts(&identity.parts)))
}

/// What changed between two identities of one module, in words.
pub(crate) fn difference_of(before: &[Part], after: &[Part]) -> String {
    difference(&facts(before), &facts(after))
}

fn read(path: &Path) -> Option<(SystemTime, Manifest)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (manifest.format == 1).then_some((metadata.modified().ok()?, manifest))
}

impl From<&Part> for Entry {
    fn from(part: &Part) -> Self {
        Entry {
            category: part.category,
            path: part.path.clone(),
            value: part.value.clone(),
            digest: hex(&part.digest),
        }
    }
}

/// One part, as far as comparing goes.
struct Fact<'a> {
    category: Category,
    path: &'a str,
    digest: String,
}

impl<'a> Fact<'a> {
    fn from_entry(entry: &'a Entry) -> Self {
        Fact {
            category: entry.category,
            path: &entry.path,
            digest: entry.digest.clone(),
        }
    }
}

fn facts(parts: &[Part]) -> Vec<Fact<'_>> {
    parts
        .iter()
        .map(|part| Fact {
            category: part.category,
            path: &part.path,
            digest: hex(&part.digest),
        })
        .collect()
}

fn difference(before: &[Fact<'_>], after: &[Fact<'_>]) -> String {
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
                let rest: String = rest.iter().map(|path| format!(", `{path}`")).collect();
                changed.push(format!("{one} `{first}`{rest} changed"));
            }
            [first, rest @ ..] => {
                changed.push(format!("{one} `{first}` and {} more changed", rest.len()));
            }
        }
    }
    if changed.is_empty() {
        return "nothing that the manifest lists changed; the format of the identity may have"
            .into();
    }
    let same = match same.as_slice() {
        [] => String::new(),
        [only] => format!("; {only} did not"),
        [first @ .., last] => format!("; {} and {last} did not", first.join(", ")),
    };
    changed.join("; ") + &same
}

/// The paths of a category that are in one list only, or whose parts differ.
fn changed_paths<'a>(category: Category, before: &[Fact<'a>], after: &[Fact<'a>]) -> Vec<&'a str> {
    // A path may hold several parts, such as a layer's configuration and an enum's variant.
    let by_path = |facts: &[Fact<'a>]| {
        let mut parts: HashMap<&'a str, Vec<String>> = HashMap::new();
        for fact in facts.iter().filter(|fact| fact.category == category) {
            parts
                .entry(fact.path)
                .or_default()
                .push(fact.digest.clone());
        }
        parts
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

fn hex(digest: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Fingerprinter;
    use crate::options::Options;

    fn identity(version: &str, walk: impl FnOnce(&mut Fingerprinter<'_>)) -> Identity {
        Identity::compute("m", &Options::new().version(version), walk)
    }

    #[test]
    fn the_manifest_tells_what_changed() {
        let root = tempfile::tempdir().unwrap();
        let before = identity("", |f| f.field("fc.ws", &tch::Tensor::from_slice(&[1.0])));
        let after = identity("", |f| f.field("fc.ws", &tch::Tensor::from_slice(&[2.0])));
        assert_eq!(
            explain(root.path(), "m", &before),
            None,
            "nothing is there yet"
        );
        let directory = root.path().join(&before.hash);
        std::fs::create_dir(&directory).unwrap();
        write(&directory, "m", &before).unwrap();
        assert_eq!(
            explain(root.path(), "m", &before),
            None,
            "this one is there"
        );
        assert_eq!(
            explain(root.path(), "other", &after),
            None,
            "another module is there"
        );
        assert_eq!(
            explain(root.path(), "m", &after).unwrap(),
            "the weights of `fc.ws` changed; code, fields and options did not"
        );
    }

    #[test]
    fn several_changes_are_told_together() {
        let before = identity("1", |f| f.field("scale", &1.0));
        let after = identity("2", |f| f.field("scale", &2.0));
        assert_eq!(
            difference_of(&before.parts, &after.parts),
            "the field `scale` changed; the option `version` changed; code and weights did not"
        );
    }

    /// A vocabulary, say. Compared pair by pair, these would take an hour.
    #[test]
    fn large_identities_are_compared() {
        let large = |changed: usize| {
            let values: Vec<u64> = (0..100_000)
                .map(|i| if i == changed { 7 } else { 1 << 40 })
                .collect();
            identity("", |f| f.field("words", &values))
        };
        assert_eq!(
            difference_of(&large(5).parts, &large(99_999).parts),
            "the field `words.5`, `words.99999` changed; code, weights and options did not"
        );
    }

    #[test]
    fn a_foreign_manifest_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("x")).unwrap();
        std::fs::write(root.path().join("x").join(FILE), "{not json").unwrap();
        assert_eq!(explain(root.path(), "m", &identity("", |_| ())), None);
    }
}
