//! The options of a cache: their names, defaults, ranges, and the builder.
//!
//! Each option is at once an argument of the attribute, a `torchcache_<name>` field of the
//! struct, and a method here. Fields are applied by [`crate::cache::overrides`].

pub(crate) mod environment;
pub(crate) mod size;

use std::path::PathBuf;

use tch::{Device, Kind};

use crate::error::{Error, Problem};

use size::Size;

/// What a tier does when it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eviction {
    /// The least recently used rows make room for new ones; on disk, the segments that were read
    /// least recently.
    Lru,
    /// A full tier keeps its rows and admits no new ones, in memory and on disk. For epochs over
    /// more data than fits: each epoch finds the rows that the first one stored and writes nothing.
    Never,
    /// In memory, new rows are admitted where that has led to more hits of late, or where they are
    /// asked for clearly more often than those they replace. Measured to be close to the better of
    /// the other two in epochs and under skewed access: see `docs/benchmarks.md`. On disk as
    /// [`Eviction::Lru`].
    #[default]
    Auto,
}

/// The resolved options of a cache, and the builder that makes them.
///
/// ```
/// use tch::Kind;
/// use torchcache::{Eviction, Options};
///
/// let options = Options::new()
///     .max_memory_cache_size("2 GB")
///     .persistent(true)
///     .persistent_cache_dir("features")
///     .cache_dtype(Kind::Half)
///     .eviction(Eviction::Never);
/// assert_eq!(options.max_memory_cache_size, 2_000_000_000);
/// options.validate()?;
/// # Ok::<(), torchcache::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// Whether calls look at the cache at all. Default `true`.
    pub enabled: bool,
    /// Where rows are kept in memory; `None` is the output's own device. Default `Device::Cpu`.
    pub memory_cache_device: Option<Device>,
    /// Bound of the memory tier in bytes, keys and bookkeeping included. Caches of equal identity
    /// share their memory, and its bound: the latest setting holds. Default 1 GB.
    pub max_memory_cache_size: u64,
    /// What a full tier does. Default [`Eviction::Auto`].
    pub eviction: Eviction,
    /// Elements hashed per row and tensor, evenly spaced; `None` hashes every byte. Part of the
    /// identity. Rows that differ only between the samples then share a key: leave it `None`
    /// unless that cannot happen. Default `None`.
    pub subsample_count: Option<usize>,
    /// Whether rows are kept on disk as well. Default `false`.
    pub persistent: bool,
    /// The directory of the disk tier. `None` is `TORCHCACHE_DIR` where that is set, else a
    /// private temporary directory that is removed at exit. Default `None`.
    pub persistent_cache_dir: Option<PathBuf>,
    /// The identity, instead of the computed one: code and weights are then not looked at.
    /// Default `None`.
    pub persistent_module_hash: Option<String>,
    /// Bound in bytes of what the disk holds for this identity, what earlier runs left there
    /// included. Other identities have subdirectories and bounds of their own. Default 10 GB.
    pub max_persistent_cache_size: u64,
    /// Whether rows are compressed on disk. Needs `persistent`. Default `false`.
    pub zstd_compression: bool,
    /// The zstd level, -7 to 22. Default 3.
    pub zstd_compression_level: i32,
    /// Threads that compress, up to 256; 0 is one per core. Default 1.
    pub zstd_compression_threads: u32,
    /// The kind that floating-point outputs are rounded to in the cache, and so in every returned
    /// value; they are returned in the forward's own kind. Part of the identity. Default `None`:
    /// as computed.
    pub cache_dtype: Option<Kind>,
    /// Whether segment files are read through `mmap` instead of `pread`. A file that something
    /// else cuts short while it is mapped ends the process (SIGBUS): leave it off where others
    /// write to the directory, and on network file systems. Default `false`.
    pub use_mmap_on_load: bool,
    /// A salt to bump when something the identity cannot see has changed, such as a helper
    /// function. Part of the identity. Default `""`.
    pub version: String,
    /// The share of hits, from 0.0 to 1.0, that are computed anew and compared with what the cache
    /// gave. Each is drawn at random; those of a call are computed in one forward of their own. Rows
    /// that do not agree are counted in [`Stats::mismatched`](crate::Stats::mismatched) and warned
    /// of; the call gives the cached ones in any case. So it shows where a row does not depend on
    /// itself alone: a module in train mode, dropout, a mean over the batch (with a share below 1.0,
    /// so that the batch is another one), changed code outside of the module. Default 0.0: off.
    ///
    /// Agreed is what differs by 1e-5 and, of the largest value of the row, 2.6e-4 for `Float`, 2e-2
    /// for `Half` and 3.2e-2 for `BFloat16`; for `Double` by 1e-7 and 1e-7 of it; for integers and
    /// `Bool` not at all. Complex kinds go by their parts, rounded rows by the coarser kind.
    ///
    /// ```
    /// use tch::{Device, Kind, Tensor, nn};
    /// use torchcache::{Cached, Options};
    ///
    /// let noisy = nn::func(|xs| xs.dropout(0.1, true));
    /// let noisy = Cached::new(noisy, (), Options::new().verify(1.0))?;
    /// let xs = Tensor::rand([8, 100], (Kind::Float, Device::Cpu));
    /// noisy.forward(&xs);
    /// noisy.forward(&xs);
    /// let stats = noisy.cache().stats();
    /// assert_eq!((stats.verified, stats.mismatched), (8, 8));
    /// # Ok::<(), torchcache::Error>(())
    /// ```
    pub verify: f64,
    /// Values that could not be read, kept for `validate`.
    invalid: Vec<(&'static str, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            enabled: true,
            memory_cache_device: Some(Device::Cpu),
            max_memory_cache_size: 1_000_000_000,
            eviction: Eviction::default(),
            subsample_count: None,
            persistent: false,
            persistent_cache_dir: None,
            persistent_module_hash: None,
            max_persistent_cache_size: 10_000_000_000,
            zstd_compression: false,
            zstd_compression_level: 3,
            zstd_compression_threads: 1,
            cache_dtype: None,
            use_mmap_on_load: false,
            version: String::new(),
            verify: 0.0,
            invalid: Vec::new(),
        }
    }
}

