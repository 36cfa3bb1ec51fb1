//! [`Cached`]: a cache around a module that cannot be annotated.

mod claimant;
mod files;
mod forward;
mod weights;

use std::any::type_name;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use tch::{Tensor, nn};

use crate::argument::{Arguments, PlainArgument, SampleIds};
use crate::cache::claims::Conflict;
use crate::cache::directory;
use crate::cache::handle::TorchCache;
use crate::cache::stats::Counters;
use crate::cache::target::Target;
use crate::call;
use crate::definition::number_of;
use crate::error::{Detail, Error};
use crate::function::Function;
use crate::identity::program::{Object, SourceFile, this_run};
use crate::identity::{CLOSURE, Fingerprint, Fingerprinter, nested_options, torchscript};
use crate::options::{Options, OptionsBuilder, environment};
use crate::sync::lock;
use crate::tensor::raw::{self, Script};

use claimant::{Claimant, Rows};

pub use forward::Forward;
pub use weights::Weights;

/// A cache around a module of another crate (`tch::vision`, `nn::Sequential`, `nn::FuncT`, `CModule`), a
/// `Box<dyn nn::Module>`, or a closure: see [`Forward`].
///
/// # Identity
///
/// A `CModule` is known as it is: its module hash is made from its code, mode, kinds, weights and
/// buffers, and from the [`Weights`] passed with it. Its parameters are watched.
///
/// The code of any other module is unknown. Its module hash is made from the type's name, the weights
/// passed with it, the source location that wraps it, how many modules were wrapped there before, and
/// the program or library that contains the call: after a rebuild its rows are computed again, and of
/// several modules wrapped at one location, the next run finds only the rows of the first.
///
/// With a [`version`](Options::version) it is made from the type, the weights, the version, the source
/// file, and the name of the program or library (not in a dependency from a registry or from git): give
/// modules that differ in anything else different versions, also those whose closures capture different
/// values. In one process, modules with the same version and weights are kept apart: each has rows of its
/// own, which no other run finds. So in a persistent cache the second one is an error, and everywhere if
/// two source locations wrap them. [`Cached::shared`] wraps modules
/// that are meant to be the same.
///
/// ```
/// use tch::{Device, Kind, Tensor, nn};
/// use torchcache::{Cached, Options};
///
/// let mut vs = nn::VarStore::new(Device::Cpu);
/// let net = nn::seq().add(nn::linear(vs.root(), 4, 2, Default::default())).add_fn(|x| x.relu());
/// vs.freeze();
/// let net = Cached::new(net, &vs, Options::builder().version("relu").build()?)?;
///
/// let xs = Tensor::randn([8, 4], (Kind::Float, Device::Cpu));
/// assert_eq!(net.forward(&xs), net.forward(&xs));
/// assert_eq!(net.cache().stats().memory.hits, 8);
/// # Ok::<(), torchcache::Error>(())
/// ```
#[derive(Debug)]
pub struct Cached<M> {
    module: M,
    weights: Weights,
    options: Options,
    file: SourceFile,
    object: Option<Object>,
    /// How many modules were wrapped there before.
    ordinal: u64,
    /// Differs between all instances of the process.
    number: u64,
    claimant: Claimant,
    /// The module that has, or may have, this identity, as of the last hash.
    conflict: Mutex<Option<Conflict<Claimant>>>,
    cache: TorchCache,
}

static FORWARD: Function = Function::unknown("forward", &["xs", "ids"]);

impl<M> Cached<M> {
    /// Wraps `module`, whose output depends on `weights`: a `&VarStore`, the path of a file, `()`, or
    /// several of them. See [`Weights`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Weights`] for a file that cannot be read and for a `TrainableCModule` without its
    /// `VarStore`, and [`ErrorKind::AmbiguousIdentity`] for a second module with this type, weights and
    /// `version`, where its rows cannot be kept apart from those of the first.
    ///
    /// [`ErrorKind::Weights`]: crate::ErrorKind::Weights
    /// [`ErrorKind::AmbiguousIdentity`]: crate::ErrorKind::AmbiguousIdentity
    #[track_caller]
    pub fn new(module: M, weights: impl Into<Weights>, options: Options) -> Result<Self, Error> {
        Cached::wrap(module, weights.into(), options, Location::caller(), false)
    }

