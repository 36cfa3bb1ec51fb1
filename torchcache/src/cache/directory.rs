//! Where the disk tier of a cache lies.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use torchcache_store::TempCache;
use torchcache_store::fs::{FileSystem, Os};

use crate::error::Problem;
use crate::options::Options;
use crate::sync::lock;

/// Why a directory cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// It is the wrong one: whoever named it must hear of it.
    Misuse(Problem),
    /// The machine cannot serve it now: the disk is full, files or memory are short, a server does
    /// not answer.
    Fault(String),
}

impl Unusable {
    pub(crate) fn judge(directory: &Path, error: &std::io::Error) -> Self {
        let wrong = matches!(
            error.kind(),
            ErrorKind::NotFound
                | ErrorKind::PermissionDenied
                | ErrorKind::AlreadyExists
                | ErrorKind::NotADirectory
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::InvalidInput
                | ErrorKind::InvalidFilename
                | ErrorKind::Unsupported
        );
        if wrong {
            let (path, reason) = (directory.to_owned(), error.to_string());
            return Unusable::Misuse(Problem::Directory { path, reason });
        }
        Unusable::Fault(format!("{}: {error}", directory.display()))
    }
}

/// What the options, or the environment, call the directory of caches.
pub(crate) fn named(options: &Options) -> Option<PathBuf> {
    let by_environment = || std::env::var_os("TORCHCACHE_DIR").map(PathBuf::from);
    options.persistent_cache_dir.clone().or_else(by_environment)
}

/// The directory that holds one subdirectory per identity; made if it is not there.
///
/// # Errors
///
/// [`Problem::Directory`] and [`Problem::EnvironmentDirectory`] as misuse, and faults.
pub(crate) fn root(options: &Options) -> Result<PathBuf, Unusable> {
    match named(options) {
        Some(directory) if options.persistent_cache_dir.is_some() || directory.is_absolute() => {
            made(&directory)
        }
        Some(directory) => Err(Unusable::Misuse(Problem::EnvironmentDirectory {
            got: directory.to_string_lossy().into_owned(),
        })),
        None => private(),
    }
}

fn made(directory: &Path) -> Result<PathBuf, Unusable> {
    let made = match directory.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => Os
            .open_dir(directory, true)
            .and_then(|_| directory.canonicalize()),
        there => there,
    };
    made.map_err(|error| Unusable::judge(directory, &error))
}

/// The process's own temporary directory, removed at exit. A fork has one of its own.
fn private() -> Result<PathBuf, Unusable> {
    static PRIVATE: Mutex<Option<(u32, TempCache)>> = Mutex::new(None);
    let process = std::process::id();
    let mut private = lock(&PRIVATE);
    if let Some((owner, cache)) = &*private
        && *owner == process
    {
        return Ok(cache.path().to_owned());
    }
    let cache = TempCache::new().map_err(|error| Unusable::judge(&std::env::temp_dir(), &error))?;
    let path = cache.path().to_owned();
    *private = Some((process, cache));
    Ok(path)
}
