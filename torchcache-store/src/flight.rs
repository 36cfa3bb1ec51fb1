//! Single flight: values that several threads need at the same time are computed by the first of them, and the
//! others wait. A thread that waits must not compute anything itself meanwhile, or two may wait for each other.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// The keys whose values are being computed. `V` holds the values of several keys, for those that wait.
#[derive(Debug)]
pub struct Flights<K, V, S> {
    claimed: Mutex<Claimed<K, V, S>>,
    /// How many flights have ended.
    ended: AtomicU64,
}

#[derive(Debug)]
struct Claimed<K, V, S> {
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
    /// How it ended, with the values of the awaited keys.
    outcome: Mutex<Option<Option<Arc<V>>>>,
    ended: Condvar,
}

/// The keys that this thread computes. Others wait for them until it [ends](Self::end) or is dropped.
#[derive(Debug)]
pub struct Claims<'f, K: Eq + Hash + Clone, V, S: BuildHasher> {
    flights: &'f Flights<K, V, S>,
    flight: Arc<Flight<K, V>>,
    is_released: bool,
    values: Option<Arc<V>>,
}

/// Keys that other threads compute, by their positions.
#[derive(Debug)]
pub struct Awaited<K, V>(KeysOfFlights<K, V>);

/// Flights, each with the positions of some keys of it.
type KeysOfFlights<K, V> = Vec<(Arc<Flight<K, V>>, Vec<usize>)>;

/// What became of awaited keys.
#[derive(Debug)]
pub struct Arrived<V> {
    /// The positions of keys, and what has their values. Values may be missing there.
    pub values: Vec<(Vec<usize>, Arc<V>)>,
    /// Whether a thread did not end in time.
    pub is_late: bool,
}

impl<K, V, S: Default> Default for Flights<K, V, S> {
    fn default() -> Self {
        Flights {
            claimed: Mutex::new(Claimed {
                alone: None,
                index: HashMap::default(),
            }),
            ended: AtomicU64::new(0),
        }
    }
}

impl<K: Eq + Hash + Clone, V, S: BuildHasher> Flights<K, V, S> {
    /// How many flights have ended. If it is more than before a lookup, values that were missing then may be
    /// present now.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Claims those of the keys that no thread computes; the others can be waited for. The keys are distinct, and
    /// given with a position each, which rise.
    pub fn claim(
        &self,
        keys: impl IntoIterator<Item = (usize, K)>,
    ) -> (Claims<'_, K, V, S>, Awaited<K, V>) {
        let mut claimed = self.claimed();
        let (own, awaited) = claimed.divide(keys);
        let flight = Arc::new(Flight {
            keys: own,
            outcome: Mutex::new(None),
            ended: Condvar::new(),
        });
        claimed.insert(&flight);
        drop(claimed);
        let claims = Claims {
            flights: self,
            flight,
            is_released: false,
            values: None,
        };
        (claims, Awaited(awaited))
    }

    fn claimed(&self) -> MutexGuard<'_, Claimed<K, V, S>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone, V, S: BuildHasher> Claimed<K, V, S> {
    /// The keys that are not claimed, and the flights of the others.
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

impl<K: Eq + Hash + Clone, V, S: BuildHasher> Claims<'_, K, V, S> {
    /// Ends the flight, after the values can be found where a lookup finds them. `hand_over` returns the values
    /// of the keys that others wait for, as far as there are any: for those that are not found. It is called
    /// only if there are such keys.
    pub fn end(mut self, hand_over: impl FnOnce(&[K]) -> Option<V>) {
        let awaited = self.release();
        if !awaited.is_empty() {
            self.values = hand_over(&awaited).map(Arc::new);
        }
    }

    /// Releases the keys. Returns those that others wait for.
    fn release(&mut self) -> Vec<K> {
        self.is_released = true;
        let mut claimed = self.flights.claimed();
        let awaited = claimed.remove(&self.flight);
        // Under the lock: a thread that claims a key after this looks it up again.
        self.flights.ended.fetch_add(1, Ordering::SeqCst);
        awaited
    }
}

impl<K: Eq + Hash + Clone, V, S: BuildHasher> Drop for Claims<'_, K, V, S> {
    fn drop(&mut self) {
        if !self.is_released {
            self.release();
        }
        *self.flight.outcome() = Some(self.values.take());
        self.flight.ended.notify_all();
    }
}