    /// As [`new`](Self::new), for a module that its type, weights and `version` determine: all modules
    /// that this source location wraps with the same ones share rows, in several threads and one after
    /// the other. Captures of closures must be the same, or part of the version.
    ///
    /// Two layers of one `VarStore` that one constructor wraps, such as those of two GRUs, have all of these in common:
    /// put the name of the layer into the `version`, or each returns rows of the other.
    ///
    /// ```
    /// use tch::{Tensor, nn};
    /// use torchcache::{Cached, Error, Options};
    ///
    /// fn double() -> Result<Cached<nn::Func<'static>>, Error> {
    ///     Cached::shared(nn::func(|xs| xs * 2), (), Options::builder().version("double").build()?)
    /// }
    ///
    /// let (first, second) = (double()?, double()?);
    /// let xs = Tensor::from_slice(&[1i64, 2, 3]);
    /// assert_eq!(first.forward(&xs), second.forward(&xs));
    /// assert_eq!(second.cache().stats().memory.hits, 3);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for `new`.
    #[track_caller]
    pub fn shared(module: M, weights: impl Into<Weights>, options: Options) -> Result<Self, Error> {
        Cached::wrap(module, weights.into(), options, Location::caller(), true)
    }

    fn wrap(
        module: M,
        weights: Weights,
        options: Options,
        place: &'static Location<'static>,
        is_shared: bool,
    ) -> Result<Self, Error> {
        let start = Instant::now();
        let failed = |detail| Error::new(type_name::<M>(), detail);
        // Where rows on disk have a place of their own.
        let root = || {
            let is_enabled = options.enabled() && !environment::is_disabled();
            let is_persistent = options.persistent() && is_enabled;
            let directory = directory::configured(&options).filter(|_| is_persistent)?;
            directory::root(&options, Some(&directory)).ok()
        };
        let weights = weights.load(root).map_err(failed)?;
        let is_trainable = matches!(raw::script(&module), Some(Script::Trainable(_)));
        if is_trainable && !weights.have_variables() {
            return Err(failed(Detail::WeightsWithoutStore));
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let cached = Cached {
            module,
            weights,
            options,
            file: SourceFile::new(place.file()),
            object: Object::of(place),
            ordinal: if is_shared { 0 } else { ordinal(place) },
            number,
            claimant: Claimant {
                place,
                number: (!is_shared).then_some(number),
            },
            conflict: Mutex::new(None),
            cache: TorchCache::new(),
        };
        // Files are hashed by now.
        Counters::time(&cached.cache.counters.time.attaching, start);
        cached.claim_early().map_err(failed)?;
        Ok(cached)
    }

    /// The cache's handle.
    pub fn cache(&self) -> &TorchCache {
        &self.cache
    }

    /// The module, without the cache.
    pub fn module(&self) -> &M {
        &self.module
    }

    /// Unwraps the module.
    pub fn into_inner(self) -> M {
        self.module
    }
}

impl<M> Cached<M> {
    /// The module's output for a batch `[B, …]`, outside training.
    ///
    /// # Panics
    ///
    /// On misuse, with a message that says what to do: see [`ErrorKind`](crate::ErrorKind).
    #[track_caller]
    pub fn forward<Kind>(&self, xs: &Tensor) -> Tensor
    where
        M: Forward<Kind>,
    {
        self.call(xs, false, &|_| Arguments::new().with(&xs))
    }

    /// As [`forward`](Self::forward). With `train == true` the call bypasses the cache.
    ///
    /// # Panics
    ///
    /// On misuse, with a message that says what to do: see [`ErrorKind`](crate::ErrorKind).
    #[track_caller]
    pub fn forward_t<Kind>(&self, xs: &Tensor, train: bool) -> Tensor
    where
        M: Forward<Kind>,
    {
        self.call(xs, train, &|_| Arguments::new().with(&xs))
    }

