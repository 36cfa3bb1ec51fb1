//! The backlog: rows that are to be uploaded, in the order in which they were pushed, and when that is due.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::object_store::{ObjectError, ObjectErrorKind};
use crate::key::Key;
use crate::segment::{CHECKSUM_LEN, MOST_ROWS, ROW_LEN};

/// An object is put when it has so many bytes.
pub(crate) const OBJECT_BYTES: u64 = 64 << 20;

/// What a row adds to an object, without its stored value.
const ROW_OVERHEAD: u64 = (CHECKSUM_LEN + ROW_LEN) as u64;

/// Or when the oldest row has waited for so long. That doubles after each object of less than [`SMALL_BYTES`], and stays
/// for those of less than twice as much, so that a process makes about a hundred objects a day unless it fills them.
const MIN_DELAY: Duration = Duration::from_secs(30);
const MAX_DELAY: Duration = Duration::from_secs(960);

/// A smaller object makes the delay longer.
pub(crate) const SMALL_BYTES: u64 = OBJECT_BYTES / 4;

/// One of so many bytes makes the delay the least.
const LARGE_BYTES: u64 = 2 * SMALL_BYTES;

/// After so long without rows the delay is the least again.
const IDLE: Duration = Duration::from_secs(3600);

/// How long after a failure the next attempt is made, at first and at most.
const MIN_BACKOFF: Duration = Duration::from_secs(5);
const MAX_BACKOFF: Duration = Duration::from_secs(300);

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
    /// The rows, in their order.
    pub rows: Vec<PushedRow>,
    /// How many rows have left the backlog when all of these have: see [`Remote::settled_rows`].
    ///
    /// [`Remote::settled_rows`]: super::Remote::settled_rows
    pub end: u64,
}

/// A row to upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushedRow {
    /// Its key.
    pub key: Key,
    /// The length of the stored value.
    pub stored_len: u32,
    /// It replaces the copies that the remote has: they were [superseded](super::Remote::supersede) before.
    pub replaces: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRow {
    pub(super) key: Key,
    since: Instant,
    /// How many calls had superseded rows.
    pub(super) supersessions: u64,
    stored_len: u32,
    pub(super) origin: Origin,
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
pub(super) struct Backlog {
    max_rows: usize,
    max_bytes: u64,
    rows: VecDeque<PendingRow>,
    counts: UploadCounts,
    /// Rows that left the backlog, in its order.
    ended: u64,
    /// Rows of this process that were dropped.
    lost_here: u64,
    delay: Duration,
    /// When the last object was put.
    last: Option<Instant>,
    /// Consecutive failures.
    failures: u32,
    retry_at: Option<Instant>,
    /// The last attempt failed for a reason that does not pass soon.
    is_blocked: bool,
}

/// Rows at the front of the backlog.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Batch {
    pub(super) rows: usize,
    pub(super) bytes: u64,
    pub(super) present: u64,
    pub(super) removed: u64,
    pub(super) lost: u64,
    /// Of these, those of this process, whose loss a flush reports.
    pub(super) lost_here: u64,
}

impl Backlog {
    pub(super) fn new(max_rows: usize, max_bytes: u64) -> Backlog {
        Backlog {
            max_rows,
            max_bytes,
            rows: VecDeque::new(),
            counts: UploadCounts::default(),
            ended: 0,
            lost_here: 0,
            delay: MIN_DELAY,
            last: None,
            failures: 0,
            retry_at: None,
            is_blocked: false,
        }
    }

    pub(super) fn counts(&self) -> UploadCounts {
        self.counts
    }

    /// Whether the last attempt failed for a reason that does not pass soon.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// How many rows have left it.
    pub(super) fn settled_rows(&self) -> u64 {
        self.ended
    }

    /// How many have left it when all have that are in it now.
    pub(super) fn end(&self) -> u64 {
        self.ended + self.rows.len() as u64
    }

    /// How many rows of this process were dropped.
    pub(super) fn lost_rows(&self) -> u64 {
        self.lost_here
    }

