//! The options of a cache, and the builder that checks them. Each option is an argument of the
//! attribute, a `torchcache_<name>` field, a getter and a builder method, all made from
//! [`table`].

pub(crate) mod environment;
pub(crate) mod size;
pub(crate) mod table;

use std::path::{Path, PathBuf};

use tch::{Device, Kind};
pub use torchcache_store::remote::RemoteMode;

use crate::error::{Detail, Error};

use size::Size;
use table::{for_each_option, option_kind};

/// What a full tier does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Eviction {
    /// Removes the least recently used rows; on disk, the least recently read segments.
    Lru,
    /// Keeps its rows and admits no new ones, in memory and on disk. For epochs over more data than
    /// fits: each epoch finds the rows that the first one stored and writes nothing.
    Never,
    /// In memory, admits new rows where that has recently led to more hits, or where they are
    /// requested clearly more often than the rows that they replace. This is close to the better of
    /// the other two in epochs and under skewed access: see `docs/benchmarks.md`. On disk, the same
    /// as [`Eviction::Lru`].
    #[default]
    Auto,
}

/// Implemented by every type, if the feature `remote` is on: the option [`remote`](Options::remote) needs it.
#[diagnostic::on_unimplemented(
    message = "the option `remote` needs the feature `remote` of the crate `torchcache`",
    label = "the feature `remote` is off",
    note = "switch it on in Cargo.toml: add `features = [\"remote\"]` to the dependency, or remove the option"
)]
pub trait RemoteFeature {}

#[cfg(feature = "remote")]
impl<T: ?Sized> RemoteFeature for T {}

macro_rules! define_options {
    ($(
        #[doc = $summary:literal]
        $(#[doc = $more:literal])*
        $name:ident: $kind:tt = $default:expr, $shown:literal;
    )*) => {
        /// The options of a cache, made by [`Options::builder`].
        ///
        /// Each option is an argument of the attribute (`#[torchcache(persistent = true)]`), a field
        /// `torchcache_<option>` of an annotated struct, which takes precedence, and a method of
        /// [`OptionsBuilder`]. Sizes are bytes, or text such as `"2 GB"`; in the attribute, `eviction`
        /// is `"lru"`, `"never"` or `"auto"`, and `remote_mode` is `"read-write"`, `"read-only"` or `"write-only"`.
        ///
        /// | option | default | meaning |
        /// | --- | --- | --- |
        $(#[doc = concat!(
            "| [`", stringify!($name), "`](Self::", stringify!($name), ") | `",
            $shown, "` |", $summary, " |"
        )])*
        ///
        /// ```
        /// use tch::Kind;
        /// use torchcache::{Eviction, Options};
        ///
        /// let options = Options::builder()
        ///     .max_memory_cache_size("2 GB")
        ///     .persistent(true)
        ///     .persistent_cache_dir("features")
        ///     .cache_dtype(Kind::Half)
        ///     .eviction(Eviction::Never)
        ///     .build()?;
        /// assert_eq!(options.max_memory_cache_size(), 2_000_000_000);
        /// # Ok::<(), torchcache::Error>(())
        /// ```
        #[derive(Debug, Clone, PartialEq)]
        pub struct Options {
            $($name: option_kind!(stored $kind),)*
        }

        impl Default for Options {
            fn default() -> Self {
                Options {
                    $($name: option_kind!(default $kind $default),)*
                }
            }
        }

        impl Options {$(
            #[doc = $summary]
            $(#[doc = $more])*
            #[doc = ""]
            #[doc = concat!("Default: `", $shown, "`.")]
            pub fn $name(&self) -> option_kind!(returned $kind) {
                option_kind!(read $kind self.$name)
            }
        )*}

        impl OptionsBuilder {$(
            #[doc = concat!(
                "Sets [`", stringify!($name), "`](Options::", stringify!($name), "):", $summary
            )]
            pub fn $name(mut self, value: option_kind!(taken $kind)) -> Self {
                option_kind!(set $kind self $name value);
                self
            }
        )*}
    };
}

for_each_option!(define_options);

/// A size that has another meaning where it was set than as a default.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bound {
    bytes: u64,
    is_set: bool,
}

