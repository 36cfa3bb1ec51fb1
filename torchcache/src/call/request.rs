//! What [`TorchCache::peek`], `remove`, `recompute`, `import` and `read_ahead` ask of the calls that a closure makes.

use std::cell::RefCell;
use std::iter::{repeat, repeat_with};
use std::marker::PhantomData;
use std::ptr;

use tch::Tensor;

use super::frame::depth;
use super::import::{CheckedImport, GivenRows, Imported};
use super::outcome::{Flattened, Stop};
use super::peek::{PeekedRow, Tier};
use crate::cache::handle::TorchCache;
use crate::cache::target::Target;
use crate::cache::warnings::Reason;
use crate::error::{Detail, Error, ErrorKind};
use crate::output::{Batched, Output, structure};

/// What a call does with its rows in the tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// It finds them.
    Peek,
    /// It finds and removes them.
    Remove,
    /// It removes them before it looks them up.
    Recompute,
    /// It takes them from the caller.
    Import,
    /// It has those on disk and in the remote read into memory.
    ReadAhead,
}

impl Request {
    /// Whether the body does not run.
    fn has_placeholder(self) -> bool {
        self != Request::Recompute
    }
}

thread_local! {
    /// Those that this thread is in, the innermost one last.
    static REQUESTED: RefCell<Vec<Requested>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Requested {
    request: Request,
    handle: *const TorchCache,
    /// How many cached calls the thread was in when it began.
    depth: usize,
    /// The rows of the calls so far; `None` before the first one.
    rows: Option<Result<Vec<PeekedRow>, Error>>,
    /// What an import gives to its call, until that is made.
    given: Option<GivenRows>,
    /// The rows to import once the closure has ended.
    checked: Option<CheckedImport>,
}

/// `None` while the thread ends.
fn with_requested<R>(work: impl FnOnce(&mut Vec<Requested>) -> R) -> Option<R> {
    REQUESTED
        .try_with(|requested| work(&mut requested.borrow_mut()))
        .ok()
}

/// While this lives, it is asked of the calls of a handle on this thread.
#[derive(Debug)]
struct Requesting(PhantomData<*const ()>);

impl Requesting {
    fn start(handle: &TorchCache, request: Request, given: Option<GivenRows>) -> Self {
        let depth = depth();
        REQUESTED.with_borrow_mut(|requested| {
            requested.push(Requested {
                request,
                handle,
                depth,
                rows: None,
                given,
                checked: None,
            });
        });
        Requesting(PhantomData)
    }
}

impl Requesting {
    /// What was found of the calls so far.
    fn found(&self) -> Result<Vec<PeekedRow>, Error> {
        let rows = with_requested(|requested| requested.last_mut()?.rows.take()).flatten();
        rows.unwrap_or_else(|| Err(Detail::NoCall.into()))
    }
}

impl Drop for Requesting {
    fn drop(&mut self) {
        with_requested(Vec::pop);
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
    /// The remote is not asked: rows are there as far as this process has learned before, and those that do not arrive in
    /// time are computed after all.
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
        let (_placeholder, rows) = self.request(Request::Peek, call)?;
        Ok(rows)
    }

    /// Removes the rows of a call from memory and disk, and has this process find them in the remote no more, so that the next call with them computes them. `call` makes the
    /// call, as for [`peek`](Self::peek). Returns what `peek` would have returned.
    ///
    /// ```
    /// use tch::Tensor;
    /// use torchcache::torchcache;
    ///
    /// #[torchcache]
    /// fn embed(xs: &Tensor) -> Tensor {
    ///     xs * 2
    /// }
    ///
    /// let xs = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
    /// embed(&xs);
    /// let removed = embed_cache().remove(|| embed(&xs.narrow(0, 0, 1)))?;
    /// assert!(removed[0].is_cached());
    /// embed(&xs);
    /// assert_eq!(embed_cache().stats().misses, 3 + 1);
    /// # Ok::<(), torchcache::Error>(())
    /// ```
    ///
    /// The body does not run, and the call returns a placeholder. Rows of earlier module hashes stay. Removing is slow
    /// where rows are on disk: each file that has any of them is copied without them. So remove many by one call, or by
    /// [`remove_keys`](Self::remove_keys).
    ///
    /// The rows of a function are found by the code of the cached functions that it calls, which is known once its body
    /// ran in this process: call it once before, or use [`recompute`](Self::recompute).
    ///
    /// Once it succeeds, no call of this process finds the rows until one computes them, and no process that opens the
    /// cache later does, unless a remote has them. Calls that are under way keep none of their rows, whatever their keys,
    /// and neither do calls that begin before it returns. Another process that has the cache open may find the rows in its
    /// memory, and on disk until it looks for new files; rows that it is computing or has queued are stored.
    ///
    /// No object of the remote changes: other processes find the rows there, and so do later ones of this machine, until
    /// this one has uploaded those that it computes in their place. Where the remote has them, use
    /// [`recompute`](Self::recompute).
    ///
    /// # Errors
    ///
    /// Those of [`peek`](Self::peek); [`ErrorKind::Directory`](crate::ErrorKind::Directory) where the directory cannot be
    /// used, and [`ErrorKind::NotRemoved`](crate::ErrorKind::NotRemoved) where rows cannot be removed from it, such as a
    /// read-only one. The rows are then no longer in memory, and those that are left on disk are hits.
    pub fn remove<R>(&self, call: impl FnOnce() -> R) -> Result<Vec<PeekedRow>, Error> {
        let (_placeholder, rows) = self.request(Request::Remove, call)?;
        Ok(rows)
    }

    /// Removes the rows of these [keys](PeekedRow::key) under the present module hash, like [`remove`](Self::remove).
    ///
    /// # Errors
    ///
    /// As of [`remove`](Self::remove); [`ErrorKind::NoCall`](crate::ErrorKind::NoCall) before a module's first call, since
    /// the module hash is not known until then.
    pub fn remove_keys(&self, keys: &[[u8; 32]]) -> Result<(), Error> {
        let tiers = self.tiers().ok_or(Detail::NotAttached)?;
        tiers.remove(keys)
    }

    /// Makes a call that computes all of its rows, which replace those that are cached. `call` makes the call, as for
    /// [`peek`](Self::peek), and this returns what it returned. The rows are [removed](Self::remove) first, and then the
    /// call is made.
    ///
    /// ```
    /// use tch::Tensor;
    /// use torchcache::torchcache;
    ///
    /// #[torchcache]
    /// fn embed(xs: &Tensor) -> Tensor {
    ///     xs * 2
    /// }
    ///
    /// let xs = Tensor::from_slice(&[1.0f32, 2.0]);
    /// embed(&xs);
    /// let computed = embed_cache().recompute(|| embed(&xs))?;
    /// assert_eq!(computed, embed(&xs));
    /// let stats = embed_cache().stats();
    /// assert_eq!((stats.misses, stats.memory.hits), (4, 2));
    /// # Ok::<(), torchcache::Error>(())
    /// ```
    ///
    /// Calls of other caches inside its body find their rows. Where another thread computes a row at the same time, both
    /// calls return the new row. A call that bypasses the cache computes its rows as always, and leaves those that are
    /// cached.
    ///
    /// # Errors
    ///
    /// As of [`remove`](Self::remove), but not where the call bypasses the cache or that is disabled. What the call
    /// returned is lost then.
    pub fn recompute<R>(&self, call: impl FnOnce() -> R) -> Result<R, Error> {
        let (returned, _rows) = self.request(Request::Recompute, call)?;
        Ok(returned)
    }

    /// Gives rows to the cache that were computed elsewhere, such as features in a `.npy` or `.safetensors` file: they are
    /// those of a call, which `call` makes, as for [`peek`](Self::peek). `rows` is what that call would return, and without
    /// its `Result` where it has one.
    ///
    /// ```
    /// use tch::{Kind, Tensor};
    /// use torchcache::torchcache;
    ///
    /// #[torchcache]
    /// fn embed(images: &Tensor, #[id] names: &[&str]) -> Tensor {
    ///     assert_eq!(images.size()[0] as usize, names.len());
    ///     images.mean_dim(1, true, Kind::Float)
    /// }
    ///
    /// let images = Tensor::rand([4, 8], tch::kind::FLOAT_CPU);
    /// let names = ["cat.png", "dog.png", "owl.png", "fox.png"];
    /// embed(&images.narrow(0, 0, 1), &names[..1]); // shows what the function returns
    ///
    /// let features = images.mean_dim(1, true, Kind::Float); // or Tensor::read_npy("features.npy")?
    /// let done = embed_cache().import(features, || embed(&images, &names))?;
    /// assert_eq!((done.imported, done.present), (3, 1));
    /// embed(&images, &names);
    /// let stats = embed_cache().stats();
    /// assert_eq!((stats.misses, stats.memory.hits), (1, 4));
    /// # Ok::<(), torchcache::Error>(())
    /// ```
    ///
    /// The body does not run, and the call returns a placeholder. **You guarantee the rows**: a row that is not what the
    /// body would return is a hit all the same. `verify` compares some with what the body returns. With ids, the
    /// content of the samples does not count: tensors of the same kind and shape are enough, such as
    /// `Tensor::zeros([1, 8], …).expand([4, 8], false)`.
    ///
    /// Rows that are cached keep their values, as of every other call that brings them, and the first of several rows of
    /// the call with one key counts. The others are given to all tiers: with a persistent cache they are on disk after
    /// [`flush`](Self::flush). They are rounded to `cache_dtype`, and returned on the device on which the function
    /// returns its output. As rows of calls, they belong to the present module hash and code: an edit of the function
    /// makes them misses. Where a call under way or [`clear`](Self::clear) removes rows meanwhile, none is kept.
    ///
    /// Keys have the code of the cached functions that the body calls. So a call must have shown these before in this
    /// process: one that ran the body, or found a row. One is enough, of any rows. It also shows what the function returns:
    /// rows of another kind or shape are refused. A cache with a `persistent_module_hash` needs no such call.
    ///
    /// # Errors
    ///
    /// Those of [`peek`](Self::peek); [`ErrorKind::InvalidImport`](crate::ErrorKind::InvalidImport) where `rows` are not one
    /// row for each row of the call, of the kind and shape of other rows of the function; where they require grad, cannot
    /// be cut into rows or rounded to `cache_dtype`, and where `call` makes several calls;
    /// [`ErrorKind::NoCall`](crate::ErrorKind::NoCall) where no call showed before which functions the body calls. Nothing
    /// is stored then.
    pub fn import<O: Output>(
        &self,
        rows: O::Value,
        call: impl FnOnce() -> O,
    ) -> Result<Imported, Error> {
        let given = GivenRows {
            output: Flattened::from_value(rows),
            structure: structure::<O>(),
        };
        let requesting = Requesting::start(self, Request::Import, Some(given));
        let _placeholder = call();
        requesting.found()?;
        let left = with_requested(|requested| {
            let own = requested.last_mut()?;
            Some((own.checked.take(), own.given.take()))
        });
        drop(requesting);
        match left.flatten().ok_or(Detail::NoCall)? {
            (Some(checked), _) => Ok(checked.store(self)),
            // A call without rows.
            (None, given) => Ok(given.map_or(Ok(Imported::default()), |it| it.expect_none())?),
        }
    }

    /// Has the rows of a call that are on disk or in the remote read into memory in the background, so that the call finds
    /// them there: the next batch of a training loop, while the present one is in use. `call` makes the call, as for
    /// [`peek`](Self::peek). Returns how many of its rows are to be read.
    ///
    /// ```
    /// use tch::{Kind, Tensor};
    /// use torchcache::torchcache;
    ///
    /// #[torchcache(persistent = true)]
    /// fn embed(images: &Tensor, #[id] ids: &Tensor) -> Tensor {
    ///     assert_eq!(images.size()[0], ids.size()[0]);
    ///     images.mean_dim(1, true, Kind::Float)
    /// }
    ///
    /// let images = Tensor::rand([100, 8], tch::kind::FLOAT_CPU);
    /// let ids = Tensor::arange(100, tch::kind::INT64_CPU);
    /// let batches: Vec<_> = images.split(32, 0).into_iter().zip(ids.split(32, 0)).collect();
    /// for (number, (images, ids)) in batches.iter().enumerate() {
    ///     if let Some((images, ids)) = batches.get(number + 1) {
    ///         embed_cache().read_ahead(|| embed(images, ids))?;
    ///     }
    ///     let features = embed(images, ids); // and a step of the head with them
    /// }
    /// # Ok::<(), torchcache::Error>(())
    /// ```
    ///
    /// The body does not run, and the call returns a placeholder. It returns once the keys are computed, which takes
    /// least with ids, since the call computes them again; it waits for no disk and no remote. One thread for each cache reads what
    /// was requested, in order, and [`Stats::read_ahead`](crate::Stats::read_ahead) counts the rows that it brought into
    /// memory. A call that comes before its rows are read reads them itself. At most 32 requests wait: then the oldest is
    /// dropped, and its call reads the rows. So requesting too much costs no wait and no wrong row.
    ///
    /// Rows enter memory as those of calls do: on `memory_cache_device`, within the bound, and as far as `eviction`
    /// admits them. Those that it does not admit are not read. Where the data does not fit into memory, `eviction = "lru"`
    /// makes room for them, by the rows that were used longest ago; `"auto"` and `"never"` mostly keep those that they
    /// have. Rows that are removed or cleared before they are read stay away, and a corrupt one is a counted fault. Where the
    /// handle is dropped or the module changes, requests that wait are dropped.
    ///
    /// Rows of the remote are kept on disk, also where memory does not admit them. The thread waits up to ten seconds for
    /// those of one request, whatever `remote_timeout` is. Those that are not known yet when this returns, since nothing was
    /// learned of the remote so far, are read all the same and not counted.
    ///
    /// # Errors
    ///
    /// Those of [`peek`](Self::peek). Without a disk tier it returns 0.
    pub fn read_ahead<R>(&self, call: impl FnOnce() -> R) -> Result<usize, Error> {
        let (_placeholder, rows) = self.request(Request::ReadAhead, call)?;
        let is_read = |row: &&PeekedRow| matches!(row.tier, Some(Tier::Disk | Tier::Remote));
        Ok(rows.iter().filter(is_read).count())
    }

    /// Asks this of the calls that `call` makes, and returns what it returned and what was found of their rows.
    fn request<R>(
        &self,
        request: Request,
        call: impl FnOnce() -> R,
    ) -> Result<(R, Vec<PeekedRow>), Error> {
        let requesting = Requesting::start(self, request, None);
        let returned = call();
        Ok((returned, requesting.found()?))
    }
}

/// What an import gives to a call; `None` for the second one.
pub(super) fn take_given() -> Option<GivenRows> {
    with_requested(|requested| requested.last_mut()?.given.take()).flatten()
}

/// Leaves rows to be imported once the closure has ended.
pub(super) fn import(checked: CheckedImport) {
    with_requested(|requested| {
        if let Some(innermost) = requested.last_mut() {
            innermost.checked = Some(checked);
        }
    });
}

/// What is asked of a call of this handle.
pub(super) fn of_call(handle: &TorchCache) -> Option<Request> {
    with_requested(|requested| {
        let innermost = requested.last()?;
        let is_own = ptr::eq(innermost.handle, handle) && innermost.depth == depth();
        is_own.then_some(innermost.request)
    })
    .flatten()
}

/// Whether this thread may have a placeholder, of which no row may be computed and kept.
pub(super) fn has_placeholder() -> bool {
    let has = |it: &Requested| it.request.has_placeholder() && it.rows.is_some();
    with_requested(|requested| requested.iter().any(has)) == Some(true)
}

/// Notes what was found of a call. Returns the placeholder, if its body does not run.
pub(super) fn answer<O: Output>(
    request: Request,
    target: &dyn Target,
    found: Result<Vec<PeekedRow>, Stop<O>>,
) -> Option<O> {
    let runs = !request.has_placeholder();
    let found = match found {
        Ok(rows) => Ok(rows),
        // It computes its rows in any case.
        Err(Stop::Bypass(_)) if runs => Ok(Vec::new()),
        Err(Stop::Misuse(error)) if runs && error.kind() == ErrorKind::Bypassed => Ok(Vec::new()),
        Err(Stop::Bypass(Reason::NoRows)) => Ok(Vec::new()),
        Err(Stop::Bypass(reason)) => Err(bypassed(&reason.to_string())),
        Err(Stop::Misuse(error)) => Err(error),
        Err(Stop::Return(_)) => unreachable!("no body ran"),
    };
    let found = found.map_err(|error| error.in_module(&target.name()));
    with_requested(|requested| {
        let innermost = requested.last_mut()?;
        match (&mut innermost.rows, found) {
            (Some(Err(_)), _) => {}
            (Some(Ok(rows)), Ok(more)) => rows.extend(more),
            (rows, found) => *rows = Some(found),
        }
        Some(())
    });
    if runs {
        return None;
    }
    let (mut tensors, mut lengths) = (repeat_with(Tensor::new), repeat(0));
    let value = O::Value::unflatten(&mut tensors, &mut lengths);
    Some(O::from_value(
        value.expect("tensors and lengths do not end"),
    ))
}

/// The error of a call whose cache is disabled.
pub(super) fn disabled<O>() -> Stop<O> {
    Stop::Misuse(bypassed("it is disabled"))
}

fn bypassed(reason: &str) -> Error {
    let reason = reason.to_owned();
    Detail::Bypassed { reason }.into()
}
