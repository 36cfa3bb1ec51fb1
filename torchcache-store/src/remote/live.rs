//! Which row of the remote is where: the set of live segments, and the index over their rows.
//!
//! The lock is held for memory operations only, one partition of the index at a time, and lookups take no other. Under it,
//! `shadowed_by` and `doubted` of a segment may be taken.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use super::name::ObjectName;
use super::segment::{RemoteRow, RemoteSegment};
use crate::catalog::index::{Index, IndexEntry, Inserted, PARTITIONS, by_partition};
use crate::key::{Key, fingerprint};
use crate::segment::Footer;
use crate::sync::{RwLock, RwLockReadGuard};

/// So many rows are superseded under one lock.
const SUPERSEDED_AT_ONCE: usize = 1 << 12;

/// So many segments are detached under one lock.
const DETACHED_AT_ONCE: usize = 1 << 8;

/// What lookups use.
#[derive(Debug)]
struct LiveSet {
    segments: HashMap<u32, Arc<RemoteSegment>>,
    names: HashMap<ObjectName, u32>,
    /// Objects that were seen to be gone. Their names are unique, so they do not come back.
    gone: HashSet<ObjectName>,
    index: Index,
    /// Whether the index has entries of segments that are not live.
    has_dead_entries: bool,
    /// Rows whose copies are not used any more, by their fingerprints: with the number of the call.
    superseded: HashMap<u64, u64>,
    /// How many calls there were.
    supersessions: u64,
}

/// The rows that are known.
#[derive(Debug)]
pub(super) struct RemoteRows {
    next_id: AtomicU32,
    live: RwLock<LiveSet>,
}

impl Default for RemoteRows {
    fn default() -> Self {
        RemoteRows {
            next_id: AtomicU32::new(1),
            live: RwLock::new(LiveSet {
                segments: HashMap::new(),
                names: HashMap::new(),
                gone: HashSet::new(),
                index: Index::new(),
                has_dead_entries: false,
                superseded: HashMap::new(),
                supersessions: 0,
            }),
        }
    }
}

impl RemoteRows {
    fn read(&self) -> RwLockReadGuard<'_, LiveSet> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut LiveSet) -> T) -> T {
        change(&mut self.live.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many segments are live.
    pub(super) fn segment_count(&self) -> usize {
        self.read().segments.len()
    }

    /// How many entries the index has.
    pub(super) fn len(&self) -> usize {
        self.read().index.len()
    }

    pub(super) fn find(&self, keys: &[Key]) -> Vec<Option<RemoteRow>> {
        let LiveSet {
            segments,
            index,
            superseded,
            ..
        } = &*self.read();
        // All entries first: these lookups are independent, so their cache misses overlap.
        let entries: Vec<Option<&IndexEntry>> = keys.iter().map(|key| index.get(key)).collect();
        let rows = keys.iter().zip(entries).map(|(key, entry)| {
            let entry = entry?;
            let row = RemoteRow::new(segments.get(&entry.segment)?, entry.row(key)?)?;
            (!superseded.contains_key(&fingerprint(key))).then_some(row)
        });
        rows.collect()
    }

    /// Has no copy of these rows used that the remote has, or gets from others, until this process put one.
    pub(super) fn supersede(&self, keys: &[Key]) {
        let call = self.change(|live| {
            live.supersessions += 1;
            live.supersessions
        });
        // A part at a time, so that lookups come in between.
        for keys in keys.chunks(SUPERSEDED_AT_ONCE) {
            self.change(|live| {
                let rows = keys.iter().map(|key| (fingerprint(key), call));
                live.superseded.extend(rows);
            });
        }
    }

    /// How many calls of [`supersede`](Self::supersede) there were.
    pub(super) fn supersessions(&self) -> u64 {
        self.read().supersessions
    }

    /// Those of the keys whose copies are not used, each with the number of the call that superseded it, and the time
    /// in the newest name of a segment with such a copy.
    pub(super) fn superseded(&self, keys: &[Key]) -> (HashMap<Key, u64>, u64) {
        let LiveSet {
            segments,
            index,
            superseded,
            ..
        } = &*self.read();
        let mut newest = 0;
        let rows = keys.iter().filter_map(|key| {
            let call = superseded.get(&fingerprint(key))?;
            let segment = index.get(key).and_then(|it| segments.get(&it.segment));
            newest = newest.max(segment.map_or(0, |segment| segment.name.nanos));
            Some((*key, *call))
        });
        (rows.collect(), newest)
    }

    /// Has the rows used again that this process put after it had seen so many calls of
    /// [`supersede`](Self::supersede).
    pub(super) fn reinstate(&self, footer: &Footer, supersessions: u64) {
        if self.read().superseded.is_empty() {
            return;
        }
        self.change(|live| {
            for row in footer.rows() {
                let fingerprint = fingerprint(&row.key);
                if live
                    .superseded
                    .get(&fingerprint)
                    .is_some_and(|call| *call <= supersessions)
                {
                    live.superseded.remove(&fingerprint);
                }
            }
        });
    }

    /// Those of the keys whose rows are known to be in the remote, each with the segment, and none seen to be damaged.
    pub(super) fn present(&self, keys: &[Key]) -> HashMap<Key, Arc<RemoteSegment>> {
        let is_sound = |row: &RemoteRow| {
            let RemoteRow { segment, row, .. } = row;
            !segment.doubted().contains(&fingerprint(&row.key))
        };
        let rows = self.find(keys).into_iter().flatten().filter(is_sound);
        rows.map(|row| (row.row.key, row.segment)).collect()
    }

    pub(super) fn insert(&self, name: ObjectName, size: u64, footer: &Footer) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let segment = RemoteSegment::new(id, name, size, footer.groups().to_vec());
        let segment = Arc::new(segment);
        let is_new = self.change(|live| {
            let is_new = !live.names.contains_key(&name) && !live.gone.contains(&name);
            if is_new {
                live.names.insert(name, segment.id);
                live.segments.insert(segment.id, segment.clone());
            }
            is_new
        });
        if is_new {
            self.index(&segment, footer);
        }
    }

