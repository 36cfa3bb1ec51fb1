//! Amazon S3 and what speaks its protocol.

mod config_file;
mod profile;

use std::sync::Arc;

use object_store::ClientConfigKey;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::client::CredentialProvider;

use self::config_file::Profile;
use self::profile::ProfileCredentials;
use crate::credentials::{NO_TIMEOUT, Required, no_retries};
use crate::http::Connector;
use crate::store::RemoteStore;
use crate::variables::Variables;

/// A bucket, with the endpoint, the region and the credentials of these variables.
pub(crate) fn open(bucket: &str, variables: &Variables) -> object_store::Result<RemoteStore> {
    let mut builder = AmazonS3Builder::new();
    for (key, value) in variables.settings("AWS_") {
        builder = builder.with_config(key, value);
    }
    let mut builder = builder
        .with_config(Key::Client(ClientConfigKey::Timeout), NO_TIMEOUT)
        .with_bucket_name(bucket)
        .with_retry(no_retries())
        // One request removes one object: stores other than Amazon's may not implement the removal of many.
        .with_disable_bulk_delete(true)
        .with_http_connector(Connector);
    let profile = Profile::of_variables(variables);
    if let Some(profile) = &profile {
        for (key, setting) in [(Key::Region, "region"), (Key::Endpoint, "endpoint_url")] {
            if let (None, Some(value)) = (builder.get_config_value(&key), profile.setting(setting))
            {
                builder = builder.with_config(key, value);
            }
        }
    }
    let endpoint = [Key::S3Endpoint, Key::Endpoint].map(|key| builder.get_config_value(&key));
    let endpoint = endpoint.into_iter().flatten().next();
    if endpoint.is_some_and(|it| it.starts_with("http://")) {
        builder = builder.with_allow_http(true);
    }
    let built = builder.clone().build()?;
    let mut credentials: Arc<dyn CredentialProvider<Credential = _>> = built.credentials().clone();
    if let Some(profile) = profile.filter(|_| !has_credentials(&builder)) {
        credentials = Arc::new(ProfileCredentials::new(
            profile.name,
            variables.clone(),
            credentials,
        ));
    }
    let client = builder
        .with_credentials(Arc::new(Required(credentials)))
        .build()?;
    Ok(RemoteStore::of_cloud(client))
}

/// Whether the environment has credentials that come before those of a profile.
fn has_credentials(builder: &AmazonS3Builder) -> bool {
    let has = |key: Key| builder.get_config_value(&key).is_some();
    has(Key::AccessKeyId)
        || has(Key::SecretAccessKey)
        || has(Key::WebIdentityTokenFile) && has(Key::RoleArn)
        || has(Key::ContainerCredentialsRelativeUri)
        || has(Key::ContainerCredentialsFullUri)
}
