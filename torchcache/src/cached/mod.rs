//! [`Cached`]: a cache around a module that cannot be annotated.

mod program;
mod weights;

use std::any::type_name;
use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{Mutex, OnceLock};

use tch::{Tensor, nn};

use crate::argument::{Arguments, SampleIds};
use crate::cache::handle::TorchCache;
use crate::cache::target::Target;
use crate::cache::warnings::Reason;
use crate::call::{self, bypass};
use crate::error::{Detail, Error};
use crate::function::Function;
use crate::identity::{
    Fingerprint, Fingerprinter, Identity, nested_options, torchscript, type_of, unique,
};
use crate::options::{Options, OptionsBuilder, environment};
use crate::output::structure;
use crate::sync::lock;
use crate::tensor::raw::{self, Script};

use program::{Object, SourceFile};

pub use weights::Weights;

/// A cache around a module of another crate: `tch::vision`, `nn::Sequential`, `nn::FuncT`, `CModule`.
///
/// A `CModule` is known as it is: its module hash is made from its code, mode, kinds, weights and
/// buffers, and from the [`Weights`] passed with it. Its parameters are watched.
///
/// The code of any other module is unknown. So its module hash is made from the type's name, the weights
/// passed with it, the source location that wraps it, how many modules were wrapped there before, and
/// the program or library that contains the call: after a rebuild its rows are computed again, and of
/// several modules wrapped at one location, the next run finds only the rows of the first.
///
/// With a [`version`](Options::version) it is made from the type, the weights, the version, the source
/// file, and the name of the program or library (not in a dependency from a registry or from git): give
/// modules that differ in anything else different versions, also those whose closures capture different
/// values. Two locations in a file with the same
/// version are an error. Programs that share rows wrap the module in one function that all of them call,
/// or name it by [`persistent_module_hash`](Options::persistent_module_hash).
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
    wrapped_at: &'static Location<'static>,
    file: SourceFile,
    object: Option<Object>,
    /// How many modules were wrapped there before.
    ordinal: u64,
    cache: TorchCache,
}

const FORWARD: Function = Function {
    name: "forward",
    arguments: &["xs", "ids"],
    code: "",
    output: structure::<Tensor>,
};

impl<M> Cached<M> {
    /// Wraps `module`, whose output depends on `weights`: a `&VarStore`, the path of a file, `()`, or
    /// several of them. See [`Weights`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Weights`] for a file that cannot be read and for a `TrainableCModule` without its
    /// `VarStore`, and [`ErrorKind::AmbiguousIdentity`] for a module of this type and weights that another source location wraps with the same `version`.
    ///
    /// [`ErrorKind::Weights`]: crate::ErrorKind::Weights
    /// [`ErrorKind::AmbiguousIdentity`]: crate::ErrorKind::AmbiguousIdentity
    #[track_caller]
    pub fn new(module: M, weights: impl Into<Weights>, options: Options) -> Result<Self, Error> {
        let wrapped_at = Location::caller();
        let failed = |detail| Error::new(type_name::<M>(), detail);
        let weights = weights.into().load().map_err(failed)?;
        let is_trainable = matches!(raw::script(&module), Some(Script::Trainable(_)));
        if is_trainable && !weights.have_variables() {
            return Err(failed(Detail::WeightsWithoutStore));
        }
        let cached = Cached {
            module,
            weights,
            options,
            wrapped_at,
            file: SourceFile::new(wrapped_at.file()),
            object: Object::of(wrapped_at),
            ordinal: ordinal(wrapped_at),
            cache: TorchCache::new(),
        };
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

impl<M: nn::ModuleT> Cached<M> {
    /// The module's output for a batch `[B, …]`, outside training.
    ///
    /// # Panics
    ///
    /// On misuse, with a message that says what to do: see [`ErrorKind`](crate::ErrorKind).
    #[track_caller]
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        self.call(xs, &Arguments::new().with(&xs))
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
    pub fn forward_by_id<'i, I: SampleIds<'i>>(&self, xs: &Tensor, ids: I) -> Tensor {
        self.call(xs, &Arguments::new().with(&xs).with_id(&ids))
    }

    #[track_caller]
    fn call(&self, xs: &Tensor, arguments: &Arguments<'_>) -> Tensor {
        call::run(self, &FORWARD, arguments, &|rows| {
            let mut nothing = Default::default();
            let xs = rows.argument(&xs, 0, &mut nothing);
            self.module.forward_t(xs, false)
        })
    }

    /// Converts to an [`nn::Module`] that is never in training, for `apply` and `nn::Sequential::add`.
    pub fn eval(self) -> Eval<M> {
        Eval(self)
    }
}

/// With `train == true` the call bypasses the cache.
impl<M: nn::ModuleT> nn::ModuleT for Cached<M> {
    #[track_caller]
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        if train {
            bypass::count(self, &Reason::Training);
            return self.module.forward_t(xs, true);
        }
        self.forward(xs)
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

    fn watched_type(&self) -> Option<&'static str> {
        Some(type_name::<M>())
    }

    fn options(&self) -> OptionsBuilder {
        self.options.to_builder()
    }

    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        self.dependencies(f);
    }

