//! The faults that a request can meet.

use std::time::Duration;

use super::message::Response;

/// What happens to a request.
#[derive(Clone, Debug, Default)]
pub enum Fault {
    /// It is forwarded, and its answer returned.
    #[default]
    None,
    /// The same, after a while.
    Delay(Duration),
    /// It is answered by the proxy: the server does not see it.
    Answer(Response),
    /// The connection is reset.
    Reset,
    /// There is no answer, until the client or the proxy ends.
    Hang,
    /// It is forwarded, and then the connection is closed without an answer.
    LoseReply,
    /// The connection is closed after so many bytes of the body.
    CutBody(usize),
    /// So many bytes of the body come, and then a pause, again and again.
    SlowBody {
        /// The bytes.
        chunk: usize,
        /// The pause after each of them.
        pause: Duration,
    },
    /// The answer says that its bytes are those of a range that is so many bytes further on.
    WrongRange(u64),
    /// The answer says that its bytes are the whole object.
    IgnoreRange,
    /// The body has this byte flipped, or its last one if it is shorter.
    FlipByte(usize),
    /// The body has more bytes than were asked for.
    LongBody(usize),
    /// The condition of a put is not forwarded, as if the server did not know conditions. The request goes without a
    /// signature, since the condition is signed.
    IgnoreCondition,
}

impl Fault {
    /// An error of S3.
    pub fn error(status: u16, code: &str) -> Fault {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>By the proxy.</Message></Error>"
        );
        Fault::Answer(Response::new(status, "application/xml", body.into_bytes()))
    }

    /// 500
    pub fn internal_error() -> Fault {
        Fault::error(500, "InternalError")
    }

    /// 503, as S3 asks for fewer requests.
    pub fn slow_down() -> Fault {
        Fault::error(503, "SlowDown")
    }

    /// 429
    pub fn too_many_requests() -> Fault {
        Fault::error(429, "TooManyRequests")
    }

    /// 403, as for credentials without the right.
    pub fn denied() -> Fault {
        Fault::error(403, "AccessDenied")
    }

    /// 400, as S3 answers temporary credentials that have expired.
    pub fn expired_token() -> Fault {
        Fault::error(400, "ExpiredToken")
    }

    /// 501, as of a store that does not implement conditions.
    pub fn not_implemented() -> Fault {
        Fault::error(501, "NotImplemented")
    }

    /// 200 with an error in the body, and headers as of a success.
    pub fn error_in_success() -> Fault {
        let Fault::Answer(mut response) = Fault::error(200, "InternalError") else {
            unreachable!("it is an answer");
        };
        response.set_header("ETag", "\"00000000000000000000000000000000\"");
        response.set_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT");
        Fault::Answer(response)
    }
}
