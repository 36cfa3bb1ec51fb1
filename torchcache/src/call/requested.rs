//! Calls of which a closure is asked something else than their rows: see [`Request`].

use std::collections::BTreeSet;

use super::CachedCall;
use super::outcome::Stop;
use super::peek::{self, PeekedRow, Tier};
use super::read_ahead::ReadAhead;
use super::request::{self, Request};
use crate::argument::{Arguments, PlainArguments};
use crate::cache::methods::Method;
use crate::cache::target::Target;
use crate::key::Key;
use crate::options::environment;
use crate::output::Output;

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
        let found = peek::find(&cache.tiers, &keys);
        match request {
            Request::Peek => {}
            Request::Remove | Request::Recompute => {
                cache.tiers.remove(&keys).map_err(Stop::Misuse)?;
            }
            Request::ReadAhead => call.read_ahead(&found),
        }
        Ok(found)
    }

    /// Has the rows on disk read into memory in the background.
    fn read_ahead(&self, found: &[PeekedRow]) {
        let on_disk = found.iter().filter(|row| row.tier == Some(Tier::Disk));
        let on_disk: BTreeSet<Key> = on_disk.map(|row| row.key).collect();
        let Some(epoch) = self.epoch.filter(|_| !on_disk.is_empty()) else {
            return;
        };
        let rows = ReadAhead {
            tiers: self.cache.tiers.clone(),
            keys: on_disk.into_iter().collect(),
            epoch,
            device: self.options.memory_cache_device(),
            devices: self.devices.clone(),
            counters: self.method.counters.clone(),
        };
        self.cache.reading_ahead.push(move || rows.read());
    }
}