/// Makes [`Options`]: one method for each option.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct OptionsBuilder {
    options: Options,
    /// The first size that could not be parsed, with its option: `build` reports it.
    invalid_size: Option<(&'static str, String)>,
}

impl Options {
    /// A builder with the defaults.
    pub fn builder() -> OptionsBuilder {
        OptionsBuilder::default()
    }

    /// A builder with these options.
    pub fn to_builder(&self) -> OptionsBuilder {
        OptionsBuilder {
            options: self.clone(),
            invalid_size: None,
        }
    }

    /// The bound of the directory of the disk tier, if one was set.
    pub(crate) fn directory_bound(&self) -> Option<u64> {
        let Bound { bytes, is_set } = self.max_persistent_cache_size;
        is_set.then_some(bytes)
    }

    /// The options of a cache that `TORCHCACHE_DISABLE` switches off.
    pub(crate) fn disabled(mut self) -> Self {
        self.enabled = false;
        self
    }
}

impl OptionsBuilder {
    /// The options, if each is in range and they fit each other.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) with the first option that does
    /// not hold, its value, and what is expected.
    pub fn build(self) -> Result<Options, Error> {
        Ok(self.checked()?)
    }

    pub(crate) fn checked(self) -> Result<Options, Detail> {
        if let Some((name, got)) = self.invalid_size {
            return refuse(name, got, size::EXPECTED);
        }
        self.options.check()?;
        Ok(self.options)
    }

    /// The options as they are, in range or not.
    pub(crate) fn unchecked(&self) -> &Options {
        &self.options
    }

    /// The option `remote` of a field, for which the feature was checked.
    pub(crate) fn checked_remote(mut self, url: String) -> Self {
        self.options.remote = Some(url);
        self
    }

    fn refuse_size(&mut self, name: &'static str, text: String) {
        self.invalid_size.get_or_insert((name, text));
    }
}

impl Options {
    fn check(&self) -> Result<(), Detail> {
        if self.subsample_count == Some(0) {
            return refuse(
                "subsample_count",
                0,
                "at least 1, or `None` to hash every byte",
            );
        }
        if self.persistent && self.max_persistent_cache_size.bytes == 0 {
            return refuse(
                "max_persistent_cache_size",
                0,
                "a size above 0, or `persistent = false`",
            );
        }
        if self.zstd_compression && !self.persistent {
            return refuse(
                "zstd_compression",
                "true with `persistent = false`",
                "`persistent = true`, since only rows on disk are compressed",
            );
        }
        if self.remote.is_some() && !self.persistent {
            return refuse(
                "remote",
                "a URL with `persistent = false`",
                "`persistent = true`, since rows get to the remote by the disk",
            );
        }
        if !(-7..=22).contains(&self.zstd_compression_level) {
            return refuse(
                "zstd_compression_level",
                self.zstd_compression_level,
                "-7 to 22",
            );
        }
        if self.zstd_compression_threads > 256 {
            return refuse(
                "zstd_compression_threads",
                self.zstd_compression_threads,
                "0 (one per core) to 256",
            );
        }
        if let Some(kind) = self.cache_dtype
            && !is_cache_dtype(kind)
        {
            return refuse(
                "cache_dtype",
                format!("{kind:?}"),
                "Half, BFloat16, Float, Double, Float8e4m3fn, Float8e5m2 or QInt8, to which floating-point \
                 outputs are rounded",
            );
        }
        if let Some(hash) = &self.persistent_module_hash
            && !is_directory_name(hash)
        {
            return refuse(
                "persistent_module_hash",
                format!("{hash:?}"),
                "1 to 128 letters, digits, '-', '_' or '.', not starting with '.', since it names a \
                 directory",
            );
        }
        if let Some(directory) = &self.persistent_cache_dir
            && (directory.as_os_str().is_empty()
                || directory.as_os_str().as_encoded_bytes().contains(&0))
        {
            return refuse(
                "persistent_cache_dir",
                format!("{directory:?}"),
                "a path that is not empty and has no NUL",
            );
        }
        if let Some(directory) = &self.persistent_cache_dir
            && matches!(directory.as_os_str().as_encoded_bytes(), [b'~' | b'$', ..])
        {
            return refuse(
                "persistent_cache_dir",
                format!("{directory:?}"),
                "a path that does not start with `~` or `$`, which only a shell expands: write the \
                 home directory out, or put `./` in front of a name that starts so",
            );
        }
        if !(0.0..=1.0).contains(&self.verify) {
            return refuse(
                "verify",
                format!("{:?}", self.verify),
                "a share of the hits from 0.0 (off) to 1.0 (all)",
            );
        }
        for (name, seconds) in [
            ("single_flight_timeout", self.single_flight_timeout),
            ("remote_timeout", self.remote_timeout),
        ] {
            if !(0.0..=86_400.0).contains(&seconds) {
                return refuse(
                    name,
                    format!("{seconds:?}"),
                    "seconds from 0.0 (off) to 86400.0 (a day)",
                );
            }
        }
        Ok(())
    }
}

