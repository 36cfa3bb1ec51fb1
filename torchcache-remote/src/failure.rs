//! Why a request failed: from the errors of `object_store` to those of the remote tier.

use std::error::Error;

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

/// Whether the store does not implement the request.
pub(crate) fn is_not_implemented(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotImplemented { .. })
        || refusal(error).is_some_and(|it| it.kind == RefusalKind::NotImplemented)
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
        _ if chain(error).any(is_timeout) => ObjectErrorKind::TimedOut,
        _ => ObjectErrorKind::Other,
    }
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    #[cfg(feature = "cloud")]
    if let Some(error) = error.downcast_ref::<object_store::client::HttpError>() {
        return error.kind() == object_store::client::HttpErrorKind::Timeout;
    }
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|it| it.kind() == std::io::ErrorKind::TimedOut)
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
