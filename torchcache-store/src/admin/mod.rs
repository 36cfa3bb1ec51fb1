//! Looking after caches from outside: what there is below a directory, whether it is sound, and taking
//! away what is not wanted. For a command line and for programs that tidy up after others; a store
//! does none of it.
//!
//! It keeps to the rules of the store, so that it may be done beside running processes: links are not
//! followed, what strangers may have written is left alone, a replacement is synced and has its name
//! before what it replaces goes, and a file that vanished meanwhile is no error. Segments of a newer
//! version are only removed by [`clear`].
//!
//! ```
//! use torchcache_store::{Config, RowBatch, Store};
//! use torchcache_store::admin::{Root, clear, verify};
//!
//! let root = tempfile::tempdir()?;
//! let store = Store::open(root.path().join("5eed"), Config::default())?;
//! store.put(RowBatch::new(vec![[7; 32]], b"u8".as_slice().into(), vec![1, 2, 3], 3)?);
//! store.flush()?;
//!
//! let caches = Root::open(root.path())?.list()?.caches;
//! let summary = caches[0].summary()?;
//! assert_eq!((caches[0].name(), summary.rows()), ("5eed", 1));
//!
//! let reports = verify(&caches, &());
//! assert!(reports.iter().all(|report| report.is_sound()));
//!
//! let gone = clear(&caches[0])?;
//! assert_eq!((gone.segments, gone.is_directory_gone), (1, true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod clear;
mod dedup;
mod discover;
mod inventory;
mod prune;
mod repair;
mod snapshot;
mod summary;

pub use check::{Outcome, Progress, SegmentReport, Verified, verify};
pub use clear::{Cleared, clear};
pub use dedup::Distinct;
pub use discover::{Cache, Listing, Root};
pub use prune::{Keep, PrunedCache, PrunedSegment, Pruning, prune};
pub use repair::{Repaired, Repairs, repair};
pub use snapshot::CacheRows;
pub use summary::{Contents, RowGroupSummary, SegmentInfo, Summary};
