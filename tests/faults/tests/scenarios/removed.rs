//! Single rows are removed. At each call of that, another process does something, the power is cut, or the call fails.

use std::error::Error;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fastrand::Rng;
use rustix::io::Errno;
use torchcache_faults::cases::{Counter, cases, seen, series};
use torchcache_faults::compaction::acting_at;
use torchcache_faults::faulty::{Call, ERRORS, Fate, Faulty};
use torchcache_faults::rows::{
    batch, count_right, expect_all, keys, manual_flush, opened, put_flushed,
};
use torchcache_faults::sim::{Locks, Sim};
use torchcache_store::{Fault, RemoveError, Store};

const LEN: usize = 100;

/// The rows that are removed: some of two segments that have the same rows, and of a third.
const REMOVED: Range<u64> = 2..6;

/// A directory to which two processes wrote the rows from 0 to 4, and one those from 4 to 8.
fn filled() -> Sim {
    let sim = Sim::new();
    let processes = [(); 2].map(|()| opened(sim.clone(), "/cache"));
    processes.iter().for_each(|it| put_flushed(it, 0..4, LEN));
    put_flushed(&processes[0], 4..8, LEN);
    sim
}

/// Expects every row that is not removed.
#[track_caller]
fn expect_others(store: &Store) {
    expect_all(store, 0..2, LEN);
    expect_all(store, 6..8, LEN);
}

/// Expects the removed rows nowhere: not in `store`, nor for a process that begins now.
#[track_caller]
fn expect_removed(store: &Store, sim: &Sim) {
    for store in [store, &opened(sim.clone(), "/cache")] {
        assert_eq!(count_right(store, REMOVED, LEN), 0, "they came back");
        expect_others(store);
    }
}

/// A removal of which some call was reached.
struct RemovalAttempt {
    store: Store,
    outcome: Result<(), RemoveError>,
    is_reached: bool,
}

/// Removes rows. The `nth` call of that, and those after it, do what `fate` says of their numbers from 0 on.
fn remove_at(
    sim: &Sim,
    nth: u64,
    fate: impl Fn(u64) -> Fate + Send + Sync + 'static,
) -> RemovalAttempt {
    let (begun, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Counter::default()),
    );
    let decide = {
        let (begun, calls) = (begun.clone(), calls.clone());
        move |_: Call, _: &_| match begun.load(Ordering::SeqCst) {
            true => calls.next().checked_sub(nth).map_or(Fate::Done, &fate),
            false => Fate::Done,
        }
    };
    let store = opened(Faulty::new(sim.clone(), decide), "/cache");
    begun.store(true, Ordering::SeqCst);
    let outcome = store.remove(&keys(REMOVED));
    begun.store(false, Ordering::SeqCst);
    RemovalAttempt {
        store,
        outcome,
        is_reached: calls.get() >= nth,
    }
}

/// Before the `nth` call of a removal, another process acts.
fn acting_in_removal(
    sim: &Sim,
    nth: u64,
    act: impl Fn(&Sim) + Send + Sync + 'static,
) -> RemovalAttempt {
    let (own, act) = (sim.clone(), Arc::new(act));
    remove_at(sim, nth, move |number| {
        if number == 0 {
            let (sim, act) = (own.clone(), act.clone());
            // The thread of a flusher cannot wait for a flush.
            let acting = thread::spawn(move || act(&sim));
            acting.join().expect("it does not panic");
        }
        Fate::Done
    })
}

/// Segments that are compacted with those that are there.
fn compact(sim: &Sim) {
    let store = opened(sim.clone(), "/cache");
    for n in 5..13 {
        put_flushed(&store, 4 * n..4 * n + 4, LEN);
    }
    assert!(store.stats().compacted_segments > 0);
}

