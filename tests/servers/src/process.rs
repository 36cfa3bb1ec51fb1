//! What all servers have in common: programs that end with the test, ports, and requests by which they are set up.

use std::env;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// How long a server may take to start, on a machine that is busy with other tests.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Starts the program, and kills it when standard input ends: when it is closed, or when the process of the test has
/// ended in any way. Some programs leave sockets outside their directories.
const SCRIPT: &str =
    r#""$@" </dev/null & pid=$!; read -r _; kill -9 $pid; wait $pid; rm -f $SOCKETS"#;

/// What a variable of the environment names.
pub(crate) fn named(variable: &str) -> io::Result<PathBuf> {
    let value = env::var_os(variable).filter(|value| !value.is_empty());
    value.map(PathBuf::from).ok_or_else(|| {
        io::Error::other(format!(
            "{variable} is not set; run the tests by `cargo xtask test`, which installs what it names"
        ))
    })
}

/// A running program, which is killed when this is dropped or the process of the test ends.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    /// Starts it. What it prints replaces the content of `log`.
    pub(crate) fn start(command: &Command, log: &Path) -> io::Result<Program> {
        let log = File::create(log)?;
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "sh"]).arg(command.get_program());
        shell.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            shell.current_dir(dir);
        }
        // A signal for the group of the test would end the shell before it kills the program.
        shell.process_group(0);
        shell
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        shell.spawn().map(Program)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Waits until a server is ready, whose programs print to these logs.
///
/// # Errors
/// It is not in time, or another program has its port: [`ErrorKind::AddrInUse`].
pub(crate) fn wait_until_ready(
    logs: &[&Path],
    mut is_ready: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        let Err(error) = is_ready() else {
            return Ok(());
        };
        let logs = logs.iter().map(|it| fs::read(it).unwrap_or_default());
        let text = String::from_utf8_lossy(&logs.collect::<Vec<_>>().concat()).into_owned();
        let kind = match text.to_ascii_lowercase().contains("address already in use") {
            true => ErrorKind::AddrInUse,
            false => ErrorKind::TimedOut,
        };
        if kind == ErrorKind::AddrInUse || begin.elapsed() > START_TIMEOUT {
            let lines: Vec<_> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            let text = format!("the server does not answer: {error}; it printed:\n{last}");
            return Err(io::Error::new(kind, text));
        }
        sleep(Duration::from_millis(50));
    }
}

/// Starts a server on free ports. Another program may take one of them before the server does.
pub(crate) fn on_free_ports<S>(mut start: impl FnMut() -> io::Result<S>) -> io::Result<S> {
    const TRIES: usize = 3;
    for _ in 1..TRIES {
        match start() {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    start()
}

/// Ports that no program listens on now. Not those that the system gives to connections.
pub(crate) fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    const FIRST: u32 = 10_000;
    const LAST: u32 = 32_000;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = now.unwrap_or_default().subsec_nanos() ^ std::process::id().wrapping_mul(7919);
    let first = seed % (LAST - FIRST);
    let all = (0..LAST - FIRST).map(|n| (FIRST + (first + n) % (LAST - FIRST)) as u16);
    let mut free = all.filter(|port| TcpListener::bind(local(*port)).is_ok());
    let mut ports = [0; N];
    for port in &mut ports {
        *port = free
            .next()
            .ok_or_else(|| io::Error::other("no port is free"))?;
    }
    Ok(ports)
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Makes a request without a signature, such as `GET /`. Returns the status and the text of the answer.
pub(crate) fn request(
    port: u16,
    line: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<(u16, String)> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&local(port), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut head = format!("{line} HTTP/1.1\r\nHost: {}\r\n", local(port));
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let len = body.len();
    write!(
        stream,
        "{head}Content-Length: {len}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    match text.split(' ').nth(1).and_then(|it| it.parse().ok()) {
        Some(status) => Ok((status, text)),
        None => Err(io::Error::other(format!("{line}: no status in {text:?}"))),
    }
}

/// The text of the answer to such a request, if it succeeds.
pub(crate) fn succeed(port: u16, line: &str, headers: &[(&str, &str)]) -> io::Result<String> {
    match request(port, line, headers, "")? {
        (200..300, text) => Ok(text),
        (_, text) => Err(io::Error::other(format!("{line}: {text}"))),
    }
}
