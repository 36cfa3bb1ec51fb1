//! Object stores for tests of the remote tier: [`SeaweedFs`] and [`Ceph`], real servers that speak S3, [`Azurite`], an
//! emulator of Azure, and [`FaultProxy`], which stands between a client and a server and causes faults.
//!
//! All listen on 127.0.0.1 only, and stop when they are dropped or when the test's process ends in any way.
//! `cargo xtask test` installs SeaweedFS, with `--all` the others too, and names each in the variable of the environment
//! that its `start` reads.

#![deny(missing_docs)]

mod azurite;
mod ceph;
mod process;
mod proxy;
mod seaweedfs;

use std::io;
use std::net::SocketAddr;

pub use azurite::Azurite;
pub use ceph::Ceph;
pub use proxy::{Fault, FaultProxy, ProxiedRequest, RequestKind, Response};
pub use seaweedfs::SeaweedFs;

/// Name and secret of the key that may do everything.
pub const WRITER: (&str, &str) = ("writer", "secret-of-the-writer");

/// Name and secret of the key that may read and list.
pub const READER: (&str, &str) = ("reader", "secret-of-the-reader");

/// A server that keeps objects in a directory, with the keys [`WRITER`] and [`READER`].
///
/// ```no_run
/// use torchcache_servers::{SeaweedFs, Server, WRITER, variables};
///
/// let dir = std::env::temp_dir().join("seaweedfs");
/// let server = SeaweedFs::start(&dir)?;
/// server.create_bucket("team")?;
/// let mut program = std::process::Command::new("a-program");
/// program.envs(variables(&server.endpoint(), WRITER));
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Server {
    /// The address that clients connect to.
    fn address(&self) -> SocketAddr;

    /// Its URL.
    fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The scheme of the URLs of its buckets.
    fn scheme(&self) -> &'static str {
        "s3"
    }

    /// The variables by which clients find an endpoint, its own or that of a proxy in front of it, with one of its keys.
    fn variables(&self, endpoint: &str, key: (&str, &str)) -> Vec<(String, String)> {
        variables(endpoint, key)
    }

    /// Makes a bucket, or does nothing where it exists.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    fn create_bucket(&self, name: &str) -> io::Result<()>;

    /// Kills it, as a power loss would.
    fn kill(&mut self);

    /// Starts it again after [`kill`](Self::kill), with the same objects and ports, and waits until it answers.
    ///
    /// # Errors
    /// A program does not start or does not answer.
    fn restart(&mut self) -> io::Result<()>;
}

/// The variables by which clients find a server that speaks S3, with one of its keys.
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
