//! Rows of the remote tier: found within the time that a call may wait for it, unless computing them takes less.

use std::time::Instant;

use torchcache_store::remote_tier::RemoteTier;

use super::CachedCall;
use super::lookup::Lookup;
use super::outcome::Stop;
use super::store::Origin;
use crate::cache::stats::Counters;
use crate::cache::warnings::Reason;

impl CachedCall<'_> {
    /// Finds missing rows that are in the remote, which the nearer tiers then keep.
    pub(super) fn find_remotely<O>(&self, lookup: &mut Lookup) -> Result<(), Stop<O>> {
        let remote = self.cache.tiers.remote.as_ref();
        let Some(remote) = remote.filter(|_| lookup.has_missing()) else {
            return Ok(());
        };
        let start = Instant::now();
        let timeout = self.options.remote_timeout();
        let Some(deadline) = self.remote_wait.deadline(start, timeout) else {
            return Ok(());
        };
        let found = self.fetch(remote, lookup, deadline);
        Counters::time(&self.counters.time.fetching, start);
        found.or_else(|reason| self.miss(reason))
    }

    fn fetch(
        &self,
        remote: &RemoteTier,
        lookup: &mut Lookup,
        deadline: Instant,
    ) -> Result<(), Reason> {
        let Some(located) = lookup.locate_remotely(remote, deadline)? else {
            return Ok(());
        };
        let (rows, bytes) = (located.positions().len(), located.bytes());
        let costs = &self.method.fetch_costs;
        if costs.prefers_forward(rows, bytes) {
            self.remote_wait.skip();
            Counters::add(&self.counters.remote.skipped, rows);
            return Ok(());
        }
        let start = Instant::now();
        if let Some((keys, rows)) = lookup.find_remotely(remote, located, deadline)? {
            costs.note_fetch(keys.len() * rows.schema.row_bytes(), start.elapsed());
            let device = self.memory_device(&rows.schema);
            self.writer().store(&keys, &rows, device, Origin::Remote);
        }
        Ok(())
    }
}
