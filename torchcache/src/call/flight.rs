//! Single flight: calls that miss the same rows at the same time compute each of them once. A call begins a flight of
//! the rows that no other computes, stores them, ends the flight, and only then waits for the others'.
//!
//! A thread waits only while it has no flight in progress, also none of a call whose body it is in. So no threads wait
//! for each other.

use std::time::{Duration, Instant};

use tch::Device;
use torchcache_store::flight::may_wait;

use super::frame::Frame;
use super::lookup::Lookup;
use super::outcome::Stop;
use super::{CachedCall, bypass};
use crate::argument::SelectedRows;
use crate::cache::flights::{AwaitedRows, FlightKey, HandedRows, OwnRows};
use crate::cache::stats::Counters;
use crate::cache::warnings::Reason;
use crate::key::Key;
use crate::memory::rows::PackedRows;
use crate::output::Output;

/// How a call gets its missing rows.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plan {
    /// It computes them, on the whole batch.
    Whole,
    /// It computes them alone.
    Cut,
    /// It computes those alone that are not left to other calls, and waits for these.
    Wait,
}

impl CachedCall<'_> {
    /// Computes the missing rows and gives them to the tiers, or waits for other calls that compute them.
    pub(super) fn complete<O: Output>(
        &self,
        lookup: &mut Lookup,
        frame: &Frame<'_>,
        code: &[u8; 32],
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<(), Stop<O>> {
        let mut code = *code;
        let mut deadline = None;
        while lookup.has_missing() {
            let may_wait = may_wait();
            let (own, awaited) = self.begin_flight(lookup)?;
            let plan = match may_wait && !awaited.is_empty() && self.is_time_left(deadline) {
                true => self.leave_to_others(lookup, &awaited, deadline.is_some()),
                false => self.plan_forward(lookup),
            };
            // No row is copied for a call that does not wait.
            let awaited = (plan == Plan::Wait).then_some(awaited);
            if lookup.has_missing() {
                let is_cut = plan != Plan::Whole;
                let unchanged = self.compute_and_store(lookup, own, is_cut, frame, &code, body)?;
                if let Err(reason) = unchanged {
                    if awaited.is_some() || deadline.is_some() {
                        // Rows of before a change do not fit those of after it.
                        return Err(reason.into());
                    }
                    bypass::count(self.target, self.counters, &reason);
                }
            } else {
                drop(own);
            }
            let Some(awaited) = awaited else {
                return Ok(());
            };
            let until = *deadline.get_or_insert_with(|| Instant::now() + self.waiting_timeout());
            let is_in_vain = self.wait_for(lookup, awaited, until)?;
            if !lookup.has_missing() {
                return Ok(());
            }
            let now = self.code();
            if now != code {
                // The other call stored them by keys that have the code of functions that it called first.
                code = now;
                *lookup = Lookup::new(self.row_keys(&code)?);
                self.find_again(lookup)?;
                self.allocate_output(lookup);
            } else if is_in_vain {
                // It may have stored them by such keys, which this handle learns as it computes them itself: several
                // handles do so at the same time.
                deadline = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Begins a flight of the missing rows that no other call computes; the others are awaited.
    fn begin_flight<O>(
        &self,
        lookup: &mut Lookup,
    ) -> Result<(Option<OwnRows<'_>>, AwaitedRows), Stop<O>> {
        let epoch = self.epoch.filter(|_| lookup.takes_found());
        let Some(epoch) = epoch.filter(|_| !self.waiting_timeout().is_zero()) else {
            return Ok(Default::default());
        };
        let flights = self.cache.tiers.flights();
        loop {
            let missing = lookup.missing();
            let keys = missing.map(|(position, key)| (position, FlightKey { key, epoch }));
            let begun = flights.begin(keys);
            if flights.ended() == lookup.flights_ended() {
                return Ok(begun);
            }
            // Another call may have stored some of them after this one looked: those are of no flight.
            let missing = lookup.missing().count();
            self.find_again(lookup)?;
            if lookup.missing().count() == missing {
                return Ok(begun);
            }
        }
    }

    /// Leaves the awaited rows to the calls that compute them, unless the forward for the other rows takes the whole batch.
    fn leave_to_others(
        &self,
        lookup: &mut Lookup,
        awaited: &AwaitedRows,
        has_waited: bool,
    ) -> Plan {
        let own = lookup.missing().count() - awaited.positions().count();
        if own > 0 && !self.tries_cut(own) {
            return Plan::Whole;
        }
        if own != 1 || lookup.has_found() {
            lookup.leave_to_others(awaited.positions());
        } else if !has_waited {
            // The awaited rows will show its shape.
            lookup.leave_all_to_others();
        } else {
            return Plan::Whole;
        }
        Plan::Wait
    }

    fn plan_forward(&self, lookup: &Lookup) -> Plan {
        match self.cuts_missing(lookup) {
            true => Plan::Cut,
            false => Plan::Whole,
        }
    }

    /// Whether the call may wait until its deadline, or for the first time.
    fn is_time_left(&self, deadline: Option<Instant>) -> bool {
        match deadline {
            Some(deadline) => Instant::now() < deadline,
            None => self.method.waits.allows(),
        }
    }

    fn waiting_timeout(&self) -> Duration {
        let of_method = self.function.options.single_flight_timeout;
        let seconds = of_method.unwrap_or_else(|| self.options.single_flight_timeout());
        Duration::from_secs_f64(seconds)
    }

    /// Computes the missing rows. They are given to the tiers, and to calls that wait for them, unless the inner error
    /// says how the module changed meanwhile: a hit would not repeat what the forward changed, and rows of weights
    /// that changed are those of no module hash.
    fn compute_and_store<O: Output>(
        &self,
        lookup: &mut Lookup,
        own: Option<OwnRows<'_>>,
        is_cut: bool,
        frame: &Frame<'_>,
        code: &[u8; 32],
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<Result<(), Reason>, Stop<O>> {
        let (start, rows) = (Instant::now(), lookup.missing().count());
        // Calls that wait for rows which are not kept would run one after another.
        let computed = self
            .compute_missing(lookup, is_cut, body)
            .and_then(|computed| {
                self.check_shape(lookup, Some(&computed.schema), body)?;
                Ok(computed)
            })
            .inspect_err(|_| self.method.waits.note_failure())?;
        if computed.bytes.device() == Device::Cpu {
            // Of others, only queueing was measured.
            self.method.fetch_costs.note_forward(rows, start.elapsed());
        }
        let unchanged = self.check_unchanged();
        if unchanged.is_ok() {
            let keys = self.keys_to_store(lookup, frame, code)?;
            self.store(&keys, &computed);
            if let Some(own) = own {
                own.end(|awaited| {
                    // Else they are rows of other keys than those that are awaited.
                    let is_same = keys == lookup.missing_keys();
                    is_same.then(|| self.hand_over(&computed, &keys, awaited))?
                });
            }
        }
        lookup.add_computed(computed);
        Ok(unchanged)
    }

    /// Copies computed rows for the calls that wait for them.
    fn hand_over(
        &self,
        computed: &PackedRows,
        keys: &[Key],
        awaited: &[FlightKey],
    ) -> Option<HandedRows> {
        let copied = HandedRows::copy(computed, keys, awaited);
        copied.inspect_err(|error| self.memory_fault(error)).ok()
    }

    /// Waits for the rows that were left to other calls, until a deadline. They stay missing where those fail or take too
    /// long. Returns whether some do although none failed.
    fn wait_for<O>(
        &self,
        lookup: &mut Lookup,
        awaited: AwaitedRows,
        deadline: Instant,
    ) -> Result<bool, Stop<O>> {
        tracing::debug!(
            module = self.target.name(),
            rows = lookup.left_to_others(),
            "waits for rows that other calls compute"
        );
        let positions: Vec<usize> = awaited.positions().collect();
        let start = Instant::now();
        let arrived = awaited.wait(deadline);
        Counters::time(&self.counters.time.waiting, start);
        // As a call that begins now would: the rows are those of the module as it was.
        self.check_unchanged()?;
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
        if arrived.is_late && lookup.has_missing() {
            self.method.waits.note_failure();
            self.warn_once(&Reason::Waited(self.waiting_timeout()));
        } else if !arrived.is_late && !arrived.has_failed {
            self.method.waits.note_success();
        }
        let is_in_vain = positions.into_iter().any(|it| lookup.is_missing(it));
        Ok(is_in_vain && !arrived.has_failed)
    }
}
