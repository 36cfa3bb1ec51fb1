//! A persistent module, for the tests of the disk tier.

use std::fs;
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};
use torchcache::{Error, TorchCache, torchcache};

use crate::support::Ran;

/// `x * 2`, with every option of the disk tier as a field.
#[torchcache(persistent = true)]
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) torchcache_enabled: bool,
    pub(crate) torchcache_persistent_cache_dir: PathBuf,
    pub(crate) torchcache_zstd_compression: bool,
    pub(crate) torchcache_use_mmap_on_load: bool,
    pub(crate) torchcache_cache_dtype: Option<Kind>,
    pub(crate) torchcache_max_persistent_cache_size: u64,
    pub(crate) torchcache_max_memory_cache_size: u64,
    #[torchcache(skip)]
    pub(crate) ran: Ran,
    pub(crate) torchcache: TorchCache,
}

#[torchcache]
impl Kept {
    pub(crate) fn forward(&self, xs: &Tensor) -> Result<Tensor, Error> {
        self.ran.note(xs);
        Ok(xs * 2.0)
    }
}

pub(crate) fn kept(directory: &Path) -> Kept {
    Kept {
        torchcache_enabled: true,
        torchcache_persistent_cache_dir: directory.to_owned(),
        torchcache_zstd_compression: false,
        torchcache_use_mmap_on_load: false,
        torchcache_cache_dtype: None,
        torchcache_max_persistent_cache_size: 1_000_000_000,
        torchcache_max_memory_cache_size: 1_000_000_000,
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    }
}

/// The segment files below a directory.
pub(crate) fn segments(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => segments(&entry.path()),
            _ => vec![entry.path()],
        })
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.ends_with(".tcs") && !name.starts_with('.')
        })
        .collect();
    found.sort();
    found
}
