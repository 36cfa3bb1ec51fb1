//! [`Cached`]: a cache around a module that cannot be annotated.

use std::any::type_name;
use std::collections::BTreeMap;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use tch::{Tensor, nn};

use crate::argument::{Arguments, SampleIds};
use crate::cache::handle::TorchCache;
use crate::cache::target::Target;
use crate::cache::warnings::Reason;
use crate::call::{self, bypass};
use crate::error::{Error, Problem};
use crate::function::Function;
use crate::identity::{
    Fingerprint, Fingerprinter, Identity, nested_options, tch_types, type_of, unique,
};
use crate::options::{Options, environment};
use crate::output::structure;
use crate::sync::lock;

/// A module of another crate (`tch::vision`, `nn::Sequential`, `nn::FuncT`, `CModule`) with a cache.
///
/// Its code cannot be seen. So its identity is the type's name, the weights given beside it, the
/// place in the source where it is made, how many were made there before, and the running
/// executable: after a rebuild its rows are computed anew, and of several modules made in one place
/// only the first is found again by the next run. With a `version` of your own, what counts is the
/// type, the weights, the version and the name of the source file (in a dependency its whole path):
/// give each module that differs in anything else its own, what a closure captures included. Two places
/// in a file that give the same one are refused. Programs that are to share rows wrap the module in one
/// function that all of them call, or give it a name by [`persistent_module_hash`](Options::persistent_module_hash).
///
/// ```
/// use tch::{Device, Kind, Tensor, nn};
/// use torchcache::{Cached, Options};
///
/// let mut vs = nn::VarStore::new(Device::Cpu);
/// let net = nn::seq().add(nn::linear(vs.root(), 4, 2, Default::default())).add_fn(|x| x.relu());
/// vs.freeze();
/// let net = Cached::new(net, &vs, Options::new().version("relu"))?;
///
/// let xs = Tensor::randn([8, 4], (Kind::Float, Device::Cpu));
/// assert_eq!(net.forward(&xs), net.forward(&xs));
/// assert_eq!(net.cache().stats().memory_hits, 8);
/// # Ok::<(), torchcache::Error>(())
/// ```
#[derive(Debug)]
pub struct Cached<M> {
    module: M,
    weights: Weights,
    options: Options,
    made_at: &'static Location<'static>,
    /// How many were made there before.
    ordinal: u64,
    cache: TorchCache,
}

/// The weights that stand for a module in its identity.
#[derive(Debug, Clone)]
pub struct Weights(Source);

#[derive(Debug, Clone)]
enum Source {
    None,
    Variables(Arc<Mutex<nn::Variables>>),
    File(PathBuf),
    Digest([u8; 32]),
}

impl From<&nn::VarStore> for Weights {
    /// The variables of a store, watched at every call.
    fn from(vs: &nn::VarStore) -> Self {
        Weights(Source::Variables(vs.variables_.clone()))
    }
}

impl From<&Path> for Weights {
    /// The bytes that a file has when the cache is made: for a `CModule`, the file it was loaded
    /// from.
    fn from(path: &Path) -> Self {
        Weights(Source::File(path.to_owned()))
    }
}

impl From<&PathBuf> for Weights {
    fn from(path: &PathBuf) -> Self {
        Weights::from(path.as_path())
    }
}

impl From<&str> for Weights {
    /// The path of a file.
    fn from(path: &str) -> Self {
        Weights::from(Path::new(path))
    }
}

impl From<()> for Weights {
    /// No weights at all.
    fn from((): ()) -> Self {
        Weights(Source::None)
    }
}

const FORWARD: Function = Function {
    name: "forward",
    arguments: &["xs", "ids"],
    code: "",
    output: structure::<Tensor>,
};

impl<M> Cached<M> {
    /// Puts a cache around `module`, whose output depends on `weights`: a `&VarStore`, the path of
    /// a file, or `()`.
    ///
    /// # Errors
    ///
    /// Options out of range, a file that cannot be read, and a second place in the source that
    /// gives a module of this type and weights the same `version`.
    #[track_caller]
    pub fn new(module: M, weights: impl Into<Weights>, options: Options) -> Result<Self, Error> {
        let made_at = Location::caller();
        let failed = |problem| Error::new(type_name::<M>(), problem);
        options.check().map_err(failed)?;
        let weights = weights.into().loaded().map_err(failed)?;
        let cached = Cached {
            module,
            weights,
            options,
            made_at,
            ordinal: ordinal(made_at),
            cache: TorchCache::new(),
        };
        cached.claim_early().map_err(failed)?;
        Ok(cached)
    }

    /// The cache's handle.
    pub fn cache(&self) -> &TorchCache {
        &self.cache
    }

    /// The module itself, past the cache.
    pub fn module(&self) -> &M {
        &self.module
    }

    /// The module without its cache.
    pub fn into_inner(self) -> M {
        self.module
    }
}

