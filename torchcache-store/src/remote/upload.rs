//! Uploads: rows that this process computed, many in one object.
//!
//! The backlog has keys only. The records are copied when the object is made, from wherever the rows are then, so that
//! a row which was evicted meanwhile is lost to the remote, and counted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Write;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::catalog::{MAX_FOOTER_BYTES, RemoteCatalog};
use super::client::Client;
use super::exclusive::Exclusive;
use super::name::ObjectName;
use super::object_store::{ObjectError, ObjectErrorKind};
use super::time;
use crate::key::Key;
use crate::segment::{
    CHECKSUM_LEN, Encoding, Footer, MAX_SCHEMA, MOST_ROWS, ROW_LEN, SegmentBuilder,
};
use crate::sync::{Mutex, MutexGuard};

/// An object is put when it has so many bytes.
pub(crate) const OBJECT_BYTES: u64 = 64 << 20;

/// What a row adds to an object, without its stored value.
const ROW_OVERHEAD: u64 = (CHECKSUM_LEN + ROW_LEN) as u64;

/// Or when the oldest row has waited for so long. That doubles after each object of less than [`SMALL_BYTES`], so that
/// a process which computes few rows makes about a hundred objects a day.
const MIN_DELAY: Duration = Duration::from_secs(30);
const MAX_DELAY: Duration = Duration::from_secs(960);

/// A smaller object makes the delay longer.
pub(crate) const SMALL_BYTES: u64 = OBJECT_BYTES / 4;

/// After so long without rows the delay is the least again.
const IDLE: Duration = Duration::from_secs(3600);

/// How long an upload in the background may take.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// How long after a failure the next attempt is made, at first and at most.
const MIN_BACKOFF: Duration = Duration::from_secs(5);
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// How long a flush waits after a failure, at first.
const FLUSH_BACKOFF: Duration = Duration::from_millis(500);

/// The hint is changed at most so often.
const HINT_INTERVAL: Duration = Duration::from_secs(5);

/// After so long an object that could not be put gets another name: listings begin at names that are hardly older.
const MAX_NAME_AGE: Duration = Duration::from_secs(600);

/// Why rows may be missing in the remote after a flush.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteFlushError {
    /// Rows were dropped since the last flush: the backlog was full, or they were evicted before they were uploaded.
    #[error(
        "{rows} rows were dropped before they were uploaded; they are computed again where they are missing"
    )]
    #[non_exhaustive]
    Lost {
        /// How many.
        rows: u64,
    },
    /// The timeout passed. The rows stay in the backlog.
    #[error("{rows} rows are not uploaded yet; see the source, or allow more time")]
    #[non_exhaustive]
    Timeout {
        /// How many rows of this flush are left.
        rows: u64,
        /// Why the last request failed; `None` if none did.
        source: Option<ObjectError>,
    },
}

/// Where the rows are that are to be uploaded.
pub trait RecordSource {
    /// Calls `each` with the records of these rows, in any order. Those that are gone are left out, and so are those
    /// whose checksum is wrong.
    fn read(&self, keys: &[Key], each: &mut dyn FnMut(StoredRecord<'_>));
}

/// A row as a segment stores it.
#[derive(Clone, Copy, Debug)]
pub struct StoredRecord<'a> {
    /// The key of the row.
    pub key: &'a Key,
    /// The schema that it was stored with.
    pub schema: &'a Arc<[u8]>,
    /// The length of the value.
    pub raw_len: u32,
    /// How the value is stored.
    pub encoding: Encoding,
    /// The value in this encoding.
    pub stored: &'a [u8],
}

/// What became of rows that were to be uploaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadCounts {
    /// Rows in the backlog.
    pub pending_rows: u64,
    /// How many bytes these add to objects.
    pub pending_bytes: u64,
    /// Rows that were put.
    pub uploaded: u64,
    /// Rows that the remote had already.
    pub present: u64,
    /// Rows that were dropped: the backlog was full, or the source did not have them.
    pub dropped: u64,
    /// Rows that were removed before they were put.
    pub removed: u64,
    /// Objects that were put.
    pub objects: u64,
}

