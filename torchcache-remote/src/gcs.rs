//! Google Cloud Storage.

use std::sync::Arc;

use object_store::gcp::GoogleCloudStorageBuilder;

use crate::credentials::{Required, no_retries};
use crate::http::Connector;
use crate::store::{Lister, RemoteStore};

/// A bucket, with the credentials of the environment.
pub(crate) fn open(bucket: &str) -> object_store::Result<RemoteStore> {
    let builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_retry(no_retries())
        .with_http_connector(Connector);
    let credentials = builder.clone().build()?.credentials().clone();
    let client = builder
        .with_credentials(Arc::new(Required(credentials)))
        .build()?;
    let client = Arc::new(client);
    Ok(RemoteStore::new(client.clone(), Lister::Pages(client)))
}
