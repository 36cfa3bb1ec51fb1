//! The environment variables `TORCHCACHE_DISABLE`, `TORCHCACHE_DIR`, `TORCHCACHE_MAX_DIR_SIZE`,
//! `TORCHCACHE_MAX_MEMORY`, `TORCHCACHE_REMOTE` and `TORCHCACHE_REMOTE_MODE`. `TORCHCACHE_DEVICE_HASHING` is that of
//! `device/`.

use std::path::PathBuf;
use std::sync::OnceLock;

use torchcache_store::size;

use super::RemoteMode;
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
        _ => Err(Detail::Environment {
            name,
            got: text.into_owned(),
            expected: "a number and a unit, such as \"8 GB\" or \"512 MiB\"",
            default,
        }),
    }
}

/// The remote of persistent caches that name none.
pub(crate) fn remote() -> Option<String> {
    text("TORCHCACHE_REMOTE")
}

/// What takes precedence over the option `remote_mode`.
///
/// # Errors
///
/// It is set to something other than a mode.
#[cfg_attr(
    not(feature = "remote"),
    expect(dead_code, reason = "there is no remote tier")
)]
pub(crate) fn remote_mode() -> Result<Option<RemoteMode>, Detail> {
    let name = "TORCHCACHE_REMOTE_MODE";
    let Some(got) = text(name) else {
        return Ok(None);
    };
    match &*got {
        "read-write" => Ok(Some(RemoteMode::ReadWrite)),
        "read-only" => Ok(Some(RemoteMode::ReadOnly)),
        "write-only" => Ok(Some(RemoteMode::WriteOnly)),
        _ => Err(Detail::Environment {
            name,
            got,
            expected: "read-write, read-only or write-only",
            default: "the option `remote_mode`",
        }),
    }
}

/// The value of a variable, unless it is empty: CI has no way to unset one.
fn text(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(value)
}
