//! Administration of caches on disk, for the command line and other tools: lists the caches below a
//! directory, checks and repairs them, and removes rows and caches. A store uses none of it.
//!
//! All of it may run while other processes use the caches, since it follows the rules of the store: links
//! are not followed; directories and files that other users may write to are skipped; a replacement is
//! synced and published before its source is removed; a file that vanished is not an error. Only
//! [`clear`] removes segments of newer versions.
//!
//! ```
//! use torchcache_store::{Config, RowBatch, Store};
//! use torchcache_store::admin::{Root, clear, check};
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
//! let reports = check(&caches, &());
//! assert!(reports.iter().all(|report| report.is_intact()));
//!
//! let cleared = clear(&caches[0], false)?;
//! assert_eq!((cleared.segments, cleared.directory_removed), (1, true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod clear;
mod dedup;
mod discover;
mod inventory;
mod keyed;
mod prune;
mod repair;
mod snapshot;
mod summary;

pub(crate) use discover::{Found, Segments, open as open_segment, read_segments};
pub(crate) use summary::GroupTotals;

pub use check::{CheckProgress, CheckReport, SegmentCheck, SegmentState, check};
pub use clear::{ClearReport, clear};
pub use dedup::DistinctRows;
pub use discover::{Cache, Listing, Root, name_text};
pub use keyed::KeyedRows;
pub use prune::{Keep, PrunePlan, PruneReport, PrunedCache, PrunedSegment, prune};
pub use repair::{RepairReport, SegmentRepair, repair};
pub use snapshot::CacheRows;
pub use summary::{CacheSummary, RowGroupSummary, SegmentContents, SegmentSummary};
