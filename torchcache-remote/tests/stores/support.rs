//! What several tests need.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use torchcache_remote::RemoteLocation;
use torchcache_servers::{SeaweedFs, Server, variables};
use torchcache_store::remote::{ObjectError, ObjectErrorKind, ObjectStore, RangeRead, RemoteMode};
use torchcache_store::remote_tier::{RemoteTier, RemoteTierConfig};
use torchcache_store::{Config, Store};

/// The bucket of the tests.
pub(crate) const BUCKET: &str = "team";

/// The module hash of the machines.
pub(crate) const HASH: &str = "0123abcd";

/// What a busy machine may need.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A server with the bucket.
pub(crate) fn server(dir: &Path) -> SeaweedFs {
    let server = SeaweedFs::start(dir).expect("the server starts");
    server.create_bucket(BUCKET).expect("the bucket is made");
    server
}

/// A prefix of the bucket of a server, by its own endpoint or that of a proxy.
pub(crate) fn location_of(
    server: &dyn Server,
    endpoint: &str,
    key: (&str, &str),
    prefix: &str,
) -> RemoteLocation {
    let url = format!("{}://{BUCKET}/{prefix}", server.scheme());
    let variables = server.variables(endpoint, key);
    torchcache_remote::open_with(&url, variables).expect("the URL is right")
}

/// The same of a server that speaks S3.
pub(crate) fn location(endpoint: &str, key: (&str, &str), prefix: &str) -> RemoteLocation {
    let url = format!("s3://{BUCKET}/{prefix}");
    torchcache_remote::open_with(&url, variables(endpoint, key)).expect("the URL is right")
}

/// A process of a machine with this directory.
pub(crate) fn machine(dir: &Path, location: &RemoteLocation) -> (Store, RemoteTier) {
    let store = Store::open(dir.join(HASH), Config::default()).expect("it opens");
    let config = RemoteTierConfig {
        url: "the server".to_owned(),
        prefix: location.prefix.clone(),
        module_hash: HASH.to_owned(),
        mode: RemoteMode::ReadWrite,
    };
    let tier = RemoteTier::open(&store, location.store.clone(), config);
    (store, tier)
}

/// The results of reads, in their order.
pub(crate) fn read(
    store: &dyn ObjectStore,
    reads: &[(&str, Range<u64>)],
    deadline: Instant,
) -> Vec<Result<Vec<u8>, ObjectErrorKind>> {
    let range_read = |(key, range): &(&str, Range<u64>)| RangeRead {
        key: (*key).to_owned(),
        range: range.clone(),
    };
    let reads: Vec<_> = reads.iter().map(range_read).collect();
    each_once(reads.len(), |done| store.read(&reads, deadline, done))
}

/// Removes objects: the first error, if one fails.
pub(crate) fn remove(
    store: &dyn ObjectStore,
    keys: &[&str],
    deadline: Instant,
) -> Result<(), ObjectErrorKind> {
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let results = each_once(keys.len(), |done| store.remove(&keys, deadline, done));
    results.into_iter().collect()
}

/// The results of so many requests, in their order. Each ends once.
fn each_once<T>(
    count: usize,
    request: impl FnOnce(&mut dyn FnMut(usize, Result<T, ObjectError>)),
) -> Vec<Result<T, ObjectErrorKind>> {
    let mut results: Vec<_> = (0..count).map(|_| None).collect();
    request(&mut |n, result| {
        let result = result.map_err(|error| error.kind);
        assert!(results[n].replace(result).is_none(), "{n} ended twice");
    });
    let results = results.into_iter();
    results.map(|it| it.expect("each ends")).collect()
}
