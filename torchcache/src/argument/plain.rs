//! The digests of plain arguments. A value with weights, such as `&nn::Linear`, is compared with those of recent calls, as
//! the fields of a module are with what was hashed; it is hashed where it is none of them.

use std::collections::BTreeSet;
use std::mem::take;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::identity::{Collector, Fingerprint, Fingerprinter, Snapshot, Survey};
use crate::sync::{Progress, Turn, lock};

/// What is known of the plain arguments of a call.
#[derive(Debug, Default)]
pub(crate) struct PlainArguments {
    /// A digest of each, with its position and type.
    pub(crate) digests: Vec<(usize, [u8; 32])>,
    /// Those that were compared with what was hashed, with their positions.
    known: Vec<(usize, Arc<KnownValue>)>,
    /// The position of one that holds a tensor whose gradients are recorded.
    pub(crate) gradient: Option<usize>,
    /// One could not be read, since another thread holds its lock.
    pub(crate) is_locked: bool,
    /// The position of one that holds a tensor which cannot be hashed.
    pub(crate) unreadable: Option<usize>,
    /// The functions of the modules among them, whose code the digests have.
    pub(crate) functions: BTreeSet<[u8; 32]>,
    /// Whether one holds tensors or a module, which a forward may change.
    has_weights: bool,
    /// Elements on a device could not be compared.
    is_unsampled: bool,
}

impl PlainArguments {
    /// Adds the value of the argument at `position`, or of a part of it.
    pub(super) fn add(&mut self, position: usize, value: PlainValue) {
        if value.records_gradients {
            self.gradient.get_or_insert(position);
        }
        if value.is_unreadable {
            self.unreadable.get_or_insert(position);
        }
        self.is_locked |= value.is_locked;
        self.is_unsampled |= value.is_unsampled;
        self.has_weights |= value.has_weights;
        self.functions.extend(value.functions);
        self.known
            .extend(value.known.map(|known| (position, known)));
    }

    /// Whether the forward may change one of them.
    pub(crate) fn may_change(&self) -> bool {
        self.has_weights
    }

    /// The position of one that is not as before, even if its digest is. `now`: the same ones, read again.
    pub(crate) fn changed(&self, now: &PlainArguments) -> Option<usize> {
        let digests = self.digests.iter().zip(&now.digests);
        let mut digests = digests.filter(|(before, now)| before != now);
        if let Some(((position, _), _)) = digests.next() {
            return Some(*position);
        }
        if now.is_unsampled {
            return None;
        }
        let mut known = self.known.iter().zip(&now.known);
        // Others may have taken its place meanwhile, so that it was hashed once more.
        let changed =
            known.find(|((_, before), (_, now))| !before.fields.has_words_of(&now.fields));
        changed.map(|((position, _), _)| *position)
    }
}

/// A plain value, as far as one walk could read it.
#[derive(Debug, Default)]
pub(super) struct PlainValue {
    pub(super) digest: [u8; 32],
    functions: BTreeSet<[u8; 32]>,
    /// Where it is compared with what was hashed.
    known: Option<Arc<KnownValue>>,
    records_gradients: bool,
    is_locked: bool,
    is_unreadable: bool,
    has_weights: bool,
    is_unsampled: bool,
}

impl PlainValue {
    /// Hashes a value.
    pub(super) fn hash<T: Fingerprint + ?Sized>(value: &T, progress: Arc<Progress>) -> Self {
        let mut collector = Collector {
            progress,
            ..Collector::default()
        };
        value.fingerprint(&mut Fingerprinter::hash(&mut collector));
        PlainValue {
            digest: collector.digest(),
            records_gradients: collector.records_gradients,
            is_locked: collector.locked,
            is_unreadable: collector.unreadable,
            has_weights: collector.modules > 0,
            functions: collector.functions,
            ..PlainValue::default()
        }
    }

    /// One that is as it was when it was hashed.
    fn of_known(known: Arc<KnownValue>) -> Self {
        PlainValue {
            digest: known.digest,
            functions: known.functions.clone(),
            known: Some(known),
            has_weights: true,
            ..PlainValue::default()
        }
    }

    fn locked() -> Self {
        PlainValue {
            is_locked: true,
            ..PlainValue::default()
        }
    }
}

/// The digests of plain values with weights in recent calls of a handle. Its lock is not held while a value is read,
/// which runs code of the program.
#[derive(Debug)]
pub struct PlainDigests {
    known: Mutex<KnownValues>,
    /// The thread that hashes one: others wait for it, since they may have the same.
    hashing: Turn,
}

#[derive(Debug)]
struct KnownValues {
    /// The one used last at the end.
    values: Vec<(PlainPlace, Arc<KnownValue>)>,
    /// How often they were discarded: a digest of before that is not kept.
    discarded: Discarded,
}

/// Where a plain value is: the position of its argument, and its number among the plain values in that.
pub(super) type PlainPlace = (usize, usize);

/// How often all values were discarded, and those that require grad.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Discarded {
    all: u64,
    trainable: u64,
}

