//! A clock that moves when it is asked to sleep.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::time::Clock;

#[derive(Debug)]
pub(super) struct TestClock {
    begin: Instant,
    passed: Mutex<Duration>,
}

impl Default for TestClock {
    fn default() -> Self {
        TestClock {
            begin: Instant::now(),
            passed: Mutex::default(),
        }
    }
}

impl TestClock {
    fn passed(&self) -> Duration {
        *self.passed.lock().expect("no thread panics")
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        self.begin + self.passed()
    }

    fn time_of_day(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1 << 31) + self.passed()
    }

    fn sleep(&self, duration: Duration) {
        *self.passed.lock().expect("no thread panics") += duration;
    }
}
