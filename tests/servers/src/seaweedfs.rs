//! SeaweedFS as a child process.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// Names the program `weed` to the tests.
pub const VARIABLE: &str = "TORCHCACHE_SEAWEEDFS";

/// Name and secret of the key that may do everything.
pub const WRITER: (&str, &str) = ("writer", "secret-of-the-writer");

/// Name and secret of the key that may read and list.
pub const READER: (&str, &str) = ("reader", "secret-of-the-reader");

/// The variables by which clients find a server with one of its keys.
pub fn variables(endpoint: &str, key: (&str, &str)) -> Vec<(String, String)> {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", key.0),
        ("AWS_SECRET_ACCESS_KEY", key.1),
        ("AWS_REGION", "us-east-1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Requests without a signature may write: [`Fault::IgnoreCondition`](crate::Fault::IgnoreCondition) makes some.
const IDENTITIES: &str = r#"{"identities": [
    {"name": "writer", "credentials": [{"accessKey": "writer", "secretKey": "secret-of-the-writer"}],
     "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
    {"name": "reader", "credentials": [{"accessKey": "reader", "secretKey": "secret-of-the-reader"}],
     "actions": ["Read", "List"]},
    {"name": "anonymous", "actions": ["Write"]}
]}"#;

/// How long the server may take to start, on a machine that is busy with other tests.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts the program, and kills it when standard input ends: when it is closed, or when the process of the test has
/// ended in any way. The program itself takes half a minute to end by a signal that it handles. It leaves its sockets in
/// /tmp, whatever the directory for temporary files is.
const SCRIPT: &str =
    r#""$@" </dev/null & pid=$!; read -r _; kill -9 $pid; wait $pid; rm -f $SOCKETS"#;

/// The ports of its parts, each with one for gRPC.
#[derive(Clone, Copy, Debug)]
struct Ports([(&'static str, [u16; 2]); 4]);

impl Ports {
    fn s3(&self) -> u16 {
        self.0[0].1[0]
    }

    fn filer(&self) -> u16 {
        self.0[1].1[0]
    }
}

/// A server that keeps objects in a directory.
///
/// ```no_run
/// use torchcache_servers::{SeaweedFs, WRITER, variables};
///
/// let dir = std::env::temp_dir().join("seaweedfs");
/// let server = SeaweedFs::start(&dir)?;
/// server.create_bucket("team")?;
/// let mut program = std::process::Command::new("a-program");
/// program.envs(variables(&server.endpoint(), WRITER));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct SeaweedFs {
    program: PathBuf,
    dir: PathBuf,
    ports: Ports,
    running: Option<Child>,
}

impl SeaweedFs {
    /// Starts the server on a directory, which is made if it does not exist, and waits until it answers.
    ///
    /// # Errors
    /// [`VARIABLE`] is not set, the program does not start, or it does not answer.
    pub fn start(dir: &Path) -> io::Result<SeaweedFs> {
        let program = env::var_os(VARIABLE).filter(|it| !it.is_empty());
        let Some(program) = program else {
            return Err(io::Error::other(format!(
                "{VARIABLE} names no program; run the tests by `cargo xtask test`, which installs SeaweedFS"
            )));
        };
        fs::create_dir_all(dir)?;
        let mut server = SeaweedFs {
            program: program.into(),
            dir: dir.canonicalize()?,
            ports: free_ports()?,
            running: None,
        };
        // Another program may take a port before the server does.
        const TRIES: usize = 3;
        for _ in 1..TRIES {
            if server.restart().is_ok() {
                return Ok(server);
            }
            server.kill();
            server.ports = free_ports()?;
        }
        server.restart()?;
        Ok(server)
    }

    /// The URL of its S3 interface.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The address of its S3 interface.
    pub fn address(&self) -> SocketAddr {
        local(self.ports.s3())
    }

    /// Makes a bucket, or does nothing where it exists. Each takes some volumes: use one, with many prefixes.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub fn create_bucket(&self, name: &str) -> io::Result<()> {
        let path = format!("/buckets/{name}/");
        match status(self.ports.filer(), "POST", &path, "")? {
            200..300 | 409 => Ok(()),
            status => Err(io::Error::other(format!("POST {path}: status {status}"))),
        }
    }

    /// Kills it, as a power loss would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    /// Starts it again after [`kill`](Self::kill), with the same objects and ports, and waits until it answers.
    ///
    /// # Errors
    /// The program does not start or does not answer.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        let in_dir = |name: &str| self.dir.join(name);
        let data = in_dir("data");
        fs::create_dir_all(&data)?;
        fs::write(in_dir("s3.json"), IDENTITIES)?;
        let log = fs::File::create(in_dir("log"))?;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(&self.program);
        command.args([
            format!("-logdir={}", self.dir.display()),
            "server".to_owned(),
            format!("-dir={}", data.display()),
            format!("-filer.localSocket={}", in_dir("filer.sock").display()),
            format!("-s3.config={}", in_dir("s3.json").display()),
        ]);
        command.args([
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=100",
            "-filer",
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            "-s3.cacheCapacityMB=0",
            "-s3.readerCacheSizeMB=16",
        ]);
        let mut sockets = String::new();
        for (name, [port, grpc]) in self.ports.0 {
            command.arg(format!("-{name}.port={port}"));
            command.arg(format!("-{name}.port.grpc={grpc}"));
            sockets += &format!("/tmp/seaweedfs-{name}-{port}.sock ");
            sockets += &format!("/tmp/seaweedfs-{name}-grpc-{grpc}.sock ");
        }
        command.env("SOCKETS", sockets);
        // A signal for the group of the test would end the shell before it kills the program.
        command.process_group(0);
        command.env("GOMEMLIMIT", "256MiB");
        command
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.running = Some(command.spawn()?);
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            // It answers before it can keep anything.
            let filer = status(self.ports.filer(), "PUT", "/ready", "x");
            let s3 = status(self.ports.s3(), "GET", "/healthz", "");
            if let (Ok(200..300), Ok(200)) = (&filer, &s3) {
                return Ok(());
            }
            let log = self.dir.join("log");
            let has_failed = || {
                fs::read_to_string(&log).is_ok_and(|it| it.contains("bind: address already in use"))
            };
            if begin.elapsed() > START_TIMEOUT || has_failed() {
                let text = format!(
                    "{} does not answer: {filer:?}, {s3:?}; see {}",
                    self.program.display(),
                    log.display()
                );
                return Err(io::Error::other(text));
            }
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        self.kill();
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Ports that no program listens on now. Not those that the system gives to connections.
fn free_ports() -> io::Result<Ports> {
    const FIRST: u32 = 10_000;
    const LAST: u32 = 32_000;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = now.unwrap_or_default().subsec_nanos() ^ std::process::id().wrapping_mul(7919);
    let mut next = FIRST + seed % (LAST - FIRST);
    let mut free = || {
        for _ in FIRST..LAST {
            next = if next >= LAST { FIRST } else { next + 1 };
            let port = next as u16;
            if TcpListener::bind(local(port)).is_ok() {
                return Ok(port);
            }
        }
        Err(io::Error::other("no port is free"))
    };
    let mut pair = || Ok::<_, io::Error>([free()?, free()?]);
    Ok(Ports([
        ("s3", pair()?),
        ("filer", pair()?),
        ("master", pair()?),
        ("volume", pair()?),
    ]))
}

/// The status of the answer to a request.
fn status(port: u16, method: &str, path: &str, body: &str) -> io::Result<u16> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&local(port), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let line = String::from_utf8_lossy(&answer);
    let status = line.split(' ').nth(1).and_then(|it| it.parse().ok());
    status.ok_or_else(|| io::Error::other(format!("{method} {path}: no status in the answer")))
}
