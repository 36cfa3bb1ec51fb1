//! Which cache is meant: by any beginning of its name that no other has.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use torchcache_store::admin::{Cache, Root};

use crate::error::Error;
use crate::output::Output;
use crate::text::plain;

/// A hash is shown with at least so many digits, although fewer may tell it from the others.
const SHORT: usize = 8;

/// Of a name that somebody chose, so many letters.
const NAME: usize = 16;

/// The caches below a directory.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) root: Root,
    pub(crate) caches: Vec<Cache>,
    /// What may be caches, but could not be looked into, and why.
    pub(crate) unopened: Vec<(PathBuf, String)>,
}

/// Looks at a directory, and says which of those in it could not be looked into.
pub(crate) fn caches(output: &Output, dir: &Path) -> Result<Found, Error> {
    let root = Root::open(dir).map_err(Error::io("open the directory", dir))?;
    let listing = root.list().map_err(Error::io("list the directory", dir))?;
    let unopened = listing.unopened.into_iter();
    let unopened: Vec<_> = unopened
        .map(|(path, why)| (path, why.to_string()))
        .collect();
    for (path, why) in &unopened {
        let path = path.display();
        output.note(format_args!("{path} may be a cache, but: {why}"));
    }
    Ok(Found {
        root,
        caches: listing.caches,
        unopened,
    })
}

/// The same for all of them: says if there are none.
pub(crate) fn all(output: &Output, dir: &Path) -> Result<Found, Error> {
    let found = caches(output, dir)?;
    if found.caches.is_empty() && found.unopened.is_empty() {
        output.note(format_args!(
            "{} holds no caches",
            found.root.path().display()
        ));
    }
    Ok(found)
}

impl Found {
    /// Whether DIR is the directory of a cache, and there is no other in it.
    pub(crate) fn is_one_cache(&self) -> bool {
        self.root.is_cache() && self.caches.len() == 1
    }

    /// The one cache that is meant. Without a name, the only one that there is.
    pub(crate) fn named(&self, hash: Option<&str>) -> Result<&Cache, Error> {
        let dir = self.root.path().display();
        let Some(hash) = hash else {
            return match &self.caches[..] {
                [only] => Ok(only),
                [] => Err(self.nothing()),
                all => Err(Error::not_done(format!(
                    "{dir} holds {} caches; name one of them: {}",
                    all.len(),
                    self.some(all.iter())
                ))),
            };
        };
        if let Some(exact) = self.caches.iter().find(|cache| cache.name() == hash) {
            return Ok(exact);
        }
        let matches = |cache: &&Cache| !hash.is_empty() && cache.name().starts_with(hash);
        let matching: Vec<_> = self.caches.iter().filter(matches).collect();
        match &matching[..] {
            [only] => Ok(only),
            [] if self.caches.is_empty() => Err(self.nothing()),
            [] => Err(Error::nothing(format!(
                "{dir} holds no cache whose name begins with {:?}; it holds {}",
                hash,
                self.some(self.caches.iter())
            ))),
            several => Err(Error::not_done(format!(
                "{:?} is the beginning of {} caches: {}; write more of the one that you mean",
                hash,
                several.len(),
                self.some(several.iter().copied())
            ))),
        }
    }

    fn nothing(&self) -> Error {
        let dir = self.root.path().display();
        Error::nothing(format!(
            "{dir} holds no caches; name the directory that was given to persistent_cache_dir or \
             TORCHCACHE_DIR"
        ))
    }

    /// A few names, for a message.
    fn some<'c>(&self, caches: impl Iterator<Item = &'c Cache>) -> String {
        const MOST: usize = 5;
        let short = self.short_names();
        let names: Vec<_> = caches.map(|cache| short[cache.name()].clone()).collect();
        let more = names.len().saturating_sub(MOST);
        let mut text = names[..names.len() - more].join(", ");
        if more > 0 {
            text += &format!(" and {more} more");
        }
        text
    }

    /// Caches as people know them: the module, and as much of the name as tells it from the others.
    pub(crate) fn titles(&self) -> impl Fn(&Cache) -> String {
        let short = self.short_names();
        move |cache| {
            let short = short.get(cache.name()).cloned();
            let short = short.unwrap_or_else(|| plain(cache.name()));
            match cache.manifest() {
                Ok(manifest) => format!("{} {short}", plain(&manifest.module)),
                Err(_) => short,
            }
        }
    }

    /// For each name, as much of it as it takes to tell it from the others, to be shown.
    pub(crate) fn short_names(&self) -> HashMap<&str, String> {
        let mut names: Vec<&str> = self.caches.iter().map(Cache::name).collect();
        names.sort_unstable();
        let shared = |a: &str, b: &str| {
            let letters = a.chars().zip(b.chars());
            letters.take_while(|(a, b)| a == b).count()
        };
        let mut short = HashMap::new();
        for (at, name) in names.iter().enumerate() {
            let neighbours = [at.checked_sub(1), Some(at + 1)];
            let neighbours = neighbours.into_iter().flatten();
            let others = neighbours.filter_map(|other| names.get(other));
            let differs = others.map(|other| shared(name, other) + 1).max();
            let least = if is_hash(name) { SHORT } else { NAME };
            let letters = differs.unwrap_or(0).max(least);
            let text: String = name.chars().take(letters).collect();
            short.insert(*name, plain(&text));
        }
        short
    }
}

/// Whether a name is a module hash, not one that somebody chose.
fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> (tempfile::TempDir, Found) {
        let root = tempfile::tempdir().expect("a temporary directory");
        for name in names {
            let dir = root.path().join(name);
            std::fs::create_dir(&dir).expect("it can be made");
            std::fs::write(dir.join("manifest.json"), "{}").expect("it can be written");
        }
        let found = caches(&Output::new(false), root.path()).expect("it can be listed");
        (root, found)
    }

    #[test]
    fn a_beginning_that_only_one_has_names_it() {
        let a = "abcdef0123".repeat(6) + "0000";
        let b = "abcdef0124".repeat(6) + "0000";
        let (_root, found) = found(&[&a, &b, "abc", "resnet18-of-last-spring"]);
        let named = |hash: &str| found.named(Some(hash)).map(Cache::name);
        assert_eq!(named("abcdef0123").ok(), Some(&*a));
        assert_eq!(named("res").ok(), Some("resnet18-of-last-spring"));
        assert_eq!(named("abc").ok(), Some("abc"), "a whole name is that one");
        assert_eq!(named("abcd").map_err(|error| error.code()), Err(2));
        assert_eq!(named("x").map_err(|error| error.code()), Err(1));
        assert_eq!(named("").map_err(|error| error.code()), Err(1));
        let short = found.short_names();
        assert_eq!(short[&*a], "abcdef0123");
        assert_eq!(short["resnet18-of-last-spring"], "resnet18-of-last");
    }

    #[test]
    fn without_a_name_the_only_one_is_meant() {
        assert_eq!(
            found(&["one"]).1.named(None).map(Cache::name).ok(),
            Some("one")
        );
        for (names, code) in [(&["one", "two"][..], 2), (&[], 1)] {
            let (_root, found) = found(names);
            assert_eq!(
                found.named(None).map_err(|error| error.code()).err(),
                Some(code)
            );
        }
    }
}
