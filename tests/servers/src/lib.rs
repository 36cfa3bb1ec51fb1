//! Object stores for tests of the remote tier: [`SeaweedFs`], a real server that speaks S3, and [`FaultProxy`], which
//! stands between a client and the server and causes faults.
//!
//! All listen on 127.0.0.1 only, and stop when they are dropped or when the test's process ends in any way.
//! `cargo xtask test` installs the server and names it in [`VARIABLE`].

#![deny(missing_docs)]

mod proxy;
mod seaweedfs;

pub use proxy::{Fault, FaultProxy, ProxiedRequest, RequestKind, Response};
pub use seaweedfs::{READER, SeaweedFs, VARIABLE, WRITER, variables};
