//! Reading located rows: grouped by segment, in the order of the file, over the cores where there
//! is enough of it, each row checked. What cannot be read is counted and dropped from the index, so
//! that it is a miss from then on, unless another segment holds it as well.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::catalog::live_segment::Tracked;
use crate::catalog::located::{Found, Place, group};
use crate::catalog::{Catalog, file_cache};
use crate::fault::Fault;
use crate::key::Key;
use crate::segment::{self, SegmentError, Source};
use crate::threads;

/// How often rows are followed to another segment: more than once if merges race.
const TRIES: usize = 4;

/// How many files a call reads from at a time.
const MOST_FILES: usize = 64;

/// Below this cost (about 0.1 ms) a call does not wake other threads: it is done nearly as soon as
/// they are awake, and on a busy machine sooner.
const SHARED_FROM: usize = 1 << 20;

/// The least that is worth being a piece of its own.
const PIECE: usize = 128 << 10;

/// What a system call costs, in bytes that could be copied meanwhile.
const SYSTEM_CALL: usize = 6 << 10;

/// How many bytes can be copied while one is decompressed.
const DECOMPRESSION: usize = 8;

/// A row on disk to be read. The tag is the caller's number for it and its segment.
type Want<'a> = segment::Want<'a, (usize, &'a Arc<Tracked>)>;

/// Reads rows into destinations of their lengths. Returns for each whether it was read.
pub(crate) fn read(
    catalog: &Catalog,
    locate: impl Fn(&Found) -> Option<Found>,
    found: &[Found],
    out: &mut [&mut [u8]],
    mmap: bool,
) -> Vec<bool> {
    let mut ok = vec![false; found.len()];
    let rows = found.iter().map(Some);
    let mut elsewhere = pass(catalog, rows, out, &mut ok, mmap);
    for _ in 0..TRIES {
        if elsewhere.is_empty() {
            return ok;
        }
        if !elsewhere.vanished.is_empty() {
            // Another process removed the segment. If it was a merge, the rows are in a new one.
            catalog.refresh();
        }
        let mut moved = vec![None; found.len()];
        let find = |old: &Found| {
            let new = |new: &Found| new.len == old.len && new.schema() == old.schema();
            locate(old).filter(new)
        };
        for slot in elsewhere.bad {
            moved[slot] = find(&found[slot]);
        }
        for slot in elsewhere.vanished {
            moved[slot] = find(&found[slot]);
            if moved[slot].is_none() {
                note_vanished(catalog, &found[slot]);
            }
        }
        elsewhere = pass(
            catalog,
            moved.iter().map(Option::as_ref),
            out,
            &mut ok,
            mmap,
        );
    }
    for slot in elsewhere.vanished {
        note_vanished(catalog, &found[slot]);
    }
    ok
}

/// Slots of rows that may be in another segment as well.
#[derive(Default)]
struct Elsewhere {
    /// Their segments are gone.
    vanished: Vec<usize>,
    /// Their records are bad, which is noted.
    bad: Vec<usize>,
}

impl Elsewhere {
    fn is_empty(&self) -> bool {
        self.vanished.is_empty() && self.bad.is_empty()
    }
}

fn note_vanished(catalog: &Catalog, found: &Found) {
    if let Place::Disk(segment, _) = &found.place
        && !segment.retired.load(Ordering::Relaxed)
    {
        let reason = "somebody removed it, and its rows are in no other segment";
        catalog.faults.note(Fault::Vanished, &segment.path, reason);
    }
}

/// Reads what can be read of the rows that slots have, and returns the slots of those that were not
/// where they had been found.
fn pass<'a>(
    catalog: &Catalog,
    rows: impl Iterator<Item = Option<&'a Found>>,
    out: &'a mut [&mut [u8]],
    ok: &mut [bool],
    mmap: bool,
) -> Elsewhere {
    let mut wants: Vec<Want<'a>> = Vec::with_capacity(ok.len());
    for (slot, (found, out)) in rows.zip(out).enumerate() {
        let Some(found) = found else { continue };
        match &found.place {
            Place::Queue(batch, row) => {
                out.copy_from_slice(batch.value(*row));
                ok[slot] = true;
            }
            Place::Disk(segment, row) => wants.push(Want {
                tag: (slot, segment),
                row,
                group: group(segment, row),
                out,
                outcome: None,
            }),
        }
    }
    let place = |want: &Want<'_>| (want.tag.1.id, want.row.offset);
    if !wants.is_sorted_by_key(place) {
        wants.sort_unstable_by_key(place);
    }
    let mut elsewhere = Elsewhere {
        vanished: fetch(catalog, &mut wants, mmap),
        bad: Vec::new(),
    };
    let mut bad: HashMap<u32, (&Tracked, HashSet<Key>)> = HashMap::new();
    for want in wants {
        let (slot, segment) = want.tag;
        match want.outcome {
            Some(Ok(())) => ok[slot] = true,
            Some(Err(SegmentError::Io(error))) if is_stale(&error) => {
                file_cache::forget(segment.id);
                elsewhere.vanished.push(slot);
            }
            Some(Err(error)) => {
                catalog.faults.note(error.fault(), &segment.path, error);
                catalog.forget_row(segment, &want.row.key);
                let (_, keys) = bad.entry(segment.id).or_insert((segment, HashSet::new()));
                keys.insert(want.row.key);
                elsewhere.bad.push(slot);
            }
            None => {}
        }
    }
    for (segment, keys) in bad.values() {
        catalog.look_behind(segment, keys);
    }
    elsewhere
}

