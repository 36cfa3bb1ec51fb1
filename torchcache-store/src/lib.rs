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
//! Where to look: `store` is the face, `catalog` knows which row lies where, `queue` holds
//! what is not written yet, `writer` is the thread, `segment` is the file format and knows
//! nothing of the rest.

#![deny(missing_docs)]
#![deny(unsafe_code)]

#[cfg(not(unix))]
compile_error!("torchcache-store needs a Unix system: it relies on preadv, flock and rename");

mod batch;
mod catalog;
mod clock;
mod config;
pub mod cores;
mod directory;
mod evict;
mod exit;
mod fault;
mod found;
pub mod fs;
mod handle;
mod index;
mod load;
pub mod maintain;
pub mod manifest;
mod merge;
mod open_files;
mod pending;
mod private_dir;
mod queue;
mod read;
mod scan;
pub mod schema;
pub mod segment;
mod signals;
pub mod size;
mod store;
mod sync;
mod sys;
mod temp;
mod tracked;
mod trust;
mod writer;

pub use batch::{Key, RowBatch, RowValues};
pub use config::{Compression, Config};
pub use exit::flush_all;
pub use fault::{Fault, FaultCounts, StoreError};
pub use found::Found;
pub use private_dir::TempCache;
pub use store::{Store, StoreStats};
