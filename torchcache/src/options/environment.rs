//! The environment variables `TORCHCACHE_DISABLE`, `TORCHCACHE_DIR`, `TORCHCACHE_MAX_DIR_SIZE` and
//! `TORCHCACHE_MAX_MEMORY`. `TORCHCACHE_DEVICE_HASHING` is that of `device/`.

use std::path::PathBuf;
use std::sync::OnceLock;

use torchcache_store::size;

use crate::error::Detail;

/// Whether `TORCHCACHE_DISABLE` disables every cache of the process: set to anything but `0`,
/// `false` or the empty string. Read once.
pub(crate) fn is_disabled() -> bool {
    static DISABLED: OnceLock<bool> = OnceLock::new();
    if let Some(disabled) = DISABLED.get() {
        return *disabled;
    }
    let disabled = std::env::var_os("TORCHCACHE_DISABLE")
        .is_some_and(|value| !["", "0", "false"].iter().any(|off| value == *off));
    // Not logged inside `get_or_init`: a log subscriber may call a cached function.
    if DISABLED.set(disabled).is_ok() && disabled {
        tracing::info!("TORCHCACHE_DISABLE is set: every cache is disabled");
    }
    disabled
}

/// The directory of persistent caches that name none.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    std::env::var_os("TORCHCACHE_DIR").map(PathBuf::from)
}

/// The bytes that the memory tiers of the process may take together.
///
/// # Errors
///
/// It is set to something other than a size with a unit.
pub(crate) fn max_memory() -> Result<Option<u64>, Detail> {
    bytes("TORCHCACHE_MAX_MEMORY", "half of the memory")
}

/// The bound of the directory of persistent caches whose options set none.
///
/// # Errors
///
/// It is set to something other than a size with a unit.
pub(crate) fn max_dir_size() -> Result<Option<u64>, Detail> {
    bytes(
        "TORCHCACHE_MAX_DIR_SIZE",
        "a bound for each module hash alone",
    )
}

fn bytes(name: &'static str, default: &'static str) -> Result<Option<u64>, Detail> {
    let Some(value) = std::env::var_os(name) else {
        return Ok(None);
    };
    let text = value.to_string_lossy();
    let has_unit = text.trim_end().ends_with(char::is_alphabetic);
    match size::parse(&text) {
        Ok(bytes) if has_unit => Ok(Some(bytes)),
        _ => Err(Detail::EnvironmentSize {
            name,
            got: text.into_owned(),
            default,
        }),
    }
}