/// Whether a file server says so of an open file that another machine removed, or that it has
/// forgotten. By its name the file may still be there.
fn is_stale(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StaleNetworkFileHandle
}

/// Reads rows that are in order, and returns the slots of those whose files are gone.
fn fetch(catalog: &Catalog, wants: &mut [Want<'_>], mmap: bool) -> Vec<usize> {
    let mut vanished = Vec::new();
    let mut open = Vec::new();
    for group in wants.chunk_by_mut(|a, b| a.tag.1.id == b.tag.1.id) {
        let segment = group[0].tag.1;
        let mut source = catalog.source(segment, mmap);
        // Perhaps the process has no descriptor left because this call holds so many.
        if open.len() >= MOST_FILES || source.is_err() && !open.is_empty() {
            fetch_from(std::mem::take(&mut open));
            source = catalog.source(segment, mmap);
        }
        match source {
            Ok(source) => {
                segment.note_read(&source);
                open.push((source, group));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                vanished.extend(group.iter().map(|want| want.tag.0));
            }
            // It may pass (no descriptors left, say), so the rows stay in the index.
            Err(error) => group
                .iter()
                .for_each(|_| catalog.faults.note(Fault::Read, &segment.path, &error)),
        }
    }
    fetch_from(open);
    vanished
}

/// Reads rows of some files, over the cores if there is enough to do.
fn fetch_from(files: Vec<(Arc<Source>, &mut [Want<'_>])>) {
    let total: usize = files.iter().flat_map(|(_, wants)| costs(wants)).sum();
    if total < SHARED_FROM || threads::count() < 2 {
        for (source, wants) in files {
            segment::fetch(&source, wants);
        }
        return;
    }
    let share = (total / (2 * threads::count())).max(PIECE);
    let pieces = files
        .into_iter()
        .flat_map(|(source, wants)| cut(wants, share).map(move |piece| (source.clone(), piece)));
    threads::each(threads::count(), pieces, |(source, wants)| {
        segment::fetch(&source, wants);
    });
}

/// What each row costs, in bytes that could be copied meanwhile.
fn costs(wants: &[Want<'_>]) -> impl Iterator<Item = usize> {
    let cost = |place: usize| {
        let want = &wants[place];
        let follows = place > 0 && wants[place - 1].is_followed_by(want);
        let each_byte = if want.row.encoding.is_raw() {
            1
        } else {
            DECOMPRESSION
        };
        want.out.len() * each_byte + if follows { 0 } else { SYSTEM_CALL }
    };
    (0..wants.len()).map(cost)
}

/// Cuts rows into pieces of about this cost each.
fn cut<'w, 'a>(
    mut wants: &'w mut [Want<'a>],
    share: usize,
) -> impl Iterator<Item = &'w mut [Want<'a>]> {
    std::iter::from_fn(move || {
        let mut cost = 0;
        let len = costs(wants)
            .take_while(|next| {
                let goes_on = cost < share;
                cost += next;
                goes_on
            })
            .count();
        let (piece, rest) = std::mem::take(&mut wants).split_at_mut(len);
        wants = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