/// A value with weights, as it was when it was hashed.
#[derive(Debug)]
struct KnownValue {
    fields: Snapshot,
    digest: [u8; 32],
    functions: BTreeSet<[u8; 32]>,
    /// Whether one of its tensors requires grad.
    is_trainable: bool,
}

/// How many values to keep of each place: their weights stay alive.
const MAX_KNOWN: usize = 4;

/// How long a call waits for another thread that makes no progress in hashing. That one may need a lock that the caller
/// holds.
const TIMEOUT: Duration = Duration::from_secs(1);

impl PlainDigests {
    /// No digests yet.
    pub(crate) const fn new() -> Self {
        PlainDigests {
            known: Mutex::new(KnownValues {
                values: Vec::new(),
                discarded: Discarded {
                    all: 0,
                    trainable: 0,
                },
            }),
            hashing: Turn::new(),
        }
    }

    /// Has each value hashed again at its next call: a change may leave no trace.
    pub(crate) fn discard(&self) {
        let values = {
            let mut known = lock(&self.known);
            known.discarded.all += 1;
            take(&mut known.values)
        };
        drop(values);
    }

    /// Discards those that may be in training, as the value at `place` is, which may have been frozen before.
    fn discard_trainable(&self, place: PlainPlace) {
        let trainable: Vec<_> = {
            let mut known = lock(&self.known);
            known.discarded.trainable += 1;
            let is_trained = |(at, known): &mut (PlainPlace, Arc<KnownValue>)| {
                known.is_trainable || *at == place
            };
            known.values.extract_if(.., is_trained).collect()
        };
        drop(trainable);
    }

    /// What the `value` at `place` is.
    pub(super) fn read<T: Fingerprint + ?Sized>(&self, place: PlainPlace, value: &T) -> PlainValue {
        let mut survey = Survey::default();
        value.fingerprint(&mut Fingerprinter::survey(&mut survey));
        if survey.is_locked {
            return PlainValue::locked();
        }
        if !survey.has_weights || survey.has_unwatched {
            return PlainValue::hash(value, Arc::default());
        }
        if survey.records_gradients {
            // A training step may change it without a trace.
            self.discard_trainable(place);
            return PlainValue {
                records_gradients: true,
                has_weights: true,
                ..PlainValue::default()
            };
        }
        let mut is_unsampled = false;
        if let Some(known) = self.find(place, value, &mut is_unsampled) {
            return known;
        }
        let turn = self.hashing.take(TIMEOUT);
        if turn.waited
            && let Some(known) = self.find(place, value, &mut is_unsampled)
        {
            return known;
        }
        // What is compared is read before it is hashed, so that the next call notices a change in between.
        let discarded = lock(&self.known).discarded;
        let (fields, _) = Snapshot::record(|watcher| {
            value.fingerprint(&mut Fingerprinter::watch(watcher));
        });
        let mut hashed = PlainValue::hash(value, turn.progress.clone());
        hashed.is_unsampled = is_unsampled;
        if !(hashed.records_gradients || hashed.is_locked || hashed.is_unreadable) {
            let known = Arc::new(KnownValue {
                fields,
                digest: hashed.digest,
                functions: hashed.functions.clone(),
                is_trainable: survey.trainable.is_some(),
            });
            self.keep(place, known.clone(), discarded);
            hashed.known = Some(known);
        }
        hashed
    }

    /// A value that is as it was when it was hashed, or cannot be read now.
    fn find<T: Fingerprint + ?Sized>(
        &self,
        place: PlainPlace,
        value: &T,
        is_unsampled: &mut bool,
    ) -> Option<PlainValue> {
        let values = lock(&self.known).values.clone();
        let of_place = values.into_iter().rev().filter(|(at, _)| *at == place);
        for (_, known) in of_place {
            let seen = known.fields.compare(|watcher| {
                value.fingerprint(&mut Fingerprinter::watch(watcher));
            });
            if seen.locked {
                return Some(PlainValue::locked());
            }
            *is_unsampled |= seen.unsampled;
            if !seen.changed && !seen.unsampled && !seen.unreadable {
                self.note_use(&known);
                return Some(PlainValue::of_known(known));
            }
        }
        None
    }

    fn note_use(&self, used: &Arc<KnownValue>) {
        let values = &mut lock(&self.known).values;
        let is_used = |(_, known): &(PlainPlace, _)| Arc::ptr_eq(known, used);
        if let Some(found) = values.iter().position(is_used) {
            values[found..].rotate_left(1);
        }
    }

    fn keep(&self, place: PlainPlace, value: Arc<KnownValue>, before: Discarded) {
        let dropped = {
            let mut known = lock(&self.known);
            let now = known.discarded;
            if now.all != before.all || (value.is_trainable && now != before) {
                return;
            }
            known.values.push((place, value));
            let is_of_place = |(at, _): &(PlainPlace, _)| *at == place;
            let count = known.values.iter().filter(|it| is_of_place(it)).count();
            let oldest = known.values.iter().position(is_of_place);
            oldest
                .filter(|_| count > MAX_KNOWN)
                .map(|oldest| known.values.remove(oldest))
        };
        drop(dropped);
    }
}