/// A builder method per option: its name, the type it takes, and what is stored.
macro_rules! builder {
    ($($name:ident($value:ident: $type:ty) = $store:expr;)*) => {
        impl Options {$(
            #[doc = concat!("Sets [`", stringify!($name), "`](Self#structfield.", stringify!($name), ").")]
            #[must_use]
            pub fn $name(mut self, $value: $type) -> Self {
                self.$name = $store;
                self
            }
        )*}
    };
}

builder! {
    enabled(value: bool) = value;
    memory_cache_device(value: impl Into<Option<Device>>) = value.into();
    subsample_count(value: impl Into<Option<usize>>) = value.into();
    persistent(value: bool) = value;
    zstd_compression(value: bool) = value;
    zstd_compression_level(value: i32) = value;
    zstd_compression_threads(value: u32) = value;
    cache_dtype(value: impl Into<Option<Kind>>) = value.into();
    use_mmap_on_load(value: bool) = value;
    version(value: impl Into<String>) = value.into();
    verify(value: f64) = value;
    eviction(value: Eviction) = value;
    persistent_cache_dir(value: impl Into<PathBuf>) = Some(value.into());
    persistent_module_hash(value: impl Into<String>) = Some(value.into());
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`max_memory_cache_size`](Self#structfield.max_memory_cache_size): a number of bytes,
    /// or text such as `"2 GB"`.
    #[must_use]
    pub fn max_memory_cache_size(mut self, size: impl Into<Size>) -> Self {
        match size.into().0 {
            Ok(bytes) => self.max_memory_cache_size = bytes,
            Err(text) => self.invalid.push(("max_memory_cache_size", text)),
        }
        self
    }

    /// Sets [`max_persistent_cache_size`](Self#structfield.max_persistent_cache_size): a number
    /// of bytes, or text such as `"50 GB"`.
    #[must_use]
    pub fn max_persistent_cache_size(mut self, size: impl Into<Size>) -> Self {
        match size.into().0 {
            Ok(bytes) => self.max_persistent_cache_size = bytes,
            Err(text) => self.invalid.push(("max_persistent_cache_size", text)),
        }
        self
    }

    /// Checks every range, and that the options fit each other.
    ///
    /// # Errors
    ///
    /// [`Problem::Option`] for the first option that does not hold, with its value and range.
    pub fn validate(&self) -> Result<(), Error> {
        Ok(self.check()?)
    }

    pub(crate) fn check(&self) -> Result<(), Problem> {
        let wrong = |name, got: String, expected: &str| {
            Err(Problem::Option {
                name,
                got,
                expected: expected.to_owned(),
            })
        };
        if let Some((name, got)) = self.invalid.first() {
            return wrong(name, got.clone(), size::EXPECTED);
        }
        if self.subsample_count == Some(0) {
            return wrong(
                "subsample_count",
                "0".into(),
                "at least 1, or `None` to hash every byte",
            );
        }
        if self.persistent && self.max_persistent_cache_size == 0 {
            return wrong(
                "max_persistent_cache_size",
                "0".into(),
                "a size above 0, or `persistent = false`",
            );
        }
        if self.zstd_compression && !self.persistent {
            return wrong(
                "zstd_compression",
                "true with `persistent = false`".into(),
                "`persistent = true` beside it: only rows on disk are compressed",
            );
        }
        if !(-7..=22).contains(&self.zstd_compression_level) {
            return wrong(
                "zstd_compression_level",
                self.zstd_compression_level.to_string(),
                "-7 to 22",
            );
        }
        if self.zstd_compression_threads > 256 {
            return wrong(
                "zstd_compression_threads",
                self.zstd_compression_threads.to_string(),
                "0 (one per core) to 256",
            );
        }
        if let Some(kind) = self.cache_dtype
            && !is_cache_dtype(kind)
        {
            return wrong(
                "cache_dtype",
                format!("{kind:?}"),
                "Half, BFloat16, Float or Double: the kinds that floating-point outputs can be rounded to",
            );
        }
        if let Some(hash) = &self.persistent_module_hash
            && !is_directory_name(hash)
        {
            return wrong(
                "persistent_module_hash",
                format!("{hash:?}"),
                "1 to 128 letters, digits, '-', '_' or '.', not beginning with '.': it names a directory",
            );
        }
        if let Some(directory) = &self.persistent_cache_dir
            && (directory.as_os_str().is_empty()
                || directory.as_os_str().as_encoded_bytes().contains(&0))
        {
            return wrong(
                "persistent_cache_dir",
                format!("{directory:?}"),
                "a path that is not empty, without NUL",
            );
        }
        if !(0.0..=1.0).contains(&self.verify) {
            return wrong(
                "verify",
                format!("{:?}", self.verify),
                "a share of the hits from 0.0 (off) to 1.0 (all)",
            );
        }
        Ok(())
    }
}

