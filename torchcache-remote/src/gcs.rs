//! Google Cloud Storage.

use std::sync::Arc;

use object_store::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};

use crate::credentials::{NO_TIMEOUT, Required, no_retries};
use crate::http::Connector;
use crate::store::RemoteStore;
use crate::variables::Variables;

/// A bucket, with the credentials of these variables.
pub(crate) fn open(bucket: &str, variables: &Variables) -> object_store::Result<RemoteStore> {
    let mut builder = GoogleCloudStorageBuilder::new();
    if let Some(path) = variables.get("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    for (key, value) in variables.settings("GOOGLE_") {
        builder = builder.with_config(key, value);
    }
    let builder = builder
        .with_config(
            GoogleConfigKey::Client(ClientConfigKey::Timeout),
            NO_TIMEOUT,
        )
        .with_bucket_name(bucket)
        .with_retry(no_retries())
        .with_http_connector(Connector);
    let credentials = builder.clone().build()?.credentials().clone();
    let client = builder
        .with_credentials(Arc::new(Required(credentials)))
        .build()?;
    Ok(RemoteStore::of_cloud(client))
}