    /// As [`forward`](Self::forward), for rows that are keyed by ids instead of their content: see
    /// [`SampleIds`]. Their rows are separate from those of `forward`.
    ///
    /// ```
    /// use tch::{Tensor, nn};
    /// use torchcache::{Cached, Options};
    ///
    /// let double = Cached::new(nn::func(|xs| xs * 2), (), Options::builder().version("double").build()?)?;
    /// let xs = Tensor::from_slice(&[1i64, 2, 3]);
    /// let ids = vec!["a", "b", "c"];
    /// double.forward_by_id(&xs, &ids);
    /// double.forward_by_id(&xs.narrow(0, 1, 2), &ids[1..]);
    /// assert_eq!(double.cache().stats().memory.hits, 2);
    /// # Ok::<(), torchcache::Error>(())
    /// ```
    ///
    /// # Panics
    ///
    /// On misuse, with a message that says what to do: see [`ErrorKind`](crate::ErrorKind).
    #[track_caller]
    pub fn forward_by_id<'i, Kind>(&self, xs: &Tensor, ids: impl SampleIds<'i>) -> Tensor
    where
        M: Forward<Kind>,
    {
        self.call(xs, false, &|_| Arguments::new().with(&xs).with_id(&ids))
    }

    #[track_caller]
    fn call<'a, Kind>(
        &self,
        xs: &Tensor,
        train: bool,
        describe: &dyn Fn(bool) -> Arguments<'a>,
    ) -> Tensor
    where
        M: Forward<Kind>,
    {
        call::run(self, &FORWARD, train, describe, &|rows| {
            let mut nothing = Default::default();
            let xs = rows.argument(&xs, 0, &mut nothing);
            self.module.run(xs, train)
        })
    }

    /// Converts to an [`nn::Module`] that is never in training, for `apply` and `nn::Sequential::add`.
    pub fn eval(self) -> Eval<M>
    where
        M: nn::ModuleT,
    {
        Eval(self)
    }
}

/// With `train == true` the call bypasses the cache.
impl<M: nn::ModuleT> nn::ModuleT for Cached<M> {
    #[track_caller]
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        self.forward_t(xs, train)
    }
}

/// A [`Cached`] module that is never in training, as an [`nn::Module`].
#[derive(Debug)]
pub struct Eval<M>(Cached<M>);

impl<M> Eval<M> {
    /// The cache's handle.
    pub fn cache(&self) -> &TorchCache {
        self.0.cache()
    }
}

impl<M: nn::ModuleT> nn::Module for Eval<M> {
    #[track_caller]
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.0.forward(xs)
    }
}

impl<M> Target for Cached<M> {
    fn name(&self) -> String {
        format!("Cached<{}>", type_name::<M>())
    }

    /// Programs may share the rows of a `persistent_module_hash`, whatever their type names.
    fn row_name(&self) -> String {
        "Cached".to_owned()
    }

    fn watched_type(&self) -> Option<u64> {
        Some(number_of(typeid::of::<M>()))
    }

    fn options(&self) -> OptionsBuilder {
        self.options.to_builder()
    }

    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        let rows = || match self.options.persistent() {
            true => Rows::on_disk(directory::configured(&self.options).as_deref()),
            false => Rows::InMemory,
        };
        let claimed = self.dependencies(f, rows);
        if f.hashes() {
            *lock(&self.conflict) = claimed.err();
        }
    }

    fn claim(&self, _: &str, _: &Function, _: &[u8]) -> Result<(), Detail> {
        self.claim_identity()
    }

    fn handle(&self) -> &TorchCache {
        &self.cache
    }
}

