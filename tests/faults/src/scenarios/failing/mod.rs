//! Each call of each kind fails in turn: the first, the second, and so on until a whole run passes
//! untouched. Once, or from then on until the end of the run.

mod work;

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::io::Errno;
use torchcache_store::Store;

use crate::faulty::{Call, ERRORS, Fate, Faulty};
use crate::log::Listener;
use crate::rows::{batch, patient};
use crate::tally::{Counter, Plan, Tally, ensure};
use work::{Before, DIR, LEN, NEW, OLD, Run};

/// Those that the short form makes do with: the others are like one of them to the store.
const SHORT: [Errno; 5] = [
    Errno::IO,
    Errno::INTR,
    Errno::NOSPC,
    Errno::MFILE,
    Errno::STALE,
];

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let is_short = plan.rounds == 1;
    let errors = if is_short { &SHORT[..] } else { &ERRORS[..] };
    let before = Before::new();
    let untouched = match untouched(&mut tally, &before) {
        Ok(untouched) => untouched,
        Err(failure) => {
            tally.failures.push(format!("nothing fails: {failure}"));
            return tally;
        }
    };
    for call in Call::ALL {
        let errors = errors.iter().copied().map(Fate::Fails);
        let half = call.has_bytes().then_some(Fate::Half);
        let fates: Vec<_> = errors.chain(half).collect();
        let fails =
            |tally: &mut Tally, failure: Failure| fails(tally, &before.copy(), &untouched, failure);
        for &fate in &fates {
            let failure = |nth, goes_on| Failure {
                call,
                fate,
                nth,
                goes_on,
            };
            tally.series(&format!("{call:?} {fate:?} once"), |tally, nth| {
                fails(tally, failure(nth, false))
            });
            if !is_short {
                tally.series(&format!("{call:?} {fate:?} from then on"), |tally, nth| {
                    fails(tally, failure(nth, true))
                });
            }
        }
        if is_short {
            // One after the other: what goes on failing is not much different from what fails.
            tally.series(&format!("{call:?} fails from then on"), |tally, nth| {
                let fate = fates[nth as usize % fates.len()];
                fails(
                    tally,
                    Failure {
                        call,
                        fate,
                        nth,
                        goes_on: true,
                    },
                )
            });
        }
    }
    tally
}

/// Which calls fail, and how.
#[derive(Clone, Copy)]
struct Failure {
    call: Call,
    fate: Fate,
    nth: u64,
    goes_on: bool,
}

impl Failure {
    /// Whether it is one that nothing makes up for: there is something left undone.
    fn is_felt(self) -> bool {
        let is_retried = self.fate == Fate::Half || self.fate == Fate::Fails(Errno::INTR);
        match self.call {
            Call::Write => !is_retried,
            Call::List | Call::Create | Call::Sync | Call::Rename => true,
            Call::SyncDir | Call::Remove => true,
            // A file that cannot be opened is tried again, and a time that cannot be read is that of
            // before. What is left undone shows: rows are missing, or files are left.
            _ => false,
        }
    }

    /// Whether a file looks like somebody else's. One that is half written is then left to them, and
    /// nothing is said of it.
    fn is_as_of_others(self) -> bool {
        self.fate == Fate::Fails(Errno::ACCESS) && matches!(self.call, Call::Open | Call::Look)
    }
}

/// The run that the others are compared with.
fn untouched(tally: &mut Tally, before: &Before) -> Result<Run, String> {
    let before = before.copy();
    let run = work::work(tally, &before, &(Arc::new(before.sim().clone()) as _))?;
    run.is_whole()?;
    Ok(run)
}

/// One run, in which calls fail if it comes to that.
fn fails(
    tally: &mut Tally,
    before: &Before,
    untouched: &Run,
    failure: Failure,
) -> Result<(), String> {
    let Failure {
        call,
        fate,
        nth,
        goes_on,
    } = failure;
    let caused = Arc::new(Counter::default());
    let decide = {
        let (caused, calls) = (caused.clone(), Counter::default());
        // Nobody is interrupted for ever: that would have to be waited for.
        let most = match fate {
            Fate::Fails(Errno::INTR) => 20,
            _ => u64::MAX,
        };
        move |this: Call, _: &OsStr| {
            if this != call {
                return Fate::Done;
            }
            let number = calls.next();
            if number == nth || number > nth && goes_on && caused.get() < most {
                caused.next();
                fate
            } else {
                Fate::Done
            }
        }
    };
    let log = Listener::to(DIR.as_ref())?;
    let faulty = Faulty::new(before.sim().clone(), decide);
    let run = work::work(tally, before, &(Arc::new(faulty) as _))?;
    if caused.get() > 0 {
        tally.caused += 1;
        let cost = run.costs(untouched, !failure.is_as_of_others());
        ensure(
            run.counted > 0 || cost.is_none() && !failure.is_felt(),
            || format!("it was not counted, and cost {cost:?}"),
        )?;
    }
    // Each store warns of each kind once, however often it meets it.
    let heard = log.heard();
    ensure(heard == run.met, || {
        format!("warned of {heard:?}, but the stores met {:?}", run.met)
    })?;

    // The trouble is over.
    before.take_first();
    for dir in [DIR, NEW] {
        let store = Store::open_on(Arc::new(before.sim().clone()), dir, patient());
        let store = store.map_err(|error| error.to_string())?;
        store.put(batch(0..20, LEN));
        store.put(batch(OLD, LEN));
        store.flush().map_err(|error| error.to_string())?;
        tally.all_there(&store, 0..20, LEN);
        tally.all_there(&store, OLD, LEN);
        let faults = store.stats().faults;
        ensure(faults.total() == 0, || {
            format!("faults after it: {faults:?}")
        })?;
    }
    Ok(())
}
