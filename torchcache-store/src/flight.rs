//! Single flight: values that several threads need at the same time are computed by the first of them, and the
//! others wait.
//!
//! No threads wait for each other: a thread waits only while it has [no flight](may_wait) of its own in progress. So the
//! thread of each flight that is waited for goes on, as far as this module is concerned, until the flight ends.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::sync::{Condvar, Mutex, MutexGuard, thread_local};

thread_local! {
    /// How many flights of this thread are in progress: of its calls, one inside another.
    static IN_PROGRESS: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread may wait: it has no flight in progress, which others may wait for.
pub fn may_wait() -> bool {
    IN_PROGRESS.with(Cell::get) == 0
}

/// The keys whose values are being computed. `V` holds the values of several keys, for those that wait.
#[derive(Debug)]
pub struct Flights<K, V, S> {
    table: Mutex<FlightTable<K, V, S>>,
    /// How many flights have ended with their values.
    ended: AtomicU64,
}

#[derive(Debug)]
struct FlightTable<K, V, S> {
    /// The only flight, whose keys are indexed when there is another one: mostly there is none.
    alone: Option<Arc<Flight<K, V>>>,
    /// Otherwise, the flight of each key, and whether others wait for it.
    index: HashMap<K, IndexedKey<K, V>, S>,
}

type IndexedKey<K, V> = (Arc<Flight<K, V>>, bool);

/// What one thread computes at once.
#[derive(Debug)]
struct Flight<K, V> {
    keys: Vec<K>,
    /// `None` while it is in progress.
    outcome: Mutex<Option<FlightOutcome<V>>>,
    ended: Condvar,
}

/// How a flight ended: with the values of awaited keys, as far as there are any.
type FlightOutcome<V> = Result<Option<Arc<V>>, FlightFailed>;

#[derive(Debug, Clone, Copy)]
struct FlightFailed;

/// The flight of this thread: the keys that it computes. Others wait for them until it [ends](Self::end) or is dropped.
#[derive(Debug)]
pub struct OwnFlight<'f, K: Eq + Hash + Clone, V, S: BuildHasher> {
    flights: &'f Flights<K, V, S>,
    flight: Arc<Flight<K, V>>,
    is_released: bool,
    outcome: FlightOutcome<V>,
    of_this_thread: PhantomData<*const ()>,
}

/// Keys that other threads compute, by their positions.
#[derive(Debug)]
pub struct Awaited<K, V>(KeysOfFlights<K, V>);

/// The flight that this thread began, if any, and the keys that are of others.
pub type Begun<'f, K, V, S> = (Option<OwnFlight<'f, K, V, S>>, Awaited<K, V>);

/// Flights, each with the positions of some keys of it.
type KeysOfFlights<K, V> = Vec<(Arc<Flight<K, V>>, Vec<usize>)>;

/// What became of awaited keys.
#[derive(Debug)]
pub struct Arrived<V> {
    /// The positions of keys, and what has their values. Values may be missing there.
    pub values: Vec<(Vec<usize>, Arc<V>)>,
    /// Whether a thread did not end in time.
    pub is_late: bool,
    /// Whether a thread dropped its flight.
    pub has_failed: bool,
}

impl<K, V, S: Default> Default for Flights<K, V, S> {
    fn default() -> Self {
        Flights {
            table: Mutex::new(FlightTable {
                alone: None,
                index: HashMap::default(),
            }),
            ended: AtomicU64::new(0),
        }
    }
}