impl Options {
    /// Options that are set and do nothing, since another one is not: their names, and what they need.
    pub(crate) fn without_effect(&self) -> Option<(Vec<&'static str>, &'static str)> {
        let default = Options::default();
        let compression = [
            (
                "zstd_compression_level",
                self.zstd_compression_level != default.zstd_compression_level,
            ),
            (
                "zstd_compression_threads",
                self.zstd_compression_threads != default.zstd_compression_threads,
            ),
        ];
        let disk = [
            ("persistent_cache_dir", self.persistent_cache_dir.is_some()),
            (
                "max_persistent_cache_size",
                self.max_persistent_cache_size != default.max_persistent_cache_size,
            ),
            ("use_mmap_on_load", self.use_mmap_on_load),
        ];
        let (idle, needed) = match (self.persistent, self.zstd_compression) {
            (false, _) => ([&disk[..], &compression].concat(), "persistent = true"),
            (true, false) => (compression.to_vec(), "zstd_compression = true"),
            (true, true) => return None,
        };
        let names: Vec<_> = idle
            .into_iter()
            .filter_map(|(name, is_set)| is_set.then_some(name))
            .collect();
        (!names.is_empty()).then_some((names, needed))
    }
}

fn refuse<T>(name: &'static str, got: impl ToString, expected: &str) -> Result<T, Detail> {
    Err(Detail::Option {
        name,
        got: got.to_string(),
        expected: expected.to_owned(),
    })
}

fn is_cache_dtype(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Half
            | Kind::BFloat16
            | Kind::Float
            | Kind::Double
            | Kind::Float8e4m3fn
            | Kind::Float8e5m2
            | Kind::QInt8
    )
}

