//! Rows that are not on disk yet: a queue bounded by its bytes, and a table that makes each
//! of its rows a hit. Nothing here touches the disk, so its one lock is never held for long.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::pending::{PendingRows, Rows};
use crate::batch::RowBatch;
use crate::catalog::located::Found;
use crate::key::Key;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The queue between callers and the writer thread.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// The writer has something to do.
    work: Condvar,
    /// The writer has done something: there is room, or a flush is complete.
    done: Condvar,
    progress: Progress,
}

/// When the writer last got something done. Apart from the state, since it is told of each row.
#[derive(Debug)]
struct Progress {
    begin: Instant,
    /// Milliseconds since.
    last: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            begin: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Progress {
    fn made(&self) {
        let now = self.begin.elapsed().as_millis() as u64;
        self.last.store(now, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.begin + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

/// The writer gets nothing done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stalled;

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Every row that waits or is being written.
    rows: PendingRows,
    /// Memory of every batch that waits or is being written.
    bytes: u64,
    /// Memory of those that wait.
    waiting_bytes: u64,
    /// While the writer works: the number of the first batch in its hands.
    busy: Option<u64>,
    /// Batches up to this number are to be written without waiting for company.
    hurry_to: u64,
    /// Callers that wait for room.
    blocked: usize,
    /// The size limit was set, and the directory is over it.
    over_limit: bool,
    closing: bool,
    /// The thread is about to end.
    stopped: bool,
    /// Counts the calls of `drop_all`.
    epoch: u64,
    /// Counts the batches that left the queue for the disk.
    forgotten: u64,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    rows: Rows,
}

/// What the writer is to do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Write these.
    Write(Cut),
    /// Bring the directory within its limit.
    EnforceLimit,
    /// End the thread.
    Stop,
}

/// Rows that were queued and are not wanted any more.
#[must_use = "drop it where no lock is held"]
pub(crate) struct Dropped {
    _batches: VecDeque<Option<Arc<RowBatch>>>,
    _waiting: VecDeque<Waiting>,
}

/// Batches that are written together.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) rows: Vec<Rows>,
    /// The epoch in which they were taken.
    pub(crate) epoch: u64,
}

/// When the writer takes a cut, and how much callers may queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) target: u64,
    pub(crate) linger: Duration,
    pub(crate) bound: u64,
    pub(crate) patience: Duration,
}

impl State {
    /// Whether nothing up to this batch is waiting or being written.
    fn is_done(&self, seq: u64) -> bool {
        let waits = |waiting: &Waiting| waiting.rows.seq <= seq;
        !self.over_limit
            && self.busy.is_none_or(|first| first > seq)
            && !self.waiting.front().is_some_and(waits)
    }
}

impl Queue {
    /// A panic cannot leave the state half changed: it is changed by infallible steps only.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the slots of those keys that are in the queue.
    pub(crate) fn locate(&self, keys: &[Key], slots: &mut [Option<Found>]) {
        let state = self.state();
        if state.rows.is_empty() {
            return;
        }
        for (key, slot) in keys.iter().zip(slots) {
            if let Some((batch, row)) = state.rows.find(key) {
                *slot = Some(Found::queued(batch, row));
            }
        }
    }