/// What was taken into the backlog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// The rows, and the lengths of their stored values.
    pub rows: Vec<(Key, u32)>,
    /// How many rows have left the backlog when all of these have: see [`Remote::settled_rows`].
    ///
    /// [`Remote::settled_rows`]: super::Remote::settled_rows
    pub end: u64,
}

#[derive(Clone, Copy, Debug)]
struct PendingRow {
    key: Key,
    since: Instant,
    /// How many calls had superseded rows.
    supersessions: u64,
    stored_len: u32,
    origin: Origin,
}

impl PendingRow {
    /// How many bytes it adds to an object.
    fn bytes(&self) -> u64 {
        u64::from(self.stored_len) + ROW_OVERHEAD
    }
}

/// Which process computed a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This one. A flush reports its loss.
    Here,
    /// One that is gone.
    Before,
}

#[derive(Debug)]
struct Backlog {
    rows: VecDeque<PendingRow>,
    counts: UploadCounts,
    /// Rows that left the backlog, in its order.
    ended: u64,
    /// Rows that were dropped and not reported by a flush.
    unreported: u64,
    delay: Duration,
    /// When the last object was put.
    last: Option<Instant>,
    /// Consecutive failures.
    failures: u32,
    retry_at: Option<Instant>,
}

/// What only the thread that uploads uses.
#[derive(Debug)]
struct Turn {
    /// An object that is not known to have been put. It is put again as it is: the reply may have been lost.
    prepared: Option<Prepared>,
    /// The hint is to be changed.
    is_hint_due: bool,
    /// When it may be changed, and the pause after that if it fails.
    hint_at: Option<Instant>,
    hint_pause: Duration,
}

#[derive(Debug)]
struct Prepared {
    name: ObjectName,
    named_at: Instant,
    bytes: Arc<Vec<u8>>,
    footer: Footer,
    batch: Batch,
    /// How many calls superseded rows before the records were read.
    supersessions: u64,
}

/// Rows at the front of the backlog.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    rows: usize,
    bytes: u64,
    present: u64,
    removed: u64,
    lost: u64,
    /// Of these, those whose loss a flush reports.
    unreported: u64,
}

/// Whether one more row fits into an object.
pub(crate) fn has_room<W: Write>(
    builder: &SegmentBuilder<W>,
    schema: &[u8],
    stored: &[u8],
) -> bool {
    schema.len() <= MAX_SCHEMA
        && builder.has_room(stored.len())
        && builder.footer_bytes() + (schema.len() + 2 * ROW_LEN) as u64
            <= u64::from(MAX_FOOTER_BYTES)
}

#[derive(Debug)]
pub(super) struct Uploads {
    max_rows: usize,
    max_bytes: u64,
    backlog: Mutex<Backlog>,
    turn: Exclusive<Turn>,
}

/// What uploading needs in addition to its own state.
#[derive(Clone, Copy)]
pub(super) struct Remotes<'a> {
    pub(super) client: &'a Client,
    pub(super) catalog: &'a RemoteCatalog,
    pub(super) source: &'a dyn RecordSource,
}

