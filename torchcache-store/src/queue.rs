//! Rows that are not on disk yet: a queue bounded by its bytes, and a table that makes each
//! of its rows a hit. Nothing here touches the disk, so its one lock is never held for long.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashTable;

use crate::batch::{Key, RowBatch};
use crate::found::Found;

/// The queue between callers and the writer thread.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// The writer has something to do.
    work: Condvar,
    /// The writer has done something: there is room, or a flush is complete.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Every row that waits or is being written.
    rows: HashTable<(Arc<RowBatch>, u32)>,
    /// Memory of every batch that waits or is being written.
    bytes: u64,
    /// Memory of those that wait.
    waiting_bytes: u64,
    next_seq: u64,
    /// While the writer works: the number of the first batch in its hands.
    busy: Option<u64>,
    /// Batches up to this number are to be written without waiting for company.
    hurry_to: u64,
    /// Callers that wait for room.
    blocked: usize,
    upkeep: bool,
    closing: bool,
    /// Counts the calls of `drop_all`.
    epoch: u64,
}

#[derive(Debug)]
struct Waiting {
    seq: u64,
    since: Instant,
    rows: Rows,
}

/// Those rows of a batch that are to be written; a row that was there already is left out.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) batch: Arc<RowBatch>,
    pub(crate) numbers: Vec<u32>,
}

/// What the writer is to do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Write these.
    Write(Cut),
    /// Look after the directory.
    Upkeep,
    /// End the thread.
    Stop,
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
}

impl State {
    fn find(&self, key: &Key) -> Option<&(Arc<RowBatch>, u32)> {
        self.rows
            .find(hash(key), |(batch, row)| batch.key(*row) == key)
    }

    /// Whether nothing up to this batch is waiting or being written.
    fn is_done(&self, seq: u64) -> bool {
        !self.upkeep
            && self.busy.is_none_or(|first| first > seq)
            && self.waiting.front().is_none_or(|waiting| waiting.seq > seq)
    }
}

fn hash(key: &Key) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| key[i]))
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
            if let Some((batch, row)) = state.find(key) {
                *slot = Some(Found::queued(batch, *row));
            }
        }
    }

    /// Queues the rows that are neither pending nor in `on_disk`, and waits while there is
    /// no room for them. A batch larger than the whole bound waits for an empty queue.
    pub(crate) fn put(
        &self,
        batch: RowBatch,
        on_disk: impl Fn(&[Key]) -> Vec<bool>,
        pace: Pace,
    ) -> usize {
        let cost = batch.memory();
        let batch = Arc::new(batch);
        let mut state = self.state();
        loop {
            let there = on_disk(batch.keys());
            let new = |row: &u32| !there[*row as usize] && state.find(batch.key(*row)).is_none();
            let mut numbers: Vec<u32> = (0..batch.rows() as u32).filter(new).collect();
            if numbers.is_empty() {
                return 0;
            }
            if state.bytes > 0 && state.bytes + cost > pace.bound {
                state.blocked += 1;
                self.work.notify_one();
                state = self
                    .done
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.blocked -= 1;
                continue;
            }
            // A key may come twice in one batch; the first one wins.
            numbers.retain(|row| {
                let key = batch.key(*row);
                let new = state.find(key).is_none();
                if new {
                    let rehash = |(batch, row): &(Arc<RowBatch>, u32)| hash(batch.key(*row));
                    state
                        .rows
                        .insert_unique(hash(key), (batch.clone(), *row), rehash);
                }
                new
            });
            let was_idle = state.waiting.is_empty();
            state.next_seq += 1;
            state.bytes += cost;
            state.waiting_bytes += cost;
            let taken = numbers.len();
            let rows = Rows { batch, numbers };
            let waiting = Waiting {
                seq: state.next_seq,
                since: Instant::now(),
                rows,
            };
            state.waiting.push_back(waiting);
            if was_idle || state.waiting_bytes >= pace.target {
                self.work.notify_one();
            }
            return taken;
        }
    }

    /// Waits until everything that is queued now is written or given up.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        let seq = state.next_seq;
        state.hurry_to = seq;
        self.work.notify_one();
        while !state.is_done(seq) {
            state = self
                .done
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Asks the writer to look after the directory; `flush` waits for that too.
    pub(crate) fn ask_upkeep(&self) {
        self.state().upkeep = true;
        self.work.notify_one();
    }

    /// Tells the writer that its pace may have changed.
    pub(crate) fn nudge(&self) {
        self.work.notify_one();
    }

    /// Ends the writer thread once the queue is empty.
    pub(crate) fn close(&self) {
        self.state().closing = true;
        self.work.notify_one();
    }

    /// Forgets every row. What the writer has in its hands it will find outdated by the
    /// epoch.
    pub(crate) fn drop_all(&self) {
        let mut state = self.state();
        state.epoch += 1;
        state.waiting.clear();
        state.bytes -= state.waiting_bytes;
        state.waiting_bytes = 0;
        state.rows = HashTable::new();
        self.done.notify_all();
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
        loop {
            let Pace { target, linger, .. } = pace();
            let Some(front) = state.waiting.front() else {
                if std::mem::take(&mut state.upkeep) {
                    state.busy = Some(0);
                    return Work::Upkeep;
                }
                if state.closing {
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
                || front.seq <= state.hurry_to;
            if at_once || patience.is_zero() {
                state.busy = Some(front.seq);
                return Work::Write(take_cut(&mut state, target));
            }
            let waited = self.work.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// For the writer: these rows are on disk or given up, and no longer pending.
    pub(crate) fn forget(&self, cut: &Cut) {
        for Rows { batch, numbers } in &cut.rows {
            // Locked for each batch anew, so that lookups come in between.
            let mut state = self.state();
            for row in numbers {
                let same =
                    |other: &(Arc<RowBatch>, u32)| Arc::ptr_eq(&other.0, batch) && other.1 == *row;
                if let Ok(entry) = state.rows.find_entry(hash(batch.key(*row)), same) {
                    entry.remove();
                }
            }
            state.bytes -= batch.memory();
            if state.rows.is_empty() {
                state.rows = HashTable::new(); // gives back what a burst made it grow to
            }
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
