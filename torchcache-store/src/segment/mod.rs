//! Segment files: their byte layout, writing and reading. This module knows nothing of a store, its
//! index or its queue.
//!
//! ```
//! use torchcache_store::segment::{Encoding, SegmentReader, SegmentWriter};
//!
//! let dir = tempfile::tempdir()?;
//! let mut writer = SegmentWriter::create(dir.path())?;
//! writer.push(&[1; 32], &b"schema"[..].into(), 5, Encoding::Raw, b"value")?;
//! let path = writer.finish()?.publish()?;
//!
//! let segment = SegmentReader::open(&path, false)?;
//! let row = segment.rows().next().expect("one row was written")?;
//! let mut value = vec![0; 5];
//! segment.read(&row, &mut value)?;
//! assert_eq!(value, b"value");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod copy;
mod decoder;
mod encoder;
mod ends;
mod error;
mod fetch;
mod footer;
mod format;
mod name;
mod reader;
mod segment_file;
mod shuffle;
#[cfg(feature = "unstable")]
mod stored;
mod writer;

pub use error::SegmentError;
pub use footer::Footer;
pub use format::{Encoding, MAX_SCHEMA, RowEntry, RowGroup, VERSION};
pub use reader::SegmentReader;
pub use writer::{FinishedSegment, SegmentWriter};

pub(crate) use builder::{MOST_ROWS, SegmentBuilder};
pub(crate) use copy::{CopyError, copy_records};
pub(crate) use decoder::Decoder;
pub(crate) use encoder::{RawValue, encode_rows};
pub(crate) use ends::{claimed_rows, claimed_rows_of_tail, has_flipped_version};
pub(crate) use fetch::{RowRequest, checked_record, fetch, read_record};
pub(crate) use format::{CHECKSUM_LEN, ROW_LEN, TRAILER_LEN, rows_within, segment_bytes};
pub(crate) use name::{
    MAX_LISTINGS, POLL_INTERVAL, SETTLE_TIMEOUT, SegmentListing, clock_step, is_foreign,
    is_segment, is_settled, list_segments, segment_names, visit_segments, visit_with_replacements,
};
pub(crate) use reader::Record;
pub(crate) use segment_file::SegmentFile;
#[cfg(feature = "unstable")]
pub(crate) use stored::fetch_stored;
pub(crate) use writer::PublishedSegment;
