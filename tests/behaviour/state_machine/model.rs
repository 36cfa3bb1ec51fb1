//! The reference model of the state machine test: which rows must and which may be hits, by the
//! documented guarantees alone.
//!
//! It tracks rows by identity and by the memory tier or directory that holds them. What it cannot know
//! (how much is evicted, which rows a fault affects) it leaves open: such rows may be hits or misses.

use std::collections::{BTreeMap, BTreeSet};

use tch::Kind;

/// Everything that an output depends on, apart from the row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) module: i64,
    pub(crate) weight: usize,
    pub(crate) dtype: Option<Dtype>,
    pub(crate) version: usize,
}

/// A kind that rows are rounded to; `tch::Kind` is not `Ord`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dtype {
    Half,
    BFloat16,
}

impl Dtype {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Dtype::Half => Kind::Half,
            Dtype::BFloat16 => Kind::BFloat16,
        }
    }
}

/// An identity and its directory; `None` for memory only.
pub(crate) type Place = (Identity, Option<usize>);

/// Whether the bound of each tier is above all rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Roomy {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
}

impl Roomy {
    pub(crate) const ALL: Roomy = Roomy {
        memory: true,
        disk: true,
    };
}

/// Rows by identity and number.
pub(crate) type Rows = BTreeSet<(Identity, i64)>;

/// The rows in a memory tier or a directory.
#[derive(Debug, Default)]
struct Contents {
    may: Rows,
    must: Rows,
    /// Every row that it ever held.
    ever: Rows,
    roomy: bool,
}

impl Contents {
    /// Adds rows; `sure` if nothing prevents storing them.
    fn take(&mut self, rows: &Rows, sure: bool) {
        self.may.extend(rows);
        self.ever.extend(rows);
        if self.roomy && sure {
            self.must.extend(rows);
        }
    }

    /// Applies a bound; not `sure` if another instance may have set it since.
    fn set_bound(&mut self, roomy: bool, sure: bool) {
        if !roomy {
            self.must.clear();
        }
        self.roomy = roomy && (self.roomy || sure);
    }
}

/// What an instance used in its last call.
#[derive(Debug, Clone, Copy)]
struct Attached {
    /// According to its options.
    named: Place,
    /// In fact: without a directory if it could not be opened.
    place: Place,
    memory: usize,
    roomy: Roomy,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    attached: BTreeMap<usize, Attached>,
    /// The instances whose last call could not use their directory.
    refused: BTreeSet<usize>,
    /// The instances whose next flush may report rows that a blocked directory lost.
    reporting: BTreeSet<usize>,
    memories: Vec<Contents>,
    /// The memory tier last used for a place.
    memory_of: BTreeMap<Place, usize>,
    disks: BTreeMap<Place, Contents>,
    /// The directories that were ever blocked, and whether each can be neither read nor written now.
    blocked: BTreeMap<usize, bool>,
}

impl Model {
    /// An instance makes a call. Instances of one place share a memory tier while one of them exists.
    /// An instance that changes its place keeps a memory tier of its own unless the new place has one.
    pub(crate) fn attach(&mut self, instance: usize, place: Place, away: bool, roomy: Roomy) {
        let (before, named) = (self.attached.get(&instance).copied(), place);
        if before.is_some_and(|before| self.was_blocked(before.named.1)) {
            self.reporting.insert(instance);
        }
        let place = match away {
            true => (named.0, None),
            false => named,
        };
        let moved = before.is_none_or(|before| before.place != place);
        let sure = moved || before.is_some_and(|before| before.roomy != roomy);
        // Without its directory, an instance keeps its memory apart from those that have none.
        let there = self.memory_of.get(&named).copied();
        let there = there.filter(|&memory| self.users(memory) > 0);
        let own = before.map(|before| before.memory);
        let own = own.filter(|&memory| self.users(memory) == 1);
        let memory = there.or(own).unwrap_or_else(|| {
            self.memories.push(Contents::default());
            self.memories.len() - 1
        });
        self.memories[memory].set_bound(roomy.memory, sure);
        let disk = self.disks.entry(place).or_default();
        disk.set_bound(roomy.disk, sure);
        if let (Some(directory), false) = (place.1, roomy.disk) {
            // The bound is that of the directory, with all identities in it.
            self.disks_of(directory)
                .for_each(|disk| disk.set_bound(false, false));
        }
        // A tier that moved is not found under its earlier place.
        self.memory_of.retain(|_, other| *other != memory);
        self.memory_of.insert(named, memory);
        let attached = Attached {
            named,
            place,
            memory,
            roomy,
        };
        self.attached.insert(instance, attached);
        if let Some(before) = before.filter(|before| before.place.1 != place.1) {
            self.leave(before.place.1);
        }
    }

    /// An instance is dropped.
    pub(crate) fn detach(&mut self, instance: usize) {
        let before = self.attached.remove(&instance);
        self.refused.remove(&instance);
        self.leave(before.and_then(|before| before.place.1));
    }

    /// An instance leaves a directory. The largest bound of those that are left holds, which may be a small one of
    /// before the last change.
    fn leave(&mut self, directory: Option<usize>) {
        let mut others = self.attached.values();
        let is_small = |it: &Attached| it.place.1 == directory && !it.roomy.disk;
        if let Some(directory) = directory
            && others.any(is_small)
        {
            self.disks_of(directory)
                .for_each(|disk| disk.set_bound(false, false));
        }
    }

