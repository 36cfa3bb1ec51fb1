//! Uploads: rows that this process computed, many in one object.
//!
//! The backlog has keys only. The records are copied when the object is made, from wherever the rows are then, so that
//! a row which was evicted meanwhile is lost to the remote, and counted.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::backlog::{Backlog, Batch, Origin, PendingRow, Pushed, PushedRow, UploadCounts};
use super::catalog::{MAX_FOOTER_BYTES, RemoteCatalog};
use super::client::Client;
use super::exclusive::Exclusive;
use super::name::ObjectName;
use super::object_store::{ObjectError, ObjectErrorKind};
use super::time;
use crate::key::Key;
use crate::segment::{Encoding, Footer, MAX_SCHEMA, ROW_LEN, SegmentBuilder};
use crate::sync::{Mutex, MutexGuard};

/// How long an attempt to put an object may take, also in a flush that has more time: a request may hang.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a flush waits after a failure, at first and at most.
const FLUSH_BACKOFF: Duration = Duration::from_millis(500);
const MAX_FLUSH_BACKOFF: Duration = Duration::from_secs(5);

/// The hint is changed at most so often, and after failures at least so often.
const HINT_INTERVAL: Duration = Duration::from_secs(5);
const MAX_HINT_PAUSE: Duration = Duration::from_secs(300);

/// After so long an object that could not be put gets another name: listings begin at names that are hardly older.
const MAX_NAME_AGE: Duration = Duration::from_secs(600);

/// Why rows may be missing in the remote after a flush.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteFlushError {
    /// Rows were dropped since the last flush of this user: the backlog was full, or they were evicted before they were uploaded.
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

