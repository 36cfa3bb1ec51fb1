//! The remote tier: rows of one cache in an object store, which many machines share. There is no server of its own, no
//! lock and no index object: a store that keeps objects, lists them and reads ranges is enough.
//!
//! # Objects
//!
//! ```text
//! <prefix>/torchcache-1/<module hash>/
//!   s/<ns>-<pid>-<rand64>-<footer bytes>.tcs    a segment, as on disk
//!   latest                                      16 random bytes: a hint that segments were added or removed
//!   r/<yyyymmdd>/<rand64>                       which segments a process read that day: see [`ReadMark`]
//! ```
//!
//! Segments are immutable and have unique names, so no promise rests on conditional puts: "already exists" means that
//! an earlier attempt succeeded, and a store that ignores the condition replaces an object by the same bytes. With the
//! size, which listings have, the length of the footer in the name lets one bounded request read footer and trailer.
//! The trailer decides: an object whose name lies is no segment.
//!
//! # Learning what there is
//!
//! A call never lists and never reads footers. [`Remote::work`] does, in the background, after a row was missing:
//! it reads `latest`, and only if that has changed it lists the names from 15 minutes before the newest on. The
//! interval is 30 s at first and doubles to 5 min while no row is found that was missing. Everything is listed at
//! the start, every hour, after an object was found to be gone, before an upload if the remote has rows of it in
//! more than 64 segments, and when the hint changed and the listing shows nothing: then its writer's clock is
//! behind, or segments were removed. The last is done at most every 5 min.
//! Footers are kept on the local disk, so that opening a cache again costs one listing. The index has the rows of
//! the newest segments, as many as [`RemoteConfig::max_rows`] allows. Of several copies of a row, the newest is
//! read.
//!
//! # Reading
//!
//! [`Remote::read`] groups rows by object and joins those with gaps of up to 256 KiB into requests of about 8 MiB. The
//! store makes up to 16 of these at once. One deadline holds for the call: rows that arrived before are used, the
//! others are misses. The checksum of each row covers its key, schema and length, so bytes that were damaged, cut or
//! taken from elsewhere are a miss and never a wrong row. Such a row is asked for once more, then it leaves the index.
//! An object that is gone is forgotten.
//!
//! # Writing
//!
//! Only rows that this process computed are [pushed](Remote::push): uploading what was downloaded would bring
//! evicted rows back for ever. At 64 MiB, after a delay, or in [`Remote::flush`], the keys that the remote has are
//! dropped. Others may have removed their segments since they were listed, so a byte of each is read first: the
//! hint may have changed for another reason, or not yet. The records of the others are copied as they are stored,
//! and put as one object; then `latest` is changed, at most every 5 s, and once more when the process or the tier
//! ends. The delay is 30 s and doubles to 16 min while objects are below 16 MiB, and stays below 32 MiB. After a
//! failure the same object is put again, under the same name, after 5 s to 5 min; it is made again if rows were left
//! out that the remote had. The backlog is bounded, and rows that are dropped are counted.
//!
//! # Faults
//!
//! None is an error for the caller: rows are misses. After three failed requests in a row, none is made for 5 s, which
//! doubles to 5 min; then the background makes one, to see whether the store is back. A request that was not made, since
//! others took all connections, is no failure, and neither is one that failed while another one was answered. All tiers
//! of a process with one store and prefix share this.

mod backlog;
mod breaker;
mod catalog;
mod client;
mod exclusive;
mod fetch;
mod footers;
mod live;
pub(crate) mod local_dir;
mod marking;
mod name;
mod name_list;
mod object_store;
mod read_marks;
mod segment;
#[cfg(all(test, not(shuttle)))]
mod test_clock;
mod time;
mod upload;
mod wanted;
mod warnings;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::backlog::Origin;
use self::catalog::RemoteCatalog;
use self::client::{Caller, Client};
use self::footers::FooterFiles;
use self::marking::ReadMarking;
use self::segment::RemoteSegment;
use self::upload::{Remotes, Uploads};
use self::wanted::WantedSegments;
use self::warnings::{Warning, Warnings};
use crate::fs::FileSystem;
use crate::key::Key;

