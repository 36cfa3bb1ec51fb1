//! The times at which segments were made and read, in nanoseconds since 1970. They decide the order of
//! eviction, so they never run backwards, whatever happens to the clock of the system.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time, later at each call: if the clock of the system is set back, one nanosecond later until it
/// has caught up.
pub(crate) fn now() -> u64 {
    static LATEST: AtomicU64 = AtomicU64::new(0);
    let system = nanos(SystemTime::now());
    let next = |latest: u64| system.max(latest + 1);
    let latest = LATEST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |latest| {
        Some(next(latest))
    });
    latest.map_or(system, next)
}

/// The time of a file, unless it is in the future: the clock was set back, or that of another machine
/// is ahead.
pub(crate) fn past(modified: SystemTime) -> Option<u64> {
    Some(nanos(modified)).filter(|time| *time <= now())
}

/// The time of a file, or now if it is in the future.
pub(crate) fn past_or_now(modified: SystemTime) -> u64 {
    past(modified).unwrap_or_else(now)
}

/// The same time as a [`SystemTime`].
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
    fn times_are_strictly_increasing() {
        let times: Vec<u64> = (0..10_000).map(|_| now()).collect();
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn times_in_the_future_are_rejected() {
        let hour = Duration::from_secs(3600);
        let earlier = SystemTime::now() - hour;
        assert_eq!(past(earlier).map(as_system), Some(earlier));
        assert_eq!(past(SystemTime::now() + hour), None);
        assert_eq!(past(UNIX_EPOCH - hour), Some(0));
    }
}
