//! The clocks of the remote tier, which tests simulate: intervals are counted, not waited for.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the remote tier needs of a clock.
pub trait Clock: Debug + Send + Sync {
    /// The time that deadlines and intervals are measured by.
    fn now(&self) -> Instant;

    /// The time of day, which names of objects have. It may be wrong.
    fn time_of_day(&self) -> SystemTime;

    /// Returns when so much time has passed.
    fn sleep(&self, duration: Duration);
}

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn time_of_day(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }
}

/// The time of day in nanoseconds since 1970.
pub(crate) fn nanos(clock: &dyn Clock) -> u64 {
    let since = clock.time_of_day().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
