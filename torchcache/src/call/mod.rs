//! The path of a call, from the keys of its rows to its output.
//!
//! [`run_cached`] is the path, top-down; the steps are the methods below it, in the same order. No
//! lock is held while the body runs.

mod assemble;
pub(crate) mod bypass;
mod cut;
mod disk;
mod flight;
mod frame;
mod import;
mod insert;
mod lookup;
mod outcome;
mod peek;
mod read_ahead;
mod recheck;
mod remote;
mod remote_wait;
mod request;
mod requested;
mod shapes;
mod store;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use tch::{Device, TchError, Tensor};

use crate::argument::{Arguments, PlainArguments, SelectedRows};
use crate::cache::epoch::Epoch;
use crate::cache::handle::OpenCache;
use crate::cache::methods::{CodeDigest, Method};
use crate::cache::stats::Counters;
use crate::cache::target::Target;
use crate::cache::warnings::Reason;
use crate::error::{self, Detail};
use crate::function::Function;
use crate::identity::options_digest;
use crate::key::{Key, KeyContext};
use crate::memory::Memory;
use crate::memory::rows::PackedRows;
use crate::options::{Options, environment};
use crate::output::{Batched, Output, structure};
use crate::schema::{CallDevices, TensorSchema};

use frame::Frame;
pub use import::Imported;
use lookup::Lookup;
use outcome::{Flattened, Stop, Unfit};
pub use peek::{PeekedRow, Tier};
use recheck::{Comparison, Recomputing};
use remote_wait::RemoteWait;
use store::{Origin, TierWriter};

/// Runs `body` through the cache of `target`: on the rows that no tier holds. `training`: the call bypasses the cache.
/// `describe` reads the arguments, plain ones if it is passed `true`.
///
/// # Panics
///
/// On misuse, unless the output is a `Result` that can hold the error.
#[track_caller]
pub(crate) fn run<'a, O: Output>(
    target: &dyn Target,
    function: &'static Function,
    training: bool,
    describe: &dyn Fn(bool) -> Arguments<'a>,
    body: &dyn Fn(&SelectedRows) -> O,
) -> O {
    let arguments = &describe(!training && !environment::is_disabled());
    let plain = &|| describe(true).plain;
    let method = target.handle().method(|| target.row_name(), function);
    let request = request::of_call(target.handle());
    let run = loop {
        let callees = method.callee_count();
        if let Some(request) = request {
            let found = match training {
                true => Err(Stop::Bypass(Reason::Training)),
                false => {
                    CachedCall::find_requested::<O>(request, target, &method, arguments, plain)
                }
            };
            if let Some(placeholder) = request::answer(request, target, found) {
                return placeholder;
            }
        }
        let frame = Frame::enter(target, &method, &arguments.plain.functions);
        let run = match training {
            true => Err(Stop::Bypass(Reason::Training)),
            false => run_cached(target, &frame, arguments, plain, body),
        };
        // Rows of keys that have the code of functions that the body called first were not removed.
        if request.is_none() || run.is_err() || method.callee_count() == callees {
            break run;
        }
    };
    match run {
        Ok(output) | Err(Stop::Return(output)) => output,
        Err(Stop::Bypass(reason)) => {
            bypass::bypass(target, &method.counters, &reason, arguments, body)
        }
        Err(Stop::Misuse(error)) => O::from_error(error.in_module(&target.name())),
    }
}

type Run<O> = for<'a> fn(
    &dyn Target,
    &'static Function,
    bool,
    &dyn Fn(bool) -> Arguments<'a>,
    &dyn Fn(&SelectedRows) -> O,
) -> O;

/// Most functions return one tensor: their path is compiled with this crate, and not with each one that uses it.
#[used]
static RUN_TO_TENSOR: Run<Tensor> = run::<Tensor>;

