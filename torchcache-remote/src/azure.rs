//! Azure Blob Storage.

use std::sync::Arc;

use object_store::azure::MicrosoftAzureBuilder;

use crate::credentials::{Required, no_retries};
use crate::http::Connector;
use crate::store::{Lister, RemoteStore};

/// A container, with the account and the credentials of the environment.
pub(crate) fn open(container: &str) -> object_store::Result<RemoteStore> {
    let builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_retry(no_retries())
        .with_http_connector(Connector);
    let credentials = builder.clone().build()?.credentials().clone();
    let client = builder
        .with_credentials(Arc::new(Required(credentials)))
        .build()?;
    let client = Arc::new(client);
    Ok(RemoteStore::new(client.clone(), Lister::Pages(client)))
}
