//! The path of a call: keys of the rows → memory → disk → forward the misses → store → verify →
//! assemble.
//!
//! [`Call::through_the_cache`] is that sentence; each step is a method below it, in that order, but
//! for verifying, which is off by default and in [`recheck`].

pub(crate) mod assemble;
pub(crate) mod bypass;
pub(crate) mod insert;
pub(crate) mod lookup;
pub(crate) mod outcome;
pub(crate) mod recheck;

use std::sync::Arc;
use std::time::Instant;

use tch::{Device, TchError, Tensor};
use torchcache_store::{RowBatch, Store};

use crate::argument::{Arguments, Rows};
use crate::cache::handle::Cache;
use crate::cache::stats::Counters;
use crate::cache::target::Subject;
use crate::error::{Error, Problem};
use crate::function::Function;
use crate::key::{Context, Key};
use crate::options::Options;
use crate::output::{Batched, Output, structure};
use crate::schema::Schema;
use crate::tensor::layout;
use crate::tensor::raw;

use bypass::Reason;
use insert::Incoming;
use lookup::{Batch, Unreadable};
use outcome::parts;

/// Calls `body` through the cache of `subject`: only for rows that were never computed.
///
/// # Panics
///
/// On misuse, where the output is no `Result` that could hold the error.
#[track_caller]
pub(crate) fn call<O: Output>(
    subject: &dyn Subject,
    function: &Function,
    arguments: &Arguments,
    body: &dyn Fn(&Rows) -> O,
) -> O {
    match cached(subject, function, arguments, body) {
        Ok(output) | Err(Stop::Return(output)) => output,
        Err(Stop::Past(reason)) => bypass::past_the_cache(subject, reason, arguments, body),
        Err(Stop::Misuse(error)) => O::fail(error.in_module(&subject.name())),
    }
}

/// Why a call ends before its output is assembled.
pub(crate) enum Stop<O> {
    /// The output is there: nothing to cache, or the forward failed.
    Return(O),
    /// The cache cannot serve this call: the body runs on all of it.
    Past(Reason),
    Misuse(Error),
}

impl<O> From<Problem> for Stop<O> {
    fn from(problem: Problem) -> Self {
        Stop::Misuse(problem.into())
    }
}

fn cached<O: Output>(
    subject: &dyn Subject,
    function: &Function,
    arguments: &Arguments,
    body: &dyn Fn(&Rows) -> O,
) -> Result<O, Stop<O>> {
    if bypass::switched_off() {
        return Ok(body(&Rows::all(arguments)));
    }
    let attached = subject.handle().attach(subject).map_err(Stop::Misuse)?;
    let Some(cache) = attached.in_use() else {
        return Ok(body(&Rows::all(arguments)));
    };
    let counters = &subject.handle().counters;
    Counters::add(&counters.calls, 1);
    let rows = arguments.rows(function)?;
    bypass::check(function, arguments, rows).map_err(Stop::Past)?;
    let home = cache.home.unwrap_or_else(|| arguments.home());
    let options = &attached.options;
    Call {
        subject,
        function,
        arguments,
        options,
        cache,
        counters,
        home,
        structure: structure::<O>(),
    }
    .through_the_cache(body)
}

/// One call that the cache may serve.
pub(crate) struct Call<'a> {
    pub(crate) subject: &'a dyn Subject,
    function: &'a Function,
    pub(crate) arguments: &'a Arguments<'a>,
    pub(crate) options: &'a Options,
    cache: &'a Cache,
    pub(crate) counters: &'a Counters,
    /// Where the module's outputs are at home: the device of its weights, else of its input.
    pub(crate) home: Device,
    /// That of the output's type, as text.
    structure: String,
}

/// What the forward gave for some rows.
pub(crate) struct Computed {
    pub(crate) schema: Arc<Schema>,
    pub(crate) packed: Tensor,
}