fn run_cached<O: Output>(
    target: &dyn Target,
    frame: &Frame<'_>,
    arguments: &Arguments,
    plain: &dyn Fn() -> PlainArguments,
    body: &dyn Fn(&SelectedRows) -> O,
) -> Result<O, Stop<O>> {
    if environment::is_disabled() {
        return Ok(body(&SelectedRows::all(arguments)));
    }
    let attached = target.handle().attach(target)?;
    frame.attached_to(&attached);
    let Some(cache) = attached.enabled_cache() else {
        return Ok(body(&SelectedRows::all(arguments)));
    };
    let method = frame.method;
    cache.claim(target, method)?;
    Counters::add(&method.counters.calls, 1);
    let options = &attached.options;
    let mut call = CachedCall::new::<O>(target, method, arguments, plain, options, cache)?;

    let code = call.code();
    let mut lookup = Lookup::new(call.row_keys(&code)?);
    call.reject_ambiguous_ids(&lookup)?;
    // Inside a verified module, and of a placeholder, rows are computed, and neither looked up nor stored.
    let uses_tiers = !Recomputing::is_active() && !request::has_placeholder();
    if uses_tiers {
        call.find_in_memory(&mut lookup)?;
        call.find_on_disk(&mut lookup)?;
        call.find_remotely(&mut lookup)?;
        if lookup.has_found() && options.persistent_module_hash().is_none() {
            // Rows are stored by keys that have the code of all functions that the body called.
            method.note_callees_known();
        }
    }
    call.allocate_output(&mut lookup);
    if lookup.has_missing() {
        match uses_tiers {
            true => call.complete(&mut lookup, frame, &code, body)?,
            false => call.compute_without_storing(&mut lookup, body)?,
        }
        call.leave_out_unplaced(&mut lookup);
        call.compute_without_storing(&mut lookup, body)?;
    }
    call.check_shape(&lookup, None, body)?;
    call.check_one_row(&lookup, body)?;
    if uses_tiers && call.verified_share() > 0.0 {
        call.verify_hits(&lookup, body)?;
    }
    call.assemble(lookup)
}

/// One call that the cache serves.
struct CachedCall<'a> {
    target: &'a dyn Target,
    /// The rows of the batch.
    rows: i64,
    method: &'a Method,
    /// That of the method.
    function: &'a Function,
    arguments: &'a Arguments<'a>,
    /// Reads the plain arguments again.
    plain: &'a dyn Fn() -> PlainArguments,
    options: &'a Options,
    cache: &'a OpenCache,
    /// What it brings is kept in this epoch; in none before its lookup, and while rows are removed.
    epoch: Option<Epoch>,
    counters: &'a Counters,
    devices: CallDevices,
    /// The structure of the output type.
    structure: String,
    /// What the first keys of its rows have in common.
    prefix: OnceCell<Key>,
    remote_wait: RemoteWait,
}

impl<'a> CachedCall<'a> {
    /// A call whose arguments the cache can serve.
    fn new<O: Output>(
        target: &'a dyn Target,
        method: &'a Method,
        arguments: &'a Arguments<'a>,
        plain: &'a dyn Fn() -> PlainArguments,
        options: &'a Options,
        cache: &'a OpenCache,
    ) -> Result<Self, Stop<O>> {
        let function = method.function;
        bypass::check_layouts(function, arguments)?;
        let rows = arguments.rows(function)?;
        bypass::check(function, arguments, rows)?;
        bypass::hint_one_dimension(target, function, arguments, rows);
        Ok(CachedCall {
            target,
            rows,
            method,
            function,
            arguments,
            plain,
            options,
            cache,
            epoch: None,
            counters: &method.counters,
            devices: CallDevices::new(cache.module_device(), arguments.devices()),
            structure: structure::<O>(),
            prefix: OnceCell::new(),
            remote_wait: RemoteWait::default(),
        })
    }

    /// A digest of the code that the rows depend on, as far as it is known and not in the module hash.
    fn code(&self) -> [u8; 32] {
        let options = options_digest(&self.target.row_name(), self.options);
        self.method.row_code(self.hashed_functions(), options)
    }

    /// The functions whose code the module hash and the digests of plain arguments have.
    fn hashed_functions(&self) -> [&BTreeSet<CodeDigest>; 2] {
        let of_arguments = &self.arguments.plain.functions;
        [&self.cache.identity().functions, of_arguments]
    }

