//! [`TorchCache::peek`]: the keys of a call's rows, and which of them are cached, without computing any.

use std::cell::RefCell;
use std::iter::{repeat, repeat_with};
use std::marker::PhantomData;
use std::ptr;

use tch::Tensor;
use torchcache_store::Store;

use super::frame::depth;
use super::outcome::Stop;
use crate::cache::handle::TorchCache;
use crate::cache::target::Target;
use crate::cache::tiers::Tiers;
use crate::cache::warnings::Reason;
use crate::error::{Detail, Error};
use crate::key::Key;
use crate::output::{Batched, Output};

/// A row of a call, as [`TorchCache::peek`] found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeekedRow {
    /// Its key, as in the `keys` of `torchcache export`.
    pub key: [u8; 32],
    /// Where it is; `None` if a call would compute it, or wait for another call that does.
    pub tier: Option<Tier>,
}

impl PeekedRow {
    /// Whether a call would find it.
    pub fn is_cached(&self) -> bool {
        self.tier.is_some()
    }
}

/// A tier of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Rows in memory, which may be on disk as well.
    Memory,
    /// Rows on disk, or queued for it.
    Disk,
}

thread_local! {
    /// Those that this thread is in, the innermost one last.
    static PEEKS: RefCell<Vec<Peek>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Peek {
    handle: *const TorchCache,
    /// How many cached calls the thread was in when it began.
    depth: usize,
    /// The rows of the calls so far; `None` before the first one.
    rows: Option<Result<Vec<PeekedRow>, Error>>,
}

/// The innermost peek of this thread; `None` without one, and while the thread ends.
fn with_innermost<R>(work: impl FnOnce(&mut Peek) -> R) -> Option<R> {
    let peeks = PEEKS.try_with(|peeks| peeks.borrow_mut().last_mut().map(work));
    peeks.ok().flatten()
}

/// While this lives, the calls of a handle on this thread are peeked.
#[derive(Debug)]
struct Peeking(PhantomData<*const ()>);

impl Peeking {
    fn start(handle: &TorchCache) -> Self {
        let (depth, rows) = (depth(), None);
        PEEKS.with_borrow_mut(|peeks| {
            peeks.push(Peek {
                handle,
                depth,
                rows,
            });
        });
        Peeking(PhantomData)
    }
}

impl Drop for Peeking {
    fn drop(&mut self) {
        let _ = PEEKS.try_with(|peeks| peeks.borrow_mut().pop());
    }
}

impl TorchCache {
    /// The key of each row of a call, and whether the row is cached, without computing any. `call` makes the call, of
    /// the function or of a method of the module that this handle is of.
    ///
    /// ```
    /// use tch::Tensor;
    /// use torchcache::torchcache;
    ///
    /// #[torchcache]
    /// fn embed(xs: &Tensor, scale: f64) -> Tensor {
    ///     xs * scale
    /// }
    ///
    /// let xs = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
    /// embed(&xs.narrow(0, 0, 2), 0.5);
    /// let rows = embed_cache().peek(|| embed(&xs, 0.5))?;
    /// let cached: Vec<bool> = rows.iter().map(|row| row.is_cached()).collect();
    /// assert_eq!(cached, [true, true, false]);
    /// assert_eq!(embed_cache().stats().misses, 2);
    /// # Ok::<(), torchcache::Error>(())
    /// ```
    ///
    /// The body does not run: **the call returns a placeholder**, of undefined tensors, empty lists and `None`, for
    /// `call` to drop. The rows are in the order of the batch, those of several calls one after the other. Calls on other
    /// threads, and inside another cached call, are made as without `peek`.
    ///
    /// The weights are compared as by a call, so that keys and rows are those of the present module hash, and the first
    /// call of a module opens its cache. Nothing else changes: no row is read or counted, or becomes the most recently
    /// used.
    ///
    /// The answer holds until a tier evicts a row, or a thread or process stores or clears one. As with a call, rows that
    /// another process wrote less than 200 ms ago may be missing, and rows of a function whose callees are not known
    /// before [its body ran](crate::torchcache#methods) once in this process. A row on disk that turns out to be corrupt
    /// when it is read is computed after all.
    ///
    /// # Errors
    ///
    /// Those of the call; [`ErrorKind::Bypassed`](crate::ErrorKind::Bypassed) where it bypasses the cache, or that is
    /// disabled, so that all rows would be computed; [`ErrorKind::NoCall`](crate::ErrorKind::NoCall) where `call` made
    /// none.
    pub fn peek<R>(&self, call: impl FnOnce() -> R) -> Result<Vec<PeekedRow>, Error> {
        let _peeking = Peeking::start(self);
        drop(call());
        let rows = with_innermost(|peek| peek.rows.take()).flatten();
        rows.unwrap_or_else(|| Err(Detail::NoCall.into()))
    }
}

/// Whether a call of this handle is peeked.
pub(super) fn is_peeked(handle: &TorchCache) -> bool {
    let is_own = |peek: &mut Peek| ptr::eq(peek.handle, handle) && peek.depth == depth();
    with_innermost(is_own) == Some(true)
}

/// Whether this thread may have a placeholder, of which no row may be computed and kept.
pub(super) fn has_placeholder() -> bool {
    with_innermost(|peek| peek.rows.is_some()) == Some(true)
}

/// Notes what was found of a call, and returns the placeholder.
pub(super) fn answer<O: Output>(target: &dyn Target, found: Result<Vec<PeekedRow>, Stop<O>>) -> O {
    let found = match found {
        Ok(rows) => Ok(rows),
        Err(Stop::Bypass(Reason::NoRows)) => Ok(Vec::new()),
        Err(Stop::Bypass(reason)) => Err(bypassed(&reason.to_string())),
        Err(Stop::Misuse(error)) => Err(error),
        Err(Stop::Return(_)) => unreachable!("no body ran"),
    };
    let found = found.map_err(|error| error.in_module(&target.name()));
    with_innermost(|peek| match (&mut peek.rows, found) {
        (Some(Err(_)), _) => {}
        (Some(Ok(rows)), Ok(more)) => rows.extend(more),
        (rows, found) => *rows = Some(found),
    });
    let (mut tensors, mut lengths) = (repeat_with(Tensor::new), repeat(0));
    let value = O::Value::unflatten(&mut tensors, &mut lengths);
    O::from_value(value.expect("tensors and lengths do not end"))
}

/// The error of a call whose cache is disabled.
pub(super) fn disabled<O>() -> Stop<O> {
    Stop::Misuse(bypassed("it is disabled"))
}

fn bypassed(reason: &str) -> Error {
    let reason = reason.to_owned();
    Detail::Bypassed { reason }.into()
}

/// Where the tiers have rows of these keys.
pub(super) fn find(tiers: &Tiers, keys: Vec<Key>) -> Vec<PeekedRow> {
    let mut found: Vec<Option<Tier>> = {
        let memory = tiers.memory();
        let find = |key: &Key| memory.contains(key).then_some(Tier::Memory);
        keys.iter().map(find).collect()
    };
    if let Some(store) = &tiers.store {
        find_on_disk(store, &keys, &mut found);
    }
    let rows = keys.into_iter().zip(found);
    rows.map(|(key, tier)| PeekedRow { key, tier }).collect()
}

fn find_on_disk(store: &Store, keys: &[Key], tiers: &mut [Option<Tier>]) {
    let missing = tiers.iter().zip(keys).filter(|(tier, _)| tier.is_none());
    let missing: Vec<Key> = missing.map(|(_, key)| *key).collect();
    let missing_tiers = tiers.iter_mut().filter(|tier| tier.is_none());
    for (tier, located) in missing_tiers.zip(store.locate(&missing)) {
        *tier = located.map(|_| Tier::Disk);
    }
}