    /// Adds rows. Those for which there is no room are dropped.
    pub(super) fn push(
        &mut self,
        now: Instant,
        supersessions: u64,
        origin: Origin,
        rows: impl Iterator<Item = PushedRow>,
    ) -> Pushed {
        let mut pushed = Pushed::default();
        if self.rows.is_empty() && self.last.is_some_and(|last| now >= last + IDLE) {
            self.delay = MIN_DELAY;
        }
        for pushed_row in rows {
            let row = PendingRow {
                key: pushed_row.key,
                since: now,
                supersessions,
                stored_len: pushed_row.stored_len,
                origin,
            };
            let total = self.counts.pending_bytes + row.bytes();
            if self.rows.len() >= self.max_rows || total > self.max_bytes {
                self.counts.dropped += 1;
                self.lost_here += u64::from(origin == Origin::Here);
                continue;
            }
            self.counts.pending_rows += 1;
            self.counts.pending_bytes = total;
            pushed.rows.push(pushed_row);
            self.rows.push_back(row);
        }
        pushed.end = self.end();
        pushed
    }

    /// Whether rows are to be uploaded now. With `is_ending`, they are due without a delay.
    pub(super) fn is_due(&self, now: Instant, is_ending: bool) -> bool {
        let Some(oldest) = self.rows.front() else {
            return false;
        };
        let is_full = self.counts.pending_bytes >= OBJECT_BYTES || self.rows.len() >= MOST_ROWS;
        let is_due = is_ending || is_full || self.failures > 0 || now >= oldest.since + self.delay;
        is_due && self.retry_at.is_none_or(|at| now >= at)
    }

    /// The oldest rows, as many as an object has.
    pub(super) fn next_batch(&self) -> (Batch, Vec<PendingRow>) {
        let mut batch = Batch::default();
        let fits = |row: &&PendingRow| {
            let bytes = batch.bytes + row.bytes();
            let fits = batch.rows == 0 || batch.rows < MOST_ROWS && bytes <= OBJECT_BYTES;
            if fits {
                batch.rows += 1;
                batch.bytes = bytes;
            }
            fits
        };
        let rows = self.rows.iter().take_while(fits).copied().collect();
        (batch, rows)
    }

    /// Rows of a batch leave it.
    pub(super) fn settle(&mut self, batch: Batch) {
        self.rows.drain(..batch.rows);
        self.ended += batch.rows as u64;
        self.lost_here += batch.lost_here;
        let counts = &mut self.counts;
        counts.pending_rows -= batch.rows as u64;
        counts.pending_bytes -= batch.bytes;
        counts.present += batch.present;
        counts.removed += batch.removed;
        counts.dropped += batch.lost;
        counts.uploaded += batch.rows as u64 - batch.present - batch.removed - batch.lost;
    }

    /// An object of so many bytes was put. With `is_timed`, since its rows were due.
    pub(super) fn note_put(&mut self, now: Instant, bytes: u64, is_timed: bool) {
        self.counts.objects += 1;
        self.last = Some(now);
        if is_timed {
            self.delay = match bytes {
                ..SMALL_BYTES => (2 * self.delay).min(MAX_DELAY),
                SMALL_BYTES..LARGE_BYTES => self.delay,
                _ => MIN_DELAY,
            };
        }
    }

    /// An attempt to put an object ended. After a failure the next one is delayed.
    pub(super) fn note_attempt(&mut self, now: Instant, error: Option<&ObjectError>) {
        match error.map(|error| error.kind) {
            None => {
                self.failures = 0;
                self.is_blocked = false;
                self.retry_at = None;
            }
            // The breaker has its own pauses.
            Some(ObjectErrorKind::NotMade) => {}
            Some(kind) => {
                let pause = match kind {
                    ObjectErrorKind::Denied => MAX_BACKOFF,
                    _ => (MIN_BACKOFF * 2_u32.pow(self.failures.min(8))).min(MAX_BACKOFF),
                };
                self.failures += 1;
                self.is_blocked = !kind.passes_soon();
                self.retry_at = Some(now + pause);
            }
        }
    }
}
