//! Calls of which a closure is asked something else than their rows: see [`Request`].

use std::collections::BTreeSet;
use std::mem::take;

use torchcache_store::schema::OutputDevice;

use super::CachedCall;
use super::import::{CheckedImport, GivenRows, Imported, describe, unfit_import};
use super::lookup::Lookup;
use super::outcome::{Stop, Unfit};
use super::peek::{self, PeekedRow, Tier};
use super::read_ahead::ReadAhead;
use super::request::{self, Request};
use crate::argument::{Arguments, PlainArguments};
use crate::cache::methods::Method;
use crate::cache::target::Target;
use crate::cache::warnings::Reason;
use crate::error::Detail;
use crate::key::Key;
use crate::memory::rows::PackedRows;
use crate::options::environment;
use crate::output::Output;
use crate::schema::TensorSchema;

impl CachedCall<'_> {
    /// The rows of a call, as the tiers have them. Does with them what the request says.
    pub(super) fn find_requested<O: Output>(
        request: Request,
        target: &dyn Target,
        method: &Method,
        arguments: &Arguments,
        plain: &dyn Fn() -> PlainArguments,
    ) -> Result<Vec<PeekedRow>, Stop<O>> {
        if environment::is_disabled() {
            return Err(request::disabled());
        }
        let attached = target.handle().attach(target)?;
        let cache = attached.enabled_cache().ok_or_else(request::disabled)?;
        cache.claim(target, method)?;
        let options = &attached.options;
        let mut call = CachedCall::new::<O>(target, method, arguments, plain, options, cache)?;
        let keys = call.row_keys(&call.code())?;
        call.epoch = cache.tiers.epoch(&cache.tiers.memory());
        let found = peek::find(&cache.tiers, &keys, call.key_prefix());
        match request {
            Request::Peek => {}
            Request::Remove | Request::Recompute => {
                cache.tiers.remove(&keys).map_err(Stop::Misuse)?;
            }
            Request::Import => {
                let given = request::take_given().ok_or(Detail::ImportedTwice)?;
                request::import(call.check_import(keys, &found, given)?);
            }
            Request::ReadAhead => call.read_ahead(&found),
        }
        Ok(found)
    }

    /// Has the rows on disk and in the remote read into memory in the background.
    fn read_ahead(&self, found: &[PeekedRow]) {
        // It may not be known yet which rows the remote has: the background waits for that.
        let has_remote = self.cache.tiers.remote.is_some();
        let is_read = |row: &&PeekedRow| match row.tier {
            Some(tier) => tier != Tier::Memory,
            None => has_remote,
        };
        let keys: BTreeSet<Key> = found.iter().filter(is_read).map(|row| row.key).collect();
        let Some(epoch) = self.epoch.filter(|_| !keys.is_empty()) else {
            return;
        };
        let rows = ReadAhead {
            tiers: self.cache.tiers.clone(),
            keys: keys.into_iter().collect(),
            epoch,
            device: self.options.memory_cache_device(),
            devices: self.devices.clone(),
            counters: self.method.counters.clone(),
        };
        self.cache.reading_ahead.push(move || rows.read());
    }

    /// Checks rows as those that a body returned are, and against what is known of these: `found` are the rows of the
    /// call in the tiers.
    fn check_import<O>(
        &self,
        keys: Vec<Key>,
        found: &[PeekedRow],
        given: GivenRows,
    ) -> Result<CheckedImport, Stop<O>> {
        let lookup = Lookup::new(keys);
        self.reject_ambiguous_ids(&lookup)?;
        if given.structure != self.structure {
            return Err(Stop::from(Detail::ImportedStructure {
                got: given.structure,
                expected: self.structure.clone(),
            }));
        }
        let unfit = |unfit: Unfit| Stop::from(unfit_import(unfit, self.rows));
        let mut packed = self.pack_import(given).map_err(unfit)?;
        let present = found.iter().filter(|row| row.is_cached());
        let present: BTreeSet<Key> = present.map(|row| row.key).collect();
        self.expect_known_callees(!present.is_empty())?;
        let cached = peek::schemas(&self.cache.tiers, present.iter());
        let returned = self.method.shapes.schema(&self.key_prefix());
        let known = || cached.iter().chain(&returned);
        if let Some(other) = known().find(|known| !known.agrees(&packed.schema)) {
            return Err(Stop::from(Detail::ImportedSchema {
                got: describe(&packed.schema),
                expected: describe(other),
            }));
        }
        match (known().next(), self.method.returned.get()) {
            (Some(schema), _) => packed.schema = schema.clone().into(),
            // Rows of other shapes, or keys, show the kinds at least.
            (None, Some(other)) if !other.has_kinds_of(&packed.schema) => {
                return Err(Stop::from(Detail::ImportedSchema {
                    got: describe(&packed.schema),
                    expected: describe(other),
                }));
            }
            (None, _) => {}
        }
        let keys = lookup.keys();
        let is_missing = |position: &usize| !present.contains(&keys[*position]);
        let missing: Vec<usize> = (0..keys.len()).filter(is_missing).collect();
        if missing.len() as i64 != self.rows {
            packed = packed.select(&lookup.rows_at(&missing))?;
        }
        let imported = missing.len() as u64;
        Ok(CheckedImport {
            name: self.target.name(),
            tiers: self.cache.tiers.clone(),
            counters: self.method.counters.clone(),
            epoch: self.epoch,
            keys: missing.iter().map(|&position| keys[position]).collect(),
            device: self.memory_device(&packed.schema),
            rows: packed,
            done: Imported {
                imported,
                present: self.rows as u64 - imported,
            },
        })
    }

    /// The rows as the tiers keep them. Hits are returned where the module is, wherever the rows are now.
    fn pack_import(&self, given: GivenRows) -> Result<PackedRows, Unfit> {
        let mut output = given.output;
        output.check(&self.structure, self.rows)?;
        if self.method.cuts.has_batch_first() == Some(false) {
            return Err(Unfit::Reason(Reason::BatchNotFirst(self.rows as usize)));
        }
        let (dtype, lengths) = (self.options.cache_dtype(), take(&mut output.lengths));
        let (structure, tensors) = (&self.structure, &output.tensors);
        let schema = TensorSchema::from_outputs(structure, tensors, lengths, dtype, &self.devices)?;
        if !schema.fits() {
            return Err(Unfit::Reason(Reason::OutputLayout));
        }
        let bytes = schema.pack(tensors)?;
        let schema = schema.with_device(OutputDevice::Module).into();
        Ok(PackedRows { schema, bytes })
    }

    /// Keys have the code of the cached functions that the body calls. An import of rows without it would be returned
    /// by a later program where that code is another one. `is_cached`: rows are stored by these keys, after the body
    /// ran.
    fn expect_known_callees(&self, is_cached: bool) -> Result<(), Detail> {
        let is_named = self.options.persistent_module_hash().is_some();
        match is_named || is_cached || self.method.knows_callees() {
            true => Ok(()),
            false => Err(Detail::UnknownCallees),
        }
    }
}