    /// A call of an instance was `refused` since its directory cannot be used, or was not.
    pub(crate) fn set_refused(&mut self, instance: usize, refused: bool) {
        if refused {
            self.refused.insert(instance);
        } else {
            self.refused.remove(&instance);
        }
    }

    /// The rows that must be hits of an attached instance, and those that may be.
    pub(crate) fn hits(&self, instance: usize) -> (Rows, Rows) {
        let Attached { place, memory, .. } = self.attached[&instance];
        let (memory, disk) = (&self.memories[memory], &self.disks[&place]);
        let both = |left: &Rows, right: &Rows| left.union(right).copied().collect();
        match place.1 {
            Some(_) => (both(&memory.must, &disk.must), both(&memory.may, &disk.may)),
            None => (memory.must.clone(), memory.may.clone()),
        }
    }

    /// An attached instance returned rows, some of them computed. All are in memory now, and the
    /// computed ones on disk as well. The others are if the directory is newer than they.
    pub(crate) fn record_call(&mut self, instance: usize, rows: &Rows, computed: &Rows) {
        let Attached { place, memory, .. } = self.attached[&instance];
        self.memories[memory].take(rows, true);
        if place.1.is_some() {
            let blocked = self.is_blocked(place.1);
            let disk = self.disks.entry(place).or_default();
            disk.take(rows, false);
            disk.take(computed, !blocked);
        }
    }

    /// An instance was flushed: rows in memory that the disk may have lost were written again.
    pub(crate) fn record_flush(&mut self, instance: usize) {
        self.reporting.remove(&instance);
        let Some(&Attached { place, memory, .. }) = self.attached.get(&instance) else {
            return;
        };
        if place.1.is_some() {
            let rows = self.memories[memory].may.iter();
            let rows = rows.filter(|(identity, _)| *identity == place.0);
            let rows = rows.copied().collect();
            self.disks.entry(place).or_default().take(&rows, false);
        }
    }

    /// An instance cleared its cache: its memory tier, and its place on disk.
    pub(crate) fn clear(&mut self, instance: usize) {
        let Some(&Attached { place, memory, .. }) = self.attached.get(&instance) else {
            return;
        };
        let memory = &mut self.memories[memory];
        (memory.may, memory.must) = Default::default();
        let blocked = self.is_blocked(place.1);
        let disk = self.disks.entry(place).or_default();
        disk.must.clear();
        if !blocked {
            disk.may.clear();
        }
    }

    /// An instance removed rows, on disk as well if no fault kept it from that.
    pub(crate) fn remove(&mut self, instance: usize, rows: &Rows, from_disk: bool) {
        let Attached { place, memory, .. } = self.attached[&instance];
        let memory = &mut self.memories[memory];
        memory.may.retain(|row| !rows.contains(row));
        memory.must.retain(|row| !rows.contains(row));
        let disk = self.disks.entry(place).or_default();
        disk.must.retain(|row| !rows.contains(row));
        if from_disk {
            disk.may.retain(|row| !rows.contains(row));
        }
    }

    /// A segment of an identity was damaged.
    pub(crate) fn damage(&mut self, place: Place) {
        self.disks.entry(place).or_default().must.clear();
    }

    /// A segment was copied to the directory of another identity. It may contain rows that were copied
    /// from there before and cleared since.
    pub(crate) fn transplant(&mut self, directory: usize) {
        for disk in self.disks_of(directory) {
            disk.may.clone_from(&disk.ever);
        }
    }

    /// A directory was replaced by a file or restored.
    pub(crate) fn block(&mut self, directory: usize, blocked: bool) {
        self.blocked.insert(directory, blocked);
        self.disks_of(directory).for_each(|disk| disk.must.clear());
    }

    fn disks_of(&mut self, directory: usize) -> impl Iterator<Item = &mut Contents> {
        let disks = self.disks.iter_mut();
        let disks = disks.filter(move |(place, _)| place.1 == Some(directory));
        disks.map(|(_, disk)| disk)
    }

    /// Whether a directory was ever blocked: queued rows may have been dropped.
    pub(crate) fn was_blocked(&self, directory: Option<usize>) -> bool {
        directory.is_some_and(|directory| self.blocked.contains_key(&directory))
    }

    pub(crate) fn is_blocked(&self, directory: Option<usize>) -> bool {
        directory.is_some_and(|directory| self.blocked.get(&directory) == Some(&true))
    }

    /// Whether an instance used this directory in its last call.
    pub(crate) fn uses(&self, instance: usize, directory: Option<usize>) -> bool {
        let attached = self.attached.get(&instance);
        attached.is_some_and(|attached| attached.named.1 == directory)
    }

    /// Whether an instance works without the directory of its options.
    pub(crate) fn is_away(&self, instance: usize) -> bool {
        let attached = self.attached.get(&instance);
        attached.is_some_and(|attached| attached.place != attached.named)
    }

    /// Whether everything that an instance stored must be on disk after a flush.
    pub(crate) fn flushes(&self, instance: usize) -> bool {
        let attached = self.attached.get(&instance);
        !self.refused.contains(&instance)
            && !self.reporting.contains(&instance)
            && !self.was_blocked(attached.and_then(|attached| attached.named.1))
    }

    fn users(&self, memory: usize) -> usize {
        let users = self.attached.values().filter(|it| it.memory == memory);
        users.count()
    }
}