    fn row_keys<O>(&self, code: &[u8; 32]) -> Result<Vec<Key>, Stop<O>> {
        let start = Instant::now();
        let is_named = self.options.persistent_module_hash().is_some();
        let named = is_named.then(|| self.target.row_name());
        let context = KeyContext {
            module_hash: &self.cache.identity().hash,
            options: self.options,
            name: named.as_deref(),
            function: &self.function.full_name(),
            code: match is_named {
                true => self.function.options.version.as_bytes(),
                false => code,
            },
            output: &self.structure,
            shared: &self.target.handle().shared,
        };
        let keys = context.keys(self.arguments);
        Counters::time(&self.counters.time.hashing, start);
        let (prefix, keys) = keys.map_err(|error| {
            Counters::add(&self.counters.faults.hashing, 1);
            Stop::from(error)
        })?;
        self.prefix.get_or_init(|| prefix);
        self.reject_varying()?;
        Ok(keys)
    }

    fn key_prefix(&self) -> Key {
        *self.prefix.get().expect("a call begins with its keys")
    }

    /// The keys of the missing rows, now that they are computed. Where the body called functions whose code was
    /// not in the keys, these are keys that have it, which the next call looks up.
    fn keys_to_store<O>(
        &self,
        lookup: &Lookup,
        frame: &Frame<'_>,
        code: &[u8; 32],
    ) -> Result<Vec<Key>, Stop<O>> {
        frame.note_callees(self.hashed_functions());
        self.method.note_callees_known();
        let now = self.code();
        if now == *code {
            return Ok(lookup.missing_keys());
        }
        let keys = self.row_keys(&now)?;
        let rows = lookup.missing_rows().into_iter();
        Ok(rows.map(|row| keys[row as usize]).collect())
    }

    /// Rows with the same id must be equal: else the forward would have to choose one of them.
    fn reject_ambiguous_ids<O>(&self, lookup: &Lookup) -> Result<(), Stop<O>> {
        let Some(ids) = &self.arguments.ids else {
            return Ok(());
        };
        let (first, second) = lookup.repeated_rows();
        if second.is_empty() {
            return Ok(());
        }
        let difference = self.arguments.first_difference(&first, &second);
        match difference? {
            None => Ok(()),
            Some((argument, pair)) => Err(Stop::from(Detail::SameId {
                ids: self.function.argument(ids.position),
                first: first[pair],
                second: second[pair],
                argument: self.arguments.name(self.function, argument),
            })),
        }
    }

    /// The lookup in memory that begins the call's epoch.
    fn find_in_memory<O>(&mut self, lookup: &mut Lookup) -> Result<(), Stop<O>> {
        let start = Instant::now();
        let mut memory = self.cache.tiers.memory();
        self.epoch = self.cache.tiers.epoch(&memory);
        memory.note(lookup.keys());
        self.find_in(memory, start, lookup)
    }

    /// Finds missing rows that are in the tiers by now.
    fn find_again<O>(&self, lookup: &mut Lookup) -> Result<(), Stop<O>> {
        let start = Instant::now();
        self.find_in(self.cache.tiers.memory(), start, lookup)?;
        self.find_on_disk(lookup)?;
        self.find_remotely(lookup)
    }

    fn find_in<O>(
        &self,
        mut memory: MutexGuard<'_, Memory>,
        start: Instant,
        lookup: &mut Lookup,
    ) -> Result<(), Stop<O>> {
        lookup.note_flights_ended(self.cache.tiers.flights().ended());
        self.cache.tiers.mark_of_saved(&mut memory);
        let found = lookup.find_in_memory(&mut memory);
        drop(memory);
        Counters::time(&self.counters.time.loading, start);
        found.or_else(|reason| self.miss(reason))?;
        self.save_found(lookup);
        Ok(())
    }

    /// Gives rows found in memory to the disk tier that they are older than.
    fn save_found(&self, lookup: &Lookup) {
        let unsaved = lookup.unsaved_keys();
        if unsaved.is_empty() {
            return;
        }
        if let Err(error) = self.cache.tiers.save(&unsaved) {
            self.memory_fault(&error);
            self.target.handle().add_unwritten(unsaved.len() as u64);
        }
    }