fn is_cache_dtype(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double
    )
}

fn is_directory_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold() {
        Options::new().validate().unwrap();
    }

    #[test]
    fn sizes_take_numbers_and_text() {
        let options = Options::new()
            .max_memory_cache_size(5e9)
            .max_persistent_cache_size(7_000);
        assert_eq!(options.max_memory_cache_size, 5_000_000_000);
        assert_eq!(options.max_persistent_cache_size, 7_000);
    }

    #[test]
    fn each_option_out_of_range_is_named() {
        let persistent = || Options::new().persistent(true);
        let long = "x".repeat(300);
        for (name, options) in [
            (
                "max_memory_cache_size",
                Options::new().max_memory_cache_size("much"),
            ),
            (
                "max_persistent_cache_size",
                Options::new().max_persistent_cache_size(-1.0),
            ),
            (
                "max_persistent_cache_size",
                persistent().max_persistent_cache_size(0),
            ),
            ("subsample_count", Options::new().subsample_count(0)),
            ("zstd_compression", Options::new().zstd_compression(true)),
            (
                "zstd_compression_level",
                persistent().zstd_compression_level(23),
            ),
            (
                "zstd_compression_threads",
                persistent().zstd_compression_threads(257),
            ),
            ("cache_dtype", Options::new().cache_dtype(Kind::Int64)),
            (
                "persistent_module_hash",
                Options::new().persistent_module_hash(""),
            ),
            (
                "persistent_module_hash",
                Options::new().persistent_module_hash("a/b"),
            ),
            (
                "persistent_module_hash",
                Options::new().persistent_module_hash(".."),
            ),
            (
                "persistent_module_hash",
                Options::new().persistent_module_hash("a\0b"),
            ),
            (
                "persistent_module_hash",
                Options::new().persistent_module_hash(long.as_str()),
            ),
            (
                "persistent_cache_dir",
                Options::new().persistent_cache_dir(""),
            ),
            ("verify", Options::new().verify(-0.01)),
            ("verify", Options::new().verify(1.01)),
            ("verify", Options::new().verify(f64::NAN)),
        ] {
            let error = options.validate().expect_err(name);
            assert!(
                error
                    .to_string()
                    .contains(&format!("option `{name}`: got ")),
                "{error}"
            );
        }
    }
}