impl Call<'_> {
    fn through_the_cache<O: Output>(&self, body: &dyn Fn(&Rows) -> O) -> Result<O, Stop<O>> {
        let mut batch = Batch::new(self.keys_of_the_rows()?);
        self.refuse_ambiguous_ids(&batch)?;
        self.take_from_memory(&mut batch)?;
        self.take_from_disk(&mut batch)?;
        if batch.has_missing() {
            let computed = self.forward_the_misses(&batch, body)?;
            self.store(&mut batch, computed)?;
        }
        if self.options.verify > 0.0 {
            self.verify_some(&batch, body)?;
        }
        self.assemble(batch)
    }

    fn keys_of_the_rows<O>(&self) -> Result<Vec<Key>, Stop<O>> {
        let start = Instant::now();
        let shared = self.subject.handle().digests_of(&self.arguments.shared);
        let keys = shared.and_then(|shared| {
            let context = Context {
                module_hash: &self.cache.identity.hash,
                options: self.options,
                function: self.function.name,
                output: &self.structure,
                shared: &shared,
            };
            context.keys(self.arguments)
        });
        Counters::time(&self.counters.hashing, start);
        keys.map_err(|error| {
            Counters::add(&self.counters.hashing_faults, 1);
            Stop::Past(Reason::Unreadable(error))
        })
    }

    /// Rows of one id are one sample: which of them should the forward get, if they differ?
    fn refuse_ambiguous_ids<O>(&self, batch: &Batch) -> Result<(), Stop<O>> {
        let Some(ids) = &self.arguments.ids else {
            return Ok(());
        };
        let (first, second) = batch.repeated_rows();
        if second.is_empty() {
            return Ok(());
        }
        let differing = self.arguments.first_difference(&first, &second);
        match differing.map_err(|error| Stop::Past(Reason::Unreadable(error)))? {
            None => Ok(()),
            Some((argument, place)) => Err(Stop::from(Problem::SameId {
                ids: self.function.argument(ids.position),
                first: first[place],
                second: second[place],
                argument: self.arguments.name(self.function, argument),
            })),
        }
    }

    fn take_from_memory<O>(&self, batch: &mut Batch) -> Result<(), Stop<O>> {
        let start = Instant::now();
        let taken = {
            let mut memory = self.cache.tiers.memory();
            memory.note(batch.keys());
            batch.take_from_memory(&mut memory, self.home)
        };
        Counters::time(&self.counters.loading, start);
        taken.unwrap_or_else(|error| self.memory_fault(&error));
        one_schema(batch)
    }

    fn take_from_disk<O>(&self, batch: &mut Batch) -> Result<(), Stop<O>> {
        let Some(store) = self
            .cache
            .tiers
            .store
            .as_ref()
            .filter(|_| batch.has_missing())
        else {
            return Ok(());
        };
        let start = Instant::now();
        match batch.take_from_disk(store) {
            Ok(None) => {}
            Ok(Some(read)) => {
                if let Some(incoming) = self.incoming(&read.keys, &read.schema, &read.packed)
                    && let Err(error) = incoming.publish(self.home)
                {
                    self.memory_fault(&error);
                }
            }
            Err(Unreadable::Tensor(error)) => self.memory_fault(&error),
            Err(Unreadable::Layout) => {
                Counters::add(&self.counters.layout_faults, 1);
                bypass::tell_once(self.subject, &Reason::ForeignRows);
            }
        }
        Counters::time(&self.counters.loading, start);
        one_schema(batch)
    }

    /// Runs the body once, on all missing rows together. No lock is held.
    fn forward_the_misses<O: Output>(
        &self,
        batch: &Batch,
        body: &dyn Fn(&Rows) -> O,
    ) -> Result<Computed, Stop<O>> {
        let rows = if batch.misses_whole() {
            Rows::all(self.arguments)
        } else {
            Rows::selected(self.arguments, &batch.missing_rows())
                .map_err(|error| Stop::Past(Reason::Unreadable(error)))?
        };
        let start = Instant::now();
        let output = body(&rows);
        Counters::time(&self.counters.forward, start);
        let (tensors, lengths) = parts(output, rows.count())?;
        self.computed(&tensors, &lengths).map_err(|reason| {
            if !batch.misses_whole() {
                return Stop::Past(reason);
            }
            // The body has run on the whole batch already: its output is the answer.
            bypass::count(self.subject, &reason);
            let (mut tensors, mut lengths) = (tensors.into_iter(), lengths.into_iter());
            let value = O::Value::put_together(&mut tensors, &mut lengths);
            Stop::Return(O::of(value.expect("parts fit where they were taken from")))
        })
    }

    /// Rows as the tiers keep them: rounded and packed.
    pub(crate) fn computed(&self, tensors: &[Tensor], lengths: &[u32]) -> Result<Computed, Reason> {
        if tensors.is_empty() {
            return Err(Reason::NoTensors);
        }
        if !tensors.iter().all(layout::is_plain) {
            return Err(Reason::OutputLayout);
        }
        let schema = || -> Result<_, TchError> {
            let lengths = lengths.to_vec();
            let (structure, dtype) = (&self.structure, self.options.cache_dtype);
            let schema = Schema::of(structure, tensors, lengths, dtype, self.home)?;
            let packed = schema.pack(tensors)?;
            Ok(Computed {
                schema: Arc::new(schema),
                packed,
            })
        };
        let computed = schema().map_err(Reason::Unreadable)?;
        if computed.schema.fits() {
            Ok(computed)
        } else {
            Err(Reason::OutputLayout)
        }
    }

    /// Hands the computed rows to both tiers and to the batch.
    fn store<O>(&self, batch: &mut Batch, computed: Computed) -> Result<(), Stop<O>> {
        let Computed { schema, mut packed } = computed;
        if !batch.admits(&schema) {
            return Err(Stop::Past(Reason::ChangingShape));
        }
        let start = Instant::now();
        let keys = batch.missing_keys();
        let mut incoming = self.incoming(&keys, &schema, &packed);
        if let Some(store) = &self.cache.tiers.store {
            // The disk is asked first, so that memory never holds another value than it.
            match put_on_disk(store, &keys, &schema, &packed, incoming.as_ref()) {
                Ok(None) => {}
                Ok(Some(there)) => {
                    if let Some(incoming) = &mut incoming {
                        incoming.withdraw(&there.found());
                    }
                    self.lay_over(&mut packed, there);
                }
                Err(error) => self.memory_fault(&error),
            }
        }
        match incoming.map(|incoming| incoming.publish(self.home)) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(held))) => self.lay_over(&mut packed, held),
            Some(Err(error)) => self.memory_fault(&error),
        }
        Counters::add(&self.counters.stored, keys.len());
        Counters::time(&self.counters.storing, start);
        batch.take_computed(schema, packed);
        Ok(())
    }

    fn assemble<O: Output>(&self, batch: Batch) -> Result<O, Stop<O>> {
        let start = Instant::now();
        let tally = batch.tally();
        let assembled = batch.assemble(self.home);
        Counters::time(&self.counters.loading, start);
        let (schema, tensors) = assembled.map_err(|error| Stop::Past(Reason::Unreadable(error)))?;
        self.counters.tally(tally);
        let (memory, disk, computed) = (tally.memory, tally.disk, tally.computed);
        tracing::debug!(
            module = self.subject.name(),
            memory,
            disk,
            computed,
            "{} rows",
            tally.rows
        );
        let mut lengths = schema.lengths().iter().copied();
        let value = O::Value::put_together(&mut tensors.into_iter(), &mut lengths);
        // Keys hold the structure of the output, so only a forged row gets here without one.
        value.map(O::of).ok_or(Stop::Past(Reason::ForeignRows))
    }

    /// Rows that are about to be in memory; `None` where they cannot be.
    fn incoming<'a>(
        &'a self,
        keys: &'a [Key],
        schema: &'a Arc<Schema>,
        packed: &Tensor,
    ) -> Option<Incoming<'a>> {
        let own = schema.device(self.home);
        let device = self.options.memory_cache_device.unwrap_or(own);
        Incoming::fill(&self.cache.tiers, keys, schema, packed, device)
            .inspect_err(|error| self.memory_fault(error))
            .ok()
    }

    /// Puts rows that another thread or process had first in place of those just computed: they are
    /// the value from now on.
    fn lay_over(&self, packed: &mut Tensor, there: Batch) {
        if let Err(error) = there.lay_over(packed) {
            self.memory_fault(&error);
        }
    }

    /// A fault is a miss: what could not be held or copied is computed again.
    pub(crate) fn memory_fault(&self, error: &TchError) {
        Counters::add(&self.counters.memory_faults, 1);
        bypass::tell_once(self.subject, &Reason::MemoryTier(bypass::brief(error)));
    }
}