    fn find_on_disk<O>(&self, lookup: &mut Lookup) -> Result<(), Stop<O>> {
        let store = self.cache.tiers.store.as_ref();
        let Some(store) = store.filter(|_| lookup.has_missing()) else {
            return Ok(());
        };
        let start = Instant::now();
        let memory_device = |schema: &TensorSchema| self.memory_device(schema);
        let found = lookup.find_on_disk(store, memory_device, &self.devices);
        if let Ok(Some((keys, rows))) = &found {
            let device = self.memory_device(&rows.schema);
            if let Some(insert) = self.writer().insert(keys, rows, None, device) {
                insert.publish();
            }
        }
        Counters::time(&self.counters.time.loading, start);
        found.map(|_| ()).or_else(|reason| self.miss(reason))
    }

    /// Makes all rows misses where the tensors of this call do not show on which device hits are returned, and no call
    /// like it has shown it before.
    fn leave_out_unplaced(&self, lookup: &mut Lookup) {
        if let Some(schema) = lookup.schema().filter(|schema| !self.devices.shows(schema)) {
            let schema = schema.clone();
            match self.method.placements.find(&self.devices, &schema) {
                Some(devices) => lookup.replace_schema(schema.on_devices(&devices)),
                None => lookup.forget_unplaced(),
            }
        }
    }

    /// Allocates the output on a device where rows were found, while nothing was computed yet. Where there is no
    /// memory for it, all rows are misses.
    fn allocate_output(&self, lookup: &mut Lookup) {
        self.leave_out_unplaced(lookup);
        if let Err(error) = lookup.allocate_output(&self.devices) {
            self.memory_fault(&error);
            lookup.forget_found();
        }
    }

