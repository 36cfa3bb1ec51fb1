//! The disk tier of torchcache: keys in, bytes out.
//!
//! A [`Store`] keeps *rows* (a 32-byte [`Key`], a short *schema* and a value) in one
//! directory. Writing goes through a bounded queue and one background thread; reading sees
//! queued rows and rows on disk alike. On disk there are only immutable segment files, so
//! that any number of processes may share a directory without a lock. The bytes of a
//! segment are described in `docs/format.md`.
//!
//! The store promises that **a fault is a miss**: a full disk, a flipped bit or a file that
//! vanished makes a row absent and is counted in [`StoreStats`]. It never makes a wrong row,
//! a panic or an error for the reader.
//!
//! ```
//! use std::sync::Arc;
//! use torchcache_store::{Config, RowBatch, Store};
//!
//! let dir = tempfile::tempdir()?;
//! let store = Store::open(dir.path(), Config::default())?;
//!
//! let keys = vec![[1u8; 32], [2u8; 32]];
//! let schema: Arc<[u8]> = Arc::from(&b"two bytes a row"[..]);
//! store.put(RowBatch::new(keys.clone(), schema, vec![10, 11, 20, 21], 2)?);
//!
//! let found = store.locate(&keys[1..]);
//! let found: Vec<_> = found.into_iter().flatten().collect();
//! let mut row = vec![0; found[0].len];
//! assert_eq!(store.read(&found, &mut [&mut row]), [true]);
//! assert_eq!(row, [20, 21]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Each folder imports only what stands below it here: `store` is the public handle; `process` has what
//! belongs to the whole process; `engine` writes, evicts, compacts and reads; `admin` works on caches
//! from outside; `catalog` knows which row is in which segment; `segment` and `manifest` are the file
//! formats; `fs` is the file system.

#![deny(missing_docs)]
#![deny(unsafe_code)]

#[cfg(not(unix))]
compile_error!("torchcache-store needs a Unix system: it relies on preadv, flock and rename");

pub mod admin;
mod batch;
mod catalog;
mod clock;
mod config;
mod engine;
mod error;
mod fault;
mod fork;
pub mod fs;
mod key;
pub mod manifest;
mod process;
pub mod schema;
pub mod segment;
pub mod size;
mod store;
mod sync;
mod sys;
pub mod threads;

pub use batch::{RowBatch, RowValues};
pub use catalog::located::Located;
pub use config::{Compression, Config, Eviction};
pub use error::{FlushError, StoreError};
pub use fault::{Fault, FaultCounts};
pub use key::Key;
pub use process::{TempCache, flush_all, flush_on_signals};
pub use store::{Store, StoreStats};
