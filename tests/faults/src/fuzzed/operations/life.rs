//! One process as its file system sees it: from when it opens the directory until it closes it, its
//! calls fail on demand, and all of them after a power cut.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fastrand::Rng;
use rustix::io::Errno;
use torchcache_store::fs::FileSystem;

use super::input::FailingCalls;
use crate::faulty::{Call, ERRORS, Fate, Faulty};
use crate::sim::Sim;

/// Whether there still is power: the same one for all processes.
#[derive(Debug, Default)]
pub(super) struct Power(AtomicBool);

impl Power {
    pub(super) fn is_on(&self) -> bool {
        !self.0.load(Ordering::SeqCst)
    }

    pub(super) fn cut(&self, sim: &Sim, seed: u8) {
        if !self.0.swap(true, Ordering::SeqCst) {
            sim.cut_power(&mut Rng::with_seed(seed.into()));
        }
    }
}

#[derive(Debug)]
pub(super) struct Life {
    power: Arc<Power>,
    failure: Mutex<Option<FailingCalls>>,
    caused: AtomicU64,
}

impl Life {
    pub(super) fn new(power: &Arc<Power>) -> Arc<Life> {
        Arc::new(Life {
            power: power.clone(),
            failure: Mutex::default(),
            caused: AtomicU64::new(0),
        })
    }

    /// The file system as this process has it.
    pub(super) fn file_system(self: &Arc<Life>, sim: &Sim) -> Arc<dyn FileSystem> {
        let (life, sim_below) = (self.clone(), sim.clone());
        Arc::new(Faulty::new(sim.clone(), move |call, _: &_| {
            life.fate(call, &sim_below)
        }))
    }

    pub(super) fn set_failure(&self, failure: Option<FailingCalls>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// The failure that has not happened yet.
    pub(super) fn left(&self) -> Option<FailingCalls> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Whether every call was done so far.
    pub(super) fn is_sound(&self) -> bool {
        self.caused.load(Ordering::SeqCst) == 0
    }

    fn fate(&self, call: Call, sim: &Sim) -> Fate {
        if !self.power.is_on() {
            return Fate::Fails(Errno::IO);
        }
        let mut pending = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(failure) = &mut *pending else {
            return Fate::Done;
        };
        // One number more than there are calls: any of them.
        let kinds = Call::ALL.len() + 1;
        let kind = Call::ALL.get(usize::from(failure.call) % kinds);
        if kind.is_some_and(|kind| *kind != call) {
            return Fate::Done;
        }
        if failure.after > 0 {
            failure.after -= 1;
            return Fate::Done;
        }
        let how = usize::from(failure.how) % (ERRORS.len() + 2);
        failure.times = (failure.times % 8).saturating_sub(1);
        let seed = failure.how;
        if failure.times == 0 {
            *pending = None;
        }
        drop(pending);
        match ERRORS.get(how) {
            Some(error) => {
                self.caused.fetch_add(1, Ordering::SeqCst);
                Fate::Fails(*error)
            }
            None if how == ERRORS.len() => Fate::Half,
            None => {
                self.power.cut(sim, seed);
                Fate::Fails(Errno::IO)
            }
        }
    }
}
