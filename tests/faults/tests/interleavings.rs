//! Threads of a store in interleavings that hardly ever happen: a model checker decides at each lock which
//! thread goes on. Only with `--cfg shuttle`; `cargo xtask test` runs it.

#![cfg(shuttle)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::sync::Mutex;
use shuttle::thread;
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{batch, fetch, key, keys, value};
use torchcache_faults::sim::Sim;
use torchcache_store::flight::{Flights, may_wait};
use torchcache_store::fs::FileSystem;
use torchcache_store::{Config, Eviction, Store};

const LEN: usize = 40;

/// Interleavings of each model and scheduler; more if the environment says so.
fn tries() -> usize {
    let tries = std::env::var("TORCHCACHE_INTERLEAVINGS");
    tries
        .ok()
        .and_then(|tries| tries.parse().ok())
        .unwrap_or(500)
}

/// Checks a model with a random scheduler and with one that looks for rare orders, and prints how much was
/// tried.
fn check(model: impl Fn() + Copy + Send + Sync + 'static) {
    let (before, tried) = (CHECKED.get(), 2 * tries());
    shuttle::check_random(model, tries());
    shuttle::check_pct(model, tries(), 3);
    let rows = CHECKED.get() - before;
    assert!(rows > 0, "rows were looked at");
    println!("seen {tried}");
}

std::thread_local! {
    /// Rows that were compared with what they must be: all threads of a model are one of the system.
    static CHECKED: Cell<u64> = const { Cell::new(0) };
}

fn opened(sim: &Sim, queue_bytes: u64) -> Store {
    opened_on(sim.clone(), queue_bytes)
}

/// Time stands still in a model, so no thread may wait for it.
fn opened_on(fs: impl FileSystem + 'static, queue_bytes: u64) -> Store {
    let config = Config::default()
        .with_batch_delay(Duration::ZERO)
        .with_stall_timeout(Duration::from_secs(3600))
        .with_queue_bytes(queue_bytes);
    Store::open_on(Arc::new(fs), "/cache", config).expect("it opens")
}

/// How many of some rows are there; none of them is wrong.
fn right(store: &Store, numbers: std::ops::Range<u64>) -> usize {
    let keys = keys(numbers);
    let rows = keys.iter().zip(fetch(store, &keys));
    rows.filter_map(|(key, row)| Some((key, row?)))
        .inspect(|(key, row)| {
            CHECKED.set(CHECKED.get() + 1);
            assert_eq!(*row, value(key, LEN));
        })
        .count()
}

/// A row that was put is a hit from then on: queued, on its way, and on disk.
#[test]
fn a_row_that_was_put_is_never_absent() {
    check(|| {
        let sim = Sim::new();
        let store = opened(&sim, 1 << 20);
        let others: Vec<_> = [0, 2]
            .map(|first| {
                let store = store.clone();
                thread::spawn(move || {
                    store.put(batch(first..first + 4, LEN));
                    assert_eq!(right(&store, first..first + 4), 4);
                    assert_eq!(right(&store, first..first + 4), 4);
                })
            })
            .into();
        for other in others {
            other.join().expect("it does not panic");
        }
        assert_eq!(right(&store, 0..6), 6);
        store.flush().expect("it is written");
        assert_eq!((right(&store, 0..6), store.stats().rows), (6, 6));
        drop(store);
        assert_eq!(right(&opened(&sim, 1 << 20), 0..6), 6);
    });
}

/// Callers that wait for room get it.
#[test]
fn a_full_queue_lets_every_caller_through() {
    check(|| {
        let sim = Sim::new();
        let store = opened(&sim, 1); // room for one batch at a time
        let others: Vec<_> = (0..3)
            .map(|n| {
                let store = store.clone();
                thread::spawn(move || store.put(batch(n..n + 2, LEN)))
            })
            .collect();
        store.flush().expect("it is written");
        for other in others {
            other.join().expect("it does not panic");
        }
        store.flush().expect("it is written");
        assert_eq!((right(&store, 0..4), store.stats().stored_rows), (4, 4));
        assert_eq!(store.stats().pending_bytes, 0);
    });
}

/// Cleared rows do not come back, whatever the flusher is writing.
#[test]
fn cleared_rows_stay_away() {
    check(|| {
        let sim = Sim::new();
        let store = opened(&sim, 1 << 20);
        store.put(batch(0..3, LEN));
        assert_eq!(right(&store, 0..3), 3);
        let clearing = {
            let store = store.clone();
            thread::spawn(move || {
                store.clear();
                assert_eq!(right(&store, 0..3), 0);
            })
        };
        let flushing = {
            let store = store.clone();
            thread::spawn(move || store.flush())
        };
        clearing.join().expect("it does not panic");
        let _ = flushing.join().expect("it does not panic");
        let _ = store.flush();
        assert_eq!(right(&store, 0..3), 0);
        drop(store);
        assert_eq!(right(&opened(&sim, 1 << 20), 0..3), 0);
    });
}

