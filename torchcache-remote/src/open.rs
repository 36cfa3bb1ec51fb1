//! What a URL names. The process has one client for each bucket and environment.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use torchcache_store::remote::ObjectStore;

use crate::file;
use crate::store::RemoteStore;
use crate::url::{Scheme, Url, UrlError};

/// Where the objects of a cache are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RemoteLocation {
    /// The bucket.
    pub store: Arc<dyn ObjectStore>,
    /// What all keys begin with, without slashes at its ends; may be empty.
    pub prefix: String,
}

/// What a client depends on.
#[derive(PartialEq, Eq, Hash)]
struct ClientKey {
    scheme: Scheme,
    bucket: String,
    environment: Vec<(OsString, OsString)>,
}

/// Opens what a URL names. Makes no request: whether the bucket exists, and whether the credentials are accepted, shows
/// at the first one.
///
/// Credentials and endpoint come from the environment as it is now. The clients of one bucket are shared in the process
/// while the environment is the same, and so are their connections.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let dir = tempfile::tempdir()?;
/// let location = torchcache_remote::open(&format!("file://{}", dir.path().display()))?;
/// let key = format!("{}/a/b", location.prefix);
/// let deadline = Instant::now() + Duration::from_secs(10);
/// location.store.set(&key, b"bytes", deadline)?;
/// assert_eq!(location.store.get(&key, deadline)?, b"bytes");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// What is wrong with the URL or with the settings of the environment.
pub fn open(url: &str) -> Result<RemoteLocation, UrlError> {
    let Url {
        scheme,
        bucket,
        prefix,
    } = Url::parse(url)?;
    let key = ClientKey {
        scheme,
        bucket,
        environment: environment(),
    };
    static CLIENTS: Mutex<Option<HashMap<ClientKey, Weak<RemoteStore>>>> = Mutex::new(None);
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let clients = clients.get_or_insert_default();
    if let Some(store) = clients.get(&key).and_then(Weak::upgrade) {
        return Ok(RemoteLocation { store, prefix });
    }
    let store = Arc::new(build(scheme, &key.bucket, url)?);
    clients.retain(|_, client| client.strong_count() > 0);
    clients.insert(key, Arc::downgrade(&store));
    Ok(RemoteLocation { store, prefix })
}

/// The variables that clients read.
fn environment() -> Vec<(OsString, OsString)> {
    const PREFIXES: [&str; 7] = [
        "AWS_",
        "GOOGLE_",
        "AZURE_",
        "SSL_CERT_",
        "SERVICE_ACCOUNT",
        "IDENTITY_",
        "HOME",
    ];
    let is_read = |name: &str| {
        PREFIXES.iter().any(|it| name.starts_with(it))
            || name.to_ascii_uppercase().ends_with("_PROXY")
    };
    let all = env::vars_os();
    let mut read: Vec<_> = all
        .filter(|(name, _)| name.to_str().is_some_and(is_read))
        .collect();
    read.sort_unstable();
    read
}

#[cfg_attr(
    not(feature = "cloud"),
    expect(
        unused_variables,
        reason = "directories have no bucket and no settings"
    )
)]
fn build(scheme: Scheme, bucket: &str, url: &str) -> Result<RemoteStore, UrlError> {
    let settings = |error: object_store::Error| UrlError::Settings {
        url: url.to_owned(),
        reason: crate::failure::object_error(&error).reason,
    };
    match scheme {
        #[cfg(feature = "aws")]
        Scheme::S3 => crate::aws::open(bucket).map_err(settings),
        #[cfg(feature = "gcs")]
        Scheme::Gcs => crate::gcs::open(bucket).map_err(settings),
        #[cfg(feature = "azure")]
        Scheme::Azure => crate::azure::open(bucket).map_err(settings),
        Scheme::File => Ok(file::open()),
        #[cfg(not(feature = "aws"))]
        Scheme::S3 => Err(feature_off(scheme, "aws")),
        #[cfg(not(feature = "gcs"))]
        Scheme::Gcs => Err(feature_off(scheme, "gcs")),
        #[cfg(not(feature = "azure"))]
        Scheme::Azure => Err(feature_off(scheme, "azure")),
    }
}

#[cfg(not(all(feature = "aws", feature = "gcs", feature = "azure")))]
fn feature_off(scheme: Scheme, feature: &'static str) -> UrlError {
    UrlError::FeatureOff {
        scheme: scheme.name(),
        feature,
    }
}
