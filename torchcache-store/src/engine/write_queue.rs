//! The queue between callers and the flusher: it bounds the bytes that wait and decides when they are
//! written. Nothing here touches the disk, so its lock is never held for long.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::pending::{PendingRows, QueuedRows};
use crate::batch::{Losses, RowBatch};
use crate::catalog::located::{Located, RowsOnDisk};
use crate::key::Key;
use crate::progress::{FlusherProgress, is_flusher_thread};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// So many skipped rows are confirmed without a flush.
const MAX_UNCONFIRMED: usize = 1 << 16;

#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    state: Mutex<State>,
    /// Signalled when the flusher has something to do.
    work: Condvar,
    /// Signalled when the flusher has done something: there is room, or a flush is complete.
    done: Condvar,
    pub(crate) progress: Arc<FlusherProgress>,
    /// Counts the calls of `clear` and `remove_keys`. Changed under the lock of the state, and read without it: each
    /// call of a cache does.
    epoch: AtomicU64,
    /// Counts the calls of `clear` alone.
    clears: AtomicU64,
}

/// The flusher made no progress for the stall timeout, or this is a flusher thread.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stalled;

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Every row that waits or is being written.
    rows: PendingRows,
    /// Memory of all batches that wait or are being written.
    bytes: u64,
    /// Memory of those that wait.
    waiting_bytes: u64,
    /// While the flusher works: the number of the first batch that it works on.
    busy: Option<u64>,
    /// Batches up to this number are written without waiting for the batch delay.
    flush_up_to: u64,
    /// How many callers wait for room.
    blocked: usize,
    /// Rows that were skipped since the last flush and may not survive a power loss: segments of other processes
    /// have them, or it is not known whether their segments exist.
    unconfirmed: Vec<SkippedRow>,
    /// They have to be confirmed.
    confirm_requested: bool,
    /// The directory has to be brought within its limit.
    eviction_requested: bool,
    /// Rows that have to be removed from the disk.
    to_remove: VecDeque<Arc<Removal>>,
    closing: bool,
    /// Rows are not queued any more.
    has_ended: bool,
    /// The flusher is about to end.
    stopped: bool,
    /// Counts the batches that were removed because they are on disk or lost.
    removals: u64,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    rows: QueuedRows,
}

/// A row that was not queued, since it is on disk.
#[derive(Debug)]
pub(crate) struct SkippedRow {
    pub(crate) row: Located,
    /// Its segment was seen to exist.
    pub(crate) existed: bool,
    /// Of the user of the store who put it.
    pub(crate) losses: Arc<Losses>,
}

/// Rows that the flusher removes from the disk, and what came of it.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) keys: HashSet<Key>,
    state: Mutex<RemovalState>,
}

#[derive(Debug)]
enum RemovalState {
    /// A caller waits for the outcome.
    Awaited,
    /// The caller gave up.
    Abandoned,
    Ended(io::Result<()>),
}

/// What the flusher has to do next.
#[derive(Debug)]
pub(crate) enum FlusherTask {
    Write(WriteBatch),
    /// Make these rows durable.
    Confirm(Vec<SkippedRow>),
    /// Bring the directory within its limit.
    Evict,
    /// Remove rows.
    Remove(Arc<Removal>),
    /// End the thread.
    Stop,
}

/// Queued rows that are written together.
#[derive(Debug)]
pub(crate) struct WriteBatch {
    pub(crate) rows: Vec<QueuedRows>,
    /// How often the queue had been cleared when they were taken.
    pub(crate) clears: u64,
}

impl WriteBatch {
    pub(crate) fn row_count(&self) -> usize {
        self.rows.iter().map(|rows| rows.numbers.len()).sum()
    }
}

/// Rows that were cleared. Dropping them may run code of the caller who put them.
#[must_use = "drop it where no lock is held"]
pub(crate) struct ClearedRows {
    _rows: PendingRows,
    _waiting: VecDeque<Waiting>,
}

