//! [`RemoteWait`]: for how long a call waits for the remote tier.

use std::cell::{Cell, OnceCell};
use std::time::{Duration, Instant};

/// How a call waits for the remote. All its lookups share one deadline.
#[derive(Debug, Default)]
pub(super) struct RemoteWait {
    /// Since the first lookup.
    deadline: OnceCell<Instant>,
    /// The forward is cheaper.
    is_skipped: Cell<bool>,
}

impl RemoteWait {
    /// The deadline of a lookup that begins now; `None` where no time is left, or the remote is skipped.
    pub(super) fn deadline(&self, now: Instant, timeout: f64) -> Option<Instant> {
        let timeout = || now + Duration::from_secs_f64(timeout);
        let deadline = *self.deadline.get_or_init(timeout);
        (now < deadline && !self.is_skipped.get()).then_some(deadline)
    }

    /// No later lookup of the call asks the remote.
    pub(super) fn skip(&self) {
        self.is_skipped.set(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookups_share_the_deadline_of_the_first_one() {
        let (wait, now) = (RemoteWait::default(), Instant::now());
        let deadline = now + Duration::from_secs(2);
        assert_eq!(wait.deadline(now, 2.0), Some(deadline));
        let later = now + Duration::from_secs(1);
        assert_eq!(wait.deadline(later, 2.0), Some(deadline));
        assert_eq!(wait.deadline(deadline, 2.0), None);
        wait.skip();
        assert_eq!(wait.deadline(later, 2.0), None);
        assert_eq!(RemoteWait::default().deadline(now, 0.0), None);
    }
}