pub(crate) use backlog::{OBJECT_BYTES, SMALL_BYTES};
pub use backlog::{Pushed, PushedRow, UploadCounts};
pub use breaker::BreakerState;
pub(crate) use catalog::MAX_FOOTER_BYTES;
pub use client::RequestCounts;
pub(crate) use fetch::{Request, plan};
pub(crate) use name::{Layout, ObjectName, new_hint};
pub(crate) use name_list::{parse as parse_names, write as write_names};
pub(crate) use object_store::read_each_once;
pub use object_store::{
    ListedObject, MAX_CONCURRENT_READS, ObjectError, ObjectErrorKind, ObjectPage, ObjectStore,
    RangeRead,
};
pub use read_marks::ReadMark;
pub use segment::RemoteRow;
pub(crate) use time::nanos;
pub use time::{Clock, SystemClock};
pub(crate) use upload::has_room;
pub use upload::{RecordSource, RemoteFlushError, StoredRecord};
pub use wanted::WantedSegment;

/// How long a request for the rest of a segment, or for a manifest, may take.
const FILL_TIMEOUT: Duration = Duration::from_secs(30);

/// What a process does with the rows of a remote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RemoteMode {
    /// It reads them, and adds those that it computes.
    #[default]
    ReadWrite,
    /// It only reads: it puts no object of any kind.
    ReadOnly,
    /// It only adds rows. What the remote has is listed to find out which rows need not be added.
    WriteOnly,
}

/// Where the rows of a cache are in a bucket, and bounds.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// The URL of the remote, for messages.
    pub url: String,
    /// Whether it is read and written.
    pub mode: RemoteMode,
    /// What all keys begin with; may be empty.
    pub prefix: String,
    /// The module hash, as the name of the local directory has it.
    pub module_hash: String,
    /// The local directory for footers, each in a file whose name ends with `.footer`.
    pub footer_dir: PathBuf,
    /// Whether [read marks](ReadMark) are put.
    pub puts_read_marks: bool,
    /// The most rows of the index, which takes up to 64 bytes for each.
    pub max_rows: usize,
    /// The most rows that wait for their upload: 64 bytes each.
    pub max_pending_rows: usize,
    /// The most bytes of rows that wait for their upload. They are where the rows are.
    pub max_pending_bytes: u64,
}

impl RemoteConfig {
    /// A remote that is read and written, with the default bounds: an index of at most 1 GiB, and a backlog of 1,048,576 rows or 4 GiB.
    pub fn new(prefix: &str, module_hash: &str, footer_dir: PathBuf) -> RemoteConfig {
        RemoteConfig {
            url: prefix.to_owned(),
            mode: RemoteMode::default(),
            prefix: prefix.to_owned(),
            module_hash: module_hash.to_owned(),
            footer_dir,
            puts_read_marks: false,
            max_rows: 1 << 24,
            max_pending_rows: 1 << 20,
            max_pending_bytes: 4 << 30,
        }
    }
}

/// What a remote tier did and knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteStats {
    /// Requests.
    pub requests: RequestCounts,
    /// Rows that were read.
    pub hits: u64,
    /// Rows that were located, but not read.
    pub unread: u64,
    /// Rows that were fetched with the rest of their segments.
    pub filled: u64,
    /// Rows and footers whose bytes are not those that were written.
    pub corrupt: u64,
    /// Segments that rows are read from.
    pub segments: u64,
    /// Rows that can be located.
    pub indexed_rows: u64,
    /// Rows to be uploaded.
    pub uploads: UploadCounts,
    /// Whether requests are made.
    pub breaker: BreakerState,
}