/// When the flusher takes a batch, and how much may be queued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// So many waiting bytes are written at once.
    pub(crate) target_bytes: u64,
    /// Fewer are written after this time.
    pub(crate) batch_delay: Duration,
    /// Bound on the bytes of all batches.
    pub(crate) max_bytes: u64,
    /// How long callers wait for a flusher that makes no progress.
    pub(crate) stall_timeout: Duration,
}

impl State {
    /// Whether nothing up to this batch is waiting or being written, and nothing else was requested.
    fn is_done(&self, seq: u64) -> bool {
        let is_waiting = |waiting: &Waiting| waiting.rows.seq <= seq;
        !self.eviction_requested
            && !self.confirm_requested
            && self.to_remove.is_empty()
            && self.busy.is_none_or(|first| first > seq)
            && !self.waiting.front().is_some_and(is_waiting)
    }

    /// Takes batches from the front until they fill a segment; at least one.
    fn take_batch(&mut self, target_bytes: u64) -> Vec<QueuedRows> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while bytes < target_bytes
            && let Some(waiting) = self.waiting.pop_front()
        {
            bytes += waiting.rows.batch.memory();
            rows.push(waiting.rows);
        }
        self.waiting_bytes -= bytes;
        rows
    }
}

impl WriteQueue {
    /// The state stays consistent over a panic, since it is changed by infallible steps only.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the slots of those keys that are queued.
    pub(crate) fn locate(&self, keys: &[Key], slots: &mut [Option<Located>]) {
        let state = self.state();
        if state.rows.is_empty() {
            return;
        }
        for (key, slot) in keys.iter().zip(slots) {
            if let Some((batch, row)) = state.rows.find(key) {
                *slot = Some(Located::queued(batch, row));
            }
        }
    }