impl<K: Eq + Hash + Clone, V, S: BuildHasher> Flights<K, V, S> {
    /// How many flights have ended with their values. If it is more than before a lookup, values that were missing
    /// then may be present now.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Begins a flight with those of the keys that no thread computes, if any; the others can be waited for. The keys
    /// are distinct, and given with a position each, which rise.
    pub fn begin(&self, keys: impl IntoIterator<Item = (usize, K)>) -> Begun<'_, K, V, S> {
        let mut table = self.table();
        let (own, awaited) = table.divide(keys);
        if own.is_empty() {
            return (None, Awaited(awaited));
        }
        let flight = Arc::new(Flight {
            keys: own,
            outcome: Mutex::new(None),
            ended: Condvar::new(),
        });
        table.insert(&flight);
        drop(table);
        IN_PROGRESS.with(|count| count.set(count.get() + 1));
        let own = OwnFlight {
            flights: self,
            flight,
            is_released: false,
            outcome: Err(FlightFailed),
            of_this_thread: PhantomData,
        };
        (Some(own), Awaited(awaited))
    }

    fn table(&self) -> MutexGuard<'_, FlightTable<K, V, S>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone, V, S: BuildHasher> FlightTable<K, V, S> {
    /// The keys that no thread computes, and the flights of the others.
    fn divide(
        &mut self,
        keys: impl IntoIterator<Item = (usize, K)>,
    ) -> (Vec<K>, KeysOfFlights<K, V>) {
        if let Some(alone) = self.alone.take() {
            self.index(&alone);
        }
        if self.index.is_empty() {
            return (keys.into_iter().map(|(_, key)| key).collect(), Vec::new());
        }
        let (mut free, mut awaited) = (Vec::new(), KeysOfFlights::<K, V>::new());
        for (position, key) in keys {
            let Some((flight, is_awaited)) = self.index.get_mut(&key) else {
                free.push(key);
                continue;
            };
            *is_awaited = true;
            // Few flights, and mostly the last one again.
            let mut known = awaited.iter_mut().rev();
            match known.find(|(it, _)| Arc::ptr_eq(it, flight)) {
                Some((_, positions)) => positions.push(position),
                None => awaited.push((flight.clone(), vec![position])),
            }
        }
        (free, awaited)
    }

    fn insert(&mut self, flight: &Arc<Flight<K, V>>) {
        match self.index.is_empty() {
            true => self.alone = Some(flight.clone()),
            false => self.index(flight),
        }
    }

    fn index(&mut self, flight: &Arc<Flight<K, V>>) {
        let keys = flight.keys.iter().cloned();
        self.index
            .extend(keys.map(|key| (key, (flight.clone(), false))));
    }

    /// Removes a flight. Returns the keys that others wait for.
    fn remove(&mut self, flight: &Arc<Flight<K, V>>) -> Vec<K> {
        if self
            .alone
            .take_if(|alone| Arc::ptr_eq(alone, flight))
            .is_some()
        {
            return Vec::new();
        }
        let keys = flight.keys.iter();
        let removed = keys.filter_map(|key| self.index.remove_entry(key));
        let awaited = removed.filter(|(_, (_, is_awaited))| *is_awaited);
        awaited.map(|(key, _)| key).collect()
    }
}

impl<K: Eq + Hash + Clone, V, S: BuildHasher> OwnFlight<'_, K, V, S> {
    /// Ends the flight, after the values can be found where a lookup finds them. `hand_over` returns the values
    /// of the keys that others wait for, as far as there are any: for those that are not found. It is called
    /// only if there are such keys.
    pub fn end(mut self, hand_over: impl FnOnce(&[K]) -> Option<V>) {
        self.outcome = Ok(None);
        let awaited = self.release();
        if !awaited.is_empty() {
            self.outcome = Ok(hand_over(&awaited).map(Arc::new));
        }
    }

    /// Releases the keys. Returns those that others wait for.
    fn release(&mut self) -> Vec<K> {
        self.is_released = true;
        let mut table = self.flights.table();
        let awaited = table.remove(&self.flight);
        if self.outcome.is_ok() {
            // Under the lock: a thread that begins a flight with one of the keys after this looks it up again.
            self.flights.ended.fetch_add(1, Ordering::SeqCst);
        }
        match Arc::strong_count(&self.flight) {
            1 => Vec::new(), // All that could wait do not.
            _ => awaited,
        }
    }
}

impl<K: Eq + Hash + Clone, V, S: BuildHasher> Drop for OwnFlight<'_, K, V, S> {
    fn drop(&mut self) {
        if !self.is_released {
            self.release();
        }
        *self.flight.outcome() = Some(self.outcome.clone());
        self.flight.ended.notify_all();
        IN_PROGRESS.with(|count| count.set(count.get() - 1));
    }
}

impl<K, V> Flight<K, V> {
    fn outcome(&self) -> MutexGuard<'_, Option<FlightOutcome<V>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended; `None` where it did not in time.
    fn wait(&self, deadline: Instant) -> Option<FlightOutcome<V>> {
        let mut outcome = self.outcome();
        while outcome.is_none() {
            let left = deadline.checked_duration_since(Instant::now())?;
            let woken = self.ended.wait_timeout(outcome, left);
            outcome = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        outcome.clone()
    }
}

impl<K, V> Default for Awaited<K, V> {
    fn default() -> Self {
        Awaited(Vec::new())
    }
}

impl<K, V> Awaited<K, V> {
    /// Whether no other thread computes any of the keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The positions of the keys, in rising order for each thread.
    pub fn positions(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(|(_, positions)| positions).copied()
    }

