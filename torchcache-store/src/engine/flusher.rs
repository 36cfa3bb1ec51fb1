//! The background thread of a store: it writes queued rows into segments, keeps the directory within
//! its limit, and compacts small segments.

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::write_queue::{FlusherTask, SkippedRow, WriteBatch};
use super::{Engine, compaction, eviction, removal, root_eviction};
use crate::batch::RowBatch;
use crate::config::{Config, Eviction};
use crate::events::Deferred;
use crate::fault::Fault;
use crate::segment::{Encoding, RawValue, SegmentWriter, encode_rows, segment_bytes};
use crate::sync::thread::{Builder, JoinHandle};
use crate::{descriptors, progress, sys};

/// Values are compressed in windows of about this size, to bound the memory of their frames.
const WINDOW_BYTES: usize = 4 << 20;

/// Starts the thread, which ends after [`WriteQueue::close`](super::write_queue::WriteQueue::close).
pub(crate) fn spawn(engine: &Arc<Engine>) -> io::Result<JoinHandle<()>> {
    let engine = engine.clone();
    let builder = Builder::new().name("torchcache-store".into());
    let work = move || {
        engine.queue.progress.follow_this_thread();
        lower_priority();
        run(&engine);
    };
    sys::without_signals(|| builder.spawn(work))
}

/// Lets the model use the cores first, ahead of this thread and those that it starts, which keep about
/// a tenth of a core while all are wanted. If that is too little, the queue fills up, and callers that
/// wait for room yield their cores.
fn lower_priority() {
    // Niceness is per thread on Linux, and per process elsewhere.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(10);
}

fn run(engine: &Engine) {
    loop {
        match engine.queue.next_task(|| engine.queue_limits()) {
            FlusherTask::Write(batch) => {
                let mut outcome = BatchOutcome::default();
                on_files(engine, || write(engine, &batch, &mut outcome));
                let lost = outcome.lost(batch.row_count());
                engine.queue.remove(&batch, &lost);
                engine.lose(lost.len());
                // It may run code of the caller who put the rows.
                guarded(engine, || drop(batch));
                // Other processes may have filled the directory. Without eviction, what they wrote
                // stays: what seems to be too much may be a compaction of theirs.
                on_files(engine, || enforce_limit(engine));
            }
            FlusherTask::Confirm(rows) => on_files(engine, || confirm(engine, &rows)),
            FlusherTask::Evict => on_files(engine, || match engine.config().eviction {
                Eviction::Never => eviction::enforce_kept_limit(engine),
                _ => eviction::enforce_limit(engine),
            }),
            FlusherTask::Remove(rows) => {
                let mut outcome = Err(io::Error::other("the flusher thread panicked"));
                on_files(engine, || outcome = removal::remove(engine, &rows.keys));
                if let Err(error) = engine.queue.end_removal(&rows, outcome) {
                    let reason = format_args!("rows that were to be removed are left: {error}");
                    guarded(engine, || {
                        engine.note(Fault::from_write_error(&error), reason)
                    });
                }
            }
            FlusherTask::Stop => return,
        }
        on_files(engine, || {
            // Other processes may have evicted the sources while the result did not count yet.
            if compaction::compact(engine) {
                enforce_limit(engine);
            }
        });
        on_files(engine, || root_eviction::enforce(engine));
        engine.queue.finish_work();
    }
}

/// Keeps the directory within its limit, unless what is stored stays.
fn enforce_limit(engine: &Engine) {
    if engine.config().eviction != Eviction::Never {
        eviction::enforce_limit(engine);
    }
}

/// Work on files, of as many flushers at a time as there are descriptors for. No code of the program runs
/// meanwhile.
fn on_files(engine: &Engine, work: impl FnOnce()) {
    guarded(engine, || {
        let _turn = descriptors::flusher_turn(&engine.queue.progress);
        work();
    });
}

/// Counts a panic as a fault: a bug must not leave callers waiting for this thread. Events are emitted
/// when the work is done, so that a log subscriber that panics interrupts none of it.
fn guarded(engine: &Engine, work: impl FnOnce()) {
    let work = || {
        let _deferred = Deferred::new();
        work();
    };
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        // A log subscriber may have panicked, and may do so again.
        let note = || engine.note(Fault::Panic, "the flusher thread panicked");
        let _ = catch_unwind(AssertUnwindSafe(note));
    }
}

/// A queued row: its batch, and its position there.
type Item<'a> = (&'a RowBatch, u32);

/// What became of the rows of a batch: the first ones are in segments, and of the others the last ones were
/// refused. After a failure or a panic at any place, those in between are lost.
#[derive(Default)]
struct BatchOutcome {
    done: usize,
    refused: usize,
}

impl BatchOutcome {
    fn lost(&self, rows: usize) -> Range<usize> {
        self.done..rows.saturating_sub(self.refused)
    }
}

fn write(engine: &Engine, batch: &WriteBatch, outcome: &mut BatchOutcome) {
    let rows = batch.rows.iter();
    let items: Vec<Item<'_>> = rows
        .flat_map(|rows| rows.numbers.iter().map(|number| (&*rows.batch, *number)))
        .collect();
    if let Err(error) = write_items(engine, batch.clears, &items, outcome) {
        engine.note(Fault::from_write_error(&error), error);
    }
}