    /// With a `version`, the line is not part of the module hash: two locations with the same version
    /// would use each other's rows.
    fn claim(&self, hash: &str) -> Result<(), Detail> {
        static CLAIMS: Mutex<BTreeMap<String, &Location<'_>>> = Mutex::new(BTreeMap::new());
        if !self.needs_claim() {
            return Ok(());
        }
        let first = *lock(&CLAIMS)
            .entry(hash.to_owned())
            .or_insert(self.wrapped_at);
        if first == self.wrapped_at {
            return Ok(());
        }
        Err(Detail::SameIdentity {
            first: first.to_string(),
            second: self.wrapped_at.to_string(),
        })
    }

    fn handle(&self) -> &TorchCache {
        &self.cache
    }

    fn functions(&self) -> &'static [Function] {
        const { &[FORWARD] }
    }
}

impl<M> Cached<M> {
    fn needs_claim(&self) -> bool {
        let is_script = raw::script(&self.module).is_some();
        let is_named = self.options.persistent_module_hash().is_some();
        !self.options.version().is_empty() && !is_named && !is_script
    }

    /// Claims the module hash before the first call, which another module that contains this one may
    /// never make, since its own rows are cached.
    fn claim_early(&self) -> Result<(), Detail> {
        if !self.needs_claim() || !self.options.enabled() || environment::is_disabled() {
            return Ok(());
        }
        // Where a lock is held, the first call claims it.
        match Identity::compute(&self.name(), &self.options, |f| self.dependencies(f)) {
            Some(identity) => self.claim(&identity.hash),
            None => Ok(()),
        }
    }

    /// Passes everything that is known of what the output depends on to `f`.
    fn dependencies(&self, f: &mut Fingerprinter<'_>) {
        type_of(&self.module, f);
        self.weights.fingerprint(f);
        match raw::script(&self.module) {
            Some(Script::Loaded(module)) => return module.fingerprint(f),
            Some(Script::Trainable(module)) => return torchscript::trainable(module, f),
            None => {}
        }
        f.field("made in", &self.file.path);
        if self.options.version().is_empty() {
            // One location may wrap many modules, in a loop or a function.
            let place = (self.wrapped_at.line(), self.wrapped_at.column());
            f.field("made at", &(place, self.ordinal));
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
            f.content("program", &[], || {
                let name = self.object.as_ref().map(Object::name);
                let name = name.unwrap_or_default();
                (name.clone().into_bytes(), name)
            });
        }
    }
}

/// An annotated module may contain a cached one, whose identity is then part of its own.
impl<M> Fingerprint for Cached<M> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.inner_handle(self.cache.changes());
        nested_options(&self.options, f);
        self.dependencies(f);
    }
}

/// Bytes that are the same throughout this process, and different in every other.
fn this_run() -> [u8; 32] {
    static RUN: OnceLock<[u8; 32]> = OnceLock::new();
    *RUN.get_or_init(unique)
}

/// How many modules were wrapped at `place` before.
fn ordinal(place: &'static Location<'static>) -> u64 {
    static MADE: Mutex<BTreeMap<&Location<'_>, u64>> = Mutex::new(BTreeMap::new());
    let mut made = lock(&MADE);
    let count = made.entry(place).or_default();
    *count += 1;
    *count - 1
}