    /// Waits until the other threads have ended, or until a deadline. This thread [may](may_wait) do so.
    pub fn wait(self, deadline: Instant) -> Arrived<V> {
        debug_assert!(may_wait(), "others may wait for this thread");
        let mut arrived = Arrived {
            values: Vec::new(),
            is_late: false,
            has_failed: false,
        };
        for (flight, positions) in self.0 {
            match flight.wait(deadline) {
                None => arrived.is_late = true,
                Some(Err(FlightFailed)) => arrived.has_failed = true,
                Some(Ok(values)) => arrived.values.extend(values.map(|it| (positions, it))),
            }
        }
        arrived
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::thread;
    use std::time::Duration;

    use super::*;

    type Numbers = Flights<u32, Vec<u32>, RandomState>;

    fn at(keys: impl IntoIterator<Item = u32>) -> impl Iterator<Item = (usize, u32)> {
        (0..).zip(keys)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(5)
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_key_is_of_one_flight() {
        let flights = Numbers::default();
        let (first, awaited) = flights.begin(at([1, 2, 3]));
        assert!(awaited.is_empty() && !may_wait());
        let (second, awaited) = flights.begin(at([7, 3, 8, 1]));
        assert_eq!(awaited.positions().collect::<Vec<_>>(), [1, 3]);
        let (none, of_both) = flights.begin(at([1, 7]));
        assert!(none.is_none());
        drop(of_both);
        first.unwrap().end(|keys| Some(keys.to_vec()));
        let second = second.unwrap();
        assert_eq!((flights.ended(), may_wait()), (1, false));
        second.end(|_| panic!("no thread waits for it"));
        assert_eq!((flights.ended(), may_wait()), (2, true));
        let arrived = awaited.wait(late());
        assert!(!arrived.is_late && !arrived.has_failed);
        assert_eq!(*arrived.values[0].1, [1, 3]);
        assert!(flights.begin(at([1, 2, 3])).1.is_empty());
        let table = flights.table();
        assert!(table.index.is_empty() && table.alone.is_none());
    }

    #[test]
    fn two_threads_wait_for_each_other_after_their_own() {
        let flights = Numbers::default();
        let begun = Barrier::new(2);
        thread::scope(|scope| {
            for [own, other] in [[1, 2], [2, 1]] {
                let (flights, begun) = (&flights, &begun);
                scope.spawn(move || {
                    let (flight, _) = flights.begin(at([own]));
                    begun.wait();
                    let (none, awaited) = flights.begin(at([own, other]));
                    assert!(none.is_none());
                    begun.wait();
                    flight.unwrap().end(|keys| Some(vec![10 * keys[0]]));
                    let arrived = awaited.wait(late());
                    let values: Vec<_> = arrived
                        .values
                        .iter()
                        .map(|(at, it)| (at[0], it[0]))
                        .collect();
                    assert_eq!(values, [(0, 10 * own), (1, 10 * other)]);
                });
            }
        });
    }

    #[test]
    fn a_thread_that_panics_or_has_no_values_ends_its_flight() {
        let flights = Numbers::default();
        let (panics, _) = flights.begin(at([1]));
        let (fails, _) = flights.begin(at([2]));
        let (loses, _) = flights.begin(at([3]));
        let (_, of_failed) = flights.begin(at([1, 2]));
        let (_, of_lost) = flights.begin(at([3]));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _panics = panics;
            panic!("of the body");
        }));
        assert!(panicked.is_err());
        drop(fails);
        assert_eq!(flights.ended(), 0, "they have no values");
        let lose = || loses.unwrap().end(|_| panic!("without memory"));
        assert!(catch_unwind(AssertUnwindSafe(lose)).is_err());
        assert!(may_wait());
        for (awaited, has_failed) in [(of_failed, true), (of_lost, false)] {
            let arrived = awaited.wait(late());
            assert!(arrived.values.is_empty() && !arrived.is_late);
            assert_eq!(arrived.has_failed, has_failed);
        }
        assert!(flights.begin(at([1, 2, 3])).1.is_empty());
    }

    #[test]
    fn a_thread_that_does_not_end_is_waited_for_until_the_deadline() {
        let flights = Numbers::default();
        let (begun, late) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                let (slow, _) = flights.begin(at([1]));
                let (quick, _) = flights.begin(at([2]));
                begun.wait();
                begun.wait();
                quick.unwrap().end(|keys| Some(keys.to_vec()));
                begun.wait();
                late.wait();
                drop(slow);
            });
            begun.wait();
            let (_, awaited) = flights.begin(at([1, 2]));
            begun.wait();
            begun.wait();
            let arrived = awaited.wait(soon());
            assert!(arrived.is_late);
            assert_eq!(*arrived.values[0].1, [2]);
            late.wait();
        });
    }
}
