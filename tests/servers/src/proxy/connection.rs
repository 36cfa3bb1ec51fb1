//! One connection of a client.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::message::{ProxiedRequest, Response};
use super::shared::Shared;

/// How often a thread that waits looks whether the proxy stops.
const TICK: Duration = Duration::from_millis(20);

/// How long the server may take to answer.
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers requests until the connection ends.
pub(super) fn serve(stream: &TcpStream, shared: &Shared) {
    // An error ends the connection, as the fault of a network would.
    let _ = stream.set_nodelay(true);
    while let Ok(true) = answer(stream, shared) {}
}

/// Answers one request. Returns whether the connection goes on.
fn answer(mut stream: &TcpStream, shared: &Shared) -> io::Result<bool> {
    let mut reader = stream.try_clone()?;
    let Some(mut request) = ProxiedRequest::read_head(&mut reader, || shared.is_stopping())? else {
        return Ok(false);
    };
    let under_way = shared.begin();
    let fault = shared.fault(&request);
    if let Fault::Reset = fault {
        // The last byte of the head is not read yet, so that the system resets the connection.
        return Ok(false);
    }
    reader.read_exact(&mut [0])?;
    let mut body = vec![0; request.headers.content_length()];
    reader.read_exact(&mut body)?;

    match &fault {
        Fault::Hang => {
            wait_for_end(&reader, shared)?;
            return Ok(false);
        }
        Fault::Answer(response) => {
            drop(under_way);
            send(stream, response)?;
            return Ok(true);
        }
        Fault::Delay(delay) => pause(*delay, shared),
        Fault::IgnoreCondition => {
            let is_signed = |name: &str| {
                name.starts_with("x-amz-") || name == "authorization" || name == "if-none-match"
            };
            request
                .headers
                .0
                .retain(|(name, _)| !is_signed(&name.to_ascii_lowercase()));
        }
        _ => {}
    }
    let mut response = forward(&request, &body, shared)?;
    // Before the client can see the answer and make the next request.
    drop(under_way);
    match fault {
        Fault::LoseReply => return Ok(false),
        Fault::FlipByte(n) => {
            let last = response.body.len().saturating_sub(1);
            if let Some(byte) = response.body.get_mut(n.min(last)) {
                *byte ^= 1;
            }
        }
        Fault::WrongRange(shift) => response.shift_range(shift),
        Fault::IgnoreRange => response.status = 200,
        Fault::LongBody(more) => response.body.extend(vec![0; more]),
        Fault::CutBody(keep) => {
            stream.write_all(response.head_for_client().as_bytes())?;
            stream.write_all(&response.body[..keep.min(response.body.len())])?;
            return Ok(false);
        }
        Fault::SlowBody {
            chunk,
            pause: between,
        } => {
            stream.write_all(response.head_for_client().as_bytes())?;
            for part in response.body.chunks(chunk.max(1)) {
                stream.write_all(part)?;
                pause(between, shared);
                if shared.is_stopping() {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        _ => {}
    }
    send(stream, &response)?;
    Ok(true)
}

fn send(mut stream: &TcpStream, response: &Response) -> io::Result<()> {
    let mut bytes = response.head_for_client().into_bytes();
    bytes.extend_from_slice(&response.body);
    stream.write_all(&bytes)
}

fn forward(request: &ProxiedRequest, body: &[u8], shared: &Shared) -> io::Result<Response> {
    let mut server = TcpStream::connect_timeout(&shared.server, SERVER_TIMEOUT)?;
    server.set_read_timeout(Some(SERVER_TIMEOUT))?;
    server.set_nodelay(true)?;
    server.write_all(request.head_for_server().as_bytes())?;
    server.write_all(body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    Response::parse(&answer)
}

fn pause(time: Duration, shared: &Shared) {
    let end = Instant::now() + time;
    while !shared.is_stopping() && Instant::now() < end {
        sleep(TICK.min(end.saturating_duration_since(Instant::now())));
    }
}

/// Waits until the client closes the connection or the proxy stops.
fn wait_for_end(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(TICK))?;
    while !shared.is_stopping() {
        match stream.peek(&mut [0]) {
            Ok(_) => break,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
