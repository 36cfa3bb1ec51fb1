//! Parsing of URLs.

use thiserror::Error;

/// Why a URL names no object store.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// It has no scheme, or another one.
    #[error(
        "{0:?} names no object store; expected s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///path"
    )]
    UnknownScheme(String),
    /// The crate was built without the feature of the scheme.
    #[error(
        "{scheme}:// needs the feature `{feature}` of torchcache-remote, which is off; turn it on"
    )]
    FeatureOff {
        /// The scheme.
        scheme: &'static str,
        /// The feature.
        feature: &'static str,
    },
    /// It has no bucket.
    #[error("{0:?} names no bucket; expected {1}://bucket/prefix")]
    NoBucket(String, &'static str),
    /// The path of a directory does not begin with `/`.
    #[error("{0:?} names no absolute path; expected three slashes, as in file:///path")]
    RelativePath(String),
    /// It has a user name or a password, which are not shown.
    #[error(
        "the URL of a {0}:// bucket has credentials; remove what is before `@` and set the variables of the cloud's own tools"
    )]
    Credentials(&'static str),
    /// It has a query or a fragment.
    #[error("{0:?} has a query or a fragment; remove `?` and `#` and what follows")]
    Query(String),
    /// The prefix is no sequence of names.
    #[error(
        "the prefix {0:?} has an empty name, `.`, `..` or a control character; expected names with `/` between them"
    )]
    Prefix(String),
    /// The environment has settings that contradict each other, or that the client does not accept.
    #[error("cannot open {url:?} with the settings of the environment: {reason}")]
    Settings {
        /// The URL.
        url: String,
        /// What the client reported.
        reason: String,
    },
}

/// Which object store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    S3,
    Gcs,
    Azure,
    File,
}

impl Scheme {
    const ALL: [Scheme; 4] = [Scheme::S3, Scheme::Gcs, Scheme::Azure, Scheme::File];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Scheme::S3 => "s3",
            Scheme::Gcs => "gs",
            Scheme::Azure => "az",
            Scheme::File => "file",
        }
    }
}

/// The parts of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) scheme: Scheme,
    /// Empty for a directory.
    pub(crate) bucket: String,
    /// Without slashes at its ends; may be empty. Characters stand for themselves, as in the clouds' own tools.
    pub(crate) prefix: String,
}

impl Url {
    pub(crate) fn parse(url: &str) -> Result<Url, UrlError> {
        let unknown = || UrlError::UnknownScheme(redacted(url));
        let (scheme, rest) = url.split_once("://").ok_or_else(unknown)?;
        let of_name = |it: &Scheme| scheme.eq_ignore_ascii_case(it.name());
        let scheme = Scheme::ALL.into_iter().find(of_name).ok_or_else(unknown)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            return Err(UrlError::Credentials(scheme.name()));
        }
        if rest.contains(['?', '#']) {
            return Err(UrlError::Query(redacted(url)));
        }
        match scheme {
            Scheme::File if !rest.starts_with('/') => {
                return Err(UrlError::RelativePath(redacted(url)));
            }
            Scheme::File => {}
            _ if bucket.is_empty() => {
                return Err(UrlError::NoBucket(redacted(url), scheme.name()));
            }
            _ => {}
        }
        let prefix = prefix.trim_end_matches('/');
        let is_name = |it: &str| !matches!(it, "" | "." | "..") && !it.contains(char::is_control);
        if !prefix.is_empty() && !prefix.split('/').all(is_name) {
            return Err(UrlError::Prefix(redacted(prefix)));
        }
        Ok(Url {
            scheme,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

/// A URL without what may be a secret: with `@` all but its scheme, and else what begins with `?` or `#`.
pub(crate) fn redacted(url: &str) -> String {
    let is_scheme = |it: &str| it.chars().all(|it| it.is_ascii_alphanumeric());
    let shown = match url.split_once("://") {
        _ if !url.contains('@') => url.find(['?', '#']).map_or(url, |end| &url[..end]),
        Some((scheme, _)) if is_scheme(scheme) => &url[..scheme.len() + "://".len()],
        _ => "",
    };
    match shown.len() == url.len() {
        true => shown.to_owned(),
        false => format!("{shown}…"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> (Scheme, String, String) {
        let Url {
            scheme,
            bucket,
            prefix,
        } = Url::parse(url).unwrap();
        (scheme, bucket, prefix)
    }

    #[test]
    fn a_url_has_a_bucket_and_a_prefix() {
        let with = |scheme, bucket: &str, prefix: &str| (scheme, bucket.into(), prefix.into());
        assert_eq!(parsed("s3://team/a/b"), with(Scheme::S3, "team", "a/b"));
        assert_eq!(parsed("S3://team/a/b/"), with(Scheme::S3, "team", "a/b"));
        assert_eq!(parsed("gs://team"), with(Scheme::Gcs, "team", ""));
        assert_eq!(parsed("az://team/"), with(Scheme::Azure, "team", ""));
        assert_eq!(
            parsed("s3://team/a b%20ü"),
            with(Scheme::S3, "team", "a b%20ü")
        );
        assert_eq!(parsed("file:///mnt/a"), with(Scheme::File, "", "mnt/a"));
        assert_eq!(parsed("file:///"), with(Scheme::File, "", ""));
    }

    #[test]
    fn an_error_says_what_is_wrong_with_a_url() {
        let error = |url: &str| Url::parse(url).unwrap_err();
        for url in ["", "team/a", "ftp://team/a", "s3:team", "/mnt/a"] {
            let text = error(url).to_string();
            assert!(text.contains("s3://bucket"), "{text}");
        }
        for url in ["s3://", "s3:///a", "gs:///"] {
            assert!(matches!(error(url), UrlError::NoBucket(..)), "{url}");
        }
        for url in ["file://", "file://mnt/a", "file://./a"] {
            assert!(matches!(error(url), UrlError::RelativePath(_)), "{url}");
        }
        for url in ["s3://team/a?region=x", "s3://team#a", "file:///a?b"] {
            assert!(matches!(error(url), UrlError::Query(_)), "{url}");
        }
        for url in [
            "s3://team//a",
            "s3://team/a//b",
            "file:///a/../b",
            "s3://t/./a",
            "s3://t/a\n",
        ] {
            assert!(matches!(error(url), UrlError::Prefix(_)), "{url:?}");
        }
    }

    #[test]
    fn an_error_does_not_show_credentials() {
        for url in [
            "s3://key:secret@team/a",
            "ftp://key:secret@team/a",
            "s3://secret@team?a",
            "s3://team/a?X-Amz-Signature=secret",
            "s3://team/a#secret",
            "s3://team/a?b=secret@c",
            "s3://key:a?secret@team/a",
            "s3://key:a/secret@team//a",
            "s3:///a?sig=secret",
            "file://a?sig=secret",
            "https://host/a?sig=secret",
            "key:secret@team",
            "secret?a@b://team",
        ] {
            let text = Url::parse(url).unwrap_err().to_string();
            assert!(!text.contains("secret"), "{text}");
        }
        let text = Url::parse("s3://team/a?b").unwrap_err().to_string();
        assert!(text.contains("s3://team/a…"), "{text}");
        assert_eq!(redacted("s3://key:a/secret@team"), "s3://…");
        assert_eq!(redacted("s3://team/a"), "s3://team/a");
    }
}
