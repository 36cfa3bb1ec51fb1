//! The thread that writes: it takes rows from the queue, makes segments of them, and keeps
//! the directory within its limit and free of crumbs.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::write_queue::{Cut, Work};
use super::{Inner, compaction, eviction, pace};
use crate::batch::RowBatch;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::fault::Fault;
use crate::segment::{Encoding, SegmentWriter, Value, pack, segment_bytes};
use crate::sync::thread::{Builder, JoinHandle};

/// Values are compressed in windows of about this size, to bound the memory for frames.
const WINDOW_BYTES: usize = 4 << 20;

/// Starts the thread, which ends after [`Queue::close`](super::write_queue::Queue::close).
pub(crate) fn spawn(inner: &Arc<Inner>) -> io::Result<JoinHandle<()>> {
    let inner = inner.clone();
    Builder::new()
        .name("torchcache-store".into())
        .spawn(move || {
            give_way();
            run(&inner);
        })
}

/// Lets the model have the cores first, before this thread and those that it starts: about a tenth of
/// a core remains while everything else wants it. Where that is too little, the queue fills up, and
/// callers who wait for room leave it their cores. Where other work has taken all cores, they wait
/// longer than they would without this.
fn give_way() {
    // Niceness is of one thread on Linux, and of the whole process elsewhere.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(10);
}

fn run(inner: &Inner) {
    loop {
        match inner.queue.next(|| pace(&inner.config())) {
            Work::Write(cut) => {
                guarded(inner, || write(inner, &cut));
                inner.queue.forget(&cut);
                // It may run code of the caller who put the rows.
                guarded(inner, || drop(cut));
                // Others may have filled the directory meanwhile. Where it keeps what it has, that
                // stays: what seems too much may be a merge of theirs, whose sources go next.
                if inner.config().evict {
                    guarded(inner, || eviction::enforce_limit(inner));
                }
            }
            Work::EnforceLimit => guarded(inner, || eviction::enforce_limit(inner)),
            Work::Stop => return,
        }
        guarded(inner, || compaction::merge_small(inner));
        inner.queue.finish();
    }
}

/// A bug must not hang the callers who wait for this thread: it becomes a fault.
fn guarded(inner: &Inner, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        let Catalog { faults, dir, .. } = &inner.catalog;
        // It may have been the user's log that panicked, and it may do so again.
        let _ = catch_unwind(|| faults.note(Fault::Panic, dir, "the writer thread panicked"));
    }
}

/// A row of a cut.
type Item<'a> = (&'a RowBatch, u32);

/// Counts what of a cut is not on disk yet, so that a failure or a panic at any place gives
/// up exactly the rest.
struct Unwritten<'a> {
    inner: &'a Inner,
    rows: usize,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        if self.rows > 0 {
            self.inner.lose(self.rows);
        }
    }
}

fn write(inner: &Inner, cut: &Cut) {
    let items: Vec<Item<'_>> = cut
        .rows
        .iter()
        .flat_map(|rows| rows.numbers.iter().map(|number| (&*rows.batch, *number)))
        .collect();
    let mut unwritten = Unwritten {
        inner,
        rows: items.len(),
    };
    if let Err(error) = write_items(inner, cut.epoch, &items, &mut unwritten.rows) {
        inner
            .catalog
            .faults
            .note(Fault::of_write(&error), &inner.catalog.dir, error);
    }
}

fn write_items(inner: &Inner, epoch: u64, items: &[Item<'_>], left: &mut usize) -> io::Result<()> {
    let config = inner.config();
    let mut segments = Segments {
        inner,
        config: &config,
        epoch,
        open: None,
        room: eviction::room(inner),
        is_full: false,
        left,
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
        let values: Vec<Value<'_>> = window
            .iter()
            .map(|(batch, row)| Value {
                bytes: batch.value(*row),
                element_bytes: batch.element_len(),
            })
            .collect();
        let packed = pack(&values, compression)?;
        for (item, (encoding, stored)) in window.iter().zip(packed.rows(&values)) {
            segments.push(item, encoding, stored)?;
        }
    }
    segments.finish()
}

/// The segments that the rows of a cut go to, one after the other.
struct Segments<'a> {
    inner: &'a Inner,
    config: &'a Config,
    epoch: u64,
    open: Option<SegmentWriter>,
    /// How many bytes may be written beside those that were published.
    room: u64,
    /// A row did not find room, and so none that follows it is tried.
    is_full: bool,
    /// Rows that are in no segment yet that is on disk.
    left: &'a mut usize,
}

impl Segments<'_> {
    fn push(&mut self, item: &Item<'_>, encoding: Encoding, stored: &[u8]) -> io::Result<()> {
        let (batch, row) = item;
        // One more row must not make a segment larger than all that may be kept.
        let after = segment_bytes(1, stored.len(), batch.schema().len());
        let open = self.open.as_mut().map_or(0, |open| open.bytes());
        self.is_full |= open.saturating_add(after) > self.room;
        if self.is_full {
            self.refuse(1);
            return Ok(());
        }
        let full = |open: &mut SegmentWriter| {
            open.bytes() >= self.config.segment_target()
                || open.bytes() + after > self.config.max_bytes
                || !open.has_room(stored.len())
        };
        if let Some(full) = self.open.take_if(full) {
            self.publish(full)?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(create(self.inner)?),
        };
        let raw_len = batch.row_len() as u32; // a batch has no longer rows
        self.inner.queue.gets_on();
        open.push(batch.key(*row), batch.schema(), raw_len, encoding, stored)
    }

    fn finish(mut self) -> io::Result<()> {
        self.open.take().map_or(Ok(()), |last| self.publish(last))
    }

    fn publish(&mut self, segment: SegmentWriter) -> io::Result<()> {
        let inner = self.inner;
        let finished = segment.finish()?;
        inner.queue.gets_on();
        let rows = finished.footer().row_count();
        if !eviction::admits(inner, finished.bytes()) {
            self.refuse(rows);
            return Ok(());
        }
        self.room -= finished.bytes().min(self.room);
        let current = || inner.queue.epoch() == self.epoch;
        if inner.catalog.publish(finished, &[], current)?.is_some() {
            let stored = &inner.counters.stored_rows;
            stored.fetch_add(rows as u64, Ordering::Relaxed);
        }
        *self.left -= rows;
        inner.queue.gets_on();
        Ok(())
    }

    fn refuse(&mut self, rows: usize) {
        self.inner.refuse(rows, self.config);
        *self.left -= rows;
    }
}

/// Begins a segment, in a new directory if somebody removed it.
fn create(inner: &Inner) -> io::Result<SegmentWriter> {
    let create = || SegmentWriter::create_in(inner.catalog.make_dir()?);
    match create() {
        // Removed while it was open: whoever prunes caches takes empty directories away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(),
        created => created,
    }
}

/// Cuts rows into pieces of about [`WINDOW_BYTES`], at least one row each.
fn windows<'s, 'a>(mut items: &'s [Item<'a>]) -> impl Iterator<Item = &'s [Item<'a>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(batch, _): &&Item<'_>| {
            bytes += batch.row_len();
            bytes <= WINDOW_BYTES
        };
        let len = items
            .iter()
            .take_while(fits)
            .count()
            .max(1)
            .min(items.len());
        let (window, rest) = items.split_at(len);
        items = rest;
        (!window.is_empty()).then_some(window)
    })
}