    fn compute_without_storing<O: Output>(
        &self,
        lookup: &mut Lookup,
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<(), Stop<O>> {
        if lookup.has_missing() {
            let is_cut = self.cuts_missing(lookup);
            lookup.add_computed(self.compute_missing(lookup, is_cut, body)?);
        }
        Ok(())
    }

    /// Whether to compute all missing rows as a cut of the batch.
    fn cuts_missing(&self, lookup: &Lookup) -> bool {
        let has_cut = !lookup.misses_all() || self.arguments.padded_length().is_some();
        has_cut && self.may_cut(lookup, lookup.missing().count())
    }

    /// Runs the body once: on all missing rows together, or on the whole batch.
    fn compute_missing<O: Output>(
        &self,
        lookup: &Lookup,
        is_cut: bool,
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<PackedRows, Stop<O>> {
        let body = &|rows: &SelectedRows| {
            let start = Instant::now();
            let output = body(rows);
            Counters::time(&self.counters.time.forward, start);
            output
        };
        let missing = lookup.missing_rows();
        let length = self.arguments.cut_length(&missing)?;
        if lookup.misses_all() && length.is_none() {
            return self.compute_whole_batch(lookup, body);
        }
        if !is_cut {
            let computed = self.compute_whole_batch(lookup, body)?;
            return Ok(computed.select(&missing)?);
        }
        let selected = SelectedRows::select(self.arguments, &missing, length)?;
        let computed = match self.compute_cut(lookup, &selected, body)? {
            Ok(computed) => self
                .check_batch(lookup, &missing, length, &computed, body)?
                .map(|()| computed),
            failure => failure,
        };
        computed.map_err(|failure| self.repeat_whole_batch(failure, missing.len(), body))
    }

    /// Whether to run the body on some `rows` of the batch.
    fn may_cut(&self, lookup: &Lookup, rows: usize) -> bool {
        // One row alone may have another shape than in a batch of several, which no other row would show.
        let is_shape_known = rows > 1 || lookup.has_found();
        is_shape_known && self.tries_cut(rows)
    }

    /// Whether the body may take `rows` that are not a batch of the program. Where not, as it failed on such, this
    /// is one of those that are left out.
    fn tries_cut(&self, rows: usize) -> bool {
        !self.takes_whole_batches() && self.method.cuts.allows(rows)
    }

    fn takes_whole_batches(&self) -> bool {
        self.options.whole_batch() || self.function.options.whole_batch
    }

    /// Runs the body on the whole batch, as the program would without the cache.
    fn compute_whole_batch<O: Output>(
        &self,
        lookup: &Lookup,
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<PackedRows, Stop<O>> {
        let all = SelectedRows::all(self.arguments);
        let versions = all.versions(self.arguments);
        let output = Flattened::from_output(body(&all)).map_err(Stop::Return)?;
        let unwritten = self.check_unwritten(&all, &versions);
        let reason = match unwritten.and_then(|()| self.pack(lookup, &output, &all)) {
            Ok(computed) => {
                let rows: Vec<_> = (0..self.rows).collect();
                match self.check_batch(lookup, &rows, None, &computed, body)? {
                    Ok(()) => return Ok(computed),
                    Err(reason) => reason,
                }
            }
            Err(unfit) => self.bypass_reason(unfit)?,
        };
        bypass::count(self.target, self.counters, &reason);
        Err(Stop::Return(output.into_output()))
    }

    /// Runs the body on some rows of the batch. The inner error is how it failed, which it may do on
    /// these rows alone.
    fn compute_cut<O: Output>(
        &self,
        lookup: &Lookup,
        selected: &SelectedRows,
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<Result<PackedRows, Reason>, Stop<O>> {
        let rows = selected.count();
        let versions = selected.versions(self.arguments);
        let output = cut::attempt(|| body(selected)).map(Flattened::from_output);
        let unwritten = self.check_unwritten(selected, &versions);
        let pack = |output| self.pack(lookup, output, selected);
        let failure = match output {
            Err(panic) => format!("panicked (\"{panic}\")"),
            Ok(Err(_)) => "returned an error".to_owned(),
            Ok(Ok(output)) => match unwritten.and_then(|()| pack(&output)) {
                Ok(computed) => {
                    self.method.cuts.note_success(rows as usize);
                    return Ok(Ok(computed));
                }
                Err(Unfit::Gradient) => return Err(Detail::OutputRequiresGrad.into()),
                Err(Unfit::Rows { part, got }) => {
                    format!("returned {} of shape {got:?}", error::output(&part))
                }
                Err(Unfit::Reason(Reason::Libtorch(error))) => return Err(error.into()),
                Err(Unfit::Reason(Reason::NoTensors)) => "returned no tensor".to_owned(),
                Err(Unfit::Reason(Reason::OutputLayout)) => {
                    "returned a tensor that cannot be cut into rows".to_owned()
                }
                Err(Unfit::Reason(reason)) => return Ok(Err(reason)),
            },
        };
        Ok(Err(Reason::CutBatch {
            failure,
            rows,
            of: self.rows,
            lengths: selected.length().zip(self.arguments.padded_length()),
        }))
    }

    /// Runs the body on the whole batch, past the cache, after it failed on some `rows` of it.
    fn repeat_whole_batch<O: Output>(
        &self,
        failure: Reason,
        rows: usize,
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Stop<O> {
        Counters::add(&self.counters.bypassed, 1);
        let output = match Flattened::from_output(body(&SelectedRows::all(self.arguments))) {
            Ok(output) => output,
            Err(failed) => return Stop::Return(failed),
        };
        let reason = match output.check(&self.structure, self.rows) {
            Ok(()) => {
                self.method.cuts.note_failure(rows);
                failure
            }
            Err(unfit) => match self.bypass_reason(unfit) {
                Ok(reason) => reason,
                Err(misuse) => return misuse.into(),
            },
        };
        self.warn_once(&reason);
        Stop::Return(output.into_output())
    }

    /// Whether `computed` is what the tiers keep of `rows`, cut to `length` if they are padded: the inner error is why
    /// not. One row alone may have another shape than among several. And a first dimension that is not the batch may have
    /// its length, such as that of keys and values, `[2, batch, …]`, of two rows. Where that is in doubt, the body runs
    /// once on a few rows, of another number, to show it.
    fn check_batch<O: Output>(
        &self,
        lookup: &Lookup,
        rows: &[i64],
        length: Option<i64>,
        computed: &PackedRows,
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<Result<(), Reason>, Stop<O>> {
        let cuts = &self.method.cuts;
        // Not one, which could lose a dimension.
        let (few, is_alone) = match *rows {
            [row] => (vec![row; 2], true),
            [first, second] => (vec![first, second, second], false),
            _ => (rows[..2].to_vec(), false),
        };
        let count = rows.len() as i64;
        let is_doubtful = match is_alone {
            true => self.rows == 1 && !cuts.keeps_one_row(),
            false => {
                let mut tensors = computed.schema.tensors.iter();
                tensors.any(|tensor| tensor.shape.contains(&count))
            }
        };
        if !is_doubtful {
            return Ok(Ok(()));
        }
        match cuts.has_batch_first().filter(|_| !is_alone) {
            Some(true) => return Ok(Ok(())),
            Some(false) => return Ok(Err(Reason::BatchNotFirst(rows.len()))),
            None => {}
        }
        if self.epoch.is_none() || !self.tries_cut(few.len()) {
            return Ok(Ok(()));
        }
        let few = SelectedRows::select(self.arguments, &few, length)?;
        let output = cut::attempt(|| body(&few)).map(Flattened::from_output);
        let is_same = match output {
            Ok(Ok(output)) => match self.pack(lookup, &output, &few) {
                Ok(few) => Some(few.schema.agrees(&computed.schema)),
                Err(
                    Unfit::Rows { .. }
                    | Unfit::Reason(Reason::ChangingShape | Reason::ShapeFollowsInput),
                ) => Some(false),
                Err(_) => None,
            },
            // A body that fails says nothing.
            _ => None,
        };
        let Some(is_same) = is_same else {
            cuts.note_failure(few.count() as usize);
            return Ok(Ok(()));
        };
        match is_alone {
            true => cuts.note_one_row(is_same),
            false => cuts.note_batch_first(is_same),
        }
        Ok(match (is_same, is_alone) {
            (true, _) => Ok(()),
            (false, true) => Err(Reason::OneRow),
            (false, false) => Err(Reason::BatchNotFirst(rows.len())),
        })
    }

    /// The program may get a single row without the dimension of the batch, which cached rows have. Where
    /// that is in doubt, the body runs to show it.
    fn check_one_row<O: Output>(
        &self,
        lookup: &Lookup,
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<(), Stop<O>> {
        let cuts = &self.method.cuts;
        let is_hit = self.rows == 1 && lookup.hits().next().is_some();
        if !is_hit || cuts.keeps_one_row() {
            return Ok(());
        }
        // A body that fails says nothing about the cached row.
        let all = SelectedRows::all(self.arguments);
        let output = cut::attempt(|| body(&all));
        let Ok(Ok(output)) = output.map(Flattened::from_output) else {
            return Ok(());
        };
        match self.pack(lookup, &output, &all) {
            Err(Unfit::Rows { .. } | Unfit::Reason(Reason::ChangingShape)) => {
                bypass::count(self.target, self.counters, &Reason::OneRow);
                Err(Stop::Return(output.into_output()))
            }
            Ok(_) => {
                cuts.note_one_row(true);
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// Whether the module, and those among the plain arguments, are still what the keys were made of.
    ///
    /// # Errors
    ///
    /// One changed meanwhile, or cannot be read now.
    fn check_unchanged(&self) -> Result<(), Reason> {
        let handle = self.target.handle();
        handle.check_unchanged(self.target, self.cache)?;
        let before = &self.arguments.plain;
        if !before.may_change() {
            return Ok(());
        }
        let now = (self.plain)();
        match before.changed(&now) {
            _ if now.is_locked => Err(Reason::Locked),
            Some(position) => Err(Reason::ArgumentChanged(self.function.argument(position))),
            None => Ok(()),
        }
    }

    /// A hit does not repeat a write to an argument.
    fn check_unwritten(&self, rows: &SelectedRows, before: &[i64]) -> Result<(), Unfit> {
        let versions = rows.versions(self.arguments).into_iter().zip(before);
        let arguments = self.arguments.tensors.iter().chain(&self.arguments.shared);
        let mut written = arguments
            .zip(versions)
            .filter(|(_, (now, before))| now != *before);
        match written.next() {
            Some((argument, _)) => {
                let name = self.function.argument(argument.position);
                Err(Unfit::Reason(Reason::ArgumentWritten(name)))
            }
            None => Ok(()),
        }
    }

    /// Why the output of a whole batch goes past the cache; an error where it is a misuse.
    fn bypass_reason(&self, unfit: Unfit) -> Result<Reason, Detail> {
        match unfit {
            Unfit::Reason(reason) => Ok(reason),
            Unfit::Rows { .. } if self.rows == 1 => {
                self.method.cuts.note_one_row(false);
                Ok(Reason::OneRow)
            }
            Unfit::Rows { part, got } => {
                let rows = self.rows;
                Err(Detail::OutputRows { part, got, rows })
            }
            Unfit::Gradient => Err(Detail::OutputRequiresGrad),
        }
    }

    /// The output for some rows as the tiers keep them, rounded to `cache_dtype` and packed: of a
    /// schema that the rows found so far have.
    fn pack(
        &self,
        lookup: &Lookup,
        output: &Flattened,
        rows: &SelectedRows,
    ) -> Result<PackedRows, Unfit> {
        output.check(&self.structure, rows.count())?;
        let Flattened { tensors, lengths } = output;
        let (structure, dtype) = (&self.structure, self.options.cache_dtype());
        let lengths = lengths.clone();
        let schema = TensorSchema::from_outputs(structure, tensors, lengths, dtype, &self.devices)?;
        if !schema.fits() {
            return Err(Unfit::Reason(Reason::OutputLayout));
        }
        self.note_shape(lookup, rows, &schema)?;
        let bytes = schema.pack(tensors)?;
        let schema = Arc::new(schema);
        for unplaced in [Some(&schema), lookup.unplaced()].into_iter().flatten() {
            if !self.devices.shows(unplaced) {
                let outputs = tensors.iter().map(Tensor::device).collect();
                self.method
                    .placements
                    .learn(&self.devices, unplaced, outputs);
            }
        }
        Ok(PackedRows { schema, bytes })
    }

    /// Hands computed rows to the tiers, which keep the first copy of each row.
    fn store(&self, keys: &[Key], computed: &PackedRows) {
        let start = Instant::now();
        let device = self.memory_device(&computed.schema);
        let origin = Origin::Computed;
        self.writer().store(keys, computed, device, origin);
        Counters::add(&self.counters.stored, keys.len());
        Counters::time(&self.counters.time.storing, start);
    }

    fn writer(&self) -> TierWriter<'_, impl Fn() -> String> {
        TierWriter {
            handle: self.target.handle(),
            name: || self.target.name(),
            tiers: &self.cache.tiers,
            counters: self.counters,
            epoch: self.epoch,
        }
    }

    /// The share of hits to compute again: the larger one of the module's and the method's.
    fn verified_share(&self) -> f64 {
        self.options.verify().max(self.function.options.verify)
    }

    /// Computes a share of the hits again, in one forward, and compares. The call returns the
    /// cached rows in any case; only an output that requires grad is an error, and a panic of the
    /// body passes through, as on a miss.
    fn verify_hits<O: Output>(
        &self,
        lookup: &Lookup,
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<(), Stop<O>> {
        let sample = recheck::sample(self.verified_share(), lookup.hits());
        if sample.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let compared = self.compare_hits(lookup, &sample, body);
        Counters::time(&self.counters.time.verifying, start);
        let Comparison {
            mismatched,
            example,
        } = match compared {
            Ok(comparison) => comparison,
            Err(Stop::Misuse(error)) if matches!(error.detail(), Detail::OutputRequiresGrad) => {
                return Err(Stop::Misuse(error));
            }
            // A fault of the machine says nothing about the rows.
            Err(Stop::Bypass(Reason::Libtorch(error))) => {
                self.memory_fault(&error);
                return Ok(());
            }
            Err(stop @ Stop::Bypass(Reason::OneRow)) => return Err(stop),
            Err(Stop::Return(_)) => Comparison::all_differ(&sample, "the forward failed"),
            Err(Stop::Bypass(_) | Stop::Misuse(_)) => Comparison::all_differ(
                &sample,
                "the forward returned another number of rows, or rows of another shape or kind",
            ),
        };
        Counters::add(&self.counters.verified, sample.len());
        if mismatched > 0 {
            Counters::add(&self.counters.mismatched, mismatched);
            self.warn_once(&Reason::Mismatch {
                mismatched,
                verified: sample.len(),
                example,
            });
        }
        Ok(())
    }

    fn compare_hits<O: Output>(
        &self,
        lookup: &Lookup,
        sample: &[usize],
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<Comparison, Stop<O>> {
        let rows = lookup.rows_at(sample);
        // Packed and unpacked as cached rows are, rounding included.
        let computed = self.recompute(lookup, &rows, body)?;
        let PackedRows { schema, bytes } = computed;
        let recomputed = schema.unpack(&bytes, &self.devices)?;
        let cached = lookup.outputs_at(sample, &schema, &self.devices)?;
        Ok(recheck::compare(&schema, &cached, &recomputed)?)
    }

    /// Computes cached rows again. A forward that fails on these alone says nothing about them: they
    /// are computed in the whole batch.
    fn recompute<O: Output>(
        &self,
        lookup: &Lookup,
        rows: &[i64],
        body: &dyn Fn(&SelectedRows) -> O,
    ) -> Result<PackedRows, Stop<O>> {
        let body = &|rows: &SelectedRows| {
            let _recomputing = Recomputing::start();
            body(rows)
        };
        let whole = || -> Result<PackedRows, Stop<O>> {
            let all = SelectedRows::all(self.arguments);
            let output = Flattened::from_output(body(&all)).map_err(Stop::Return)?;
            match self.pack(lookup, &output, &all) {
                Ok(computed) => Ok(computed.select(rows)?),
                Err(unfit) => Err(self.bypass_reason(unfit)?.into()),
            }
        };
        let is_whole = rows.len() as i64 == self.rows;
        if is_whole || !self.may_cut(lookup, rows.len()) {
            return whole();
        }
        let length = self.arguments.cut_length(rows)?;
        let selected = SelectedRows::select(self.arguments, rows, length)?;
        match self.compute_cut(lookup, &selected, body)? {
            Ok(computed) => Ok(computed),
            Err(failure) => {
                let computed = whole()?;
                self.method.cuts.note_failure(rows.len());
                self.warn_once(&failure);
                Ok(computed)
            }
        }
    }

    fn assemble<O: Output>(&self, lookup: Lookup) -> Result<O, Stop<O>> {
        let start = Instant::now();
        let rows = lookup.counts();
        let assembled = lookup.assemble(&self.devices);
        Counters::time(&self.counters.time.loading, start);
        let (schema, tensors) = assembled?;
        self.counters.add_rows(rows);
        tracing::debug!(
            module = self.target.name(),
            memory = rows.memory,
            disk = rows.disk,
            remote = rows.remote,
            computed = rows.computed,
            awaited = rows.awaited,
            "{} rows",
            rows.rows
        );
        self.method.returned.get_or_init(|| schema.clone());
        let mut lengths = schema.lengths.iter().copied();
        let value = O::Value::unflatten(&mut tensors.into_iter(), &mut lengths);
        // Keys contain the structure of the output, so that only a forged row does not fit.
        let value = value.ok_or(Reason::ForeignRows)?;
        Ok(O::from_value(value))
    }

    /// Where memory keeps rows of a schema.
    fn memory_device(&self, schema: &TensorSchema) -> Device {
        let device = self.options.memory_cache_device();
        device.unwrap_or_else(|| schema.device(&self.devices))
    }

    /// Counts rows of a tier that cannot be used, which makes them misses. Rows that no one output
    /// can hold bypass the cache.
    fn miss<O>(&self, reason: Reason) -> Result<(), Stop<O>> {
        match reason {
            Reason::ForeignRows => {
                Counters::add(&self.counters.faults.layout, 1);
                self.warn_once(&reason);
            }
            Reason::Libtorch(error) => self.memory_fault(&error),
            reason => return Err(reason.into()),
        }
        Ok(())
    }

    fn memory_fault(&self, error: &TchError) {
        self.writer().memory_fault(error);
    }

    fn warn_once(&self, reason: &Reason) {
        self.writer().warn_once(reason);
    }
}