/// Whether `name` can name a subdirectory on every file system.
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
    fn the_defaults_are_valid() {
        assert_eq!(Options::builder().build().unwrap(), Options::default());
    }

    #[test]
    fn documented_defaults_are_the_defaults() {
        macro_rules! compare {
            ($($(#[$doc:meta])* $name:ident: $kind:tt = $default:expr, $shown:literal;)*) => {$(
                let shown = match &*format!("{:?}", Options::default().$name()) {
                    "Some(Cpu)" => "Device::Cpu".to_owned(),
                    "Auto" => "\"auto\"".to_owned(),
                    "ReadWrite" => "\"read-write\"".to_owned(),
                    bytes if bytes.ends_with("000000000") => {
                        format!("{} GB", bytes.trim_end_matches("000000000"))
                    }
                    other => other.to_owned(),
                };
                assert_eq!(shown, $shown, stringify!($name));
            )*};
        }
        for_each_option!(compare);
    }

    #[test]
    fn sizes_take_numbers_and_text() {
        let options = Options::builder()
            .max_memory_cache_size(5e9)
            .max_persistent_cache_size(7_000);
        let options = options.build().unwrap();
        assert_eq!(options.max_memory_cache_size(), 5_000_000_000);
        assert_eq!(options.max_persistent_cache_size(), 7_000);
    }

    #[test]
    fn to_builder_changes_one_option_and_keeps_the_others() {
        let options = Options::builder().version("1").verify(0.5).build().unwrap();
        let changed = options.to_builder().version("2").build().unwrap();
        assert_eq!((changed.version(), changed.verify()), ("2", 0.5));
    }

    #[test]
    fn options_of_a_tier_that_is_not_there_have_no_effect() {
        let builder = Options::builder;
        let persistent = || builder().persistent(true);
        for (options, expected) in [
            (builder(), None),
            (persistent().persistent_cache_dir("features"), None),
            (
                builder().persistent_cache_dir("features"),
                Some((vec!["persistent_cache_dir"], "persistent = true")),
            ),
            (
                builder()
                    .max_persistent_cache_size("5 GB")
                    .use_mmap_on_load(true),
                Some((
                    vec!["max_persistent_cache_size", "use_mmap_on_load"],
                    "persistent = true",
                )),
            ),
            (
                builder().zstd_compression_level(7),
                Some((vec!["zstd_compression_level"], "persistent = true")),
            ),
            (
                persistent().zstd_compression_threads(2),
                Some((vec!["zstd_compression_threads"], "zstd_compression = true")),
            ),
            (
                persistent()
                    .zstd_compression(true)
                    .zstd_compression_level(7),
                None,
            ),
        ] {
            let options = options.build().unwrap();
            assert_eq!(options.without_effect(), expected, "{options:?}");
        }
    }

    #[test]
    fn build_names_the_option_that_is_out_of_range() {
        let builder = Options::builder;
        let persistent = || Options::builder().persistent(true);
        let long = "x".repeat(300);
        for (name, options) in [
            (
                "max_memory_cache_size",
                builder().max_memory_cache_size("much"),
            ),
            (
                "max_persistent_cache_size",
                builder().max_persistent_cache_size(-1.0),
            ),
            (
                "max_persistent_cache_size",
                persistent().max_persistent_cache_size(0),
            ),
            ("subsample_count", builder().subsample_count(0)),
            ("zstd_compression", builder().zstd_compression(true)),
            (
                "zstd_compression_level",
                persistent().zstd_compression_level(23),
            ),
            (
                "zstd_compression_threads",
                persistent().zstd_compression_threads(257),
            ),
            ("cache_dtype", builder().cache_dtype(Kind::Int64)),
            ("cache_dtype", builder().cache_dtype(Kind::QUInt8)),
            ("cache_dtype", builder().cache_dtype(Kind::Float8e5m2fnuz)),
            (
                "persistent_module_hash",
                builder().persistent_module_hash(""),
            ),
            (
                "persistent_module_hash",
                builder().persistent_module_hash("a/b"),
            ),
            (
                "persistent_module_hash",
                builder().persistent_module_hash(".."),
            ),
            (
                "persistent_module_hash",
                builder().persistent_module_hash("a\0b"),
            ),
            (
                "persistent_module_hash",
                builder().persistent_module_hash(long.as_str()),
            ),
            ("persistent_cache_dir", builder().persistent_cache_dir("")),
            ("persistent_cache_dir", builder().persistent_cache_dir("~")),
            (
                "persistent_cache_dir",
                builder().persistent_cache_dir("~/features"),
            ),
            (
                "persistent_cache_dir",
                builder().persistent_cache_dir("~someone/features"),
            ),
            (
                "persistent_cache_dir",
                builder().persistent_cache_dir("$HOME/features"),
            ),
            ("verify", builder().verify(-0.01)),
            ("verify", builder().verify(1.01)),
            ("verify", builder().verify(f64::NAN)),
            (
                "single_flight_timeout",
                builder().single_flight_timeout(-1.0),
            ),
            (
                "single_flight_timeout",
                builder().single_flight_timeout(f64::INFINITY),
            ),
            (
                "single_flight_timeout",
                builder().single_flight_timeout(f64::NAN),
            ),
            ("remote_timeout", builder().remote_timeout(-1.0)),
            ("remote_timeout", builder().remote_timeout(f64::NAN)),
            #[cfg(feature = "remote")]
            ("remote", builder().remote("s3://bucket")),
        ] {
            let error = options.build().expect_err(name);
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("option `{name}`: got ")),
                "{error}"
            );
        }
    }
}
