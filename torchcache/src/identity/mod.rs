//! The identity of a module, which decides which rows are valid for it, and how changes are noticed.
//!
//! `fingerprint` is the trait and the walk, `std_types`, `cells`, `tch_types` and `torchscript` its
//! implementations, `types` tells types apart, `named` is for code without a name, `code` and `program` for
//! unknown code, `watch` is the cheap comparison on each call, `sample` what it reads of large weights and `device` how
//! it reads those on a device, `changes` what was reported, `parts` what was hashed, `bounded` joins those of large collections,
//! `manifest` the readable record on disk.

mod bounded;
mod cells;
mod changes;
mod code;
mod device;
mod fingerprint;
pub(crate) mod manifest;
mod named;
mod parts;
pub(crate) mod program;
mod sample;
mod std_types;
pub(crate) mod tch_types;
pub(crate) mod torchscript;
mod types;
mod watch;

pub(crate) use changes::Changes;
pub use code::{ModuleProbe, NoModule, hashed_modules, unknown_code};
pub(crate) use fingerprint::Survey;
pub use fingerprint::{Fingerprint, Fingerprinter};
pub use named::Named;
pub(crate) use parts::{Claim, Collector, IdentityPart};
pub(crate) use types::CLOSURE;
pub use types::type_of;
pub(crate) use watch::{Seen, Snapshot, Watcher, is_worth_a_copy};

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tch::Kind;

use crate::options::Options;
use crate::sync::Progress;

/// How long a call waits for a lock of the program that it needs to read a module.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Bumped whenever the same module would get another hash. Older directories are then ignored.
const FORMAT: u32 = 4;

/// A computed identity: the hash, and the parts that explain it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// 64 hexadecimal digits, or the name given by `persistent_module_hash`.
    pub(crate) hash: String,
    /// Those of large collections are joined.
    pub(crate) parts: Vec<IdentityPart>,
    /// Whether it contains a TorchScript module in train mode.
    pub(crate) in_train_mode: bool,
    /// Whether the weights of a module in it are not watched, since no `VarStore` with them is in it.
    pub(crate) lacks_variables: bool,
    /// The types whose code is unknown.
    pub(crate) unknown_code: BTreeSet<&'static str>,
    /// Held as long as rows can be found under the hash.
    pub(crate) claims: Vec<Claim>,
    /// The code of functions and the options of inner modules that are in it.
    pub(crate) functions: BTreeSet<[u8; 32]>,
}

impl Identity {
    /// Computes the identity of a module from its name, its options and a walk over its fields.
    /// `None` where another thread holds the lock of a field.
    pub(crate) fn compute(
        name: &str,
        options: &Options,
        progress: &Arc<Progress>,
        walk: impl FnOnce(&mut Fingerprinter<'_>),
    ) -> Option<Identity> {
        let mut collector = Collector {
            parts: option_parts(options),
            progress: progress.clone(),
            ..Collector::default()
        };
        if let Some(hash) = options.persistent_module_hash() {
            return Some(Identity {
                hash: hash.to_owned(),
                parts: collector.parts,
                in_train_mode: false,
                lacks_variables: false,
                unknown_code: BTreeSet::new(),
                claims: Vec::new(),
                functions: BTreeSet::new(),
            });
        }
        walk(&mut Fingerprinter::hash(&mut collector));
        if collector.locked {
            return None;
        }
        let mut hasher = blake3::Hasher::new_derive_key("torchcache module identity");
        hasher.update(&FORMAT.to_le_bytes());
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&collector.digest());
        Some(Identity {
            hash: hasher.finalize().to_hex().to_string(),
            parts: bounded::bounded(collector.parts),
            in_train_mode: collector.in_train_mode,
            lacks_variables: collector.needs_variables && !collector.has_variables,
            unknown_code: collector.unknown_code,
            claims: collector.claims,
            functions: collector.functions,
        })
    }
}

/// The options that are part of the identity.
fn option_parts(options: &Options) -> Vec<IdentityPart> {
    vec![
        parts::option("cache_dtype", &format!("{:?}", options.cache_dtype())),
        parts::option(
            "subsample_count",
            &format!("{:?}", options.subsample_count()),
        ),
        parts::option("version", options.version()),
    ]
}

/// Whether the options that are part of the identity are equal.
pub(crate) fn same_options(left: &Options, right: &Options) -> bool {
    left.cache_dtype() == right.cache_dtype()
        && left.subsample_count() == right.subsample_count()
        && left.version() == right.version()
        && left.persistent_module_hash() == right.persistent_module_hash()
}

/// A digest of the same options of the module or function called `module`, for the keys of those that call it.
/// `None` where all have their defaults.
pub(crate) fn options_digest(module: &str, options: &Options) -> Option<[u8; 32]> {
    let output_options = |options: &Options| {
        let version = options.version().to_owned();
        let hash = options.persistent_module_hash().map(str::to_owned);
        (rounding(options), options.subsample_count(), version, hash)
    };
    let set = output_options(options);
    if set == output_options(&Options::default()) {
        return None;
    }
    let mut hasher = blake3::Hasher::new_derive_key("torchcache options of a called function");
    hasher.update(format!("{:?}", (module, set)).as_bytes());
    Some(*hasher.finalize().as_bytes())
}

/// The kind that the cache of a module rounds to. A disabled one does not.
fn rounding(options: &Options) -> Option<Kind> {
    options.cache_dtype().filter(|_| options.enabled())
}

/// The same options of the module called `module`, which is inside another one, whose rows came through the
/// inner cache.
pub(crate) fn nested_options(module: &str, options: &Options, f: &mut Fingerprinter<'_>) {
    f.knows(|| options_digest(module, options));
    let rounding = rounding(options);
    f.field("torchcache_cache_dtype", &rounding);
    f.field("torchcache_subsample_count", &options.subsample_count());
    f.field("torchcache_version", options.version());
    // Rows that the inner cache has under a given name may be of other weights.
    f.field(
        "torchcache_persistent_module_hash",
        &options.persistent_module_hash(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::OptionsBuilder;

    #[test]
    fn module_hashes_are_the_same_in_every_release() {
        let identity =
            Identity::compute("demo::Module", &Options::default(), &Arc::default(), |f| {
                f.field("scale", &2.5f64);
                f.field("table", &tch::Tensor::from_slice(&[1i64, 2, 3]));
            })
            .unwrap();
        // A golden value: if it changes, so must FORMAT, which makes old caches expire.
        assert_eq!(
            identity.hash,
            "0537ba17f6ad8fd376e773f0a6d01b5d2d53e4aa573aba32411b4deaa0b3fc5d",
        );
    }

    #[test]
    fn only_identity_options_change_the_hash() {
        let hash = |options: OptionsBuilder| {
            let options = options.build().unwrap();
            Identity::compute("m", &options, &Arc::default(), |_| ())
                .unwrap()
                .hash
        };
        let plain = hash(Options::builder());
        for options in [
            Options::builder().version("2"),
            Options::builder().subsample_count(10),
            Options::builder().cache_dtype(tch::Kind::Half),
        ] {
            assert_ne!(hash(options), plain);
        }
        assert_eq!(
            hash(Options::builder().persistent(true).max_memory_cache_size(1)),
            plain
        );
    }
}
