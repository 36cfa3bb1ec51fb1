//! Opens the remote tier that the options, or else the environment, name.

#[cfg(not(feature = "remote"))]
use std::sync::Once;

use torchcache_store::Store;
use torchcache_store::remote_tier::RemoteTier;
#[cfg(feature = "remote")]
use torchcache_store::remote_tier::RemoteTierConfig;

use crate::error::Detail;
use crate::options::{Options, environment};

/// The remote tier of a persistent cache, behind its store; `None` where no URL is given. Makes no request.
///
/// # Errors
///
/// A URL that names no object store, and an invalid `TORCHCACHE_REMOTE_MODE`.
#[cfg(feature = "remote")]
pub(super) fn open(
    store: &Store,
    options: &Options,
    module_hash: &str,
) -> Result<Option<RemoteTier>, Detail> {
    let (setting, url) = match (options.remote(), environment::remote()) {
        (Some(url), _) => ("option `remote`", url.to_owned()),
        (None, Some(url)) => ("the environment variable TORCHCACHE_REMOTE", url),
        (None, None) => return Ok(None),
    };
    let mode = environment::remote_mode()?.unwrap_or(options.remote_mode());
    let location = torchcache_remote::open(&url).map_err(|error| Detail::Remote {
        setting,
        reason: error.to_string(),
    })?;
    let config = RemoteTierConfig {
        url,
        prefix: location.prefix,
        module_hash: module_hash.to_owned(),
        mode,
    };
    Ok(Some(RemoteTier::open(store, location.store, config)))
}

/// Without the feature, the option cannot be set. The variable may be meant for other programs: it is warned of once.
#[cfg(not(feature = "remote"))]
pub(super) fn open(_: &Store, _: &Options, _: &str) -> Result<Option<RemoteTier>, Detail> {
    static WARNED: Once = Once::new();
    if environment::remote().is_some() {
        WARNED.call_once(|| {
            tracing::warn!(
                "TORCHCACHE_REMOTE is set, but torchcache was built without its feature `remote`: rows are neither read \
                 from it nor uploaded (logged once)"
            );
        });
    }
    Ok(None)
}
