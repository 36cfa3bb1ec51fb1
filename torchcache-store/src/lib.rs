//! The disk tier of torchcache: a persistent cache from keys to bytes.
//!
//! A [`Store`] keeps *rows* in one directory: a 32-byte [`Key`], a short *schema* that says what the
//! bytes mean, and a value. Writing goes through a bounded queue and one background thread; queued
//! rows are found like those on disk. On disk there are only immutable segment files, so any number of
//! processes share a directory without a lock. `docs/format.md` describes their bytes.
//!
//! **A fault is a miss.** A full disk, a flipped bit or a removed file makes rows absent and is counted
//! in [`StoreStats`]. It never leads to a wrong row, a panic, or an error for the reader.
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
//! let located: Vec<_> = store.locate(&keys[1..]).into_iter().flatten().collect();
//! let mut row = vec![0; located[0].len];
//! assert_eq!(store.read(&located, &mut [&mut row]), [true]);
//! assert_eq!(row, [20, 21]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Stability
//!
//! The feature `unstable` makes segments, the remote tier, manifests, schemas, ids, the file system, administration,
//! threads and single flight public. It is for torchcache and its command line, which pin the exact version: any release
//! may change what it adds.
//!
//! # Limits
//!
//! Only Linux and Apple systems are supported: the store relies on a rename that replaces no file. A fork
//! without `exec` is not supported either: a forked child reads, but writes no rows.

// Layers, from the top down: a module imports only what is below its own line.
//
// remote_tier    the rows of a store in an object store
// store     the public handle
// process   what a process has once: its stores, private directories, the end
// remote_admin  caches in an object store, from outside
// engine    queueing, writing, eviction, compaction, reading    admin  caches on disk, from outside
// remote    rows in an object store
// catalog   which segments there are and which row is where
// batch     rows that are put together
// schema    what the bytes of a row mean
// segment   the format of segment files                         manifest
// fs        the file system
// The rest are leaves.

// Shows which feature an item needs on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(missing_docs)]
#![deny(unsafe_code)]
#![cfg_attr(
    not(feature = "unstable"),
    expect(
        dead_code,
        unreachable_pub,
        unused_imports,
        reason = "some of the modules are public with the feature `unstable` only"
    )
)]

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
compile_error!(
    "torchcache-store needs Linux or an Apple system: it relies on a rename that replaces no file"
);

#[cfg(feature = "unstable")]
pub mod admin;
mod batch;
mod catalog;
mod clock;
mod config;
mod descriptors;
mod engine;
mod error;
#[cfg(not(feature = "unstable"))]
mod events;
#[cfg(feature = "unstable")]
pub mod events;
mod fault;
#[cfg(not(feature = "unstable"))]
mod flight;
#[cfg(feature = "unstable")]
pub mod flight;
#[cfg(not(feature = "unstable"))]
mod fork;
#[cfg(feature = "unstable")]
pub mod fork;
#[cfg(not(feature = "unstable"))]
mod fs;
#[cfg(feature = "unstable")]
pub mod fs;
#[cfg(feature = "unstable")]
pub mod ids;
mod key;
#[cfg(feature = "unstable")]
pub mod manifest;
mod process;
mod progress;
#[cfg(feature = "unstable")]
pub mod remote;
#[cfg(feature = "unstable")]
pub mod remote_admin;
#[cfg(feature = "unstable")]
pub mod remote_tier;
#[cfg(feature = "unstable")]
pub mod schema;
#[cfg(not(feature = "unstable"))]
mod segment;
#[cfg(feature = "unstable")]
pub mod segment;
#[cfg(not(feature = "unstable"))]
mod size;
#[cfg(feature = "unstable")]
pub mod size;
mod store;
mod sync;
mod sys;
#[cfg(not(feature = "unstable"))]
mod threads;
#[cfg(feature = "unstable")]
pub mod threads;

pub use batch::{RowBatch, RowValues};
pub use catalog::located::Located;
pub use config::{Compression, Config, Eviction};
pub use error::{FlushError, RemoveError, StoreError};
pub use fault::{Fault, FaultCounts};
pub use key::Key;
#[cfg(feature = "unstable")]
pub use process::{TempCache, background};
pub use process::{flush_all, flush_on_signals};
pub use store::{Store, StoreStats};