impl Uploads {
    pub(super) fn new(max_rows: usize, max_bytes: u64) -> Uploads {
        Uploads {
            max_rows,
            max_bytes,
            backlog: Mutex::new(Backlog {
                rows: VecDeque::new(),
                counts: UploadCounts::default(),
                ended: 0,
                unreported: 0,
                delay: MIN_DELAY,
                last: None,
                failures: 0,
                retry_at: None,
            }),
            turn: Exclusive::new(Turn {
                prepared: None,
                is_hint_due: false,
                hint_at: None,
                hint_pause: HINT_INTERVAL,
            }),
        }
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counts(&self) -> UploadCounts {
        self.backlog().counts
    }

    /// How many rows have left the backlog.
    pub(super) fn settled_rows(&self) -> u64 {
        self.backlog().ended
    }

    /// Adds rows with the lengths of their stored values. Those for which there is no room are dropped.
    pub(super) fn push(
        &self,
        now: Instant,
        supersessions: u64,
        origin: Origin,
        rows: impl Iterator<Item = (Key, u32)>,
    ) -> Pushed {
        let mut pushed = Pushed::default();
        let mut backlog = self.backlog();
        if backlog.rows.is_empty() && backlog.last.is_some_and(|last| now >= last + IDLE) {
            backlog.delay = MIN_DELAY;
        }
        for (key, stored_len) in rows {
            let row = PendingRow {
                key,
                since: now,
                supersessions,
                stored_len,
                origin,
            };
            let counts = &mut backlog.counts;
            let total = counts.pending_bytes + row.bytes();
            if counts.pending_rows >= self.max_rows as u64 || total > self.max_bytes {
                counts.dropped += 1;
                backlog.unreported += u64::from(origin == Origin::Here);
                continue;
            }
            counts.pending_rows += 1;
            counts.pending_bytes = total;
            pushed.rows.push((key, stored_len));
            backlog.rows.push_back(row);
        }
        pushed.end = backlog.ended + backlog.rows.len() as u64;
        pushed
    }

    /// Uploads what is due, and changes the hint if that is. With `is_ending`, rows are due without a delay.
    pub(super) fn work(&self, remotes: Remotes<'_>, is_ending: bool) {
        let clock = &*remotes.client.clock;
        // A flush on another thread uploads what is due here.
        let Some(mut turn) = self.turn.take(clock, clock.now()) else {
            return;
        };
        while self.is_due(clock.now(), is_ending) {
            let deadline = clock.now() + UPLOAD_TIMEOUT;
            if self
                .upload(&mut turn, remotes, deadline, !is_ending)
                .is_err()
            {
                break;
            }
        }
        self.set_hint(&mut turn, remotes, clock.now() + UPLOAD_TIMEOUT);
    }

    fn is_due(&self, now: Instant, is_ending: bool) -> bool {
        let backlog = self.backlog();
        let Some(oldest) = backlog.rows.front() else {
            return false;
        };
        let is_full = || {
            let counts = &backlog.counts;
            counts.pending_bytes >= OBJECT_BYTES || counts.pending_rows >= MOST_ROWS as u64
        };
        backlog.retry_at.is_none_or(|at| now >= at)
            && (is_ending
                || backlog.failures > 0
                || is_full()
                || now >= oldest.since + backlog.delay)
    }

    /// Uploads all rows that are in the backlog now.
    ///
    /// With `gives_up`, an error ends it that is not expected to pass soon.
    pub(super) fn flush(
        &self,
        remotes: Remotes<'_>,
        timeout: Duration,
        gives_up: bool,
    ) -> Result<(), RemoteFlushError> {
        let clock = &*remotes.client.clock;
        let now = || clock.now();
        let deadline = now() + timeout;
        let end = {
            let backlog = self.backlog();
            backlog.ended + backlog.rows.len() as u64
        };
        let (mut source, mut pause) = (None, FLUSH_BACKOFF);
        loop {
            let left = {
                let mut backlog = self.backlog();
                let left = end.saturating_sub(backlog.ended);
                if left == 0 {
                    return match std::mem::take(&mut backlog.unreported) {
                        0 => Ok(()),
                        rows => Err(RemoteFlushError::Lost { rows }),
                    };
                }
                left
            };
            let turn = self.turn.take(clock, deadline);
            let Some(mut turn) = turn.filter(|_| now() < deadline) else {
                return Err(RemoteFlushError::Timeout { rows: left, source });
            };
            if self.backlog().ended >= end {
                continue;
            }
            match self.upload(&mut turn, remotes, deadline, false) {
                Ok(()) => {
                    self.set_hint(&mut turn, remotes, deadline);
                    pause = FLUSH_BACKOFF;
                }
                Err(error) if gives_up && !passes_soon(&error) => {
                    let source = Some(error);
                    return Err(RemoteFlushError::Timeout { rows: left, source });
                }
                Err(error) => {
                    drop(turn);
                    source = Some(error);
                    clock.sleep(pause.min(deadline.saturating_duration_since(now())));
                    pause = (2 * pause).min(MIN_BACKOFF);
                }
            }
        }
    }

    /// Uploads one object of the oldest rows. With `is_timed`, since they are due.
    fn upload(
        &self,
        turn: &mut Turn,
        remotes: Remotes<'_>,
        deadline: Instant,
        is_timed: bool,
    ) -> Result<(), ObjectError> {
        let result = self.try_upload(turn, remotes, deadline, is_timed);
        let now = remotes.client.clock.now();
        let mut backlog = self.backlog();
        match &result {
            Ok(()) => {
                backlog.failures = 0;
                backlog.retry_at = None;
            }
            // The breaker has its own pauses.
            Err(error) if error.kind == ObjectErrorKind::Off => {}
            Err(error) => {
                let pause = match error.kind {
                    ObjectErrorKind::Denied => MAX_BACKOFF,
                    _ => (MIN_BACKOFF * 2_u32.pow(backlog.failures.min(8))).min(MAX_BACKOFF),
                };
                backlog.failures += 1;
                backlog.retry_at = Some(now + pause);
            }
        }
        result
    }

    fn try_upload(
        &self,
        turn: &mut Turn,
        remotes: Remotes<'_>,
        deadline: Instant,
        is_timed: bool,
    ) -> Result<(), ObjectError> {
        let Remotes {
            client, catalog, ..
        } = remotes;
        let now = client.clock.now();
        let mut prepared = match turn.prepared.take() {
            Some(prepared) => prepared,
            None => match self.prepare(remotes, deadline)? {
                Ok(prepared) => prepared,
                Err(batch) => {
                    self.end(batch);
                    return Ok(());
                }
            },
        };
        if now >= prepared.named_at + MAX_NAME_AGE {
            let nanos = time::nanos(&*client.clock).max(prepared.name.nanos);
            prepared.name = ObjectName::new(nanos, prepared.name.footer_bytes);
            prepared.named_at = now;
        }
        let Prepared { name, bytes, .. } = &prepared;
        match client.put_new(&catalog.layout.segment(name), bytes, deadline) {
            // The name is unique, so it was put by an earlier attempt whose reply was lost.
            Err(error) if error.kind == ObjectErrorKind::AlreadyExists => {}
            Err(error) => {
                turn.prepared = Some(prepared);
                return Err(error);
            }
            Ok(()) => {}
        }
        let tail = bytes.len() - name.tail_bytes() as usize;
        catalog.add(
            *name,
            bytes.len() as u64,
            &prepared.footer,
            &bytes[tail..],
            prepared.supersessions,
        );
        turn.is_hint_due = true;
        self.end(prepared.batch);
        let mut backlog = self.backlog();
        backlog.counts.objects += 1;
        backlog.last = Some(client.clock.now());
        if is_timed {
            backlog.delay = match bytes.len() as u64 {
                ..SMALL_BYTES => (2 * backlog.delay).min(MAX_DELAY),
                _ => MIN_DELAY,
            };
        }
        Ok(())
    }

    /// Rows of a batch leave the backlog.
    fn end(&self, batch: Batch) {
        let mut backlog = self.backlog();
        backlog.rows.drain(..batch.rows);
        backlog.ended += batch.rows as u64;
        backlog.unreported += batch.unreported;
        let counts = &mut backlog.counts;
        counts.pending_rows -= batch.rows as u64;
        counts.pending_bytes -= batch.bytes;
        counts.present += batch.present;
        counts.removed += batch.removed;
        counts.dropped += batch.lost;
        counts.uploaded += batch.rows as u64 - batch.present - batch.removed - batch.lost;
    }

    /// Makes an object of the oldest rows, without those that the remote has. `Err` if none is left.
    fn prepare(
        &self,
        remotes: Remotes<'_>,
        until: Instant,
    ) -> Result<Result<Prepared, Batch>, ObjectError> {
        let Remotes {
            client,
            catalog,
            source,
        } = remotes;
        match catalog.refresh(until) {
            // Credentials that only write put what others may have put.
            Err(error) if error.kind == ObjectErrorKind::Denied => {}
            refreshed => refreshed?,
        }
        let mut batch = Batch::default();
        let mut keys: Vec<Key> = Vec::new();
        let mut pushed: HashMap<Key, PendingRow> = HashMap::new();
        for row in &self.backlog().rows {
            let bytes = batch.bytes + row.bytes();
            if batch.rows == MOST_ROWS || batch.rows > 0 && bytes > OBJECT_BYTES {
                break;
            }
            batch.rows += 1;
            batch.bytes = bytes;
            keys.push(row.key);
            pushed.insert(row.key, *row);
        }
        // Before the records are read: what is superseded later is another copy.
        let supersessions = catalog.rows.supersessions();
        let (superseded, newest) = catalog.rows.superseded(&keys);
        let present = catalog.rows.present(&keys);
        let mut left = HashSet::new();
        keys.retain(|key| !present.contains(key) && left.insert(*key));
        let memory = |error: std::io::Error| ObjectError::new(ObjectErrorKind::Other, error);
        let mut builder = SegmentBuilder::new(Vec::new()).map_err(memory)?;
        source.read(&keys, &mut |record| {
            let StoredRecord {
                key,
                schema,
                raw_len,
                encoding,
                stored,
            } = record;
            if has_room(&builder, schema, stored)
                && left.contains(key)
                && builder.push(key, schema, raw_len, encoding, stored).is_ok()
            {
                left.remove(key);
            }
        });
        for row in left.iter().filter_map(|key| pushed.get(key)) {
            let is_removed = superseded.get(&row.key) > Some(&row.supersessions);
            batch.removed += u64::from(is_removed);
            batch.lost += u64::from(!is_removed);
            batch.unreported += u64::from(!is_removed && row.origin == Origin::Here);
        }
        let (bytes, footer) = builder.finish().map_err(memory)?;
        let rows = footer.row_count() as u64;
        batch.present = batch.rows as u64 - batch.removed - batch.lost - rows;
        if rows == 0 {
            return Ok(Err(batch));
        }
        // Copies that are superseded have older names, whatever the clocks of their writers show.
        let nanos = time::nanos(&*client.clock).max(newest + 1);
        Ok(Ok(Prepared {
            name: ObjectName::new(nanos, footer.bytes().len() as u32),
            named_at: client.clock.now(),
            bytes: Arc::new(bytes),
            footer,
            batch,
            supersessions,
        }))
    }

    /// Changes the hint after uploads, unless it was changed shortly before.
    fn set_hint(&self, turn: &mut Turn, remotes: Remotes<'_>, until: Instant) {
        let now = remotes.client.clock.now();
        if !turn.is_hint_due || turn.hint_at.is_some_and(|at| now < at) {
            return;
        }
        turn.is_hint_due = remotes.catalog.set_hint(until).is_err();
        turn.hint_pause = match turn.is_hint_due {
            true => (2 * turn.hint_pause).min(MAX_BACKOFF),
            false => HINT_INTERVAL,
        };
        turn.hint_at = Some(now + turn.hint_pause);
    }
}

/// Whether an upload that failed may succeed within seconds.
fn passes_soon(error: &ObjectError) -> bool {
    use ObjectErrorKind::{Other, Slow, Throttled, TimedOut};
    matches!(error.kind, Other | Slow | Throttled | TimedOut)
}
