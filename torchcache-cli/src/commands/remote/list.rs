//! The caches that a URL names, and the one that HASH names among them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Display;

use serde_json::{Value, json};
use torchcache_store::manifest::Manifest;
use torchcache_store::remote::{ObjectError, ObjectErrorKind};
use torchcache_store::remote_admin::{RemoteCache, RemoteRoot};

use crate::error::Error;
use crate::output::{BAD, Printer};
use crate::select::{short_names, some_names};
use crate::text::{counted, plain};

/// The caches of a URL.
#[derive(Debug)]
pub(crate) struct RemoteList {
    pub(crate) url: String,
    pub(crate) root: RemoteRoot,
    pub(crate) caches: Vec<RemoteCache>,
    /// The keys of objects of other programs.
    pub(crate) foreign: Vec<String>,
}

/// What a URL names. Makes no request.
#[cfg(feature = "remote")]
pub(crate) fn root(url: &str) -> Result<RemoteRoot, Error> {
    use std::sync::Arc;
    use torchcache_store::remote::SystemClock;
    let location = torchcache_remote::open(url).map_err(Error::failed)?;
    Ok(RemoteRoot::new(
        location.store,
        Arc::new(SystemClock),
        &location.prefix,
    ))
}

/// What a URL names.
#[cfg(not(feature = "remote"))]
pub(crate) fn root(_: &str) -> Result<RemoteRoot, Error> {
    Err(Error::failed(
        "a URL needs the feature `remote` of torchcache-cli, which is off; turn it on",
    ))
}

/// Adds the action and the URL to an error of an object store, and what to do.
pub(crate) fn failed(action: impl Display, url: &str) -> impl Fn(ObjectError) -> Error {
    move |error| {
        let hint = match error.kind {
            ObjectErrorKind::NotFound => "; check the name of the bucket, and the endpoint",
            ObjectErrorKind::Denied => {
                "; check the credentials, and what they allow: the variables are those of the cloud's own tools"
            }
            ObjectErrorKind::TimedOut | ObjectErrorKind::Slow => {
                "; check the network and the endpoint, such as AWS_ENDPOINT_URL"
            }
            ObjectErrorKind::Throttled => "; try again later",
            _ => "",
        };
        Error::failed(format_args!("cannot {action} {url}: {error}{hint}"))
    }
}

impl RemoteList {
    /// Lists the caches of a URL, with a note if objects belong to other programs.
    pub(crate) fn open(printer: &Printer, url: &str) -> Result<RemoteList, Error> {
        let root = root(url)?;
        let listing = root.list().map_err(failed("list", url))?;
        let of_caches = listing.caches.iter().flat_map(RemoteCache::foreign);
        let foreign: Vec<String> = of_caches.chain(&listing.foreign).cloned().collect();
        if let [first, ..] = &foreign[..] {
            printer.note(format_args!(
                "objects of other programs are left alone: {first}{}",
                match foreign.len() {
                    1 => String::new(),
                    all => format!(" and {} more", all - 1),
                }
            ));
        }
        Ok(RemoteList {
            url: url.to_owned(),
            root,
            caches: listing.caches,
            foreign,
        })
    }

    /// Like [`RemoteList::open`], with a note if there are none.
    pub(crate) fn open_noting_none(printer: &Printer, url: &str) -> Result<RemoteList, Error> {
        let list = RemoteList::open(printer, url)?;
        if list.caches.is_empty() {
            printer.note(format_args!("{url} holds no caches"));
        }
        Ok(list)
    }

    /// The caches that `hash` names: one by its name or a prefix that no other has; without it, all of them.
    pub(crate) fn named(&self, hash: Option<&OsStr>) -> Result<Vec<&RemoteCache>, Error> {
        match hash {
            Some(_) => Ok(vec![self.find(hash)?]),
            None => Ok(self.caches.iter().collect()),
        }
    }

    /// Finds the cache that `hash` names. Without it, the only cache.
    pub(crate) fn find(&self, hash: Option<&OsStr>) -> Result<&RemoteCache, Error> {
        let url = &self.url;
        if self.caches.is_empty() {
            return Err(Error::not_found(format_args!(
                "{url} holds no caches; name what was given to the option `remote`"
            )));
        }
        let hash = match (hash, &self.caches[..]) {
            (None, [only]) => return Ok(only),
            (None, all) => {
                return Err(Error::failed(format_args!(
                    "{url} holds {} caches; name one of them: {}",
                    all.len(),
                    some_names(all.iter().map(RemoteCache::name), &self.short_names())
                )));
            }
            (Some(hash), _) => hash.to_string_lossy(),
        };
        if let Some(exact) = self.caches.iter().find(|cache| cache.name() == hash) {
            return Ok(exact);
        }
        let is_named = |cache: &&RemoteCache| !hash.is_empty() && cache.name().starts_with(&*hash);
        let matching: Vec<&RemoteCache> = self.caches.iter().filter(is_named).collect();
        match &matching[..] {
            [only] => Ok(only),
            [] => Err(Error::not_found(format_args!(
                "{url} holds no cache whose name begins with {hash:?}; it holds {}",
                some_names(
                    self.caches.iter().map(RemoteCache::name),
                    &self.short_names()
                )
            ))),
            several => Err(Error::failed(format_args!(
                "{hash:?} is a prefix of {} caches: {}; write more of the name",
                several.len(),
                some_names(several.iter().map(|it| it.name()), &self.short_names())
            ))),
        }
    }

    /// For each name, a prefix that no other has, ready to print.
    pub(crate) fn short_names(&self) -> HashMap<&str, String> {
        short_names(self.caches.iter().map(RemoteCache::name))
    }

    /// Formats caches as their modules and short names. Reads the manifests.
    pub(crate) fn titles(&self) -> Vec<String> {
        let short = self.short_names();
        let manifests = self.root.manifests(&self.caches);
        let titles = self.caches.iter().zip(manifests).map(|(cache, manifest)| {
            let short = &short[cache.name()];
            match manifest {
                Ok(Manifest { module, .. }) => format!("{} {short}", plain(module)),
                Err(_) => short.clone(),
            }
        });
        titles.collect()
    }
}

/// Lines about objects for which something failed: a few of them, since all may have failed for one reason, and how many there
/// are.
pub(crate) fn failures(what: &str, all: &[(String, impl Display)]) -> String {
    const MAX_LINES: usize = 5;
    let lines = all.iter().take(MAX_LINES);
    let lines =
        lines.map(|(key, error)| format!("{BAD}{what}{BAD:#}: {}: {}\n", plain(key), plain(error)));
    let mut text: String = lines.collect();
    if !all.is_empty() {
        text += &format!("{what}: {} in all\n", counted(all.len() as u64, "object"));
    }
    text
}

/// Objects that could not be removed, with the error.
pub(crate) fn failed_json(all: &[(String, ObjectError)]) -> Value {
    let all = all.iter();
    all.map(|(key, error)| json!({ "path": key, "error": error.to_string() }))
        .collect()
}

/// Objects that were skipped, with the reason, and those of other programs.
pub(crate) fn skipped_json<'k>(
    all: impl IntoIterator<Item = &'k (String, String)>,
    foreign: &[String],
) -> Value {
    let skipped = all.into_iter();
    let skipped = skipped.map(|(key, reason)| json!({ "path": key, "reason": reason }));
    let foreign = foreign.iter();
    let foreign =
        foreign.map(|key| json!({ "path": key, "reason": "it belongs to another program" }));
    skipped.chain(foreign).collect()
}
