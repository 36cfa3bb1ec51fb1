//! Selects caches: lists those below DIR, and finds the one that HASH names.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use torchcache_store::admin::{Cache, Root, name_text};
use unicode_segmentation::UnicodeSegmentation;

use crate::error::Error;
use crate::output::Printer;
use crate::text::{path_text, plain};

/// The digits of a hash to show, although fewer may be unique.
const HASH_DIGITS: usize = 8;

/// The letters to show of a name that is not a hash.
const NAME_LETTERS: usize = 16;

/// The caches below a directory.
#[derive(Debug)]
pub(crate) struct CacheList {
    pub(crate) root: Root,
    pub(crate) caches: Vec<Cache>,
    /// Directories that may be caches but could not be opened, with the error of each.
    pub(crate) unopened: Vec<(PathBuf, String)>,
}

impl CacheList {
    /// Lists the caches below `dir`, with a note for each directory that could not be opened.
    pub(crate) fn open(printer: &Printer, dir: &Path) -> Result<CacheList, Error> {
        let root = Root::open(dir).map_err(Error::io("open the directory", dir))?;
        let listing = root.list().map_err(Error::io("list the directory", dir))?;
        let unopened = listing.unopened.into_iter();
        let unopened: Vec<_> = unopened
            .map(|(path, error)| (path, error.to_string()))
            .collect();
        for (path, error) in &unopened {
            let path = path_text(path);
            printer.note(format_args!(
                "{path} may be a cache, but is skipped: {error}"
            ));
        }
        Ok(CacheList {
            root,
            caches: listing.caches,
            unopened,
        })
    }

    /// Like [`CacheList::open`], with a note if there are none.
    pub(crate) fn open_noting_none(printer: &Printer, dir: &Path) -> Result<CacheList, Error> {
        let list = CacheList::open(printer, dir)?;
        if list.caches.is_empty() && list.unopened.is_empty() {
            let dir = path_text(list.root.path());
            printer.note(format_args!("{dir} holds no caches"));
        }
        Ok(list)
    }

    /// Whether DIR is the directory of a cache and contains no others.
    pub(crate) fn is_one_cache(&self) -> bool {
        self.root.is_cache() && self.caches.len() == 1
    }

    /// Finds the cache that `hash` names: its whole name, or a prefix that no other has. Without `hash`,
    /// the only cache.
    pub(crate) fn find(&self, hash: Option<&OsStr>) -> Result<&Cache, Error> {
        let dir = path_text(self.root.path());
        let Some(hash) = hash else {
            return match &self.caches[..] {
                [only] => Ok(only),
                [] => Err(self.no_caches()),
                all => Err(Error::failed(format!(
                    "{dir} holds {} caches; name one of them: {}",
                    all.len(),
                    self.some_names(all.iter())
                ))),
            };
        };
        match &self.matching(hash)[..] {
            [only] => Ok(only),
            [] if self.caches.is_empty() => Err(self.no_caches()),
            [] => Err(Error::not_found(format!(
                "{dir} holds no cache whose name begins with {hash:?}; it holds {}",
                self.some_names(self.caches.iter())
            ))),
            several => Err(Error::failed(format!(
                "{hash:?} is a prefix of {} caches: {}; write more of the name, as it is printed here or by its bytes",
                several.len(),
                self.some_names(several.iter().copied())
            ))),
        }
    }

    /// The caches of this name, or else those whose names begin so. A name that is not UTF-8 may be given
    /// by its bytes, as it is printed, or as other programs print it.
    fn matching(&self, hash: &OsStr) -> Vec<&Cache> {
        let bytes_of = |cache: &Cache| match cache.path() == self.root.path() {
            true => OsString::from(cache.name()),
            false => cache.path().file_name().unwrap_or_default().to_owned(),
        };
        let lossy = |cache: &Cache| bytes_of(cache).to_string_lossy().into_owned();
        let escaped = name_text(hash);
        let steps: [&dyn Fn(&Cache) -> bool; 3] = [
            // The bytes of one name may be what another is printed as.
            &|cache| bytes_of(cache) == hash || hash == cache.name(),
            &|cache| hash == &*lossy(cache),
            &|cache| {
                let is_prefix = |prefix: &str| {
                    cache.name().starts_with(prefix) || lossy(cache).starts_with(prefix)
                };
                !hash.is_empty() && (is_prefix(&escaped) || hash.to_str().is_some_and(is_prefix))
            },
        ];
        let found = steps.into_iter().map(|is_named| {
            let caches = self.caches.iter();
            caches.filter(|cache| is_named(cache)).collect::<Vec<_>>()
        });
        let mut found = found.filter(|caches| !caches.is_empty());
        found.next().unwrap_or_default()
    }