    /// Points the index at those rows of a segment that no newer live segment has: where a row was removed and computed
    /// again, the newest copy is the one that everyone reads.
    pub(super) fn index(&self, segment: &RemoteSegment, footer: &Footer) {
        segment.set_unshadowed(false);
        let mut inserted = Inserted::default();
        let older = RefCell::new(HashSet::new());
        by_partition(segment.id, footer.rows(), |number, entries| {
            self.change(
                |LiveSet {
                     segments, index, ..
                 }| {
                    let is_newer = |id| match segments.get(&id) {
                        Some(other) if other.name > segment.name => true,
                        Some(_) => {
                            older.borrow_mut().insert(id);
                            false
                        }
                        None => false,
                    };
                    index
                        .partition(number)
                        .insert(entries, is_newer, &mut inserted);
                },
            );
        });
        let newer: Vec<u32> = inserted.shadowed_by.into_keys().collect();
        segment.shadowed_by().extend(newer.iter().copied());
        let live = self.read();
        // Where one was detached in between, the rows are indexed again.
        if newer.iter().any(|id| !live.segments.contains_key(id)) {
            segment.set_unshadowed(true);
        }
        for other in older.borrow().iter().filter_map(|id| live.segments.get(id)) {
            other.shadowed_by().insert(segment.id);
            if !live.segments.contains_key(&segment.id) {
                other.set_unshadowed(true);
            }
        }
    }

    /// Takes segments out of the set. Their entries in the index are dead from then on.
    pub(super) fn detach(&self, names: &[ObjectName]) {
        let mut removed = HashSet::new();
        // A part at a time, so that lookups come in between.
        for names in names.chunks(DETACHED_AT_ONCE) {
            self.change(|live| {
                for name in names {
                    if let Some(id) = live.names.remove(name) {
                        live.segments.remove(&id);
                        live.has_dead_entries = true;
                        removed.insert(id);
                    }
                }
            });
        }
        if removed.is_empty() {
            return;
        }
        let live: Vec<Arc<RemoteSegment>> = self.read().segments.values().cloned().collect();
        unshadow(live.iter(), &removed);
    }

    /// Removes the entries of segments that are not live.
    pub(super) fn sweep(&self) {
        if !self.change(|live| std::mem::take(&mut live.has_dead_entries)) {
            return;
        }
        for number in 0..PARTITIONS {
            self.change(
                |LiveSet {
                     segments, index, ..
                 }| {
                    index
                        .partition(number)
                        .sweep(|id| segments.contains_key(&id));
                },
            );
        }
    }

    /// The names of the live segments.
    pub(super) fn names(&self) -> HashSet<ObjectName> {
        self.read().names.keys().copied().collect()
    }

    /// The live segments by name, and the objects that were seen to be gone.
    pub(super) fn segments(
        &self,
    ) -> (HashMap<ObjectName, Arc<RemoteSegment>>, HashSet<ObjectName>) {
        let live = self.read();
        let segments = live.segments.values();
        let segments = segments.map(|segment| (segment.name, segment.clone()));
        (segments.collect(), live.gone.clone())
    }

    /// Whether all of these are live, or were seen to be gone.
    pub(super) fn know(&self, names: &[&ObjectName]) -> bool {
        let live = self.read();
        let is_known =
            |name: &&ObjectName| live.names.contains_key(*name) || live.gone.contains(*name);
        names.iter().all(is_known)
    }

    /// An object was seen to be gone: its segment is detached.
    pub(super) fn note_gone(&self, name: ObjectName) {
        self.change(|live| live.gone.insert(name));
        self.detach(&[name]);
    }

    /// Forgets objects that are gone and not listed any more.
    pub(super) fn forget_gone(&self, is_unlisted: impl Fn(&ObjectName) -> bool) {
        self.change(|live| live.gone.retain(|name| !is_unlisted(name)));
    }

    /// Takes a row out of the index if it is read from this segment.
    pub(super) fn remove(&self, key: &Key, segment: u32) {
        self.change(|live| {
            if live.index.remove(key, segment) {
                unshadow(live.segments.values(), &HashSet::from([segment]));
            }
        });
    }
}

/// Has rows indexed again that any of these segments shadowed.
fn unshadow<'s>(segments: impl Iterator<Item = &'s Arc<RemoteSegment>>, ids: &HashSet<u32>) {
    for segment in segments {
        if !segment.shadowed_by().is_disjoint(ids) {
            segment.set_unshadowed(true);
        }
    }
}
