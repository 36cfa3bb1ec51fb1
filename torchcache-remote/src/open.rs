//! What a URL names. The process has one client for each bucket and environment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use torchcache_store::remote::ObjectStore;

use crate::failure::object_error;
use crate::file;
use crate::store::RemoteStore;
use crate::url::{Scheme, Url, UrlError, redacted};
use crate::variables::Variables;

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
    variables: Variables,
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
    open_shared(url, Variables::of_process())
}

/// Opens what a URL names, as [`open`] does, with these variables in place of those of the process. Settings for proxies
/// and certificates are always those of the process.
///
/// ```
/// # #[cfg(feature = "aws")]
/// # {
/// let variables = [
///     ("AWS_ENDPOINT_URL", "http://127.0.0.1:8333"),
///     ("AWS_ACCESS_KEY_ID", "key"),
///     ("AWS_SECRET_ACCESS_KEY", "secret"),
/// ];
/// let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
/// let location = torchcache_remote::open_with("s3://team/cache", variables)?;
/// assert_eq!(location.prefix, "cache");
/// # }
/// # Ok::<(), torchcache_remote::UrlError>(())
/// ```
///
/// # Errors
/// What is wrong with the URL or with the variables.
pub fn open_with(
    url: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<RemoteLocation, UrlError> {
    open_shared(url, Variables::new(variables))
}

fn open_shared(url: &str, variables: Variables) -> Result<RemoteLocation, UrlError> {
    let Url {
        scheme,
        bucket,
        prefix,
    } = Url::parse(url)?;
    let key = ClientKey {
        scheme,
        bucket,
        variables,
    };
    static CLIENTS: Mutex<Option<HashMap<ClientKey, Weak<RemoteStore>>>> = Mutex::new(None);
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let clients = clients.get_or_insert_default();
    if let Some(store) = clients.get(&key).and_then(Weak::upgrade) {
        return Ok(RemoteLocation { store, prefix });
    }
    let store = Arc::new(build(&key, url)?);
    clients.retain(|_, client| client.strong_count() > 0);
    clients.insert(key, Arc::downgrade(&store));
    Ok(RemoteLocation { store, prefix })
}

fn build(key: &ClientKey, url: &str) -> Result<RemoteStore, UrlError> {
    let opened = match key.scheme {
        #[cfg(feature = "aws")]
        Scheme::S3 => crate::aws::open(&key.bucket, &key.variables),
        #[cfg(feature = "gcs")]
        Scheme::Gcs => crate::gcs::open(&key.bucket, &key.variables),
        #[cfg(feature = "azure")]
        Scheme::Azure => crate::azure::open(&key.bucket, &key.variables),
        Scheme::File => Ok(file::open()),
        #[cfg(not(feature = "aws"))]
        Scheme::S3 => return Err(feature_off(key, "aws")),
        #[cfg(not(feature = "gcs"))]
        Scheme::Gcs => return Err(feature_off(key, "gcs")),
        #[cfg(not(feature = "azure"))]
        Scheme::Azure => return Err(feature_off(key, "azure")),
    };
    opened.map_err(|error| UrlError::Settings {
        url: redacted(url),
        reason: object_error(&error).reason,
    })
}

#[cfg(not(all(feature = "aws", feature = "gcs", feature = "azure")))]
fn feature_off(key: &ClientKey, feature: &'static str) -> UrlError {
    UrlError::FeatureOff {
        scheme: key.scheme.name(),
        feature,
    }
}