    /// Waits until the writer has done something; but no longer than `patience` from `since` on, or
    /// from when it last got something done.
    fn wait<'s>(
        &self,
        state: MutexGuard<'s, State>,
        since: Instant,
        patience: Duration,
    ) -> Result<MutexGuard<'s, State>, Stalled> {
        let since = since.max(self.progress.last());
        let left = patience.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Err(Stalled);
        }
        let waited = self.done.wait_timeout(state, left);
        Ok(waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Whether the writer has work in its hands and gets nothing of it done.
    pub(crate) fn is_stalled(&self, patience: Duration) -> bool {
        self.progress.last().elapsed() > patience && self.state().busy.is_some()
    }

    /// Queues the rows that are neither pending nor in `on_disk`, and waits while there is
    /// no room for them. A batch larger than the whole bound waits for an empty queue. Returns the
    /// positions of the other rows.
    pub(crate) fn put(
        &self,
        batch: RowBatch,
        on_disk: impl Fn(&[Key]) -> Vec<bool>,
        pace: Pace,
    ) -> Result<Vec<usize>, Stalled> {
        let begin = Instant::now();
        let cost = batch.memory();
        let batch = Arc::new(batch);
        let new = || -> Vec<u32> {
            let there = on_disk(batch.keys());
            let numbers = 0..batch.rows() as u32;
            numbers.filter(|row| !there[*row as usize]).collect()
        };
        let mut asked = self.state().forgotten;
        let mut numbers = new();
        let mut state = self.state();
        loop {
            // Rows that left the queue since the disk was asked are there now.
            if asked != state.forgotten {
                asked = state.forgotten;
                numbers = new();
            }
            if state.bytes > 0 && state.bytes + cost > pace.bound {
                let queued = |row: &u32| state.rows.find(batch.key(*row)).is_some();
                if numbers.iter().all(queued) {
                    return Ok((0..batch.rows()).collect());
                }
                state.blocked += 1;
                self.work.notify_one();
                // Nobody waits anew for a disk that others have waited for.
                let since = match state.busy {
                    Some(_) => self.progress.last(),
                    None => begin,
                };
                let waited = self.wait(state, since, pace.patience);
                state = match waited {
                    Ok(state) => state,
                    Err(stalled) => {
                        self.state().blocked -= 1;
                        return Err(stalled);
                    }
                };
                state.blocked -= 1;
                continue;
            }
            let Some(rows) = state.rows.insert(&batch, numbers) else {
                return Ok((0..batch.rows()).collect());
            };
            let was_idle = state.waiting.is_empty();
            state.bytes += cost;
            state.waiting_bytes += cost;
            let mut taken = rows.numbers.iter().map(|&row| row as usize).peekable();
            let present = (0..batch.rows())
                .filter(|row| taken.next_if_eq(row).is_none())
                .collect();
            let since = Instant::now();
            state.waiting.push_back(Waiting { since, rows });
            if was_idle || state.waiting_bytes >= pace.target {
                self.work.notify_one();
            }
            return Ok(present);
        }
    }

    /// Has everything that is queued now written soon. Returns the number of the last batch of it.
    pub(crate) fn hurry(&self) -> u64 {
        let mut state = self.state();
        state.hurry_to = state.rows.newest();
        self.work.notify_one();
        state.hurry_to
    }

    /// Waits until everything up to a batch is written or given up.
    pub(crate) fn await_written(
        &self,
        seq: u64,
        since: Instant,
        patience: Duration,
    ) -> Result<(), Stalled> {
        let mut state = self.state();
        while !state.is_done(seq) {
            state = self.wait(state, since, patience)?;
        }
        Ok(())
    }

    /// Asks the writer to bring the directory within its limit; `flush` waits for that too.
    pub(crate) fn enforce_limit(&self) {
        self.state().over_limit = true;
        self.work.notify_one();
    }

    /// Tells the writer that its pace may have changed.
    pub(crate) fn nudge(&self) {
        self.work.notify_one();
    }

    /// Ends the writer thread once the queue is empty, and waits for that.
    pub(crate) fn close(&self, patience: Duration) -> Result<(), Stalled> {
        let begin = Instant::now();
        let mut state = self.state();
        state.closing = true;
        self.work.notify_one();
        while !state.stopped {
            state = self.wait(state, begin, patience)?;
        }
        Ok(())
    }

    /// Forgets every row. What the writer has in its hands it will find outdated by the
    /// epoch. The rows are returned, to be dropped where no lock is held: dropping them may
    /// run code of the caller who put them.
    pub(crate) fn drop_all(&self) -> Dropped {
        let mut state = self.state();
        state.epoch += 1;
        state.bytes -= state.waiting_bytes;
        state.waiting_bytes = 0;
        self.done.notify_all();
        Dropped {
            _batches: state.rows.clear(),
            _waiting: std::mem::take(&mut state.waiting),
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.state().epoch
    }

    /// Rows and bytes that are not on disk yet.
    pub(crate) fn pending(&self) -> (u64, u64) {
        let state = self.state();
        (state.rows.len() as u64, state.bytes)
    }

    /// For the writer: waits for something to do.
    pub(crate) fn next(&self, pace: impl Fn() -> Pace) -> Work {
        let mut state = self.state();
        self.progress.made();
        loop {
            // First, since rows may wait for company, or come without a pause.
            if std::mem::take(&mut state.over_limit) {
                self.begin_with(&mut state, 0);
                return Work::EnforceLimit;
            }
            let Pace { target, linger, .. } = pace();
            let Some(front) = state.waiting.front() else {
                if state.closing {
                    state.stopped = true;
                    self.done.notify_all();
                    return Work::Stop;
                }
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let patience = linger.saturating_sub(front.since.elapsed());
            let at_once = state.waiting_bytes >= target
                || state.blocked > 0
                || state.closing
                || front.rows.seq <= state.hurry_to;
            if at_once || patience.is_zero() {
                let first = front.rows.seq;
                self.begin_with(&mut state, first);
                return Work::Write(take_cut(&mut state, target));
            }
            let waited = self.work.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn begin_with(&self, state: &mut State, first: u64) {
        self.progress.made();
        state.busy = Some(first);
    }

    /// For the writer: it gets on.
    pub(crate) fn gets_on(&self) {
        self.progress.made();
    }

    /// For the writer: these rows are on disk or given up, and no longer pending.
    pub(crate) fn forget(&self, cut: &Cut) {
        for rows in &cut.rows {
            // Locked for each batch anew, so that lookups come in between.
            let mut state = self.state();
            state.rows.remove(rows);
            state.forgotten += 1;
            state.bytes -= rows.batch.memory();
            self.done.notify_all();
        }
    }

    /// For the writer: whatever `next` returned is done.
    pub(crate) fn finish(&self) {
        self.state().busy = None;
        self.done.notify_all();
    }
}

/// Takes batches from the front until they fill a segment; at least one.
fn take_cut(state: &mut State, target: u64) -> Cut {
    let mut cut = Cut {
        rows: Vec::new(),
        epoch: state.epoch,
    };
    let mut bytes = 0;
    while bytes < target
        && let Some(waiting) = state.waiting.pop_front()
    {
        bytes += waiting.rows.batch.memory();
        cut.rows.push(waiting.rows);
    }
    state.waiting_bytes -= bytes;
    cut
}