/// Skipped rows of which it is not known whether they are durable. Dropping it counts them as lost, also
/// after a panic.
struct Unconfirmed<'a> {
    engine: &'a Engine,
    rows: Vec<&'a SkippedRow>,
}

impl Drop for Unconfirmed<'_> {
    fn drop(&mut self) {
        self.engine.lose(self.rows.len());
        self.rows.iter().for_each(|row| row.losses.add(1));
    }
}

/// Makes rows durable that were skipped.
fn confirm(engine: &Engine, rows: &[SkippedRow]) {
    let mut unconfirmed = Unconfirmed {
        engine,
        rows: rows.iter().collect(),
    };
    let located: Vec<_> = rows.iter().map(|it| (&it.row, it.existed)).collect();
    match engine.catalog.confirm(&located) {
        Ok(lost) => unconfirmed.rows = lost.into_iter().map(|at| &rows[at]).collect(),
        Err(error) => engine.note(Fault::from_write_error(&error), error),
    }
}

fn write_items(
    engine: &Engine,
    clears: u64,
    items: &[Item<'_>],
    outcome: &mut BatchOutcome,
) -> io::Result<()> {
    let config = engine.config();
    let mut segments = Segments {
        engine,
        config: &config,
        clears,
        open: None,
        room: eviction::room(engine).min(root_eviction::room(engine)),
        is_full: false,
        outcome,
    };
    let Some(compression) = config.compression else {
        for item in items {
            segments.push(item, Encoding::Raw, item.0.value(item.1))?;
        }
        return segments.finish();
    };
    for window in windows(items) {
        if segments.is_full {
            segments.refuse(window.len());
            continue;
        }
        let values: Vec<RawValue<'_>> = window
            .iter()
            .map(|(batch, row)| RawValue {
                bytes: batch.value(*row),
                element_bytes: batch.element_len(),
            })
            .collect();
        let encoded = progress::compute(|| encode_rows(&values, compression))?;
        for (item, (encoding, stored)) in window.iter().zip(encoded.rows(&values)) {
            segments.push(item, encoding, stored)?;
        }
    }
    segments.finish()
}

/// The segments that a batch is written to, one after the other.
struct Segments<'a> {
    engine: &'a Engine,
    config: &'a Config,
    /// How often the queue had been cleared when the batch was taken.
    clears: u64,
    open: Option<SegmentWriter>,
    /// How many bytes may be written in addition to the segments that were published.
    room: u64,
    /// A row did not fit, so none of those after it is tried.
    is_full: bool,
    outcome: &'a mut BatchOutcome,
}

impl Segments<'_> {
    fn push(&mut self, item: &Item<'_>, encoding: Encoding, stored: &[u8]) -> io::Result<()> {
        let (batch, row) = item;
        // One more row must not make a segment larger than the limit.
        let added = segment_bytes(1, stored.len(), batch.schema().len());
        let open = self.open.as_mut().map_or(0, |open| open.bytes());
        self.is_full |= open.saturating_add(added) > self.room;
        if self.is_full {
            self.refuse(1);
            return Ok(());
        }
        let is_complete = |open: &mut SegmentWriter| {
            open.bytes() >= self.config.target_segment_bytes()
                || open.bytes() + added > self.config.max_bytes
                || !open.has_room(stored.len())
        };
        if let Some(complete) = self.open.take_if(is_complete) {
            self.publish(complete)?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(create(self.engine)?),
        };
        let raw_len = batch.row_len() as u32; // checked when the batch was made
        open.push(batch.key(*row), batch.schema(), raw_len, encoding, stored)
    }

    fn finish(mut self) -> io::Result<()> {
        self.open.take().map_or(Ok(()), |last| self.publish(last))
    }

    fn publish(&mut self, segment: SegmentWriter) -> io::Result<()> {
        let engine = self.engine;
        let finished = segment.finish()?;
        let rows = finished.footer().row_count();
        if !eviction::admit(engine, finished.bytes()) {
            engine.refuse(rows, self.config);
            self.outcome.done += rows;
            return Ok(());
        }
        self.room -= finished.bytes().min(self.room);
        let is_wanted = || engine.queue.clears() == self.clears;
        if engine.catalog.publish(finished, &[], is_wanted)? {
            let stored = &engine.counters.stored_rows;
            stored.fetch_add(rows as u64, Ordering::Relaxed);
        }
        self.outcome.done += rows;
        Ok(())
    }

    fn refuse(&mut self, rows: usize) {
        self.engine.refuse(rows, self.config);
        self.outcome.refused += rows;
    }
}

/// Begins a segment, and makes the directory again if it was removed.
fn create(engine: &Engine) -> io::Result<SegmentWriter> {
    let create = || {
        SegmentWriter::create_in(match engine.queue.has_ended() {
            true => engine.catalog.open_dir()?,
            false => engine.catalog.create_dir()?,
        })
    };
    match create() {
        // Removed between the two calls: pruning removes empty directories.
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(),
        created => created,
    }
}

/// Splits rows into windows of about [`WINDOW_BYTES`], at least one row each.
fn windows<'s, 'a>(mut items: &'s [Item<'a>]) -> impl Iterator<Item = &'s [Item<'a>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(batch, _): &&Item<'_>| {
            bytes += batch.row_len();
            bytes <= WINDOW_BYTES
        };
        let len = items.iter().take_while(fits).count();
        let (window, rest) = items.split_at(len.max(1).min(items.len()));
        items = rest;
        (!window.is_empty()).then_some(window)
    })
}
