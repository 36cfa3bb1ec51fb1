//! Checks of answers that `object_store` does not make: a listing is one, the answer to a change has no error in its
//! body, and an error keeps the reason that the server gives.

use async_trait::async_trait;
use futures_util::StreamExt;
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};

use crate::failure::{Refusal, RefusalKind, one_line};
use crate::request::{Begun, Listing};

/// The most bytes that are read of the body of an error.
const MAX_ERROR_BODY: usize = 16 << 10;

/// The most bytes of a page of a listing, which has at most 5,000 keys of 1 KiB.
const MAX_LISTING: usize = 16 << 20;

/// Makes clients that check answers.
#[derive(Debug)]
pub(crate) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Checked(inner)))
    }
}

#[derive(Debug)]
struct Checked(HttpClient);

#[async_trait]
impl HttpService for Checked {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let begun = request.extensions().get::<Begun>().cloned();
        let is_change = matches!(request.method().as_str(), "PUT" | "DELETE");
        // How the client for Azure removes an object.
        let is_batch = request
            .uri()
            .query()
            .is_some_and(|it| it.contains("comp=batch"));
        let is_listing = request.extensions().get::<Listing>().is_some();
        let response = self.0.execute(request).await?;
        if let Some(begun) = &begun {
            begun.set();
        }
        let status = response.status().as_u16();
        let limit = match status {
            400.. => MAX_ERROR_BODY,
            _ if is_listing => MAX_LISTING,
            _ if is_change || is_batch => MAX_ERROR_BODY,
            _ => return Ok(response),
        };
        let (parts, body) = response.into_parts();
        let bytes = read_at_most(limit, body).await?;
        let text = String::from_utf8_lossy(&bytes);
        let refusal = match (status, begun) {
            // Requests for credentials, and single removals: their clients decide by the status.
            (401 | 403, None) if !is_batch => None,
            (200, _) if is_listing && !is_listing_text(&text) => Some(refusal_of_listing(&text)),
            _ if is_batch => refusal_of(status_of_batch(&text).unwrap_or(status), &text),
            _ => refusal_of(status, &text),
        };
        match refusal {
            Some(refusal) => Err(HttpError::new(HttpErrorKind::Unknown, refusal)),
            None => Ok(HttpResponse::from_parts(parts, bytes.into())),
        }
    }
}

/// The bytes of a body. What is longer is cut.
async fn read_at_most(limit: usize, body: HttpResponseBody) -> Result<Vec<u8>, HttpError> {
    let mut stream = body.bytes_stream();
    let mut bytes = Vec::new();
    while bytes.len() < limit
        && let Some(chunk) = stream.next().await
    {
        let chunk = chunk?;
        bytes.extend_from_slice(&chunk[..chunk.len().min(limit - bytes.len())]);
    }
    Ok(bytes)
}

/// Whether a text is a listing, of S3 and GCS or of Azure. `object_store` takes any other XML for one without objects.
fn is_listing_text(text: &str) -> bool {
    let begin = text.get(..512).unwrap_or(text);
    ["<ListBucketResult", "<EnumerationResults"]
        .iter()
        .any(|it| begin.contains(it))
}

/// The error of a listing that is none.
fn refusal_of_listing(text: &str) -> Refusal {
    refusal_of(200, text).unwrap_or_else(|| Refusal {
        kind: RefusalKind::Other,
        reason: format!("the answer is no listing: {}", one_line(text)),
    })
}

/// What an answer says that its status alone does not, or that `object_store` does not keep. The answer of S3 to a
/// request with expired credentials has the status 400, a missing bucket is no missing object, and of
/// all conflicts one says that the object exists.
fn refusal_of(status: u16, body: &str) -> Option<Refusal> {
    let code = element(body, "Code").unwrap_or_default();
    let kind = match (status, code) {
        (200..400, "SlowDown" | "ServiceUnavailable") | (429 | 503, _) => RefusalKind::Throttled,
        (200..400, _) if body.contains("<Error>") => RefusalKind::Other,
        (200..400, _) => return None,
        (401 | 403, _) => RefusalKind::Denied,
        (400, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "InvalidAccessKeyId") => {
            RefusalKind::Denied
        }
        (404, "NoSuchBucket" | "ContainerNotFound") => RefusalKind::Other,
        (404, _) if body.contains("The specified bucket does not exist") => RefusalKind::Other,
        (409, "BlobAlreadyExists") => return None,
        (409, _) => RefusalKind::Other,
        (501, _) => RefusalKind::NotImplemented,
        _ => return None,
    };
    let detail = match (code, element(body, "Message").unwrap_or_default()) {
        ("", _) => one_line(body),
        (code, message) => format!("{code}: {message}"),
    };
    let reason = format!("status {status} {detail}").trim_end().to_owned();
    Some(Refusal { kind, reason })
}

/// The status of the request in a batch of one.
fn status_of_batch(body: &str) -> Option<u16> {
    let (_, rest) = body.split_once("HTTP/1.1 ")?;
    rest.get(..3)?.parse().ok()
}

/// The text of the first XML element with this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_refused_by_what_it_says() {
        let body = |code: &str| {
            format!(
                "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>Why</Message></Error>"
            )
        };
        let kind = |status, body: &str| refusal_of(status, body).map(|it| it.kind);
        for (status, code, expected) in [
            (200, "InternalError", Some(RefusalKind::Other)),
            (200, "SlowDown", Some(RefusalKind::Throttled)),
            (503, "SlowDown", Some(RefusalKind::Throttled)),
            (429, "TooMany", Some(RefusalKind::Throttled)),
            (403, "AccessDenied", Some(RefusalKind::Denied)),
            (400, "ExpiredToken", Some(RefusalKind::Denied)),
            (400, "InvalidArgument", None),
            (404, "NoSuchKey", None),
            (404, "NoSuchBucket", Some(RefusalKind::Other)),
            (409, "BlobAlreadyExists", None),
            (409, "ConditionalRequestConflict", Some(RefusalKind::Other)),
            (409, "OperationAborted", Some(RefusalKind::Other)),
            (409, "BucketNotReady", Some(RefusalKind::Other)),
            (409, "LeaseIdMissing", Some(RefusalKind::Other)),
            (412, "PreconditionFailed", None),
            (501, "NotImplemented", Some(RefusalKind::NotImplemented)),
        ] {
            assert_eq!(kind(status, &body(code)), expected, "{status} {code}");
        }
        assert_eq!(kind(200, ""), None);
        assert_eq!(kind(409, ""), Some(RefusalKind::Other));
        assert_eq!(kind(503, ""), Some(RefusalKind::Throttled));
        let part = "--batchresponse_1\r\nContent-ID: 0\r\n\r\nHTTP/1.1 403 Not authorized\r\nx-ms-version: 1\r\n\r\n";
        assert_eq!(status_of_batch(part), Some(403));
        assert_eq!(status_of_batch("HTTP/1.1 "), None);
        let refusal = refusal_of(404, &body("NoSuchBucket")).unwrap();
        assert_eq!(refusal.to_string(), "status 404 NoSuchBucket: Why");
        assert_eq!(refusal_of(503, "").unwrap().to_string(), "status 503");
    }
}
