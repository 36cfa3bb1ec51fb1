//! The naive model of the state machine test: which rows somebody holds, by the promises alone.
//!
//! It knows rows by what they are kept under and in which memory or directory they came to be. What
//! it cannot know (how far eviction goes, which rows a fault takes) it leaves open: such rows may be
//! hits and may be computed.

use std::collections::{BTreeMap, BTreeSet};

use tch::Kind;

/// What rows are kept under: everything that the output depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) module: i64,
    pub(crate) weight: usize,
    pub(crate) dtype: Option<Dtype>,
    pub(crate) version: usize,
}

/// A kind that rows are rounded to; tch's own has no order.
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

/// An identity, and the directory it is kept in; `None` for memory only.
pub(crate) type Place = (Identity, Option<usize>);

/// Whether tiers have room for everything.
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

/// What a memory or a directory holds.
#[derive(Debug, Default)]
struct Held {
    may: Rows,
    must: Rows,
    /// All that it ever held.
    ever: Rows,
    roomy: bool,
}

impl Held {
    /// Takes rows in; for `sure` if nothing is in the way.
    fn take(&mut self, rows: &Rows, sure: bool) {
        self.may.extend(rows);
        self.ever.extend(rows);
        if self.roomy && sure {
            self.must.extend(rows);
        }
    }

    /// Somebody set the bound, or may have where he is not `sure` to.
    fn set_bound(&mut self, roomy: bool, sure: bool) {
        if !roomy {
            self.must.clear();
        }
        self.roomy = roomy && (self.roomy || sure);
    }
}

/// Where an instance was at its last call.
#[derive(Debug, Clone, Copy)]
struct Attached {
    /// What its options say.
    named: Place,
    /// Without a directory if that could not be used when it was to be opened.
    place: Place,
    memory: usize,
    roomy: Roomy,
}

/// A directory, seen from outside.
#[derive(Debug, Clone, Copy, Default)]
struct Directory {
    /// Nothing can be written to it or read from it.
    blocked: bool,
    /// Rows may have been given up.
    was_blocked: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    attached: BTreeMap<usize, Attached>,
    memories: Vec<Held>,
    /// The memory that was last used for a place.
    memory_of: BTreeMap<Place, usize>,
    disks: BTreeMap<Place, Held>,
    directories: BTreeMap<usize, Directory>,
}

impl Ledger {
    /// An instance makes a call. Those of equal places share a memory while one of them is there; an
    /// instance that moves on takes its memory along, if it is its own and nobody is there yet.
    pub(crate) fn attach(&mut self, instance: usize, place: Place, away: bool, roomy: Roomy) {
        let (before, named) = (self.attached.get(&instance).copied(), place);
        let place = match away {
            true => (named.0, None),
            false => named,
        };
        let moved = before.is_none_or(|before| before.place != place);
        let sure = moved || before.is_some_and(|before| before.roomy != roomy);
        let there = self.memory_of.get(&place).copied();
        let there = there.filter(|&memory| self.users(memory) > 0);
        let own = before.map(|before| before.memory);
        let own = own.filter(|&memory| self.users(memory) == 1);
        let memory = there.or(own).unwrap_or_else(|| {
            self.memories.push(Held::default());
            self.memories.len() - 1
        });
        self.memories[memory].set_bound(roomy.memory, sure);
        let disk = self.disks.entry(place).or_default();
        disk.set_bound(roomy.disk, sure);
        self.memory_of.insert(place, memory);
        let attached = Attached {
            named,
            place,
            memory,
            roomy,
        };
        self.attached.insert(instance, attached);
    }

    /// An instance is dropped.
    pub(crate) fn detach(&mut self, instance: usize) {
        self.attached.remove(&instance);
    }

    /// The rows that an attached instance finds for certain, and those that it can find at all.
    pub(crate) fn found(&self, instance: usize) -> (Rows, Rows) {
        let Attached { place, memory, .. } = self.attached[&instance];
        let (memory, disk) = (&self.memories[memory], &self.disks[&place]);
        let both = |left: &Rows, right: &Rows| left.union(right).copied().collect();
        match place.1 {
            Some(_) => (both(&memory.must, &disk.must), both(&memory.may, &disk.may)),
            None => (memory.must.clone(), memory.may.clone()),
        }
    }

    /// An attached instance gave rows, some of which were computed. All of them are in memory now,
    /// and those on disk as well.
    pub(crate) fn gave(&mut self, instance: usize, rows: &Rows, computed: &Rows) {
        let Attached { place, memory, .. } = self.attached[&instance];
        self.memories[memory].take(rows, true);
        let Some(directory) = place.1 else { return };
        let blocked = self.directory(directory).blocked;
        let disk = self.disks.entry(place).or_default();
        disk.take(computed, !blocked);
    }

    /// An instance cleared its cache: all of its memory, and its place on disk.
    pub(crate) fn clear(&mut self, instance: usize) {
        let Some(&Attached { place, memory, .. }) = self.attached.get(&instance) else {
            return;
        };
        let memory = &mut self.memories[memory];
        (memory.may, memory.must) = Default::default();
        let blocked = place.1.is_some_and(|it| self.directory(it).blocked);
        let disk = self.disks.entry(place).or_default();
        disk.must.clear();
        if !blocked {
            disk.may.clear();
        }
    }

    /// A segment of an identity was damaged.
    pub(crate) fn damage(&mut self, place: Place) {
        self.disks.entry(place).or_default().must.clear();
    }

    /// A segment was copied to where it does not belong. It may hold rows that were copied from there
    /// before, and cleared since.
    pub(crate) fn transplant(&mut self, directory: usize) {
        for (_, disk) in self
            .disks
            .iter_mut()
            .filter(|disk| disk.0.1 == Some(directory))
        {
            disk.may.clone_from(&disk.ever);
        }
    }

    /// A directory was taken away, or is there again.
    pub(crate) fn block(&mut self, directory: usize, blocked: bool) {
        let state = self.directories.entry(directory).or_default();
        (state.blocked, state.was_blocked) = (blocked, true);
        for (_, disk) in self
            .disks
            .iter_mut()
            .filter(|disk| disk.0.1 == Some(directory))
        {
            disk.must.clear();
        }
    }

    /// Whether a directory was away at some time.
    pub(crate) fn was_blocked(&self, directory: Option<usize>) -> bool {
        directory.is_some_and(|directory| self.directory(directory).was_blocked)
    }

    pub(crate) fn is_blocked(&self, directory: Option<usize>) -> bool {
        directory.is_some_and(|directory| self.directory(directory).blocked)
    }

    /// Whether this is the directory that an instance was last called with.
    pub(crate) fn uses(&self, instance: usize, directory: Option<usize>) -> bool {
        let attached = self.attached.get(&instance);
        attached.is_some_and(|attached| attached.named.1 == directory)
    }

    /// Whether an instance goes on without the directory that its options name.
    pub(crate) fn is_away(&self, instance: usize) -> bool {
        let attached = self.attached.get(&instance);
        attached.is_some_and(|attached| attached.place != attached.named)
    }

    /// Whether everything that an instance stored must be on disk after a flush.
    pub(crate) fn flushes(&self, instance: usize) -> bool {
        let attached = self.attached.get(&instance);
        !self.was_blocked(attached.and_then(|attached| attached.named.1))
    }

    fn users(&self, memory: usize) -> usize {
        let users = self.attached.values().filter(|it| it.memory == memory);
        users.count()
    }

    fn directory(&self, directory: usize) -> Directory {
        self.directories
            .get(&directory)
            .copied()
            .unwrap_or_default()
    }
}