impl<M: nn::ModuleT> Cached<M> {
    /// The module's output for a batch, outside training. `[B, …]` in, whatever the module makes
    /// of each row out.
    ///
    /// # Panics
    ///
    /// On misuse, with a message that says what to do: see [`Problem`].
    #[track_caller]
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        self.call(xs, &Arguments::new().with(&xs))
    }

    /// The same for rows that are known by ids instead of their content: see [`SampleIds`]. The rows
    /// of [`forward`](Self::forward) are others.
    ///
    /// ```
    /// use tch::{Tensor, nn};
    /// use torchcache::{Cached, Options};
    ///
    /// let double = Cached::new(nn::func(|xs| xs * 2), (), Options::new().version("double"))?;
    /// let xs = Tensor::from_slice(&[1i64, 2, 3]);
    /// let ids = vec!["a", "b", "c"];
    /// double.forward_by_id(&xs, &ids);
    /// double.forward_by_id(&xs.narrow(0, 1, 2), &ids[1..]);
    /// assert_eq!(double.cache().stats().memory_hits, 2);
    /// # Ok::<(), torchcache::Error>(())
    /// ```
    ///
    /// # Panics
    ///
    /// On misuse, with a message that says what to do: see [`Problem`].
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

    /// The same as an [`nn::Module`], for `apply` and `nn::Sequential::add`.
    pub fn eval(self) -> Eval<M> {
        Eval(self)
    }
}

/// With `train == true` the cache is bypassed.
impl<M: nn::ModuleT> nn::ModuleT for Cached<M> {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        if train {
            bypass::count(self, &Reason::Training);
            return self.module.forward_t(xs, true);
        }
        self.forward(xs)
    }
}

/// A [`Cached`] module outside training, as an [`nn::Module`].
#[derive(Debug)]
pub struct Eval<M>(Cached<M>);

impl<M> Eval<M> {
    /// The cache's handle.
    pub fn cache(&self) -> &TorchCache {
        self.0.cache()
    }
}

impl<M: nn::ModuleT> nn::Module for Eval<M> {
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

    fn options(&self) -> Options {
        self.options.clone()
    }

    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        self.depends_on(f);
    }

    /// With a `version`, the place within the file is not part of the identity: two places that were
    /// given the same one would take each other's rows for their own.
    fn claim(&self, hash: &str) -> Result<(), Problem> {
        static CLAIMS: Mutex<BTreeMap<String, &Location<'_>>> = Mutex::new(BTreeMap::new());
        if !self.needs_claim() {
            return Ok(());
        }
        let first = *lock(&CLAIMS).entry(hash.to_owned()).or_insert(self.made_at);
        if first == self.made_at {
            return Ok(());
        }
        Err(Problem::SameIdentity {
            first: first.to_string(),
            second: self.made_at.to_string(),
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
        !self.options.version.is_empty() && self.options.persistent_module_hash.is_none()
    }

    /// Claims the identity at once: inside another module, whose rows may be found without this
    /// one being called, the first call would be too late.
    fn claim_early(&self) -> Result<(), Problem> {
        if !self.needs_claim() || !self.options.enabled || environment::is_disabled() {
            return Ok(());
        }
        let identity = Identity::compute(&self.name(), &self.options, |f| self.depends_on(f));
        self.claim(&identity.hash)
    }

    /// What the output depends on, as far as it can be seen.
    fn depends_on(&self, f: &mut Fingerprinter<'_>) {
        type_of(&self.module, f);
        f.field("made in", self.made_at.file());
        if self.options.version.is_empty() {
            // One place may wrap many modules, in a loop or a function.
            let place = (self.made_at.line(), self.made_at.column());
            f.field("made at", &(place, self.ordinal));
            if self.ordinal > 0 {
                // The turn says nothing about the next run.
                f.content("run", || (this_run().to_vec(), "this run alone".into()));
            }
            f.content("executable", || {
                (executable().to_vec(), "the running executable".into())
            });
        }
        match &self.weights.0 {
            Source::None | Source::File(_) => {}
            Source::Variables(variables) => tch_types::variables(variables, f),
            Source::Digest(digest) => f.field("file", digest),
        }
    }
}

/// So that an annotated module can hold a cached one: what is in this one's identity counts for
/// the outer rows as well.
impl<M> Fingerprint for Cached<M> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        nested_options(&self.options, f);
        self.depends_on(f);
    }
}

/// Bytes that are the same throughout this process, and in no other.
fn this_run() -> [u8; 32] {
    static RUN: OnceLock<[u8; 32]> = OnceLock::new();
    *RUN.get_or_init(unique)
}

/// How many modules were wrapped at `place` before this one.
fn ordinal(place: &'static Location<'static>) -> u64 {
    static MADE: Mutex<BTreeMap<&Location<'_>, u64>> = Mutex::new(BTreeMap::new());
    let mut made = lock(&MADE);
    let count = made.entry(place).or_default();
    *count += 1;
    *count - 1
}

impl Weights {
    /// A file's bytes are read when the cache is made: later edits do not reach the loaded module.
    fn loaded(self) -> Result<Self, Problem> {
        let Source::File(path) = self.0 else {
            return Ok(self);
        };
        match hash_file(&path) {
            Ok(digest) => Ok(Weights(Source::Digest(digest))),
            Err(error) => Err(Problem::Weights {
                path,
                reason: error.to_string(),
            }),
        }
    }
}

fn hash_file(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
    Ok(*hasher.finalize().as_bytes())
}

/// The digest of the running executable: it stands for code that cannot be seen.
fn executable() -> [u8; 32] {
    static DIGEST: OnceLock<[u8; 32]> = OnceLock::new();
    *DIGEST.get_or_init(|| {
        // On Linux this link leads to the running file even where another took its place.
        let running = Path::new("/proc/self/exe");
        hash_file(running)
            .or_else(|_| hash_file(&std::env::current_exe()?))
            .unwrap_or_else(|_| unique())
    })
}
