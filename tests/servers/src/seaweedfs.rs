//! SeaweedFS.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Server;
use crate::process::{Program, free_ports, local, named, on_free_ports, request, wait_until_ready};

/// Requests without a signature may write: [`Fault::IgnoreCondition`](crate::Fault::IgnoreCondition) makes some.
const IDENTITIES: &str = r#"{"identities": [
    {"name": "writer", "credentials": [{"accessKey": "writer", "secretKey": "secret-of-the-writer"}],
     "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
    {"name": "reader", "credentials": [{"accessKey": "reader", "secretKey": "secret-of-the-reader"}],
     "actions": ["Read", "List"]},
    {"name": "anonymous", "actions": ["Write"]}
]}"#;

/// Its parts. Each has a port, and one for gRPC.
const PARTS: [&str; 4] = ["s3", "filer", "master", "volume"];

/// SeaweedFS. Each bucket takes some of its volumes: use one, with many prefixes.
#[derive(Debug)]
pub struct SeaweedFs {
    program: PathBuf,
    dir: PathBuf,
    ports: [u16; 2 * PARTS.len()],
    running: Option<Program>,
}

impl SeaweedFs {
    /// Starts the program `weed` that `TORCHCACHE_SEAWEEDFS` names on a directory, which is made if it does not exist,
    /// and waits until it answers.
    ///
    /// # Errors
    /// The variable is not set, the program does not start, or it does not answer.
    pub fn start(dir: &Path) -> io::Result<SeaweedFs> {
        let program = named("TORCHCACHE_SEAWEEDFS")?;
        fs::create_dir_all(dir)?;
        on_free_ports(|| {
            let mut server = SeaweedFs {
                program: program.clone(),
                dir: dir.canonicalize()?,
                ports: free_ports()?,
                running: None,
            };
            server.restart()?;
            Ok(server)
        })
    }

    fn s3(&self) -> u16 {
        self.ports[0]
    }

    fn filer(&self) -> u16 {
        self.ports[2]
    }

    fn command(&self) -> Command {
        let in_dir = |name: &str| self.dir.join(name);
        let mut command = Command::new(&self.program);
        command.args([
            format!("-logdir={}", self.dir.display()),
            "server".to_owned(),
            format!("-dir={}", in_dir("data").display()),
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
        // They are in /tmp, whatever the directory for temporary files is.
        let mut sockets = String::new();
        for (name, ports) in PARTS.iter().zip(self.ports.chunks(2)) {
            let (port, grpc) = (ports[0], ports[1]);
            command.arg(format!("-{name}.port={port}"));
            command.arg(format!("-{name}.port.grpc={grpc}"));
            sockets += &format!("/tmp/seaweedfs-{name}-{port}.sock ");
            sockets += &format!("/tmp/seaweedfs-{name}-grpc-{grpc}.sock ");
        }
        command.env("SOCKETS", sockets).env("GOMEMLIMIT", "256MiB");
        command
    }
}

impl Server for SeaweedFs {
    fn address(&self) -> SocketAddr {
        local(self.s3())
    }

    fn create_bucket(&self, name: &str) -> io::Result<()> {
        match request(self.filer(), &format!("POST /buckets/{name}/"), &[], "")? {
            (200..300 | 409, _) => Ok(()),
            (_, text) => Err(io::Error::other(text)),
        }
    }

    /// At a signal that it handles, it would take half a minute to end.
    fn kill(&mut self) {
        self.running = None;
    }

    fn restart(&mut self) -> io::Result<()> {
        self.kill();
        fs::create_dir_all(self.dir.join("data"))?;
        fs::write(self.dir.join("s3.json"), IDENTITIES)?;
        let log = self.dir.join("log");
        self.running = Some(Program::start(&self.command(), &log)?);
        wait_until_ready(&[&log], || {
            // It answers before it can keep anything.
            let filer = request(self.filer(), "PUT /ready", &[], "x")?;
            let s3 = request(self.s3(), "GET /healthz", &[], "")?;
            match (filer.0, s3.0) {
                (200..300, 200) => Ok(()),
                _ => Err(io::Error::other(format!("{filer:?}, {s3:?}"))),
            }
        })
    }
}
