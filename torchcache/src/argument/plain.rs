//! The digests of plain arguments. A value with weights, such as `&nn::Linear`, is compared with those of recent calls, as
//! the fields of a module are with what was hashed; it is hashed where it is none of them.

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
    /// The position of one that holds a tensor whose gradients are recorded.
    pub(crate) gradient: Option<usize>,
    /// One could not be read, since another thread holds its lock.
    pub(crate) is_locked: bool,
    /// The position of one that holds a tensor which cannot be hashed.
    pub(crate) unreadable: Option<usize>,
    /// The position of the first one that holds tensors or a module, which a forward may change.
    pub(crate) weights: Option<usize>,
}

/// A plain value, as far as one walk could read it.
#[derive(Debug, Default)]
pub(super) struct PlainValue {
    pub(super) digest: [u8; 32],
    pub(super) records_gradients: bool,
    pub(super) is_locked: bool,
    pub(super) is_unreadable: bool,
    pub(super) has_weights: bool,
}

impl PlainValue {
    /// Hashes a value.
    fn hash<T: Fingerprint + ?Sized>(value: &T, progress: Arc<Progress>) -> Self {
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
    values: Vec<Arc<KnownValue>>,
    /// How often they were discarded: a digest of before that is not kept.
    discarded: u64,
}

/// A value with weights, as it was when it was hashed.
#[derive(Debug)]
struct KnownValue {
    fields: Snapshot,
    digest: [u8; 32],
}

/// How many values to keep: their weights stay alive.
const MAX_KNOWN: usize = 4;

/// Values with fewer bytes in their tensors are hashed at every call, in less than 0.1 ms.
const MIN_BYTES: usize = 64 << 10;

/// How long a call waits for another thread that makes no progress in hashing. That one may need a lock that the caller
/// holds.
const TIMEOUT: Duration = Duration::from_secs(1);

impl PlainDigests {
    /// No digests yet.
    pub(crate) const fn new() -> Self {
        PlainDigests {
            known: Mutex::new(KnownValues {
                values: Vec::new(),
                discarded: 0,
            }),
            hashing: Turn::new(),
        }
    }

    /// Has each value hashed again at its next call: a change may leave no trace.
    pub(crate) fn discard(&self) {
        let values = {
            let mut known = lock(&self.known);
            known.discarded += 1;
            take(&mut known.values)
        };
        drop(values);
    }

    /// What `value` is.
    pub(super) fn read<T: Fingerprint + ?Sized>(&self, value: &T) -> PlainValue {
        let mut survey = Survey::default();
        value.fingerprint(&mut Fingerprinter::survey(&mut survey));
        let is_large = survey.has_module || survey.tensor_bytes >= MIN_BYTES;
        if !is_large || survey.has_unwatched {
            return PlainValue::hash(value, Arc::default());
        }
        if let Some(known) = self.find(value) {
            return known;
        }
        let turn = self.hashing.take(TIMEOUT);
        if turn.waited
            && let Some(known) = self.find(value)
        {
            return known;
        }
        // What is compared is read before it is hashed, so that the next call notices a change in between.
        let discarded = lock(&self.known).discarded;
        let (fields, _) = Snapshot::record(|watcher| {
            value.fingerprint(&mut Fingerprinter::watch(watcher));
        });
        let hashed = PlainValue::hash(value, turn.progress.clone());
        if !(hashed.records_gradients || hashed.is_locked || hashed.is_unreadable) {
            let digest = hashed.digest;
            self.keep(KnownValue { fields, digest }, discarded);
        }
        hashed
    }

    /// A value that is as it was when it was hashed.
    fn find<T: Fingerprint + ?Sized>(&self, value: &T) -> Option<PlainValue> {
        let values = lock(&self.known).values.clone();
        for known in values.iter().rev() {
            let seen = known.fields.compare(|watcher| {
                value.fingerprint(&mut Fingerprinter::watch(watcher));
            });
            if seen.trainable {
                // A training step may change it without a trace.
                self.discard();
                return None;
            }
            if seen.locked || seen.unreadable {
                return None;
            }
            if !seen.changed && !seen.unsampled {
                self.note_use(known);
                return Some(PlainValue {
                    digest: known.digest,
                    has_weights: true,
                    ..PlainValue::default()
                });
            }
        }
        None
    }

    fn note_use(&self, used: &Arc<KnownValue>) {
        let values = &mut lock(&self.known).values;
        if let Some(place) = values.iter().position(|known| Arc::ptr_eq(known, used)) {
            values[place..].rotate_left(1);
        }
    }

    fn keep(&self, value: KnownValue, discarded: u64) {
        let dropped = {
            let mut known = lock(&self.known);
            if known.discarded != discarded {
                return;
            }
            known.values.push(Arc::new(value));
            (known.values.len() > MAX_KNOWN).then(|| known.values.remove(0))
        };
        drop(dropped);
    }
}

impl Default for PlainDigests {
    fn default() -> Self {
        Self::new()
    }
}
