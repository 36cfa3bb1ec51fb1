//! Where the disk tier of a cache lies.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use torchcache_store::TempCache;

use crate::error::Problem;
use crate::options::Options;

/// The directory that holds one subdirectory per identity; made if it is not there.
///
/// # Errors
///
/// [`Problem::Directory`] and [`Problem::EnvironmentDirectory`].
pub(crate) fn root(options: &Options) -> Result<PathBuf, Problem> {
    match (
        &options.persistent_cache_dir,
        std::env::var_os("TORCHCACHE_DIR"),
    ) {
        (Some(directory), _) => made(directory),
        (None, Some(directory)) if Path::new(&directory).is_absolute() => {
            made(Path::new(&directory))
        }
        (None, Some(directory)) => Err(Problem::EnvironmentDirectory {
            got: directory.to_string_lossy().into_owned(),
        }),
        (None, None) => private(),
    }
}

fn made(directory: &Path) -> Result<PathBuf, Problem> {
    std::fs::create_dir_all(directory)
        .and_then(|()| directory.canonicalize())
        .map_err(|error| unusable(directory, &error))
}

/// The process's own temporary directory, removed at exit.
fn private() -> Result<PathBuf, Problem> {
    static PRIVATE: OnceLock<TempCache> = OnceLock::new();
    if let Some(cache) = PRIVATE.get() {
        return Ok(cache.path().to_owned());
    }
    let cache = TempCache::new().map_err(|error| unusable(&std::env::temp_dir(), &error))?;
    // Where another thread was faster, its directory is used and this one removed.
    Ok(PRIVATE.get_or_init(|| cache).path().to_owned())
}

fn unusable(directory: &Path, error: &std::io::Error) -> Problem {
    Problem::Directory {
        path: directory.to_owned(),
        reason: error.to_string(),
    }
}
