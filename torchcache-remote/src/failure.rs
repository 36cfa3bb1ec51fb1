//! Why a request failed: from the errors of `object_store` to those of the remote tier.

use std::error::Error;
use std::io::{self, ErrorKind};

use thiserror::Error;
use torchcache_store::remote::{ObjectError, ObjectErrorKind};

/// The most characters of a reason.
const MAX_REASON: usize = 400;

/// What an answer says that an error of `object_store` does not. It is a source of that error.
#[derive(Debug, Error)]
#[error("{reason}")]
pub(crate) struct Refusal {
    pub(crate) kind: RefusalKind,
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "cloud"),
    expect(dead_code, reason = "a directory refuses nothing so")
)]
pub(crate) enum RefusalKind {
    /// The credentials are not valid.
    Denied,
    /// The store asks for fewer requests.
    Throttled,
    /// The store does not implement the request, such as its condition.
    NotImplemented,
    /// Anything else.
    Other,
}

/// An error and its sources.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn refusal(error: &object_store::Error) -> Option<&Refusal> {
    chain(error).find_map(|it| it.downcast_ref::<Refusal>())
}

/// Whether the store does not implement the request, such as a file system without hard links.
pub(crate) fn is_not_implemented(error: &object_store::Error) -> bool {
    // Linux says that links are not permitted where a file system has none.
    const EPERM: i32 = 1;
    let is_unsupported =
        |it: &io::Error| it.kind() == ErrorKind::Unsupported || it.raw_os_error() == Some(EPERM);
    matches!(error, object_store::Error::NotImplemented { .. })
        || refusal(error).is_some_and(|it| it.kind == RefusalKind::NotImplemented)
        || io_error(error).is_some_and(is_unsupported)
}

/// What the system reported.
fn io_error(error: &object_store::Error) -> Option<&io::Error> {
    chain(error).find_map(|it| it.downcast_ref::<io::Error>())
}

fn kind(error: &object_store::Error) -> ObjectErrorKind {
    use object_store::Error as E;
    if let Some(refusal) = refusal(error) {
        return match refusal.kind {
            RefusalKind::Denied => ObjectErrorKind::Denied,
            RefusalKind::Throttled => ObjectErrorKind::Throttled,
            RefusalKind::NotImplemented | RefusalKind::Other => ObjectErrorKind::Other,
        };
    }
    match error {
        E::NotFound { .. } => ObjectErrorKind::NotFound,
        E::AlreadyExists { .. } | E::Precondition { .. } => ObjectErrorKind::AlreadyExists,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => ObjectErrorKind::Denied,
        _ if is_timeout(error) => ObjectErrorKind::TimedOut,
        _ => match io_error(error).map(io::Error::kind) {
            Some(ErrorKind::PermissionDenied) => ObjectErrorKind::Denied,
            Some(ErrorKind::TimedOut) => ObjectErrorKind::TimedOut,
            _ => ObjectErrorKind::Other,
        },
    }
}

#[cfg(feature = "cloud")]
fn is_timeout(error: &object_store::Error) -> bool {
    use object_store::client::{HttpError, HttpErrorKind};
    let http = chain(error).find_map(|it| it.downcast_ref::<HttpError>());
    http.is_some_and(|it| it.kind() == HttpErrorKind::Timeout)
}

#[cfg(not(feature = "cloud"))]
fn is_timeout(_: &object_store::Error) -> bool {
    false
}

/// The error of the remote tier. Its reason is one line: what the store or the network reported.
pub(crate) fn object_error(error: &object_store::Error) -> ObjectError {
    let mut reason = one_line(&match refusal(error) {
        Some(refusal) => refusal.to_string(),
        None => error.to_string(),
    });
    // Some errors do not show their sources.
    if let Some(last) = chain(error).last() {
        let last = one_line(&last.to_string());
        if !reason.contains(&last) {
            reason = format!("{reason}: {last}");
        }
    }
    ObjectError::new(kind(error), reason)
}

/// Text without line breaks, and not too long.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.len() + word.len() > MAX_REASON {
            line.push('…');
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_files(source: io::Error) -> object_store::Error {
        object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(source),
        }
    }

    #[test]
    fn an_error_of_the_file_system_has_a_kind() {
        for (source, expected) in [
            (ErrorKind::PermissionDenied, ObjectErrorKind::Denied),
            (ErrorKind::TimedOut, ObjectErrorKind::TimedOut),
            (ErrorKind::StorageFull, ObjectErrorKind::Other),
        ] {
            let error = of_files(source.into());
            assert!(!is_not_implemented(&error));
            assert_eq!(object_error(&error).kind, expected);
        }
        for source in [
            ErrorKind::Unsupported.into(),
            io::Error::from_raw_os_error(1),
        ] {
            assert!(is_not_implemented(&of_files(source)));
        }
    }

    #[test]
    fn a_reason_is_one_short_line() {
        let error = object_error(&of_files(io::Error::other("first\n  second".to_owned())));
        assert!(error.reason.ends_with("first second"), "{}", error.reason);
        let error = object_error(&of_files(io::Error::other("word ".repeat(1000))));
        assert!(
            error.reason.len() < 2 * MAX_REASON + 100,
            "{}",
            error.reason
        );
    }
}