/// What another process does: how locks work, what it is called, and the work.
type Act = (Locks, &'static str, fn(&Sim));

#[test]
fn removed_rows_do_not_come_back_while_others_work() {
    let acts: [Act; 5] = [
        (Locks::Shared, "compacts", compact),
        (Locks::None, "compacts", compact),
        (Locks::Shared, "removes others", |sim| {
            let store = opened(sim.clone(), "/cache");
            store.remove(&keys(20..30)).expect("the medium works");
        }),
        (Locks::Shared, "removes the same", |sim| {
            let store = opened(sim.clone(), "/cache");
            store.remove(&keys(REMOVED)).expect("the medium works");
        }),
        (Locks::Shared, "reads", |sim| {
            let store = opened(sim.clone(), "/cache");
            expect_others(&store);
            count_right(&store, REMOVED, LEN);
        }),
    ];
    let mut caused = 0;
    for (locks, what, act) in acts {
        caused += series(format_args!("another process {what}, {locks:?}"), |nth| {
            let sim = filled();
            sim.set_locks(locks);
            let reader = opened(sim.clone(), "/cache");
            let removal = acting_in_removal(&sim, nth, act);
            removal.outcome.expect("the medium works");
            expect_removed(&removal.store, &sim);
            reader.refresh();
            expect_removed(&reader, &sim);
            if what == "compacts" && removal.is_reached {
                expect_all(&reader, 20..52, LEN);
            }
            sim.cut_power(&mut Rng::with_seed(nth));
            expect_removed(&opened(sim.clone(), "/cache"), &sim);
            removal.is_reached
        });
    }
    seen("rows are removed while another process works", caused);
}

/// Of one segment, each by a process of its own.
#[test]
fn two_processes_remove_rows_of_one_segment() {
    let caused = series(format_args!("another row"), |nth| {
        let sim = filled();
        let removal = acting_in_removal(&sim, nth, |sim| {
            let store = opened(sim.clone(), "/cache");
            store.remove(&keys(0..1)).expect("the medium works");
        });
        removal.outcome.expect("the medium works");
        for store in [removal.store, opened(sim, "/cache")] {
            store.refresh();
            assert_eq!(count_right(&store, REMOVED, LEN), 0);
            let other = u64::from(!removal.is_reached);
            assert_eq!(count_right(&store, 0..1, LEN), other);
            expect_all(&store, 1..2, LEN);
            expect_all(&store, 6..8, LEN);
        }
        removal.is_reached
    });
    seen("two processes remove rows of one segment", caused);
}

/// At any moment of a compaction, whose sources have them.
#[test]
fn rows_removed_during_a_compaction_do_not_come_back() {
    let mut caused = 0;
    for (locks, sync) in [
        (Locks::Shared, Fate::Done),
        (Locks::None, Fate::Done),
        (Locks::Shared, Fate::Fails(Errno::IO)),
    ] {
        caused += series(format_args!("{locks:?}, {sync:?}"), |nth| {
            let sim = Sim::new();
            sim.set_locks(locks);
            let is_reached = acting_at(&sim, "/cache", nth, sync, |sim| {
                let other = opened(sim.clone(), "/cache");
                other.remove(&keys(REMOVED)).expect("the medium works");
            });
            let store = opened(sim.clone(), "/cache");
            match is_reached {
                true => expect_removed(&store, &sim),
                false => expect_all(&store, 0..8, LEN),
            }
            is_reached
        });
    }
    seen("rows are removed during a compaction", caused);
}

/// A compaction of eight rows in segments of one each, which stands still before its result gets its name.
struct Unnamed {
    /// Dropped to let it go on.
    holds: Sender<()>,
    process: JoinHandle<()>,
}

impl Unnamed {
    fn begin(sim: &Sim) -> Unnamed {
        let ((begin, begins), (holds, held)) = (channel(), channel::<()>());
        let decide = {
            let (renames, channels) = (Counter::default(), Mutex::new((begin, held)));
            move |call: Call, _: &_| {
                // Eight segments of a row each, and then the one that they are compacted into.
                if call == Call::Rename && renames.next() == 9 {
                    let channels = channels.lock().expect("it is not poisoned");
                    channels.0.send(()).expect("the test waits");
                    // It ends without an answer.
                    let _: Result<(), _> = channels.1.recv();
                }
                Fate::Done
            }
        };
        let fs = Faulty::new(sim.clone(), decide);
        let process = thread::spawn(move || {
            let store = opened(fs, "/cache");
            (0..8).for_each(|n| put_flushed(&store, n..n + 1, LEN));
        });
        begins.recv().expect("it compacts");
        Unnamed { holds, process }
    }

    fn finish(self) {
        drop(self.holds);
        self.process.join().expect("it does not panic");
    }
}

/// At each call of a removal the result of a compaction gets its name, or is about to: its sources were there before.
#[test]
fn rows_of_a_compaction_under_way_do_not_come_back() {
    let caused = series(format_args!("a result gets its name"), |nth| {
        let sim = Sim::new();
        let unnamed = Arc::new(Mutex::new(Some(Unnamed::begin(&sim))));
        let finish = {
            let unnamed = unnamed.clone();
            move || {
                unnamed
                    .lock()
                    .expect("it is not poisoned")
                    .take()
                    .map(Unnamed::finish)
            }
        };
        let removal = acting_in_removal(&sim, nth, {
            let finish = finish.clone();
            move |_| {
                finish();
            }
        });
        removal.outcome.expect("the medium works");
        expect_removed(&removal.store, &sim);
        let is_finished = finish().is_none();
        expect_removed(&removal.store, &sim);
        is_finished
    });
    seen(
        "rows are removed before the result of a compaction has its name",
        caused,
    );
}

#[test]
fn a_power_cut_in_a_removal_costs_no_other_row() {
    let mut caused = 0;
    for seed in 0..u64::from(cases(4, 40)) {
        caused += series(format_args!("seed {seed}"), |nth| {
            let sim = filled();
            let cut = {
                let (sim, rng) = (sim.clone(), Mutex::new(Rng::with_seed(seed)));
                move |number| {
                    if number == 0 {
                        sim.cut_power(&mut rng.lock().expect("it is not poisoned"));
                    }
                    Fate::Fails(Errno::IO)
                }
            };
            let removal = remove_at(&sim, nth, cut);
            assert_eq!(removal.outcome.is_err(), removal.is_reached);
            drop(removal.store);
            if !removal.is_reached {
                sim.cut_power(&mut Rng::with_seed(seed));
                expect_removed(&opened(sim.clone(), "/cache"), &sim);
            }
            let store = opened(sim.clone(), "/cache");
            expect_others(&store);
            count_right(&store, REMOVED, LEN);
            store.remove(&keys(REMOVED)).expect("the medium works");
            expect_removed(&store, &sim);
            removal.is_reached
        });
    }
    seen("the power is cut while rows are removed", caused);
}

#[test]
fn a_failing_call_in_a_removal_costs_no_other_row() {
    let mut caused = 0;
    for error in ERRORS {
        for goes_on in [false, true] {
            caused += series(format_args!("{error:?}, goes on: {goes_on}"), |nth| {
                let sim = filled();
                // An interrupted call is repeated until it succeeds.
                let most = match (goes_on, error) {
                    (false, _) => 1,
                    (true, Errno::INTR) => 20,
                    (true, _) => u64::MAX,
                };
                let removal = remove_at(&sim, nth, move |number| match number < most {
                    true => Fate::Fails(error),
                    false => Fate::Done,
                });
                let sound = opened(sim.copy(), "/cache");
                expect_others(&sound);
                count_right(&sound, REMOVED, LEN);
                if removal.outcome.is_ok() {
                    expect_removed(&removal.store, &sim);
                }
                removal.store.refresh();
                expect_others(&removal.store);
                let again = removal.store.remove(&keys(REMOVED));
                again.expect("the medium works again");
                expect_removed(&removal.store, &sim);
                removal.is_reached
            });
        }
    }
    seen("a call fails while rows are removed", caused);
}

/// On the thread that writes them, as code of the program may.
#[test]
fn rows_removed_while_they_are_written_do_not_come_back() {
    static STORES: [OnceLock<Store>; 4] = [const { OnceLock::new() }; 4];
    let calls = [Call::Create, Call::Write, Call::Sync, Call::Rename];
    for (store, call) in STORES.iter().zip(calls) {
        let times = Arc::new(Counter::default());
        let decide = {
            let times = times.clone();
            move |this: Call, _: &_| {
                let is_writer = thread::current().name() == Some("torchcache-store");
                if this == call && is_writer && times.next() == 1 {
                    let store = store.get().expect("it is open");
                    let removed = store.remove(&keys(REMOVED));
                    assert!(matches!(removed, Err(RemoveError::FlusherThread)));
                }
                Fate::Done
            }
        };
        let store = store.get_or_init(|| opened(Faulty::new(Sim::new(), decide), "/cache"));
        store.put(batch(0..8, LEN));
        store.flush().expect("removed rows are not lost rows");
        assert!(times.get() > 0, "{call:?} came to pass");
        assert_eq!(count_right(store, REMOVED, LEN), 0, "removed at {call:?}");
        expect_others(store);
        let stats = store.stats();
        assert_eq!((stats.rows, stats.lost_rows), (4, 0));
    }
}

/// The caller does not wait any longer when a call fails.
#[test]
fn a_failed_removal_that_no_caller_waits_for_is_a_fault() {
    for hangs in [true, false] {
        let (is_removing, held) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(())));
        let decide = {
            let (is_removing, held) = (is_removing.clone(), held.clone());
            move |call: Call, _: &_| match call == Call::List && is_removing.load(Ordering::SeqCst)
            {
                true => {
                    drop(held.lock().expect("it is not poisoned"));
                    Fate::Fails(Errno::IO)
                }
                false => Fate::Done,
            }
        };
        let config = manual_flush().with_stall_timeout(Duration::from_millis(100));
        let fs = Arc::new(Faulty::new(filled(), decide));
        let store = Store::open_on(fs, "/cache", config.clone()).expect("it opens");
        is_removing.store(true, Ordering::SeqCst);
        let hold = hangs.then(|| held.lock().expect("it is not poisoned"));
        let error = store.remove(&keys(REMOVED)).expect_err("a call fails");
        let is_stalled = matches!(error, RemoveError::Stalled { .. });
        assert_eq!(is_stalled, hangs, "{error}");
        drop(hold);
        store.reconfigure(config.with_stall_timeout(Duration::from_secs(30)));
        store.flush().expect("no row is lost");
        let faults = store.stats().faults;
        assert_eq!(faults.get(Fault::Write), u64::from(hangs), "{faults:?}");
    }
}

#[test]
fn a_removal_that_is_given_up_names_the_last_cause() {
    let is_removing = Arc::new(AtomicBool::new(false));
    let decide = {
        let is_removing = is_removing.clone();
        move |call: Call, _: &_| match call == Call::Lock && is_removing.load(Ordering::SeqCst) {
            true => Fate::Fails(Errno::AGAIN),
            false => Fate::Done,
        }
    };
    let store = opened(Faulty::new(filled(), decide), "/cache");
    is_removing.store(true, Ordering::SeqCst);
    let error = store
        .remove(&keys(REMOVED))
        .expect_err("it is always locked");
    let text = error.source().expect("it is of the directory").to_string();
    for part in ["keep replacing", "try again", ".tcs: ", "cannot be locked"] {
        assert!(text.contains(part), "{text}");
    }
}