impl<K, V> Flight<K, V> {
    fn outcome(&self) -> MutexGuard<'_, Option<Option<Arc<V>>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended; `None` where it did not in time.
    fn wait(&self, deadline: Instant) -> Option<Option<Arc<V>>> {
        let mut outcome = self.outcome();
        while outcome.is_none() {
            let left = deadline.checked_duration_since(Instant::now())?;
            let woken = self.ended.wait_timeout(outcome, left);
            outcome = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        outcome.clone()
    }
}

impl<K, V> Awaited<K, V> {
    /// Whether no other thread computes any of the keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps those of the keys whose positions are wanted.
    pub fn retain(&mut self, is_wanted: impl Fn(usize) -> bool) {
        self.0.retain_mut(|(_, positions)| {
            positions.retain(|&position| is_wanted(position));
            !positions.is_empty()
        });
    }

    /// The positions of the keys, in rising order for each thread.
    pub fn positions(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(|(_, positions)| positions).copied()
    }

    /// Waits until the other threads have ended, or until a deadline. The caller holds no [`Claims`].
    pub fn wait(self, deadline: Instant) -> Arrived<V> {
        let mut is_late = false;
        let mut values = Vec::new();
        for (flight, positions) in self.0 {
            let outcome = flight.wait(deadline);
            is_late |= outcome.is_none();
            values.extend(outcome.flatten().map(|arrived| (positions, arrived)));
        }
        Arrived { values, is_late }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::panic::{AssertUnwindSafe, catch_unwind};
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
    fn a_key_is_claimed_once() {
        let flights = Numbers::default();
        let (first, awaited) = flights.claim(at([1, 2, 3]));
        assert!(awaited.is_empty());
        let (second, awaited) = flights.claim(at([7, 3, 8, 1]));
        assert_eq!(awaited.positions().collect::<Vec<_>>(), [1, 3]);
        first.end(|keys| Some(keys.to_vec()));
        second.end(|_| panic!("no thread waits for it"));
        let arrived = awaited.wait(late());
        assert!(!arrived.is_late);
        assert_eq!(*arrived.values[0].1, [1, 3]);
        assert_eq!(flights.ended(), 2);
        assert!(flights.claim(at([1, 2, 3])).1.is_empty());
        let claimed = flights.claimed();
        assert!(claimed.index.is_empty() && claimed.alone.is_none());
    }

    #[test]
    fn two_threads_wait_for_each_other_after_their_own() {
        let flights = Numbers::default();
        let (one, of_one) = flights.claim(at([1]));
        let (two, of_two) = flights.claim(at([2, 1]));
        let (_, of_one_too) = flights.claim(at([2]));
        assert!(of_one.is_empty());
        thread::scope(|scope| {
            scope.spawn(|| {
                one.end(|_| Some(vec![10]));
                assert_eq!(*of_one_too.wait(late()).values[0].1, [20]);
            });
            scope.spawn(|| {
                two.end(|_| Some(vec![20]));
                assert_eq!(*of_two.wait(late()).values[0].1, [10]);
            });
        });
    }

    #[test]
    fn a_thread_that_panics_or_has_no_values_ends_its_flight() {
        let flights = Numbers::default();
        let (panics, _) = flights.claim(at([1]));
        let (fails, _) = flights.claim(at([2]));
        let (loses, _) = flights.claim(at([3]));
        let (_, awaited) = flights.claim(at([1, 2, 3]));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _panics = panics;
            panic!("of the body");
        }));
        assert!(panicked.is_err());
        drop(fails);
        let panicked = catch_unwind(AssertUnwindSafe(|| loses.end(|_| panic!("without memory"))));
        assert!(panicked.is_err());
        let arrived = awaited.wait(late());
        assert!(arrived.values.is_empty() && !arrived.is_late);
        assert!(flights.claim(at([1, 2, 3])).1.is_empty());
    }

    #[test]
    fn a_thread_that_does_not_end_is_waited_for_until_the_deadline() {
        let flights = Numbers::default();
        let (slow, _) = flights.claim(at([1]));
        let (quick, _) = flights.claim(at([2]));
        let (_, awaited) = flights.claim(at([1, 2]));
        quick.end(|keys| Some(keys.to_vec()));
        let arrived = awaited.wait(soon());
        assert!(arrived.is_late);
        assert_eq!(*arrived.values[0].1, [2]);
        drop(slow);
    }
}
