//! Amazon S3 and what speaks its protocol.

mod config_file;
mod profile;

use std::env;
use std::sync::Arc;

use object_store::ClientConfigKey;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::client::CredentialProvider;

use self::config_file::Profile;
use self::profile::ProfileCredentials;
use crate::credentials::{Required, no_retries};
use crate::http::Connector;
use crate::store::{Lister, RemoteStore};

/// A bucket, with the endpoint, the region and the credentials of the environment.
pub(crate) fn open(bucket: &str) -> object_store::Result<RemoteStore> {
    let mut builder = from_env()
        .with_bucket_name(bucket)
        .with_retry(no_retries())
        // One request removes one object: stores other than Amazon's may not implement the removal of many.
        .with_disable_bulk_delete(true)
        .with_http_connector(Connector);
    let profile = Profile::of_env();
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
        credentials = Arc::new(ProfileCredentials::new(profile.name, credentials));
    }
    let client = builder
        .with_credentials(Arc::new(Required(credentials)))
        .build()?;
    let client = Arc::new(client);
    Ok(RemoteStore::new(client.clone(), Lister::Pages(client)))
}

/// The variables that begin with `AWS_`. One that is set to nothing counts as not set.
fn from_env() -> AmazonS3Builder {
    // A large object takes longer than any fixed time. Each request has a deadline.
    let no_timeout = Key::Client(ClientConfigKey::Timeout);
    let mut builder = AmazonS3Builder::new().with_config(no_timeout, "1 day");
    for (name, value) in env::vars_os() {
        if let (Some(name), Some(value)) = (name.to_str(), value.to_str())
            && name.starts_with("AWS_")
            && !value.is_empty()
            && let Ok(key) = name.to_ascii_lowercase().parse()
        {
            builder = builder.with_config(key, value);
        }
    }
    builder
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