    fn no_caches(&self) -> Error {
        let dir = path_text(self.root.path());
        Error::not_found(format!(
            "{dir} holds no caches; name the directory given to persistent_cache_dir or TORCHCACHE_DIR"
        ))
    }

    /// The first few names, for a message.
    fn some_names<'c>(&self, caches: impl Iterator<Item = &'c Cache>) -> String {
        some_names(caches.map(Cache::name), &self.short_names())
    }

    /// Formats a cache as its module and its short name.
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

    /// For each name, a prefix that no other has, ready to print.
    pub(crate) fn short_names(&self) -> HashMap<&str, String> {
        short_names(self.caches.iter().map(Cache::name))
    }
}

/// The first few of these names, for a message.
pub(crate) fn some_names<'n>(
    names: impl Iterator<Item = &'n str>,
    short: &HashMap<&str, String>,
) -> String {
    const MAX_NAMES: usize = 5;
    let names: Vec<_> = names.map(|name| short[name].clone()).collect();
    let more = names.len().saturating_sub(MAX_NAMES);
    let mut text = names[..names.len() - more].join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}

/// For each name, a prefix that no other has, ready to print.
pub(crate) fn short_names<'n>(names: impl Iterator<Item = &'n str>) -> HashMap<&'n str, String> {
    let mut names: Vec<&str> = names.collect();
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
        let unique = others.map(|other| shared(name, other) + 1).max();
        let least = if is_hash(name) {
            HASH_DIGITS
        } else {
            NAME_LETTERS
        };
        let letters = unique.unwrap_or(0).max(least);
        short.insert(*name, plain(beginning(name, letters)));
    }
    short
}

/// At least so many letters from the start of a name, in whole grapheme clusters.
fn beginning(name: &str, letters: usize) -> &str {
    let mut taken = 0;
    let mut clusters = name.grapheme_indices(true);
    let rest = clusters.find(|(_, cluster)| {
        let is_enough = taken >= letters;
        taken += cluster.chars().count();
        is_enough
    });
    rest.map_or(name, |(end, _)| &name[..end])
}

/// Whether a name is a module hash, and not one that the user chose.
fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> (tempfile::TempDir, CacheList) {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let dir = root.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("manifest.json"), "{}").unwrap();
        }
        let list = CacheList::open(&Printer::new(false), root.path()).unwrap();
        (root, list)
    }

    #[test]
    fn a_unique_prefix_names_a_cache() {
        let a = "abcdef0123".repeat(6) + "0000";
        let b = "abcdef0124".repeat(6) + "0000";
        let (_root, list) = list(&[&a, &b, "abc", "resnet18-of-last-spring"]);
        let find = |hash: &str| list.find(Some(hash.as_ref())).map(Cache::name);
        assert_eq!(find("abcdef0123").ok(), Some(&*a));
        assert_eq!(find("res").ok(), Some("resnet18-of-last-spring"));
        assert_eq!(find("abc").ok(), Some("abc"), "a whole name wins");
        assert_eq!(find("abcd").map_err(|error| error.code()), Err(2));
        assert_eq!(find("x").map_err(|error| error.code()), Err(1));
        assert_eq!(find("").map_err(|error| error.code()), Err(1));
        let short = list.short_names();
        assert_eq!(short[&*a], "abcdef0123");
        assert_eq!(short["resnet18-of-last-spring"], "resnet18-of-last");
    }
}
