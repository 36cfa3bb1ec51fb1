//! The circuit breaker: where requests fail, none are made for a while, so that a store that does not
//! answer costs nothing. The tiers of a process share one for each store and prefix.

use std::sync::{self, Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::object_store::ObjectStore;
use super::time::Clock;
use crate::sync::{Mutex, MutexGuard};

/// After so many failures in a row no requests are made.
const MAX_FAILURES: u32 = 3;

/// For how long at first, and at most.
const MIN_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// Whether requests are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// They are.
    #[default]
    Closed,
    /// They are not, since the last ones failed.
    Open,
    /// One is under way, to see whether the others can be made again.
    Probing,
}

#[derive(Debug)]
pub(super) struct Breaker {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// How many requests succeeded.
    answers: u64,
    /// A call waited until its deadline, and no request has succeeded since it began.
    is_silent: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// After so many failures in a row.
    Closed(u32),
    Open {
        until: Instant,
        pause: Duration,
    },
    /// The pause before the request.
    Probing(Duration),
}

/// What tiers share a breaker by: what is denied may depend on the prefix, and whether it is a failure on whether they only
/// write.
type Scope = (Weak<dyn ObjectStore>, String, bool);

/// The breakers of this process. Held for memory operations only.
static BREAKERS: sync::Mutex<Vec<(Scope, Weak<Breaker>)>> = sync::Mutex::new(Vec::new());

impl Breaker {
    /// That of all tiers of this process with the store, prefix and kind. `clock` is used if there is none yet.
    pub(super) fn shared(
        store: &Arc<dyn ObjectStore>,
        prefix: &str,
        is_write_only: bool,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Breaker> {
        let mut breakers = BREAKERS.lock().unwrap_or_else(PoisonError::into_inner);
        breakers.retain(|(_, breaker)| breaker.strong_count() > 0);
        let store = Arc::downgrade(store);
        let mut same = breakers.iter().filter(|((of, at, writes), _)| {
            of.ptr_eq(&store) && at == prefix && *writes == is_write_only
        });
        if let Some(breaker) = same.find_map(|(_, breaker)| breaker.upgrade()) {
            return breaker;
        }
        let breaker = Arc::new(Breaker::new(clock.clone()));
        let scope = (store, prefix.to_owned(), is_write_only);
        breakers.push((scope, Arc::downgrade(&breaker)));
        breaker
    }

    fn new(clock: Arc<dyn Clock>) -> Breaker {
        Breaker {
            clock,
            state: Mutex::new(State {
                phase: Phase::Closed(0),
                answers: 0,
                is_silent: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.lock().phase {
            Phase::Closed(_) => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::Probing(_) => BreakerState::Probing,
        }
    }

    /// Whether a request is made; the caller reports what came of it. Only work in the background probes, since a
    /// caller would wait for a store that is probably down.
    pub(super) fn admit(&self, is_background: bool) -> Option<Permit<'_>> {
        let mut state = self.lock();
        let is_probe = match state.phase {
            Phase::Closed(_) => false,
            Phase::Open { until, pause } if is_background && self.clock.now() >= until => {
                state.phase = Phase::Probing(pause);
                true
            }
            Phase::Open { .. } | Phase::Probing(_) => return None,
        };
        Some(Permit {
            breaker: self,
            is_probe,
            answers: state.answers,
            outcome: Outcome::Failed,
        })
    }

    /// How many requests have succeeded; `None` where the next one is not expected to do so soon: the breaker is not closed, or
    /// a call has waited [in vain](Self::note_silence).
    pub(super) fn answers(&self) -> Option<u64> {
        let state = self.lock();
        let is_expected = matches!(state.phase, Phase::Closed(_)) && !state.is_silent;
        is_expected.then_some(state.answers)
    }

    /// A call waited until its deadline since so many requests had succeeded.
    pub(super) fn note_silence(&self, answers: u64) {
        let mut state = self.lock();
        state.is_silent |= state.answers == answers;
    }

    fn note(&self, permit: &Permit<'_>) {
        let mut state = self.lock();
        let is_probe = permit.is_probe;
        let outcome = match permit.outcome {
            // It had to share the connection with those that were answered meanwhile.
            Outcome::Failed if state.answers > permit.answers => Outcome::NotMade,
            outcome => outcome,
        };
        if outcome == Outcome::Succeeded {
            state.answers += 1;
            state.is_silent = false;
        }
        let open = |pause: Duration| Phase::Open {
            until: self.clock.now() + pause,
            pause,
        };
        state.phase = match (state.phase, outcome) {
            (Phase::Probing(_), Outcome::Succeeded) if is_probe => Phase::Closed(0),
            (Phase::Probing(pause), Outcome::NotMade) if is_probe => open(pause),
            (Phase::Probing(pause), Outcome::Failed) if is_probe => {
                open((2 * pause).min(MAX_PAUSE))
            }
            (Phase::Closed(_), Outcome::Succeeded) => Phase::Closed(0),
            (Phase::Closed(failures), Outcome::Failed) if failures + 1 == MAX_FAILURES => {
                open(MIN_PAUSE)
            }
            (Phase::Closed(failures), Outcome::Failed) => Phase::Closed(failures + 1),
            // A request that began before the breaker opened, or shows nothing.
            (phase, _) => phase,
        };
    }
}

/// What came of a request, or of several: the last of these that one of them had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// It was not made, which shows nothing of the store. A probe may be made after the same pause.
    NotMade,
    Failed,
    Succeeded,
}

/// Allows one request, or several. It counts as failed unless it is [ended](Self::end), but not if another request
/// succeeds meanwhile.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    breaker: &'a Breaker,
    pub(super) is_probe: bool,
    /// How many requests had succeeded before.
    answers: u64,
    outcome: Outcome,
}

impl Permit<'_> {
    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.breaker.note(self);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::super::test_clock::TestClock;
    use super::*;