/// The rows of one cache in an object store.
///
/// A thread in the background calls [`work`](Self::work) about once a second; the other methods are for any thread.
#[derive(Debug)]
pub struct Remote {
    mode: RemoteMode,
    client: Arc<Client>,
    catalog: RemoteCatalog,
    uploads: Uploads,
    wanted: WantedSegments,
    marking: ReadMarking,
    hits: AtomicU64,
    unread: AtomicU64,
    filled: AtomicU64,
    /// The lost rows that any flush reported.
    reported: ReportedLosses,
}

/// How many of the rows that were lost the flushes of one user have reported.
#[derive(Debug, Default)]
pub struct ReportedLosses(AtomicU64);

impl Remote {
    /// A remote tier of which nothing is known yet. Makes no request. Footers are kept in a directory of `fs`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        fs: Arc<dyn FileSystem>,
        config: RemoteConfig,
    ) -> Remote {
        let RemoteConfig {
            url,
            mode,
            prefix,
            module_hash,
            footer_dir,
            puts_read_marks,
            max_rows,
            max_pending_rows,
            max_pending_bytes,
        } = config;
        let is_write_only = mode == RemoteMode::WriteOnly;
        let client = Client::new(store, clock, &prefix, Warnings::new(url), is_write_only);
        let client = Arc::new(client);
        Remote {
            mode,
            catalog: RemoteCatalog::new(
                client.clone(),
                Layout::new(&prefix, &module_hash),
                FooterFiles::new(fs, footer_dir),
                max_rows,
            ),
            client,
            uploads: Uploads::new(max_pending_rows, max_pending_bytes),
            wanted: WantedSegments::default(),
            marking: ReadMarking::new(puts_read_marks && mode == RemoteMode::ReadWrite),
            hits: AtomicU64::new(0),
            filled: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            reported: ReportedLosses::default(),
        }
    }

    /// Waits until it was found out once which rows there are, or that this fails; at most until the deadline, and not
    /// where a call of this process has done so and the store has answered nothing since. Returns whether it was.
    pub fn wait_for_catalog(&self, deadline: Instant) -> bool {
        self.catalog.wait_for_first(deadline)
    }

    /// Where the rows of these keys are, `None` for those that the remote is not known to have, and for all if the remote
    /// is only written. Makes no request.
    pub fn locate(&self, keys: &[Key]) -> Vec<Option<RemoteRow>> {
        match self.mode {
            RemoteMode::WriteOnly => vec![None; keys.len()],
            _ => self.catalog.locate(keys),
        }
    }

    /// Reads rows into buffers of their lengths, and returns for each whether it was read: not those that are gone or
    /// damaged, or did not arrive before the deadline. Their buffers may have been written to.
    pub fn read(&self, rows: &[RemoteRow], out: &mut [&mut [u8]], deadline: Instant) -> Vec<bool> {
        let today = self.marking.today(&self.client);
        let answered = |segment: &Arc<RemoteSegment>, bytes| {
            self.wanted.note_request(segment, bytes);
            self.marking.note_read(segment, today);
        };
        let (client, catalog) = (&self.client, &self.catalog);
        let ok = fetch::fetch(client, catalog, Caller::Call, answered, rows, out, deadline);
        let hits = ok.iter().filter(|ok| **ok).count();
        self.hits.fetch_add(hits as u64, Ordering::Relaxed);
        let unread = (ok.len() - hits) as u64;
        self.unread.fetch_add(unread, Ordering::Relaxed);
        ok
    }

    /// A segment of which calls read much. Each is returned once.
    pub fn take_wanted(&self) -> Option<WantedSegment> {
        self.wanted.take()
    }

    /// The rows that are read from a segment, in its order. Makes at most one request.
    ///
    /// # Errors
    /// Why its row table cannot be read.
    pub fn rows_of(&self, wanted: &WantedSegment) -> Result<Vec<RemoteRow>, ObjectError> {
        let until = self.client.clock.now() + FILL_TIMEOUT;
        self.catalog.rows_of(&wanted.0, until)
    }

    /// Reads rows of a wanted segment, as [`read`](Self::read) does. They are no hits.
    pub fn fill(&self, rows: &[RemoteRow], out: &mut [&mut [u8]]) -> Vec<bool> {
        let until = self.client.clock.now() + FILL_TIMEOUT;
        let (client, catalog) = (&self.client, &self.catalog);
        let ok = fetch::fetch(
            client,
            catalog,
            Caller::Background,
            |_, _| {},
            rows,
            out,
            until,
        );
        let filled = ok.iter().filter(|ok| **ok).count();
        self.filled.fetch_add(filled as u64, Ordering::Relaxed);
        ok
    }

    /// Puts the manifest of the cache, unless the remote has one. It is for information only.
    ///
    /// # Errors
    /// Why it is not known whether the remote has one.
    pub fn put_manifest(&self, json: Vec<u8>) -> Result<(), ObjectError> {
        let (key, until) = (
            self.catalog.layout.manifest(),
            self.client.clock.now() + FILL_TIMEOUT,
        );
        match self.client.put_new(&key, &Arc::new(json), until) {
            Err(error) if error.kind == ObjectErrorKind::AlreadyExists => Ok(()),
            put => put,
        }
    }

    /// Has rows uploaded that this process computed: their keys, and the lengths of their stored values. Returns those
    /// that there is room for: none if the remote is only read.
    pub fn push(&self, rows: impl IntoIterator<Item = (Key, u32)>) -> Pushed {
        self.push_from(Origin::Here, rows)
    }

    /// The same for rows that were [pushed](Self::push) by a process that is gone: those that replace other copies
    /// [supersede](Self::supersede) them here. A [`flush`](Self::flush) does not report their loss: that process may not
    /// have stored them.
    pub fn push_again(&self, rows: &[PushedRow]) -> Pushed {
        let replacing = rows.iter().filter(|row| row.replaces).map(|row| row.key);
        self.supersede(&replacing.collect::<Vec<Key>>());
        let rows = rows.iter().map(|row| (row.key, row.stored_len));
        self.push_from(Origin::Before, rows)
    }

    fn push_from(&self, origin: Origin, rows: impl IntoIterator<Item = (Key, u32)>) -> Pushed {
        if self.mode == RemoteMode::ReadOnly {
            return Pushed::default();
        }
        let (keys, lengths): (Vec<Key>, Vec<u32>) = rows.into_iter().unzip();
        let count = keys.len();
        let (now, supersessions) = (self.client.clock.now(), self.catalog.rows.supersessions());
        let (superseded, _) = self.catalog.rows.superseded(&keys);
        let rows = keys.iter().zip(lengths).map(|(key, stored_len)| PushedRow {
            key: *key,
            stored_len,
            replaces: superseded.contains_key(key),
        });
        let pushed = self.uploads.push(now, supersessions, origin, rows);
        if count > pushed.rows.len() {
            let reason = format_args!(
                "{} of {count} rows found no room",
                count - pushed.rows.len()
            );
            self.client.warnings.note(Warning::BacklogFull, reason);
        }
        pushed
    }

    /// Whether rows are pending, or the hint is to be changed for some that were uploaded.
    pub fn has_pending(&self) -> bool {
        self.uploads.has_pending()
    }

    /// Whether [`finish`](Self::finish) has something to do: rows, the hint or read marks.
    pub fn has_unfinished(&self) -> bool {
        self.has_pending() || self.marking.has_unmarked()
    }

    /// Whether the last upload failed for a reason that is not expected to pass soon: this machine may not write, for
    /// example.
    pub fn is_blocked(&self) -> bool {
        self.uploads.is_blocked()
    }

    /// How many rows are to be uploaded, for a process that was forked: `None` where a thread was changing that, which does
    /// not exist there.
    pub(crate) fn pending_rows_in_fork(&self) -> Option<u64> {
        self.uploads.pending_rows_in_fork()
    }

    /// How many of the rows that were taken into the backlog have left it: put, found to be there, removed or dropped.
    /// They leave it in their order.
    pub fn settled_rows(&self) -> u64 {
        self.uploads.settled_rows()
    }

    /// The time that deadlines and intervals are measured by.
    pub(crate) fn now(&self) -> Instant {
        self.client.clock.now()
    }

    /// Has no copy of these rows used, from whichever process, until this process has put one that was
    /// [pushed](Self::push) later. That one then replaces the others for all readers. Takes up to 24 bytes a row meanwhile.
    ///
    /// To be called once the rows are removed where the [`RecordSource`] finds them.
    pub fn supersede(&self, keys: &[Key]) {
        self.catalog.rows.supersede(keys);
    }

    /// Does what is due in the background: refreshes the catalog, uploads rows from `source`, and sees whether a store
    /// that failed is back.
    pub fn work(&self, source: &dyn RecordSource) {
        self.work_on(source, false);
    }

    /// The same where no more rows are pushed: pending ones are uploaded, and the hint is changed, without a delay.
    pub fn drain(&self, source: &dyn RecordSource) {
        self.work_on(source, true);
    }

    fn work_on(&self, source: &dyn RecordSource, is_ending: bool) {
        if self.client.breaker.state() != BreakerState::Closed && !self.catalog.probe() {
            return;
        }
        if self.mode != RemoteMode::WriteOnly {
            self.catalog.refresh_if_due();
        }
        self.uploads.work(self.remotes(source), is_ending);
        self.marking
            .work(&self.client, &self.catalog.layout, is_ending);
    }

    /// For the flushes of a user of its own: they report what no flush has reported yet.
    pub fn new_user(&self) -> ReportedLosses {
        ReportedLosses(AtomicU64::new(self.reported.0.load(Ordering::Relaxed)))
    }

    /// Uploads all rows that were pushed before. When it returns `Ok`, the remote has them until they are removed from
    /// it. A loss is reported to each user, also that of rows which others pushed, and by each of several flushes of one user
    /// at the same time.
    ///
    /// # Errors
    /// [`RemoteFlushError`] if rows were dropped, or could not be uploaded before the timeout passed.
    pub fn flush(
        &self,
        source: &dyn RecordSource,
        timeout: Duration,
        reported: &ReportedLosses,
    ) -> Result<(), RemoteFlushError> {
        let before = reported.0.load(Ordering::Relaxed);
        let lost = self.uploads.flush(self.remotes(source), timeout, false)?;
        for reported in [reported, &self.reported] {
            reported.0.fetch_max(lost, Ordering::Relaxed);
        }
        match lost.saturating_sub(before) {
            0 => Ok(()),
            rows => Err(RemoteFlushError::Lost { rows }),
        }
    }

    /// The same where the process is about to end: an error that is not expected to pass soon ends it, and so does
    /// an open breaker. Rows that were dropped are no error.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn finish(
        &self,
        source: &dyn RecordSource,
        timeout: Duration,
    ) -> Result<(), RemoteFlushError> {
        let finished = self.uploads.flush(self.remotes(source), timeout, true);
        self.marking.work(&self.client, &self.catalog.layout, true);
        finished.map(drop)
    }

    fn remotes<'a>(&'a self, source: &'a dyn RecordSource) -> Remotes<'a> {
        Remotes {
            client: &self.client,
            catalog: &self.catalog,
            source,
        }
    }

    /// What this remote tier did and knows.
    pub fn stats(&self) -> RemoteStats {
        RemoteStats {
            requests: self.client.counts(),
            hits: self.hits.load(Ordering::Relaxed),
            unread: self.unread.load(Ordering::Relaxed),
            filled: self.filled.load(Ordering::Relaxed),
            corrupt: self.catalog.corrupt.load(Ordering::Relaxed),
            segments: self.catalog.rows.segment_count() as u64,
            indexed_rows: self.catalog.rows.len() as u64,
            uploads: self.uploads.counts(),
            breaker: self.client.breaker.state(),
        }
    }
}
