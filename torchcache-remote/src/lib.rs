//! The object stores of torchcache's remote tier: what a URL names, as an implementation of
//! [`ObjectStore`](torchcache_store::remote::ObjectStore).
//!
//! | URL | what it names | feature |
//! | --- | --- | --- |
//! | `s3://bucket/prefix` | Amazon S3, or a store that speaks its protocol | `aws`, on by default |
//! | `gs://bucket/prefix` | Google Cloud Storage | `gcs` |
//! | `az://container/prefix` | Azure Blob Storage | `azure` |
//! | `file:///path` | a directory, such as one that machines share by NFS | |
//!
//! All requests are made on one background thread of the process, and none after a fork. A caller waits until its
//! deadline, then the request is aborted.
//!
//! # Credentials and endpoints
//!
//! They come from the environment, under the names that the clouds' own tools use. For S3: `AWS_ACCESS_KEY_ID` and
//! `AWS_SECRET_ACCESS_KEY`, web identity, container credentials, the profile `AWS_PROFILE` with SSO by the program `aws`,
//! and the metadata service of the instance. `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` names another store, to which
//! the bucket is a part of the path; `AWS_REGION` or `AWS_DEFAULT_REGION` the region. For GCS:
//! `GOOGLE_APPLICATION_CREDENTIALS` or the metadata service. For Azure: `AZURE_STORAGE_ACCOUNT` with `AZURE_STORAGE_KEY`
//! or `AZURE_STORAGE_SAS_TOKEN`, or a managed identity; `AZURE_STORAGE_ENDPOINT` names another endpoint.
//!
//! ```
//! let location = torchcache_remote::open("file:///mnt/team/cache")?;
//! assert_eq!(location.prefix, "mnt/team/cache");
//!
//! let error = torchcache_remote::open("ftp://host/cache").unwrap_err();
//! assert!(error.to_string().contains("s3://"));
//! # Ok::<(), torchcache_remote::UrlError>(())
//! ```
//!
//! # Stability
//!
//! It implements an unstable trait of `torchcache-store`: any release may change it.

// Layers, from the top down: a module imports only what is below its own line.
//
// open      what a URL names, shared by the process
// aws, gcs, azure, file         the clients of object_store
// store     the trait, by the crate object_store
// http      checks of answers   credentials
// failure   why a request failed
// runtime   the background thread
// The rest are leaves.

// Shows which feature an item needs on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(missing_docs)]
#![deny(unsafe_code)]

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "cloud")]
mod credentials;
mod failure;
mod file;
#[cfg(feature = "gcs")]
mod gcs;
#[cfg(feature = "cloud")]
mod http;
mod open;
mod request;
mod runtime;
mod store;
mod url;
mod variables;

pub use open::{RemoteLocation, open, open_with};
pub use url::UrlError;
