//! Each call of each kind fails in turn: the first, the second, and so on until a whole run passes
//! untouched. Once, or from then on until the end of the run.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use torchcache_store::{Config, Store};

use crate::faulty::{Call, Fate, Faulty};
use crate::rows::{batch, patient};
use crate::sim::Sim;
use crate::tally::{Counter, Plan, Tally, ensure};

const LEN: usize = 900;

/// What a system says when it fails.
const ERRORS: [Errno; 7] = [
    Errno::IO,
    Errno::INTR,
    Errno::NOSPC,
    Errno::STALE,
    Errno::DQUOT,
    Errno::MFILE,
    Errno::ACCESS,
];

/// After so many calls something is wrong with the scenario.
const MOST: u64 = 10_000;

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    // The short form knows fewer errors: most of them are alike to the store.
    let errors = match plan.rounds {
        1 => &ERRORS[..4],
        _ => &ERRORS[..],
    };
    let errors = errors.iter().copied().map(Fate::Fails);
    let fates: Vec<_> = errors.chain([Fate::Half]).collect();
    for call in Call::ALL {
        for &fate in &fates {
            if fate == Fate::Half && !call.has_bytes() {
                continue;
            }
            for goes_on in [false, true] {
                for nth in 1..MOST {
                    let mut was_caused = false;
                    let name = format!("{call:?} number {nth} {fate:?}, goes on: {goes_on}");
                    tally.round(&name, |tally| {
                        was_caused = fails_at(tally, call, fate, nth, goes_on)?;
                        Ok(())
                    });
                    tally.caused += u64::from(was_caused);
                    if !was_caused {
                        break;
                    }
                }
            }
        }
    }
    tally
}

/// One run, in which a call fails. Returns whether it came to that.
fn fails_at(
    tally: &mut Tally,
    call: Call,
    fate: Fate,
    nth: u64,
    goes_on: bool,
) -> Result<bool, String> {
    let (sim, dir) = (Sim::new(), Path::new("/cache"));
    let caused = Arc::new(Counter::default());
    let decide = {
        let (caused, calls) = (caused.clone(), Counter::default());
        move |this: Call, _: &OsStr| {
            if this != call {
                return Fate::Done;
            }
            let number = calls.next();
            // Nobody is interrupted for ever: that would have to be waited for.
            let most = if fate == Fate::Fails(Errno::INTR) {
                20
            } else {
                u64::MAX
            };
            if number == nth || number > nth && goes_on && caused.get() < most {
                caused.next();
                fate
            } else {
                Fate::Done
            }
        }
    };
    // Rows of an earlier run: none of this may cost them.
    let earlier = Store::open_on(Arc::new(sim.clone()), dir, patient());
    let earlier = earlier.map_err(|error| error.to_string())?;
    earlier.put(batch(1000..1004, LEN));
    earlier.flush().map_err(|error| error.to_string())?;
    drop(earlier);

    let faulty = Arc::new(Faulty::new(sim.clone(), decide));
    let mut flushed = Vec::new();
    let mut counted = 0;
    // Opening may fail with an error. Then it is the caller's turn to try again.
    if let Ok(store) = Store::open_on(faulty.clone(), dir, patient()) {
        tally.right_or_missing(&store, 1000..1004, LEN);
        // Ten small segments, of which eight are merged, and then read, in all places.
        for n in 0..10 {
            store.put(batch(2 * n..2 * n + 2, LEN));
            if store.flush().is_ok() {
                flushed.push(2 * n..2 * n + 2);
            }
        }
        tally.right_or_missing(&store, 0..20, LEN);
        store.reconfigure(Config {
            mmap: true,
            ..patient()
        });
        tally.right_or_missing(&store, 0..20, LEN);
        store.refresh();
        if let Ok(second) = Store::open_on(faulty, dir, patient()) {
            tally.right_or_missing(&second, 0..20, LEN);
            counted += second.stats().faults.total();
        }
        // The same store, with rows that are missing computed and stored again.
        store.put(batch(0..20, LEN));
        let _ = store.flush();
        tally.right_or_missing(&store, 0..20, LEN);
        counted += store.stats().faults.total();
    } else {
        counted += 1;
    }
    let caused = caused.get();
    if caused > 0 && must_be_counted(call, fate, caused) {
        ensure(counted > 0, || "the fault was not counted".into())?;
    }
    // The trouble is over.
    let store = Store::open_on(Arc::new(sim), dir, patient()).map_err(|error| error.to_string())?;
    tally.all_there(&store, 1000..1004, LEN);
    for rows in flushed {
        tally.all_there(&store, rows, LEN);
    }
    store.put(batch(0..20, LEN));
    store.flush().map_err(|error| error.to_string())?;
    tally.all_there(&store, 0..20, LEN);
    let faults = store.stats().faults;
    ensure(faults.total() == 0, || {
        format!("faults after it: {faults:?}")
    })?;
    Ok(caused > 0)
}

/// Whether faults make a difference to anybody.
fn must_be_counted(call: Call, fate: Fate, times: u64) -> bool {
    let is_retried = fate == Fate::Half || fate == Fate::Fails(Errno::INTR);
    match call {
        // Reads and writes go on where they were interrupted or cut short.
        Call::Read | Call::Write if is_retried => false,
        // Without a lock, or with a file's time unset, everything works.
        Call::Lock | Call::SetModified => false,
        // A footer is looked at twice on opening, and a file that cannot be opened is tried again.
        Call::OpenDir | Call::LookDir | Call::Open | Call::Look | Call::Map | Call::Read => {
            times > 1
        }
        _ => true,
    }
}
