//! The thread of a tier.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::tier::{SharedTier, Tier};
use crate::process::shutdown;
use crate::{events, threads};

/// How long the thread rests between two turns.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the thread of a tier without users tries to upload pending rows.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(600);

/// Starts the thread. It ends when all users have dropped the tier and nothing is left to be uploaded, or cannot be for
/// long: the journal has the rows, for the next process or tier.
pub(super) fn start(shared: &Arc<SharedTier>) {
    // After the client of the object store was made, whose libraries may have registered hooks.
    shutdown::register_exit_hook_again();
    let (tier, users) = (shared.tier.clone(), Arc::downgrade(shared));
    let run = move || run(&tier, &users);
    if let Err(error) = threads::spawn_detached("torchcache-remote", run) {
        // No catalog comes.
        shared.tier.has_waited.store(true, Ordering::Relaxed);
        shared.tier.uploader.end();
        let dir = shared.store.dir().to_owned();
        events::emit(move || {
            tracing::warn!(
                dir = %dir.display(),
                "cannot start the thread of the remote tier, so no rows are found there, and they are uploaded \
                 by `flush_remote` only: {error}"
            );
        });
    }
}

fn run(tier: &Tier, users: &Weak<SharedTier>) {
    let mut pause = Duration::ZERO;
    let mut unused_until = None;
    loop {
        let end = tier.uploader.next_turn(pause);
        pause = INTERVAL;
        let user = users.upgrade();
        let is_used = user.is_some();
        let work = || match (end, &user) {
            (Some(until), _) => tier.finish(until),
            (None, Some(user)) => tier.work(&user.store),
            (None, None) => tier.drain(),
        };
        // A log subscriber may panic, and so may code of the program that drops queued rows.
        let _ = catch_unwind(AssertUnwindSafe(work));
        drop(user);
        if end.is_some() {
            tier.uploader.end_turn();
        }
        if is_used {
            continue;
        }
        let now = tier.remote.now();
        let unused_until = *unused_until.get_or_insert(now + UNUSED_TIMEOUT);
        let gives_up = tier.remote.is_blocked() || now >= unused_until;
        if gives_up || !tier.remote.has_pending() {
            return tier.uploader.end();
        }
    }
}
