//! The directory of a cache's disk tier, and which errors about it are misuse.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use torchcache_store::TempCache;
use torchcache_store::fs::{FileSystem, Os};

use crate::error::Detail;
use crate::options::{Options, environment};
use crate::sync::lock;

/// Why a directory cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// It is the wrong one, which is reported to the caller as an error.
    Misuse(Detail),
    /// The machine cannot serve it now: the disk is full, file descriptors or memory ran out, a
    /// server does not answer.
    Fault(Detail),
}

impl Unusable {
    pub(crate) fn classify(directory: &Path, source: std::io::Error) -> Self {
        let wrong = matches!(
            source.kind(),
            ErrorKind::NotFound
                | ErrorKind::PermissionDenied
                | ErrorKind::AlreadyExists
                | ErrorKind::NotADirectory
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::InvalidInput
                | ErrorKind::InvalidFilename
                | ErrorKind::Unsupported
        );
        let detail = Detail::directory(directory, source);
        if wrong {
            Unusable::Misuse(detail)
        } else {
            Unusable::Fault(detail)
        }
    }

    /// As [`classify`](Self::classify), for the directory of a module hash below a root that exists. A root
    /// that this process may only read has rows of other module hashes.
    pub(crate) fn classify_below(root: &Path, directory: &Path, source: std::io::Error) -> Self {
        let is_denied = matches!(
            source.kind(),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
        );
        // Permissions that torchcache rejects are no error of the system.
        let is_by_system = source.raw_os_error().is_some();
        let is_readable = |path: &Path| std::fs::read_dir(path).is_ok();
        if is_denied
            && is_by_system
            && is_readable(root)
            && (!directory.exists() || is_readable(directory))
        {
            return Unusable::Fault(Detail::directory(directory, source));
        }
        Unusable::classify(directory, source)
    }
}

/// The directory that the options, or else the environment, name.
pub(crate) fn configured(options: &Options) -> Option<PathBuf> {
    let directory = options.persistent_cache_dir().map(Path::to_owned);
    directory.or_else(environment::cache_dir)
}

/// The directory that holds one subdirectory per module hash; created if missing. `configured`: the one
/// that [`configured`] returned.
///
/// # Errors
///
/// [`Detail::Directory`] and [`Detail::EnvironmentDirectory`] as misuse, and faults.
pub(crate) fn root(options: &Options, configured: Option<&Path>) -> Result<PathBuf, Unusable> {
    match configured {
        Some(directory) if options.persistent_cache_dir().is_some() || directory.is_absolute() => {
            create(directory)
        }
        Some(directory) => Err(Unusable::Misuse(Detail::EnvironmentDirectory {
            got: directory.to_string_lossy().into_owned(),
        })),
        None => temporary(),
    }
}

fn create(directory: &Path) -> Result<PathBuf, Unusable> {
    let path = match directory.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => Os
            .open_dir(directory, true)
            .and_then(|_| directory.canonicalize()),
        result => result,
    };
    path.map_err(|error| Unusable::classify(directory, error))
}

/// The temporary directory of this process, which the store removes at exit. The program did not name
/// it, so that it is no misuse if there is none.
fn temporary() -> Result<PathBuf, Unusable> {
    static TEMPORARY: Mutex<Option<TempCache>> = Mutex::new(None);
    let mut temporary = lock(&TEMPORARY);
    let cache = match temporary.take() {
        Some(cache) => cache,
        None => TempCache::new()
            .map_err(|error| Unusable::Fault(Detail::directory(&std::env::temp_dir(), error)))?,
    };
    Ok(temporary.insert(cache).path().to_owned())
}
