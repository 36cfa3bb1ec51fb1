//! Reading located rows: grouped by segment, in the order of the file, each checked. What
//! cannot be read is counted and dropped from the index, so that it is a miss from then on.

use std::io;
use std::sync::atomic::Ordering;

use crate::catalog::Catalog;
use crate::fault::Fault;
use crate::found::{Found, Place};
use crate::segment::Want;
use crate::tracked::Tracked;

/// How often rows are followed to another segment: more than once if merges race.
const TRIES: usize = 4;

/// Reads rows into destinations of their lengths. Returns for each whether it was read.
pub(crate) fn read(
    catalog: &Catalog,
    locate: impl Fn(&Found) -> Option<Found>,
    found: &[Found],
    out: &mut [&mut [u8]],
    mmap: bool,
) -> Vec<bool> {
    let mut ok = vec![false; found.len()];
    let mut vanished = pass(
        catalog,
        found.iter().enumerate().collect(),
        out,
        &mut ok,
        mmap,
    );
    for _ in 0..TRIES {
        if vanished.is_empty() {
            return ok;
        }
        // Another process removed the segment. If it was a merge, the rows are in a new one.
        catalog.refresh();
        let moved: Vec<_> = vanished
            .into_iter()
            .filter_map(|slot| {
                let (old, new) = (&found[slot], locate(&found[slot]));
                let new = new.filter(|new| new.len == old.len && new.schema == old.schema);
                if new.is_none() {
                    note_vanished(catalog, old);
                }
                Some((slot, new?))
            })
            .collect();
        let moved = moved.iter().map(|(slot, found)| (*slot, found)).collect();
        vanished = pass(catalog, moved, out, &mut ok, mmap);
    }
    for slot in vanished {
        note_vanished(catalog, &found[slot]);
    }
    ok
}

fn note_vanished(catalog: &Catalog, found: &Found) {
    if let Place::Disk(segment, _) = &found.place
        && !segment.retired.load(Ordering::Relaxed)
    {
        let reason = "somebody removed it, and its rows are in no other segment";
        catalog.faults.note(Fault::Vanished, &segment.path, reason);
    }
}

/// Reads what can be read, and returns the slots whose segments have vanished.
fn pass(
    catalog: &Catalog,
    rows: Vec<(usize, &Found)>,
    out: &mut [&mut [u8]],
    ok: &mut [bool],
    mmap: bool,
) -> Vec<usize> {
    let mut on_disk = Vec::with_capacity(rows.len());
    let mut destinations: Vec<Option<&mut [u8]>> =
        out.iter_mut().map(|out| Some(&mut **out)).collect();
    for (slot, found) in rows {
        let Some(out) = destinations[slot].take() else {
            continue;
        };
        match &found.place {
            Place::Queue(batch, row) => {
                out.copy_from_slice(batch.value(*row));
                ok[slot] = true;
            }
            Place::Disk(segment, row) => {
                let class = &segment.classes[usize::from(row.class)];
                let want = Want {
                    slot,
                    row: *row,
                    class,
                    out,
                    outcome: Ok(()),
                };
                on_disk.push((segment, want));
            }
        }
    }
    on_disk.sort_unstable_by_key(|(segment, want)| (segment.id, want.row.offset));

    let mut vanished = Vec::new();
    let mut on_disk = on_disk.into_iter().peekable();
    while let Some((segment, want)) = on_disk.next() {
        let mut wants = vec![want];
        while let Some((_, want)) = on_disk.next_if(|(next, _)| next.id == segment.id) {
            wants.push(want);
        }
        let gone = read_segment(catalog, segment, &mut wants, ok, mmap);
        if gone {
            vanished.extend(wants.iter().map(|want| want.slot));
        }
    }
    vanished
}

/// Reads rows of one segment. Returns whether its file is gone.
fn read_segment(
    catalog: &Catalog,
    segment: &Tracked,
    wants: &mut [Want<'_>],
    ok: &mut [bool],
    mmap: bool,
) -> bool {
    match segment.source(mmap) {
        Ok(source) => {
            segment.note_read(&source);
            source.fetch(wants);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
        Err(error) => {
            // It may pass (no descriptors left, say), so the rows stay in the index.
            for _ in wants {
                catalog.faults.note(Fault::Read, &segment.path, &error);
            }
            return false;
        }
    }
    for want in wants {
        match &want.outcome {
            Ok(()) => ok[want.slot] = true,
            Err(error) => {
                catalog.faults.note(error.fault(), &segment.path, error);
                catalog.forget_row(segment, &want.row.key);
            }
        }
    }
    false
}
