//! The environment variables `TORCHCACHE_DISABLE` and `TORCHCACHE_DIR`.

use std::path::PathBuf;
use std::sync::OnceLock;

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