fn one_schema<O>(batch: &Batch) -> Result<(), Stop<O>> {
    if batch.is_mixed() {
        Err(Stop::Past(Reason::ChangingShape))
    } else {
        Ok(())
    }
}

/// Queues rows for the disk. Those that are there already come back: their values are the rows from
/// now on.
fn put_on_disk(
    store: &Store,
    keys: &[Key],
    schema: &Schema,
    packed: &Tensor,
    incoming: Option<&Incoming<'_>>,
) -> Result<Option<Batch>, TchError> {
    let (described, row_bytes) = (schema.encode().into(), schema.row_bytes());
    let rows = match incoming.and_then(Incoming::values) {
        Some(pinned) => RowBatch::shared(keys.to_vec(), described, pinned, row_bytes),
        None => {
            let copied = raw::view(&layout::on_cpu(packed)?)?.to_vec();
            RowBatch::new(keys.to_vec(), described, copied, row_bytes)
        }
    };
    let rows = rows.map_err(|error| TchError::Shape(error.to_string()))?;
    let rows = rows.element_bytes(schema.element_bytes());
    let winners = store.put(rows);
    let present: Vec<usize> = winners.iter().map(|(position, _)| *position).collect();
    if present.is_empty() {
        return Ok(None);
    }
    let mut there = Batch::of_some(keys, present);
    match there.take_from_disk(store) {
        Ok(_) => Ok(there.agreeing(schema)),
        Err(_) => Ok(None),
    }
}
