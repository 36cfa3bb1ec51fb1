//! Calls of each kind fail in turn, once or from then on: the first, the second, and so on until a whole
//! run makes fewer calls.

mod work;

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::io::Errno;
use torchcache_faults::cases::{Counter, cases, seen, series};
use torchcache_faults::faulty::{Call, ERRORS, Fate, Faulty};
use torchcache_faults::rows::{batch, expect_all, expect_no_faults, opened, put_flushed};

use work::{Before, DIR, LEN, NEW, OLD, Run};

/// The errors of the short form: the store treats each other one like one of them.
const SHORT: [Errno; 5] = [
    Errno::IO,
    Errno::INTR,
    Errno::NOSPC,
    Errno::MFILE,
    Errno::STALE,
];

#[test]
fn a_failing_call_costs_no_flushed_row() {
    let mut caused = 0;
    let is_short = cases(1, 2) == 1;
    let errors = if is_short { &SHORT[..] } else { &ERRORS[..] };
    let before = Before::new();
    let untouched = untouched(&before);
    for call in Call::ALL {
        let errors = errors.iter().copied().map(Fate::Fails);
        let half = call.has_bytes().then_some(Fate::Half);
        let fates: Vec<_> = errors.chain(half).collect();
        let fail = |fate, nth, goes_on| {
            let failure = Failure {
                call,
                fate,
                nth,
                goes_on,
            };
            fails(&before.copy(), &untouched, failure)
        };
        for &fate in &fates {
            caused += series(format_args!("{call:?} {fate:?} once"), |nth| {
                fail(fate, nth, false)
            });
            if !is_short {
                caused += series(format_args!("{call:?} {fate:?} from then on"), |nth| {
                    fail(fate, nth, true)
                });
            }
        }
        if is_short {
            // Each error in turn: a call that goes on failing is much like one that fails once.
            caused += series(format_args!("{call:?} fails from then on"), |nth| {
                fail(fates[nth as usize % fates.len()], nth, true)
            });
        }
    }
    seen(
        "the nth call of each kind fails, once or from then on",
        caused,
    );
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
    /// Whether it must be counted, since nothing makes up for it.
    fn is_felt(self) -> bool {
        let is_retried = self.fate == Fate::Half || self.fate == Fate::Fails(Errno::INTR);
        match self.call {
            Call::Write => !is_retried,
            Call::List | Call::Create | Call::Sync | Call::Rename => true,
            Call::SyncDir | Call::Remove => true,
            // A file that cannot be opened is opened later, and a time that cannot be read is the
            // former one. Otherwise it shows: rows are missing, or files are left.
            _ => false,
        }
    }

    /// Whether a file looks foreign. A temporary one is then left alone, and not counted.
    fn looks_foreign(self) -> bool {
        self.fate == Fate::Fails(Errno::ACCESS) && matches!(self.call, Call::Open | Call::Look)
    }
}

/// The run that the others are compared with.
fn untouched(before: &Before) -> Run {
    let before = before.copy();
    let run = work::work(&before, &(Arc::new(before.sim().clone()) as _));
    run.expect_whole();
    run
}

/// One run with failing calls. Returns whether it makes that many.
fn fails(before: &Before, untouched: &Run, failure: Failure) -> bool {
    let Failure {
        call,
        fate,
        nth,
        goes_on,
    } = failure;
    let caused = Arc::new(Counter::default());
    let decide = {
        let (caused, calls) = (caused.clone(), Counter::default());
        // An interrupted call is repeated until it succeeds, so it must not be interrupted for ever.
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
    let faulty = Faulty::new(before.sim().clone(), decide);
    let run = work::work(before, &(Arc::new(faulty) as _));
    if caused.get() > 0 {
        let cost = run.costs(untouched, !failure.looks_foreign());
        assert!(
            run.counted > 0 || cost.is_none() && !failure.is_felt(),
            "it was not counted, and cost {cost:?}"
        );
    }

    // No call fails any more.
    before.take_first();
    for dir in [DIR, NEW] {
        let store = opened(before.sim().clone(), dir);
        store.put(batch(0..20, LEN));
        put_flushed(&store, OLD, LEN);
        expect_all(&store, 0..20, LEN);
        expect_all(&store, OLD, LEN);
        expect_no_faults(&store);
    }
    caused.get() > 0
}