impl<M> Cached<M> {
    /// Whether the identity found when it was last hashed is this module's.
    fn claim_identity(&self) -> Result<(), Detail> {
        let (conflict, here) = (*lock(&self.conflict), self.claimant.place);
        match conflict {
            Some(Conflict::With(first)) if first.place != here => Err(Detail::SameIdentity {
                first: first.place.to_string(),
                second: here.to_string(),
            }),
            Some(conflict) => {
                let conflict = shown(conflict);
                tracing::info!(
                    module = self.name(),
                    "{conflict}: this one has rows of its own"
                );
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Claims the module hash before the first call, which another module that contains this one may
    /// never make, since its own rows are cached.
    fn claim_early(&self) -> Result<(), Detail> {
        let named = self.options.persistent_module_hash().is_some();
        if !self.needs_claim() || named || !self.options.enabled() || environment::is_disabled() {
            return Ok(());
        }
        if !self.cache.hash_early(self, &self.options) {
            // Where a lock is held, the first call claims it.
            return Ok(());
        }
        // The next run would not find the rows of an identity of its own.
        let here = self.claimant.place;
        if self.options.persistent()
            && let Some(Conflict::With(first)) = *lock(&self.conflict)
            && first.place == here
        {
            let place = here.to_string();
            return Err(Detail::SameIdentityOnDisk { place });
        }
        self.claim_identity()
    }

    /// Whether modules with other code may have the same identity.
    fn needs_claim(&self) -> bool {
        !self.options.version().is_empty() && raw::script(&self.module).is_none()
    }

    /// Passes everything that is known of what the output depends on to `f`. Where another module has
    /// that identity for these rows, this one gets another.
    ///
    /// # Errors
    ///
    /// The other module.
    fn dependencies(
        &self,
        f: &mut Fingerprinter<'_>,
        rows: impl FnOnce() -> Rows,
    ) -> Result<(), Conflict<Claimant>> {
        // Another instance may take the place of this one.
        let known = f.instance(self.number, |f| self.known(f));
        let Some(known) = known.filter(|_| self.needs_claim()) else {
            return Ok(());
        };
        let rounding = self.options.cache_dtype();
        let options = (
            self.options.version(),
            rounding.filter(|_| self.options.enabled()),
            self.options.subsample_count(),
        );
        let mut identity = blake3::Hasher::new();
        identity
            .update(&known)
            .update(format!("{options:?}").as_bytes());
        let identity = *identity.finalize().as_bytes();
        match self.claimant.claim(identity, &rows()) {
            Ok(claim) => {
                claim.into_iter().for_each(|claim| f.holds(claim));
                Ok(())
            }
            Err(conflict) => {
                f.content("instance", &[], || {
                    let alone = [&this_run()[..], &self.number.to_le_bytes()].concat();
                    (alone, "this instance alone".into())
                });
                Err(conflict)
            }
        }
    }

    fn known(&self, f: &mut Fingerprinter<'_>) {
        // As for a `nn::Func`, place or version stands for the closure.
        match type_name::<M>().ends_with(CLOSURE) {
            true => f.field("type", type_name::<M>()),
            false => f.field("type", &PhantomData::<M>),
        }
        self.weights.fingerprint(f);
        match raw::script(&self.module) {
            Some(Script::Loaded(module)) => return module.fingerprint(f),
            Some(Script::Trainable(module)) => return torchscript::trainable(module, f),
            None => {}
        }
        f.field("made in", &self.file.path);
        if self.options.version().is_empty() {
            // One location may wrap many modules, in a loop or a function.
            let place = self.claimant.place;
            f.field("made at", &(place.line(), place.column(), self.ordinal));
            if self.ordinal > 0 {
                // The next run may wrap them in another order.
                f.content("run", &[], || {
                    (this_run().to_vec(), "this run alone".into())
                });
            }
            f.content("program", &[], || {
                let digest = self.object.as_ref().map_or_else(this_run, Object::digest);
                (digest.to_vec(), "the program or library".into())
            });
        } else if !self.file.is_released {
            // Every program has a `src/main.rs`.
            f.content("program", &[], || match &self.object {
                Some(object) => (object.name().into_bytes(), object.name()),
                None => (this_run().to_vec(), "unknown".into()),
            });
        }
    }
}

/// An annotated module may contain a cached one, whose identity is then part of its own.
impl<M> Fingerprint for Cached<M> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.inner_handle(self.cache.changes());
        nested_options(&self.row_name(), &self.options, f);
        if let Err(conflict) = self.dependencies(f, || Rows::OfOuterModule) {
            let conflict = shown(conflict);
            tracing::info!(
                module = self.name(),
                "{conflict}: the module around this one has rows of its own"
            );
        }
    }
}

/// Every call compares it with what was hashed.
impl<M> PlainArgument for &Cached<M> {}

/// Why a module does not get an identity, for the log.
fn shown(conflict: Conflict<Claimant>) -> String {
    match conflict {
        Conflict::With(Claimant { place, .. }) => {
            format!("another module wrapped at {place} has the same identity")
        }
        Conflict::Possible(Claimant { place, .. }) => format!(
            "another module wrapped at {place} may have the same identity, after more changes of weights than this process keeps track of"
        ),
    }
}

/// How many modules were wrapped at `place` before.
fn ordinal(place: &'static Location<'static>) -> u64 {
    static MADE: Mutex<BTreeMap<&Location<'_>, u64>> = Mutex::new(BTreeMap::new());
    let mut made = lock(&MADE);
    let count = made.entry(place).or_default();
    *count += 1;
    *count - 1
}