    /// Waits until the flusher has done something. Fails if it made no progress for `stall_timeout`,
    /// counted from `since` at the earliest, and at once on a flusher thread.
    fn wait<'s>(
        &self,
        state: MutexGuard<'s, State>,
        since: Instant,
        stall_timeout: Duration,
    ) -> Result<MutexGuard<'s, State>, Stalled> {
        let since = since.max(self.progress.last());
        let left = stall_timeout.saturating_sub(since.elapsed());
        if left.is_zero() || is_flusher_thread() {
            return Err(Stalled);
        }
        let waited = self.done.wait_timeout(state, left);
        Ok(waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The time from which a stall counts for a caller that waits from `begin` on: a stall is waited for
    /// once, not by each caller in turn.
    fn stall_start(&self, state: &State, begin: Instant) -> Instant {
        match state.busy {
            Some(_) => self.progress.last(),
            None => begin,
        }
    }

    /// Whether the flusher has work and makes no progress with it.
    pub(crate) fn is_stalled(&self, stall_timeout: Duration) -> bool {
        self.progress.last().elapsed() > stall_timeout && self.state().busy.is_some()
    }

    /// Queues the rows that are neither queued nor on disk, and returns the others: their positions, and where
    /// the rows that were first are. `look_on_disk` is called once, without a lock, and `locate_on_disk`, which
    /// looks at memory only, for rows that leave the queue meanwhile. Waits while there is no room; a batch larger
    /// than the bound waits for an empty queue. Queues nothing of a batch of an earlier epoch.
    pub(crate) fn put(
        &self,
        batch: RowBatch,
        look_on_disk: impl FnOnce(&[Key]) -> RowsOnDisk,
        locate_on_disk: impl Fn(&[Key]) -> Vec<(usize, Located)>,
        limits: QueueLimits,
    ) -> Result<Vec<(usize, Located)>, Stalled> {
        let begin = Instant::now();
        let cost = batch.memory();
        let batch = Arc::new(batch);
        let mut removals = self.state().removals;
        let RowsOnDisk { mut rows, exist } = look_on_disk(batch.keys());
        let mut state = self.state();
        loop {
            // Rows that left the queue since the last lookup are on disk now.
            if removals != state.removals {
                removals = state.removals;
                rows.extend(locate_on_disk(batch.keys()));
                rows.sort_by_key(|(row, _)| *row); // stable: what was found first stays
                rows.dedup_by_key(|(row, _)| *row);
            }
            if state.has_ended || batch.is_outdated(self.epoch()) {
                return Ok(Vec::new());
            }
            let new = rows_not_in(&rows, batch.rows());
            let is_full = state.bytes > 0 && state.bytes + cost > limits.max_bytes;
            let is_queued = |row: &u32| state.rows.find(batch.key(*row)).is_some();
            if is_full && !new.iter().all(is_queued) {
                state.blocked += 1;
                self.work.notify_one();
                let since = self.stall_start(&state, begin);
                state = match self.wait(state, since, limits.stall_timeout) {
                    Ok(state) => state,
                    Err(stalled) => {
                        self.state().blocked -= 1;
                        return Err(stalled);
                    }
                };
                state.blocked -= 1;
                continue;
            }
            let unsure = rows.iter().map(|(_, row)| row);
            let unsure = unsure.filter(|row| !exist || row.is_unsynced());
            state.unconfirmed.extend(unsure.map(|row| SkippedRow {
                row: row.clone(),
                existed: exist,
                losses: batch.losses().clone(),
            }));
            if state.unconfirmed.len() > MAX_UNCONFIRMED {
                state.confirm_requested = true;
                self.work.notify_one();
            }
            let queued = state.rows.insert(&batch, new);
            let inserted = queued.as_ref().map_or(&[][..], |queued| &queued.numbers);
            let winners = winners(&batch, rows, inserted, &state.rows);
            for (row, winner) in &winners {
                if winner.is_queued() {
                    state.rows.share(batch.key(*row as u32), batch.losses());
                }
            }
            if let Some(rows) = queued {
                let was_empty = state.waiting.is_empty();
                state.bytes += cost;
                state.waiting_bytes += cost;
                let since = Instant::now();
                state.waiting.push_back(Waiting { since, rows });
                if was_empty || state.waiting_bytes >= limits.target_bytes {
                    self.work.notify_one();
                }
            }
            return Ok(winners);
        }
    }

    /// Has everything that is queued now written without delay, and what was skipped confirmed. Returns
    /// the number of the last batch.
    pub(crate) fn request_flush(&self) -> u64 {
        let mut state = self.state();
        state.flush_up_to = state.rows.newest();
        state.confirm_requested |= !state.unconfirmed.is_empty();
        self.work.notify_one();
        state.flush_up_to
    }

    /// Waits until everything up to a batch is written or lost.
    pub(crate) fn wait_written(
        &self,
        seq: u64,
        since: Instant,
        stall_timeout: Duration,
    ) -> Result<(), Stalled> {
        let mut state = self.state();
        while !state.is_done(seq) {
            state = self.wait(state, since, stall_timeout)?;
        }
        Ok(())
    }

    /// Has the flusher bring the directory within its limit; `wait_written` waits for that too.
    pub(crate) fn request_eviction(&self) {
        self.state().eviction_requested = true;
        self.work.notify_one();
    }

    /// Wakes the flusher, since the limits may have changed.
    pub(crate) fn notify(&self) {
        self.work.notify_one();
    }

    /// Ends the flusher once the queue is empty, and waits for that.
    pub(crate) fn close(&self, stall_timeout: Duration) -> Result<(), Stalled> {
        let begin = Instant::now();
        let mut state = self.state();
        state.closing = true;
        self.work.notify_one();
        while !state.stopped {
            let since = self.stall_start(&state, begin);
            state = self.wait(state, since, stall_timeout)?;
        }
        Ok(())
    }

    /// Removes the rows of these keys, and has the flusher remove those on disk, which include those that it is
    /// writing. No batch of an earlier epoch brings any of them back.
    pub(crate) fn remove_keys(&self, keys: &[Key]) -> Arc<Removal> {
        let removal = Arc::new(Removal {
            keys: keys.iter().copied().collect(),
            state: Mutex::new(RemovalState::Awaited),
        });
        let keys = &removal.keys;
        let mut state = self.state();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        // The batches stay: dropping them may run code of the caller.
        state.rows.remove_keys(keys);
        for Waiting { rows, .. } in &mut state.waiting {
            rows.numbers
                .retain(|row| !keys.contains(rows.batch.key(*row)));
        }
        state.unconfirmed.retain(|it| !keys.contains(it.row.key()));
        state.to_remove.push_back(removal.clone());
        self.work.notify_one();
        removal
    }

    /// Waits until rows are removed from the disk, and returns why some are not. After a stall, `end_removal` returns
    /// that.
    pub(crate) fn wait_removed(
        &self,
        removal: &Removal,
        since: Instant,
        stall_timeout: Duration,
    ) -> Result<io::Result<()>, Stalled> {
        let mut state = self.state();
        while !matches!(*removal.state(), RemovalState::Ended(_)) {
            state = match self.wait(state, since, stall_timeout) {
                Ok(state) => state,
                Err(Stalled) => break,
            };
        }
        match std::mem::replace(&mut *removal.state(), RemovalState::Abandoned) {
            RemovalState::Ended(outcome) => Ok(outcome),
            _ => Err(Stalled),
        }
    }

    /// Removes every row. A batch that is being written is recognized as outdated by the count of calls.
    pub(crate) fn clear(&self) -> ClearedRows {
        let mut state = self.state();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.clears.fetch_add(1, Ordering::SeqCst);
        state.bytes -= state.waiting_bytes;
        state.waiting_bytes = 0;
        state.unconfirmed.clear();
        self.done.notify_all();
        ClearedRows {
            _rows: state.rows.clear(),
            _waiting: std::mem::take(&mut state.waiting),
        }
    }

    /// The same, and queues no row from now on: the directory is about to be removed.
    pub(crate) fn end(&self) -> ClearedRows {
        self.state().has_ended = true;
        self.clear()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().has_ended
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    pub(crate) fn clears(&self) -> u64 {
        self.clears.load(Ordering::SeqCst)
    }

    /// Rows and bytes that are not on disk yet.
    pub(crate) fn pending(&self) -> (u64, u64) {
        let state = self.state();
        (state.rows.len() as u64, state.bytes)
    }

    /// For the flusher: waits for something to do.
    pub(crate) fn next_task(&self, limits: impl Fn() -> QueueLimits) -> FlusherTask {
        let mut state = self.state();
        self.progress.note();
        loop {
            // First, since rows may wait for their delay, or keep coming.
            if std::mem::take(&mut state.confirm_requested) {
                self.begin_work(&mut state, 0);
                return FlusherTask::Confirm(std::mem::take(&mut state.unconfirmed));
            }
            if std::mem::take(&mut state.eviction_requested) {
                self.begin_work(&mut state, 0);
                return FlusherTask::Evict;
            }
            // Before rows that were put after it, which may have the same keys.
            if let Some(removal) = state.to_remove.pop_front() {
                self.begin_work(&mut state, 0);
                return FlusherTask::Remove(removal);
            }
            let limits = limits();
            let Some(front) = state.waiting.front() else {
                if state.closing {
                    state.stopped = true;
                    self.done.notify_all();
                    return FlusherTask::Stop;
                }
                let waited = self.work.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let delay = limits.batch_delay.saturating_sub(front.since.elapsed());
            let is_due = state.waiting_bytes >= limits.target_bytes
                || state.blocked > 0
                || state.closing
                || front.rows.seq <= state.flush_up_to
                || delay.is_zero();
            if is_due {
                let first = front.rows.seq;
                self.begin_work(&mut state, first);
                return FlusherTask::Write(WriteBatch {
                    rows: state.take_batch(limits.target_bytes),
                    clears: self.clears(),
                });
            }
            let waited = self.work.wait_timeout(state, delay);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn begin_work(&self, state: &mut State, first: u64) {
        self.progress.note();
        state.busy = Some(first);
    }

    /// For the flusher: these rows are on disk, or lost at the positions `lost`, and no longer pending.
    pub(crate) fn remove(&self, written: &WriteBatch, lost: &Range<usize>) {
        let mut begin = 0;
        for rows in &written.rows {
            // Locked for each, so that lookups come in between.
            let mut state = self.state();
            let lost = lost.start.saturating_sub(begin)..lost.end.saturating_sub(begin);
            state.rows.remove(rows, lost);
            begin += rows.numbers.len();
            state.removals += 1;
            state.bytes -= rows.batch.memory();
            self.done.notify_all();
        }
    }

    /// For the flusher: rows are removed from the disk, or not all of them. Returns the error if no caller waits for it.
    pub(crate) fn end_removal(&self, removal: &Removal, outcome: io::Result<()>) -> io::Result<()> {
        let _state = self.state();
        let mut removal = removal.state();
        if matches!(*removal, RemovalState::Abandoned) {
            return outcome;
        }
        *removal = RemovalState::Ended(outcome);
        self.done.notify_all();
        Ok(())
    }

    /// For the flusher: the work that `next_task` returned is done.
    pub(crate) fn finish_work(&self) {
        self.state().busy = None;
        self.done.notify_all();
    }
}

impl Removal {
    fn state(&self) -> MutexGuard<'_, RemovalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those rows of a batch that were not inserted: their positions, and where the rows of the same keys
/// are that were first. A key that comes twice in the batch is first at its first position.
fn winners(
    batch: &RowBatch,
    on_disk: Vec<(usize, Located)>,
    inserted: &[u32],
    pending: &PendingRows,
) -> Vec<(usize, Located)> {
    let mut inserted = inserted.iter().map(|row| *row as usize).peekable();
    let mut on_disk = on_disk.into_iter().peekable();
    let winner = |row| {
        if inserted.next_if_eq(&row).is_some() {
            return None;
        }
        on_disk.next_if(|(present, _)| *present == row).or_else(|| {
            let (batch, first) = pending.find(batch.key(row as u32))?;
            Some((row, Located::queued(batch, first)))
        })
    };
    (0..batch.rows()).filter_map(winner).collect()
}

/// The rows of a batch of `count` rows that are not among `present`, whose positions rise.
fn rows_not_in(present: &[(usize, Located)], count: usize) -> Vec<u32> {
    let mut present = present.iter().map(|(row, _)| *row as u32).peekable();
    let is_absent = |row: &u32| present.next_if_eq(row).is_none();
    (0..count as u32).filter(is_absent).collect()
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::progress;

    #[test]
    fn a_flusher_that_computes_is_waited_for() {
        let queue = Arc::new(WriteQueue::default());
        queue.state().busy = Some(0);
        let (begun, begins) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let computing = thread::spawn({
            let queue = queue.clone();
            move || {
                queue.progress.follow_this_thread();
                progress::compute(|| {
                    begun.send(()).expect("the test receives");
                    ends.recv().expect("the test sends");
                    queue.finish_work();
                });
            }
        });
        begins.recv().expect("it computes");
        let (waiter, (done, waited)) = (queue, mpsc::channel());
        thread::spawn(move || {
            let stall_timeout = Duration::from_millis(1);
            done.send(waiter.wait_written(0, Instant::now(), stall_timeout))
        });
        let early = waited.recv_timeout(Duration::from_millis(50));
        assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
        end.send(()).expect("it computes");
        assert_eq!(waited.recv(), Ok(Ok(())));
        computing.join().expect("it does not panic");
    }

    #[test]
    fn the_epoch_is_read_while_the_queue_is_locked() {
        let queue = Arc::new(WriteQueue::default());
        let state = queue.state();
        let (reader, (done, read)) = (queue.clone(), mpsc::channel());
        thread::spawn(move || done.send(reader.epoch()));
        let epoch = read.recv_timeout(Duration::from_secs(10));
        assert_eq!(epoch, Ok(0), "it waits for no lock");
        drop(state);
        drop(queue.clear());
        assert_eq!(queue.epoch(), 1);
    }
}
