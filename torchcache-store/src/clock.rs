//! When segments were made and read, in nanoseconds since 1970. The order of eviction goes by it, so
//! that it goes on whatever is done to the system's clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time, later at each call: where the system's clock is set back, by a nanosecond until that has
/// caught up.
pub(crate) fn now() -> u64 {
    static LATEST: AtomicU64 = AtomicU64::new(0);
    let system = nanos(SystemTime::now());
    let next = |latest: u64| system.max(latest + 1);
    let latest = LATEST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |latest| {
        Some(next(latest))
    });
    latest.map_or(system, next)
}

/// The time of a file, unless it has yet to come, and so says nothing: the clock was set back, or
/// another machine's is ahead.
pub(crate) fn past(modified: SystemTime) -> Option<u64> {
    Some(nanos(modified)).filter(|time| *time <= now())
}

/// When a file that is seen for the first time was read last: now, if it does not say.
pub(crate) fn found(modified: SystemTime) -> u64 {
    past(modified).unwrap_or_else(now)
}

/// A time in the terms of a file system.
pub(crate) fn as_system(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_times_are_the_same() {
        let times: Vec<u64> = (0..10_000).map(|_| now()).collect();
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn what_has_yet_to_come_is_no_time() {
        let hour = Duration::from_secs(3600);
        let earlier = SystemTime::now() - hour;
        assert_eq!(past(earlier).map(as_system), Some(earlier));
        assert_eq!(past(SystemTime::now() + hour), None);
        assert_eq!(past(UNIX_EPOCH - hour), Some(0));
    }
}
