//! Azure Blob Storage.

use std::sync::Arc;

use object_store::ClientConfigKey;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use crate::credentials::{NO_TIMEOUT, Required, no_retries};
use crate::http::Connector;
use crate::store::RemoteStore;
use crate::variables::Variables;

/// Variables of the program `az` that the client does not know.
const OF_AZ: [(&str, AzureConfigKey); 2] = [
    ("AZURE_STORAGE_ACCOUNT", AzureConfigKey::AccountName),
    ("AZURE_STORAGE_KEY", AzureConfigKey::AccessKey),
];

/// A container, with the account and the credentials of these variables.
pub(crate) fn open(container: &str, variables: &Variables) -> object_store::Result<RemoteStore> {
    let mut builder = MicrosoftAzureBuilder::new();
    let of_az = OF_AZ.into_iter();
    let of_az = of_az.filter_map(|(name, key)| Some((key, variables.get(name)?)));
    for (key, value) in of_az.chain(variables.settings("AZURE_")) {
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = variables.get("IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
    if endpoint.is_some_and(|it| it.starts_with("http://")) {
        builder = builder.with_allow_http(true);
    }
    let builder = builder
        .with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), NO_TIMEOUT)
        .with_container_name(container)
        .with_retry(no_retries())
        .with_http_connector(Connector);
    let credentials = builder.clone().build()?.credentials().clone();
    let client = builder
        .with_credentials(Arc::new(Required(credentials)))
        .build()?;
    Ok(RemoteStore::of_cloud(client))
}
