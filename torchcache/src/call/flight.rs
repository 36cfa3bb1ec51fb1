//! Single flight: calls that miss the same rows at the same time compute each of them once. A call claims the rows
//! that no other computes, computes and stores them, and only then waits for the others'. So a call that others wait
//! for waits for none; and a call inside the body of another one, which others may wait for, never waits.

use std::time::{Duration, Instant};

use super::CachedCall;
use super::frame::Frame;
use super::lookup::Lookup;
use super::outcome::Stop;
use crate::cache::flights::{AwaitedRows, FlightKey, HandedRows, RowClaims};
use crate::cache::stats::Counters;
use crate::cache::warnings::Reason;
use crate::key::Key;
use crate::memory::rows::PackedRows;

impl CachedCall<'_> {
    /// Claims the missing rows that no other call computes. Those that others compute are left to them, unless this
    /// call must not wait. `deadline`: of a call that has waited before.
    pub(super) fn claim_missing<O>(
        &self,
        lookup: &mut Lookup,
        frame: &Frame<'_>,
        deadline: Option<Instant>,
    ) -> Result<(Option<RowClaims<'_>>, Option<AwaitedRows>), Stop<O>> {
        let Some(epoch) = self.epoch.filter(|_| !self.waiting_timeout().is_zero()) else {
            return Ok((None, None));
        };
        let flights = self.cache.tiers.flights();
        let keys = lookup.missing();
        let (claims, mut awaited) =
            flights.claim(keys.map(|(position, key)| (position, FlightKey { key, epoch })));
        if flights.ended() != self.flights_ended {
            // Another call may have stored them after this one looked.
            self.find_again(lookup)?;
            awaited.retain(|position| lookup.is_missing(position));
        }
        let own = lookup.missing().count() - awaited.positions().count();
        // None of the rows would show that a single one, computed first, lost a dimension.
        let is_unchecked = own == 1 && !lookup.has_found();
        // A forward over the whole batch computes all rows.
        let computes_all =
            own > 0 && self.takes_whole_batches() || is_unchecked && deadline.is_some();
        let may_wait = || match deadline {
            None => self.method.waits.allows(),
            Some(deadline) => Instant::now() < deadline,
        };
        let waits = !awaited.is_empty() && !computes_all && frame.is_outermost() && may_wait();
        if waits {
            match is_unchecked {
                true => lookup.leave_all_to_others(),
                false => lookup.leave_to_others(awaited.positions()),
            }
        }
        Ok((Some(claims), waits.then_some(awaited)))
    }

    fn waiting_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.options.single_flight_timeout())
    }

    /// Copies computed rows for the calls that wait for them.
    pub(super) fn hand_over(
        &self,
        computed: &PackedRows,
        keys: &[Key],
        awaited: &[FlightKey],
    ) -> Option<HandedRows> {
        let copied = HandedRows::copy(computed, keys, awaited);
        copied.inspect_err(|error| self.memory_fault(error)).ok()
    }

    /// Waits for the rows that were left to other calls, until the deadline, which begins with the first wait. They
    /// stay missing where those failed or take too long.
    pub(super) fn wait_for<O>(
        &self,
        lookup: &mut Lookup,
        awaited: AwaitedRows,
        deadline: &mut Option<Instant>,
    ) -> Result<(), Stop<O>> {
        tracing::debug!(
            module = self.target.name(),
            rows = lookup.left_to_others(),
            "waits for rows that other calls compute"
        );
        let start = Instant::now();
        let arrived = awaited.wait(*deadline.get_or_insert(start + self.waiting_timeout()));
        Counters::time(&self.counters.time.waiting, start);
        // As a call that begins now would: the rows are those of the module as it was.
        let handle = self.target.handle();
        handle.check_unchanged(self.target, self.cache)?;
        lookup.take_back();
        for (positions, rows) in arrived.values {
            match rows.rows_at(lookup.still_missing(positions), lookup.keys()) {
                Ok((positions, rows)) => lookup.add_handed(positions, rows)?,
                Err(error) => self.memory_fault(&error),
            }
        }
        if lookup.has_missing() {
            self.find_again(lookup)?;
        }
        if !arrived.is_late {
            self.method.waits.note_success();
        } else if lookup.has_missing() {
            self.method.waits.note_failure();
            self.warn_once(&Reason::Waited(self.waiting_timeout()));
        }
        Ok(())
    }
}