/// Compaction moves rows between files while they are looked up.
#[test]
fn rows_are_located_while_segments_are_compacted() {
    check(|| {
        let sim = Sim::new();
        let store = opened(&sim, 1 << 20);
        for n in 0..7 {
            store.put(batch(n..n + 1, LEN));
            store.flush().expect("it is written");
        }
        let reading = {
            let store = store.clone();
            thread::spawn(move || {
                for _ in 0..3 {
                    assert_eq!(right(&store, 0..7), 7);
                }
            })
        };
        store.put(batch(7..8, LEN));
        store.flush().expect("it is written and compacted");
        reading.join().expect("it does not panic");
        assert_eq!(
            (right(&store, 0..8), store.stats().compacted_segments),
            (8, 8)
        );
        assert_eq!(store.stats().faults.total(), 0);
    });
}

/// Two stores of one directory are like two processes: each compacts segments of the other.
#[test]
fn two_processes_that_write_lose_nothing() {
    check(|| {
        let sim = Sim::new();
        let stores = [opened(&sim, 1 << 20), opened(&sim, 1 << 20)];
        let threads: Vec<_> = stores
            .into_iter()
            .zip([0, 3])
            .map(|(store, first)| {
                thread::spawn(move || {
                    for n in first..first + 5 {
                        store.put(batch(n..n + 1, LEN));
                        store.flush().expect("it is written");
                        assert_eq!(right(&store, n..n + 1), 1);
                    }
                    store.refresh();
                    right(&store, 0..8);
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("it does not panic");
        }
        let store = opened(&sim, 1 << 20);
        assert_eq!(right(&store, 0..8), 8, "nothing is lost");
        assert!(store.locate(&[key(100)])[0].is_none());
    });
}

/// Another process opens the directory and looks for new rows while the first compacts: each of its calls
/// is a point where the first may go on.
#[test]
fn rows_are_found_while_another_process_compacts_them() {
    check(|| {
        let sim = Sim::new();
        let writer = opened(&sim, 1 << 20);
        let put = |n| {
            writer.put(batch(n..n + 1, LEN));
            writer.flush().expect("it is written");
        };
        (0..7).for_each(put);
        let reading = {
            let point = Mutex::new(());
            let fs = Faulty::new(sim.clone(), move |_: Call, _: &_| {
                drop(point.lock());
                Fate::Done
            });
            thread::spawn(move || {
                let reader = opened_on(fs, 1 << 20);
                assert_eq!(right(&reader, 0..7), 7, "it is opened");
                reader.refresh();
                assert_eq!(right(&reader, 0..7), 7, "it is refreshed");
            })
        };
        put(7);
        reading.join().expect("it does not panic");
        assert_eq!(writer.stats().compacted_segments, 8);
    });
}

/// One writes, and another one clears or enforces a limit of its own.
#[test]
fn rows_taken_away_by_another_process_are_right_or_missing() {
    for takes in [Store::clear as fn(&Store), evict] {
        check(move || {
            let sim = Sim::new();
            let (writing, taking) = (opened(&sim, 1 << 20), opened(&sim, 1 << 20));
            let writer = thread::spawn(move || {
                for n in 0..4 {
                    writing.put(batch(n..n + 1, LEN));
                    writing.flush().expect("it is written");
                    right(&writing, 0..n + 1);
                }
                writing.put(batch(4..6, LEN));
                writing.flush().expect("it is written");
            });
            taking.refresh();
            takes(&taking);
            right(&taking, 0..6);
            writer.join().expect("it does not panic");
            takes(&taking);
            let store = opened(&sim, 1 << 20);
            assert_eq!(right(&store, 0..6), 0, "everything was taken away");
        });
    }
}

fn evict(store: &Store) {
    store.refresh();
    for max_bytes in [0, Config::default().max_bytes] {
        let config = store.config();
        store.reconfigure(config.with_max_bytes(max_bytes));
        store.flush().expect("nothing is queued");
    }
}

/// Also if it is set while a segment is being published.
#[test]
fn a_lower_limit_is_enforced() {
    check(|| {
        let sim = Sim::new();
        let store = opened(&sim, 1 << 20);
        let lower = store
            .config()
            .with_max_bytes(200)
            .with_eviction(Eviction::Never);
        store.put(batch(0..4, LEN));
        assert_eq!(right(&store, 0..4), 4);
        store.reconfigure(lower);
        store.flush().expect("it is written, or refused");
        assert!(store.stats().bytes <= 200, "{:?}", store.stats());
    });
}

type Numbers = Flights<u32, BTreeMap<u32, u32>, RandomState>;

/// A cache of values, as the library makes calls of it.
#[derive(Clone, Default)]
struct Numbered {
    flights: Arc<Numbers>,
    tier: Arc<Mutex<BTreeMap<u32, u32>>>,
}

std::thread_local! {
    static COMPUTED: Cell<u32> = const { Cell::new(0) };
}

impl Numbered {
    /// Adds the values of those of the keys that are present.
    fn look(&self, keys: &[u32], found: &mut BTreeMap<u32, u32>) {
        let tier = self.tier.lock().expect("no thread panics");
        let present = keys.iter().filter_map(|key| Some((*key, *tier.get(key)?)));
        found.extend(present);
    }

    /// The values of the keys. `body` runs where some are computed.
    fn call(&self, keys: &[u32], body: impl Fn()) -> BTreeMap<u32, u32> {
        let missing = |found: &BTreeMap<u32, u32>| -> Vec<(usize, u32)> {
            let keys = (0..).zip(keys.iter().copied());
            keys.filter(|(_, key)| !found.contains_key(key)).collect()
        };
        let mut found = BTreeMap::new();
        let mut ended = self.flights.ended();
        self.look(keys, &mut found);
        while found.len() < keys.len() {
            let may_wait = may_wait();
            let (own, awaited) = self.flights.begin(missing(&found));
            if self.flights.ended() != ended {
                let before = found.len();
                ended = self.flights.ended();
                self.look(keys, &mut found);
                if found.len() > before {
                    continue; // The next flight is without those.
                }
            }
            let awaited = Some(awaited).filter(|_| may_wait);
            let of_others = awaited.iter().flat_map(|it| it.positions());
            let of_others: Vec<usize> = of_others.collect();
            let mut computed = missing(&found);
            computed.retain(|(position, _)| !of_others.contains(position));
            if !computed.is_empty() {
                body();
            }
            for (_, key) in &computed {
                // Another value each time: a second one would show.
                let value = COMPUTED.replace(COMPUTED.get() + 1);
                let mut tier = self.tier.lock().expect("no thread panics");
                found.insert(*key, *tier.entry(*key).or_insert(value));
            }
            if let Some(own) = own {
                own.end(|awaited| {
                    let awaited = awaited.iter().filter_map(|key| found.get_key_value(key));
                    Some(awaited.map(|(key, value)| (*key, *value)).collect())
                });
            }
            let Some(awaited) = awaited else {
                break;
            };
            let arrived = awaited.wait(Instant::now() + Duration::from_secs(3600));
            assert!(!arrived.is_late);
            for (positions, values) in arrived.values {
                let keys = positions.into_iter().map(|position| keys[position]);
                found.extend(keys.filter_map(|key| Some((key, *values.get(&key)?))));
            }
            ended = self.flights.ended();
            self.look(keys, &mut found);
            assert!(
                arrived.has_failed || found.len() == keys.len(),
                "every value arrived"
            );
        }
        let tier = self.tier.lock().expect("no thread panics");
        assert!(found.iter().all(|(key, value)| tier[key] == *value));
        CHECKED.set(CHECKED.get() + found.len() as u64);
        found
    }
}

/// Calls of several threads for the same rows, which find them, compute them or wait for them.
#[test]
fn threads_compute_each_value_once() {
    check(|| {
        let cache = Numbered::default();
        let before = COMPUTED.get();
        let calls = [[[1, 2], [2, 3]], [[2, 1], [3, 1]], [[3, 2], [1, 4]]];
        let threads = calls.map(|calls| {
            let cache = cache.clone();
            thread::spawn(move || {
                for keys in calls {
                    cache.call(&keys, || {});
                }
            })
        });
        for thread in threads {
            thread.join().expect("it does not panic");
        }
        assert_eq!(COMPUTED.get() - before, 4);
    });
}

/// Calls whose bodies make calls for rows that other threads compute: no two wait for each other.
#[test]
fn threads_whose_bodies_call_each_other_end() {
    check(|| {
        let (ping, pong) = (Numbered::default(), Numbered::default());
        let threads = [(&ping, &pong), (&pong, &ping)].map(|(outer, inner)| {
            let (outer, inner) = (outer.clone(), inner.clone());
            thread::spawn(move || {
                outer.call(&[1, 2], || {
                    inner.call(&[2, 1], || {});
                });
            })
        });
        // Its body is in no flight, so that the calls wait.
        ping.call(&[2], || {});
        pong.call(&[1, 3], || {});
        for thread in threads {
            thread.join().expect("it does not panic");
        }
    });
}