/// What only the thread that uploads uses.
#[derive(Debug)]
struct Turn {
    /// An object that is not known to have been put. It is put again as it is: the reply may have been lost.
    prepared: Option<Prepared>,
    /// When the hint may be changed, and the pause after that if it fails.
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
    backlog: Mutex<Backlog>,
    turn: Exclusive<Turn>,
    /// The hint is to be changed. Written by the thread that has the turn.
    is_hint_due: AtomicBool,
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
            backlog: Mutex::new(Backlog::new(max_rows, max_bytes)),
            turn: Exclusive::new(Turn {
                prepared: None,
                hint_at: None,
                hint_pause: HINT_INTERVAL,
            }),
            is_hint_due: AtomicBool::new(false),
        }
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counts(&self) -> UploadCounts {
        self.backlog().counts()
    }

    /// Whether rows are to be uploaded, or the hint is to be changed.
    pub(super) fn has_pending(&self) -> bool {
        self.counts().pending_rows > 0 || self.is_hint_due.load(Ordering::Relaxed)
    }

    /// Whether the last attempt failed for a reason that does not pass soon.
    pub(super) fn is_blocked(&self) -> bool {
        self.backlog().is_blocked()
    }

    pub(super) fn pending_rows_in_fork(&self) -> Option<u64> {
        let backlog = self.backlog.try_lock().ok()?;
        Some(backlog.counts().pending_rows)
    }

    /// How many rows have left the backlog.
    pub(super) fn settled_rows(&self) -> u64 {
        self.backlog().settled_rows()
    }

    /// Adds rows. Those for which there is no room are dropped.
    pub(super) fn push(
        &self,
        now: Instant,
        supersessions: u64,
        origin: Origin,
        rows: impl Iterator<Item = PushedRow>,
    ) -> Pushed {
        self.backlog().push(now, supersessions, origin, rows)
    }

    /// Uploads what is due, and changes the hint if that is. With `is_ending`, both are due without a delay, and the hint
    /// is tried once.
    pub(super) fn work(&self, remotes: Remotes<'_>, is_ending: bool) {
        let clock = &*remotes.client.clock;
        // A flush on another thread uploads what is due here.
        let Some(mut turn) = self.turn.take(clock, clock.now()) else {
            return;
        };
        while self.backlog().is_due(clock.now(), is_ending) {
            let deadline = clock.now() + UPLOAD_TIMEOUT;
            if self
                .upload(&mut turn, remotes, deadline, !is_ending)
                .is_err()
            {
                break;
            }
        }
        self.set_hint(&mut turn, remotes, clock.now() + UPLOAD_TIMEOUT, is_ending);
    }

    /// Uploads all rows that are in the backlog now. Returns how many rows of this process were dropped so far.
    ///
    /// With `is_ending`, an error ends it that is not expected to pass soon, and a hint that is due is changed without a
    /// delay.
    pub(super) fn flush(
        &self,
        remotes: Remotes<'_>,
        timeout: Duration,
        is_ending: bool,
    ) -> Result<u64, RemoteFlushError> {
        let clock = &*remotes.client.clock;
        let deadline = clock.now() + timeout;
        let flushed = self.flush_rows(remotes, deadline, is_ending);
        if is_ending
            && clock.now() < deadline
            && let Some(mut turn) = self.turn.take(clock, deadline)
        {
            self.set_hint(&mut turn, remotes, deadline, true);
        }
        flushed
    }

    fn flush_rows(
        &self,
        remotes: Remotes<'_>,
        deadline: Instant,
        is_ending: bool,
    ) -> Result<u64, RemoteFlushError> {
        let clock = &*remotes.client.clock;
        let now = || clock.now();
        let end = self.backlog().end();
        let (mut source, mut pause) = (None, FLUSH_BACKOFF);
        loop {
            let left = {
                let backlog = self.backlog();
                let left = end.saturating_sub(backlog.settled_rows());
                if left == 0 {
                    return Ok(backlog.lost_rows());
                }
                left
            };
            let turn = self.turn.take(clock, deadline);
            let Some(mut turn) = turn.filter(|_| now() < deadline) else {
                return Err(RemoteFlushError::Timeout { rows: left, source });
            };
            if self.backlog().settled_rows() >= end {
                continue;
            }
            match self.upload(&mut turn, remotes, deadline, false) {
                Ok(()) => {
                    self.set_hint(&mut turn, remotes, deadline, false);
                    pause = FLUSH_BACKOFF;
                }
                Err(error) if is_ending && !error.kind.passes_soon() => {
                    let source = Some(error);
                    return Err(RemoteFlushError::Timeout { rows: left, source });
                }
                Err(error) => {
                    drop(turn);
                    source = Some(error);
                    clock.sleep(pause.min(deadline.saturating_duration_since(now())));
                    pause = (2 * pause).min(MAX_FLUSH_BACKOFF);
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
        self.backlog().note_attempt(now, result.as_ref().err());
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
                    self.backlog().settle(batch);
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
        let put_by = deadline.min(client.clock.now() + UPLOAD_TIMEOUT);
        match client.put_new(&catalog.layout.segment(name), bytes, put_by) {
            // The name is unique, so it was put by an earlier attempt whose reply was lost.
            Err(error) if error.kind == ObjectErrorKind::AlreadyExists => {}
            Err(error) => {
                // Until the next attempt, the remote may lose the rows that it had.
                turn.prepared = Some(prepared).filter(|it| it.batch.present == 0);
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
        self.is_hint_due.store(true, Ordering::Relaxed);
        let mut backlog = self.backlog();
        backlog.settle(prepared.batch);
        backlog.note_put(client.clock.now(), bytes.len() as u64, is_timed);
        Ok(())
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
        let (mut batch, rows) = self.backlog().next_batch();
        let mut keys: Vec<Key> = rows.iter().map(|row| row.key).collect();
        let pushed: HashMap<Key, PendingRow> = rows.into_iter().map(|row| (row.key, row)).collect();
        let present = match catalog.present(&keys, until) {
            // Credentials that only write put what others may have put.
            Err(error) if error.kind == ObjectErrorKind::Denied => HashSet::new(),
            present => present?,
        };
        // After all requests, which take time and may find newer segments, and before the records are read: what is superseded
        // later is another copy.
        let supersessions = catalog.rows.supersessions();
        let (superseded, newest) = catalog.rows.superseded(&keys);
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
            batch.lost_here += u64::from(!is_removed && row.origin == Origin::Here);
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

    /// Changes the hint after uploads, unless it was changed shortly before. With `is_ending`, in any case, and if that
    /// fails, it is not tried again: readers list everything once an hour.
    fn set_hint(&self, turn: &mut Turn, remotes: Remotes<'_>, until: Instant, is_ending: bool) {
        let now = remotes.client.clock.now();
        let may_change = is_ending || turn.hint_at.is_none_or(|at| now >= at);
        if !may_change || !self.is_hint_due.load(Ordering::Relaxed) {
            return;
        }
        let has_failed = remotes.catalog.set_hint(until).is_err();
        let is_due = has_failed && !is_ending;
        self.is_hint_due.store(is_due, Ordering::Relaxed);
        turn.hint_pause = match has_failed {
            true => (2 * turn.hint_pause).min(MAX_HINT_PAUSE),
            false => HINT_INTERVAL,
        };
        turn.hint_at = Some(now + turn.hint_pause);
    }
}
