//! A value that one thread at a time has, for as long as its requests take. Unlike for a lock, others wait for it no
//! longer than they have time.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Instant;

use super::time::Clock;
use crate::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
pub(super) struct Exclusive<T> {
    /// `None` while a thread has it.
    value: Mutex<Option<T>>,
    returned: Condvar,
}

impl<T> Exclusive<T> {
    pub(super) fn new(value: T) -> Exclusive<T> {
        Exclusive {
            value: Mutex::new(Some(value)),
            returned: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, if no other thread has it at the deadline.
    pub(super) fn take(&self, clock: &dyn Clock, deadline: Instant) -> Option<Taken<'_, T>> {
        let mut value = self.lock();
        loop {
            if let Some(value) = value.take() {
                return Some(Taken {
                    of: self,
                    value: Some(value),
                });
            }
            let left = deadline.saturating_duration_since(clock.now());
            if left.is_zero() {
                return None;
            }
            let woken = self.returned.wait_timeout(value, left);
            value = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The value, which is returned when this is dropped.
#[derive(Debug)]
pub(super) struct Taken<'a, T> {
    of: &'a Exclusive<T>,
    /// `None` only while it is dropped.
    value: Option<T>,
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("it was not returned")
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("it was not returned")
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        *self.of.lock() = self.value.take();
        self.of.returned.notify_one();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::super::time::SystemClock;
    use super::*;

    #[test]
    fn one_thread_has_it_and_others_wait_until_their_deadlines() {
        let counter = Exclusive::new(0);
        let (now, late) = (Instant::now(), Instant::now() + Duration::from_secs(60));
        let taken = counter.take(&SystemClock, now).expect("it is free");
        assert!(counter.take(&SystemClock, now).is_none());
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| *counter.take(&SystemClock, late).expect("in time") += 1);
            }
            drop(taken);
        });
        assert_eq!(*counter.take(&SystemClock, now).expect("it is free"), 3);
    }
}
