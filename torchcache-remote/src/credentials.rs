//! What the clients of all clouds have in common: each request is made once, until its deadline, and credentials that
//! do not come are a denied request.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::client::CredentialProvider;
use object_store::{Error, RetryConfig};

/// The timeout of clients: a large object takes longer than any short one, and each request has a deadline.
pub(crate) const NO_TIMEOUT: &str = "1 day";

/// Each request is made once: the remote tier retries.
pub(crate) fn no_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}

/// Credentials of another provider.
#[derive(Debug)]
pub(crate) struct Required<C>(pub(crate) Arc<dyn CredentialProvider<Credential = C>>);

#[async_trait]
impl<C: std::fmt::Debug + Send + Sync> CredentialProvider for Required<C> {
    type Credential = C;

    async fn get_credential(&self) -> object_store::Result<Arc<C>> {
        let got = self.0.get_credential().await;
        got.map_err(|source| Error::Unauthenticated {
            path: "credentials".to_owned(),
            source: Box::new(source),
        })
    }
}
