//! Where the disk tier of a cache lies.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use torchcache_store::TempCache;
use torchcache_store::fs::{FileSystem, Os};

use crate::error::Problem;
use crate::options::Options;

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

/// The directory that holds one subdirectory per identity; made if it is not there.
///
/// # Errors
///
/// [`Problem::Directory`] and [`Problem::EnvironmentDirectory`] as misuse, and faults.
pub(crate) fn root(options: &Options) -> Result<PathBuf, Unusable> {
    match (
        &options.persistent_cache_dir,
        std::env::var_os("TORCHCACHE_DIR"),
    ) {
        (Some(directory), _) => made(directory),
        (None, Some(directory)) if Path::new(&directory).is_absolute() => {
            made(Path::new(&directory))
        }
        (None, Some(directory)) => Err(Unusable::Misuse(Problem::EnvironmentDirectory {
            got: directory.to_string_lossy().into_owned(),
        })),
        (None, None) => private(),
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

/// The process's own temporary directory, removed at exit.
fn private() -> Result<PathBuf, Unusable> {
    static PRIVATE: OnceLock<TempCache> = OnceLock::new();
    if let Some(cache) = PRIVATE.get() {
        return Ok(cache.path().to_owned());
    }
    let cache = TempCache::new().map_err(|error| Unusable::judge(&std::env::temp_dir(), &error))?;
    // Where another thread was faster, its directory is used and this one removed.
    Ok(PRIVATE.get_or_init(|| cache).path().to_owned())
}
