//! Requests and answers of HTTP/1.1, as far as object stores use it.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

/// The longest head of a message.
const MAX_HEAD: usize = 64 << 10;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// A page of a listing.
    List,
    /// An object or a range of one.
    Get,
    /// To put an object.
    Put,
    /// To remove an object.
    Delete,
    /// Anything else.
    Other,
}

/// A request that a client made.
#[derive(Clone, Debug)]
pub struct ProxiedRequest {
    /// Such as `GET`.
    pub method: String,
    /// The path and the query, as they were sent.
    pub target: String,
    pub(super) headers: Headers,
}

impl ProxiedRequest {
    /// What it asks for.
    pub fn kind(&self) -> RequestKind {
        let is_listing = ["list-type=2", "comp=list"].map(|it| self.target.contains(it));
        match &*self.method {
            "GET" if is_listing.contains(&true) => RequestKind::List,
            "GET" => RequestKind::Get,
            "PUT" => RequestKind::Put,
            "DELETE" => RequestKind::Delete,
            _ => RequestKind::Other,
        }
    }

    /// The value of a header, whose name is matched in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// Reads the head from a connection, except for its last byte: a connection that is closed while bytes are unread
    /// is reset. `None` where the connection ends first or `is_stopping`.
    pub(super) fn read_head(
        stream: &mut TcpStream,
        is_stopping: impl Fn() -> bool,
    ) -> io::Result<Option<ProxiedRequest>> {
        let mut seen = vec![0; MAX_HEAD];
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        let head = loop {
            if is_stopping() {
                return Ok(None);
            }
            let bytes = match stream.peek(&mut seen) {
                Ok(0) => return Ok(None),
                Ok(bytes) => bytes,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            match head_len(&seen[..bytes]) {
                Some(head) => break head,
                None if bytes == MAX_HEAD => return Err(invalid("a head that is too long")),
                // The rest of it is on its way.
                None => sleep(Duration::from_millis(1)),
            }
        };
        stream.set_read_timeout(None)?;
        stream.read_exact(&mut seen[..head - 1])?;
        let (line, headers) = parse_head(&seen[..head - 1])?;
        let mut words = line.split(' ').map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(invalid("no request line"));
        };
        Ok(Some(ProxiedRequest {
            method,
            target,
            headers,
        }))
    }

    /// The bytes for the server, on a connection that ends after the answer.
    pub(super) fn head_for_server(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers.0 {
            if !name.eq_ignore_ascii_case("connection") {
                head += &format!("{name}: {value}\r\n");
            }
        }
        head + "Connection: close\r\n\r\n"
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) body: Vec<u8>,
}

impl Response {
    /// An answer with this body.
    pub fn new(status: u16, content_type: &str, body: Vec<u8>) -> Response {
        let mut response = Response {
            status,
            headers: Headers::default(),
            body,
        };
        response.set_header("Content-Type", content_type);
        response
    }

    /// Sets or replaces a header. That of the length is set when the answer is sent.
    pub fn set_header(&mut self, name: &str, value: &str) {
        self.headers.remove(name);
        self.headers.0.push((name.to_owned(), value.to_owned()));
    }

    /// Says that the bytes are those of another range.
    pub(super) fn shift_range(&mut self, shift: u64) {
        let range = self.headers.get("Content-Range").and_then(|it| {
            let (range, size) = it.strip_prefix("bytes ")?.split_once('/')?;
            let (start, end) = range.split_once('-')?;
            let shifted = |at: &str| Some(at.parse::<u64>().ok()? + shift);
            Some(format!(
                "bytes {}-{}/{size}",
                shifted(start)?,
                shifted(end)?
            ))
        });
        if let Some(range) = range {
            self.set_header("Content-Range", &range);
        }
    }

    /// Parses all that a server sent on a connection.
    pub(super) fn parse(bytes: &[u8]) -> io::Result<Response> {
        let head = head_len(bytes).ok_or_else(|| invalid("no head"))?;
        let (line, mut headers) = parse_head(&bytes[..head])?;
        let status = line.split(' ').nth(1).and_then(|it| it.parse().ok());
        let is_chunked = headers
            .get("Transfer-Encoding")
            .is_some_and(|it| it.contains("chunked"));
        let body = match is_chunked {
            true => unchunked(&bytes[head..])?,
            false => bytes[head..].to_vec(),
        };
        for name in ["Transfer-Encoding", "Content-Length", "Connection"] {
            headers.remove(name);
        }
        Ok(Response {
            status: status.ok_or_else(|| invalid("no status line"))?,
            headers,
            body,
        })
    }

    /// The bytes of the head for a client. 204 has no body and no length.
    pub(super) fn head_for_client(&self) -> String {
        let mut head = format!("HTTP/1.1 {} By the proxy\r\n", self.status);
        for (name, value) in &self.headers.0 {
            head += &format!("{name}: {value}\r\n");
        }
        if self.status != 204 {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        head + "\r\n"
    }
}

/// Names and values, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers(pub(super) Vec<(String, String)>);

impl Headers {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let of_name = |(it, _): &&(String, String)| it.eq_ignore_ascii_case(name);
        self.0.iter().find(of_name).map(|(_, value)| &**value)
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(it, _)| !it.eq_ignore_ascii_case(name));
    }

    pub(super) fn content_length(&self) -> usize {
        let length = self.get("Content-Length").and_then(|it| it.parse().ok());
        length.unwrap_or(0)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// The length of the head, with the empty line.
fn head_len(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
    Some(end + 4)
}

/// The first line and the headers.
fn parse_head(bytes: &[u8]) -> io::Result<(String, Headers)> {
    let text = str::from_utf8(bytes).map_err(|_| invalid("a head that is no text"))?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    });
    Ok((first, Headers(headers.collect())))
}

/// The content of a body in chunks.
fn unchunked(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|it| it == b"\r\n");
        let end = end.ok_or_else(|| invalid("a chunk without a size"))?;
        let size = str::from_utf8(&bytes[..end]).unwrap_or_default();
        let size = size.split(';').next().unwrap_or_default().trim();
        let size =
            usize::from_str_radix(size, 16).map_err(|_| invalid("a chunk without a size"))?;
        if size == 0 {
            return Ok(body);
        }
        let chunk = bytes.get(end + 2..end + 2 + size);
        body.extend_from_slice(chunk.ok_or_else(|| invalid("a chunk that is cut"))?);
        bytes = bytes.get(end + 4 + size..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_chunks_is_joined() {
        let bytes = b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x\r\n0123456789\r\n0\r\n\r\n";
        let response = Response::parse(bytes).unwrap();
        assert_eq!(
            (response.status, &*response.body),
            (200, &b"abc0123456789"[..])
        );
        let head = response.head_for_client();
        assert!(
            head.contains("ETag: \"a\"\r\n") && head.contains("Content-Length: 13\r\n"),
            "{head}"
        );
        assert!(!head.contains("chunked"), "{head}");
    }

    #[test]
    fn an_answer_that_is_cut_is_an_error() {
        for bytes in [
            &b"HTTP/1.1 200"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na",
        ] {
            assert!(Response::parse(bytes).is_err());
        }
    }
}
