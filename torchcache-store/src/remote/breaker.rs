//! The circuit breaker: where requests fail, none are made for a while, so that a store that does not
//! answer costs nothing.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

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

#[derive(Clone, Copy, Debug)]
enum State {
    /// After so many failures in a row.
    Closed(u32),
    Open {
        until: Instant,
        pause: Duration,
    },
    /// The pause before the request.
    Probing(Duration),
}

impl Breaker {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Breaker {
        Breaker {
            clock,
            state: Mutex::new(State::Closed(0)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> BreakerState {
        match *self.lock() {
            State::Closed(_) => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::Probing(_) => BreakerState::Probing,
        }
    }

    /// Whether a request is made; the caller reports what came of it. Only work in the background probes, since a
    /// caller would wait for a store that is probably down.
    pub(super) fn admit(&self, is_background: bool) -> Option<Permit<'_>> {
        let mut state = self.lock();
        let is_probe = match *state {
            State::Closed(_) => false,
            State::Open { until, pause } if is_background && self.clock.now() >= until => {
                *state = State::Probing(pause);
                true
            }
            State::Open { .. } | State::Probing(_) => return None,
        };
        Some(Permit {
            breaker: self,
            is_probe,
            is_ok: false,
        })
    }

    fn note(&self, is_probe: bool, is_ok: bool) {
        let mut state = self.lock();
        let open = |pause: Duration| State::Open {
            until: self.clock.now() + pause,
            pause,
        };
        *state = match (*state, is_ok) {
            (State::Probing(_), true) if is_probe => State::Closed(0),
            (State::Probing(pause), false) if is_probe => open((2 * pause).min(MAX_PAUSE)),
            (State::Closed(_), true) => State::Closed(0),
            (State::Closed(failures), false) if failures + 1 == MAX_FAILURES => open(MIN_PAUSE),
            (State::Closed(failures), false) => State::Closed(failures + 1),
            // A request that began before the breaker opened.
            (state, _) => state,
        };
    }
}

/// Allows one request. It counts as failed unless [`succeeded`](Self::succeeded) is called.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    breaker: &'a Breaker,
    pub(super) is_probe: bool,
    is_ok: bool,
}

impl Permit<'_> {
    pub(super) fn succeeded(mut self) {
        self.is_ok = true;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.breaker.note(self.is_probe, self.is_ok);
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
        }
        admit().succeeded();
        let late = admit();
        for _ in 0..3 {
            assert_eq!(breaker.state(), BreakerState::Closed);
            drop(admit());
        }
        late.succeeded();
        let mut pause = 5;
        for _ in 0..10 {
            assert_eq!(breaker.state(), BreakerState::Open);
            clock.sleep(Duration::from_secs(pause - 1));
            assert!(breaker.admit(true).is_none(), "after {pause} s");
            clock.sleep(Duration::from_secs(1));
            assert!(breaker.admit(false).is_none(), "callers do not probe");
            let probe = breaker.admit(true).expect("the pause is over");
            assert!(breaker.admit(true).is_none(), "a probe is under way");
            drop(probe);
            pause = (2 * pause).min(300);
        }
        clock.sleep(Duration::from_secs(300));
        breaker.admit(true).expect("the pause is over").succeeded();
        admit().succeeded();
        for _ in 0..3 {
            drop(admit());
        }
        clock.sleep(Duration::from_secs(5));
        assert!(
            breaker.admit(true).is_some(),
            "the first pause is short again"
        );
    }
}
