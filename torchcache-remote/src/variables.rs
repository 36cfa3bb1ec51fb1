//! The variables of an environment that clients read.

use std::collections::BTreeMap;
use std::env;

/// What the names begin with that clients and the program `aws` read.
const PREFIXES: [&str; 4] = ["AWS_", "GOOGLE_", "AZURE_", "SSL_CERT_"];
const NAMES: [&str; 4] = ["HOME", "PATH", "IDENTITY_ENDPOINT", "SERVICE_ACCOUNT"];

/// Names and values. One that is set to nothing counts as not set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Those of the process. What is not Unicode is in no setting of a client.
    pub(crate) fn of_process() -> Variables {
        Variables::new(env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }))
    }

    pub(crate) fn new(all: impl IntoIterator<Item = (String, String)>) -> Variables {
        let is_read = |name: &str| {
            NAMES.contains(&name)
                || PREFIXES.iter().any(|it| name.starts_with(it))
                || name.to_ascii_uppercase().ends_with("_PROXY")
        };
        let all = all.into_iter();
        Variables(
            all.filter(|(name, value)| is_read(name) && !value.is_empty())
                .collect(),
        )
    }

    #[cfg(feature = "cloud")]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value)
    }

    #[cfg(feature = "cloud")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The settings of a client: those whose names begin with `prefix` and that the client knows, by their names in
    /// lower case.
    #[cfg(feature = "cloud")]
    pub(crate) fn settings<K: std::str::FromStr>(
        &self,
        prefix: &str,
    ) -> impl Iterator<Item = (K, &str)> {
        let ours = self
            .iter()
            .filter(move |(name, _)| name.starts_with(prefix));
        ours.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)))
    }
}