    #[test]
    fn three_failures_open_it_and_one_probe_at_a_time_closes_it() {
        let clock = Arc::new(TestClock::default());
        let breaker = Breaker::new(clock.clone());
        let admit = || breaker.admit(false).expect("it is closed");
        for _ in 0..2 {
            drop(admit());
            (0..3).for_each(|_| admit().end(Outcome::NotMade));
        }
        admit().end(Outcome::Succeeded);
        let late = admit();
        for _ in 0..3 {
            assert_eq!(breaker.state(), BreakerState::Closed);
            drop(admit());
        }
        late.end(Outcome::Succeeded);
        let mut pause = 5;
        for _ in 0..10 {
            assert_eq!(breaker.state(), BreakerState::Open);
            clock.sleep(Duration::from_secs(pause - 1));
            assert!(breaker.admit(true).is_none(), "after {pause} s");
            clock.sleep(Duration::from_secs(1));
            assert!(breaker.admit(false).is_none(), "callers do not probe");
            let probe = breaker.admit(true).expect("the pause is over");
            assert!(breaker.admit(true).is_none(), "a probe is under way");
            probe.end(Outcome::NotMade);
            clock.sleep(Duration::from_secs(pause - 1));
            assert!(breaker.admit(true).is_none(), "{pause} s again");
            clock.sleep(Duration::from_secs(1));
            drop(breaker.admit(true).expect("the pause is over"));
            pause = (2 * pause).min(300);
        }
        clock.sleep(Duration::from_secs(300));
        breaker
            .admit(true)
            .expect("the pause is over")
            .end(Outcome::Succeeded);
        admit().end(Outcome::Succeeded);
        for _ in 0..3 {
            drop(admit());
        }
        clock.sleep(Duration::from_secs(5));
        assert!(
            breaker.admit(true).is_some(),
            "the first pause is short again"
        );
    }

    #[test]
    fn failures_do_not_count_while_other_requests_are_answered() {
        let breaker = Breaker::new(Arc::new(TestClock::default()));
        let admit = || breaker.admit(false).expect("it is closed");
        let late = [(); 5].map(|()| admit());
        admit().end(Outcome::Succeeded);
        drop(late);
        (0..3).for_each(|_| drop(admit()));
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}
