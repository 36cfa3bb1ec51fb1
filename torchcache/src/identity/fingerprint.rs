//! [`Fingerprint`]: how a value enters a module's identity.
//!
//! One walk over the fields has three purposes, chosen by the [`Fingerprinter`]: the
//! cheap comparison on every call, the full hash when something changed, and a survey of what there is, such as the name
//! of a parameter that requires grad. So a type lists its fields once.

use std::any::type_name;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::panic::Location;

use tch::Tensor;
use torchcache_store::events::Deferred;

use super::changes::Changes;
use super::parts::{self, Claim, Collector};
use super::program::{Object, this_run};
use super::watch::Watcher;
use crate::function::Function;
use crate::tensor::layout;

/// A value that can be part of a module's identity.
///
/// Implemented for plain types, collections, cells, locks and atomic numbers (with what they hold at the call),
/// `tch::nn` layers and configurations, `Tensor`, `Scalar`, `VarStore`, `CModule`, [`Cached`](crate::Cached) and modules
/// with [`torchcache`](macro@crate::torchcache); and for `TrainableCModule`, next to a field with the `VarStore` that it was
/// loaded into.
///
/// * **Plain data**, such as an enum of activations: `#[derive(Fingerprint)]`. Fields that do not change
///   what `forward` computes are left out with `#[torchcache(skip)]`.
/// * **A module**: `#[torchcache(enabled = false)]` on the struct and `#[torchcache]` on its impl, which
///   hash its code without a cache of its own. A derive sees the fields alone. So where the type has weights
///   or type parameters or is an `nn::ModuleT`, the running program stands for its code, and each build
///   computes the rows again; with `#[fingerprint(version = "1")]` next to the derive, the version does.
/// * **A function pointer or a closure**: [`Named`](crate::Named).
/// * **A layer with private weights**, such as `nn::Sequential`: `Cached`, with `enabled(false)` where it needs
///   no cache of its own.
/// * **A module of many parts**: `#[torchcache(skip)]` on its field, its `VarStore` in another field, and
///   `version`, which stands for its code and settings.
///
/// ```
/// use tch::Tensor;
/// use torchcache::Fingerprint;
///
/// #[derive(Debug, Fingerprint)]
/// enum Activation {
///     Relu,
///     Leaky { slope: f64 },
/// }
///
/// // Change the version with the code of `forward`.
/// #[derive(Debug, Fingerprint)]
/// #[fingerprint(version = "1")]
/// struct Scale {
///     weight: Tensor,
/// }
///
/// impl Scale {
///     fn forward(&self, xs: &Tensor) -> Tensor {
///         xs * &self.weight
///     }
/// }
/// ```
///
/// An implementation by hand passes on everything that the output depends on, and a version if its
/// code does:
///
/// ```
/// use torchcache::{Fingerprint, Fingerprinter};
///
/// struct Celsius(f64);
///
/// impl Fingerprint for Celsius {
///     fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
///         f.field("degrees", &self.0);
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a module's identity",
    label = "this type does not implement `torchcache::Fingerprint`",
    note = "plain data of yours, such as an enum of activations: `#[derive(torchcache::Fingerprint)]`",
    note = "a module of yours: `#[torchcache(enabled = false)]` on its struct and `#[torchcache]` on its impl, so that its code is part of the identity",
    note = "a function pointer, a closure or a `Box<dyn Fn>`: `torchcache::Named`, with a name that stands for its code",
    note = "a layer with private weights, such as `nn::Sequential`, `nn::FuncT`, LSTM and GRU: `torchcache::Cached` with its `VarStore`",
    note = "a module of many parts, in one step: `#[torchcache(skip)]` on its field, its `VarStore` in another field and `version = \"1\"` for its code; or `torchcache::Cached`",
    note = "only where it does not change what `forward` computes: `#[torchcache(skip)]` on the field"
)]
pub trait Fingerprint {
    /// Passes to `f` everything in this value that changes what `forward` computes.
    fn fingerprint(&self, f: &mut Fingerprinter<'_>);

    /// Appends the bytes of a plain value, so that where one ends follows from its type and bytes. Returns
    /// `false` where it is not plain; what it appended has no meaning then.
    #[doc(hidden)]
    fn append_plain(&self, _: &mut Vec<u8>) -> bool {
        false
    }

    /// The name of its type, also of the type behind a `dyn`.
    #[doc(hidden)]
    fn dynamic_type(&self) -> &'static str {
        type_name::<Self>()
    }
}

/// So many bytes of plain elements are compared at once.
const PLAIN_BYTES: usize = 32 << 10;

/// Receives the fields of a value. See [`Fingerprint`].
#[derive(Debug)]
pub struct Fingerprinter<'a> {
    walk: FingerprintMode<'a>,
    path: String,
    /// How many fields the walk is in.
    depth: u32,
    /// A field may be read under a lock of the program, which a log subscriber may want.
    _events: Deferred,
}

#[derive(Debug)]
enum FingerprintMode<'a> {
    /// Record the state, or compare with it.
    Watch(&'a mut Watcher),
    /// Collect digests, and readable values for the manifest.
    Hash(&'a mut Collector),
    /// See what there is, without reading it.
    Survey(&'a mut Survey),
}

/// What a walk that reads no bytes of tensors finds.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The path of the first tensor that requires grad.
    pub(crate) trainable: Option<String>,
    /// Whether gradients are recorded for a tensor.
    pub(crate) records_gradients: bool,
    /// Whether there is a tensor, or a module with a handle.
    pub(crate) has_weights: bool,
    /// Whether there is content that is hashed and not compared: two values may differ in it alone.
    pub(crate) has_unwatched: bool,
    /// Whether another thread holds the lock of a value.
    pub(crate) is_locked: bool,
}

impl<'a> Fingerprinter<'a> {
    fn new(walk: FingerprintMode<'a>) -> Self {
        let (path, depth) = (String::new(), 0);
        Fingerprinter {
            walk,
            path,
            depth,
            _events: Deferred::new(),
        }
    }

    pub(crate) fn watch(watcher: &'a mut Watcher) -> Self {
        Self::new(FingerprintMode::Watch(watcher))
    }

    pub(crate) fn hash(collector: &'a mut Collector) -> Self {
        Self::new(FingerprintMode::Hash(collector))
    }

    pub(crate) fn survey(survey: &'a mut Survey) -> Self {
        Self::new(FingerprintMode::Survey(survey))
    }

    /// A named component: a field, an element, a layer.
    pub fn field<T: Fingerprint + ?Sized>(&mut self, name: &str, value: &T) {
        if let FingerprintMode::Watch(watcher) = &mut self.walk {
            watcher.name(self.depth, name);
            return self.nested(value);
        }
        let parent = self.path.len();
        if parent > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        value.fingerprint(self);
        self.path.truncate(parent);
    }

    /// A value inside a field. The depth takes the place of its path in the watched words.
    fn nested<T: Fingerprint + ?Sized>(&mut self, value: &T) {
        self.depth += 1;
        value.fingerprint(self);
        self.depth -= 1;
    }

    /// The elements of a sequence.
    pub(crate) fn elements<T: Fingerprint>(&mut self, values: impl Iterator<Item = T>) {
        if self.compares() {
            return self.compare_elements(values);
        }
        let surveys = matches!(self.walk, FingerprintMode::Survey(_));
        let mut plain = Vec::new();
        for (position, value) in values.enumerate() {
            if surveys {
                plain.clear();
            }
            if !(surveys && value.append_plain(&mut plain)) {
                self.element(position, &value);
            }
        }
    }

    /// Records or compares elements: plain ones by a digest of many.
    fn compare_elements<T: Fingerprint>(&mut self, values: impl Iterator<Item = T>) {
        let mut plain = Vec::new();
        self.watch_with(|watcher, depth| watcher.name(depth, type_name::<T>()));
        for (position, value) in values.enumerate() {
            let before = plain.len();
            if value.append_plain(&mut plain) {
                if plain.len() >= PLAIN_BYTES {
                    self.watch_with(|watcher, _| watcher.digest(&mut plain));
                }
                continue;
            }
            plain.truncate(before);
            self.watch_with(|watcher, _| watcher.digest(&mut plain));
            self.element(position, &value);
        }
        self.watch_with(|watcher, _| watcher.digest(&mut plain));
    }

    fn watch_with(&mut self, watch: impl FnOnce(&mut Watcher, u32)) {
        if let FingerprintMode::Watch(watcher) = &mut self.walk {
            watch(watcher, self.depth);
        }
    }

    /// An element of a sequence, by its position.
    pub(crate) fn element<T: Fingerprint + ?Sized>(&mut self, position: usize, value: &T) {
        if let FingerprintMode::Watch(watcher) = &mut self.walk {
            watcher.word(position as i64);
            return self.nested(value);
        }
        self.field(&position.to_string(), value);
    }

    /// The variant of an enum, before its fields.
    pub fn variant(&mut self, name: &str) {
        self.plain("variant", name.as_bytes(), &name);
    }

    /// A plain value: the name of its type, its exact bytes, and a readable form.
    pub fn plain(&mut self, type_name: &str, bytes: &[u8], readable: &dyn Debug) {
        match &mut self.walk {
            FingerprintMode::Watch(watcher) => {
                watcher.name(self.depth, type_name);
                watcher.bytes(bytes);
            }
            FingerprintMode::Hash(collector) => {
                collector.add(parts::plain(
                    &self.path,
                    type_name,
                    bytes,
                    &format!("{readable:?}"),
                ));
            }
            FingerprintMode::Survey(_) => {}
        }
    }

    /// A tensor: its kind, shape and every byte of its elements.
    pub fn tensor(&mut self, tensor: &Tensor) {
        match &mut self.walk {
            FingerprintMode::Watch(watcher) => watcher.tensor(tensor),
            FingerprintMode::Hash(collector) => {
                let progress = collector.progress.clone();
                collector.add(progress.work(|| parts::tensor(&self.path, tensor)));
                collector.modules += 1;
                collector.records_gradients |= layout::records_gradients(tensor);
                collector.unreadable |= tensor.defined() && !layout::has_digest(tensor);
            }
            FingerprintMode::Survey(survey) => {
                survey.has_weights = true;
                if survey.trainable.is_none() && tensor.defined() && tensor.requires_grad() {
                    survey.trainable = Some(self.path.clone());
                    survey.records_gradients = layout::records_gradients(tensor);
                }
            }
        }
    }

    /// Whether this walk records or compares the state.
    pub(crate) fn compares(&self) -> bool {
        matches!(self.walk, FingerprintMode::Watch(_))
    }

    /// How many weights and modules were hashed so far.
    pub(crate) fn hashed_modules(&self) -> usize {
        match &self.walk {
            FingerprintMode::Hash(collector) => collector.modules,
            FingerprintMode::Watch(_) | FingerprintMode::Survey(_) => 0,
        }
    }

    /// The program or library that contains the caller, in place of the code of `T`. It does not
    /// change while it is used, so that only the name of `T` is watched.
    #[track_caller]
    pub(crate) fn unknown_code<T: ?Sized>(&mut self) {
        let name = type_name::<T>();
        self.watch_with(|watcher, depth| watcher.name(depth, name));
        if let FingerprintMode::Hash(collector) = &mut self.walk {
            let program = Object::of(Location::caller());
            let digest = || program.map_or_else(this_run, |program| program.digest());
            let digest = collector.progress.work(digest);
            collector.add(parts::unknown_code(&self.path, name, digest));
            collector.unknown_code.insert(name);
        }
    }

    /// The guard of a value, by `lock`. Where another holder keeps the lock, `lock` returns `None`, and the call
    /// bypasses the cache: this walk is in vain then, and waits for no other lock.
    pub(crate) fn lock<G>(&mut self, lock: impl FnOnce() -> Option<G>) -> Option<G> {
        if self.is_locked() {
            return None;
        }
        let guard = lock();
        if guard.is_none() {
            self.locked();
        }
        guard
    }

    /// A value that cannot be read now, since another thread holds its lock: the call bypasses the
    /// cache.
    pub(super) fn locked(&mut self) {
        match &mut self.walk {
            FingerprintMode::Watch(watcher) => watcher.locked(),
            FingerprintMode::Hash(collector) => collector.locked = true,
            FingerprintMode::Survey(survey) => survey.is_locked = true,
        }
    }

    /// Whether a value could not be read, so that this walk is in vain.
    fn is_locked(&self) -> bool {
        match &self.walk {
            FingerprintMode::Watch(watcher) => watcher.is_locked(),
            FingerprintMode::Hash(collector) => collector.locked,
            FingerprintMode::Survey(survey) => survey.is_locked,
        }
    }

    /// The handle of a module inside this one. Hashing this module means that it may have changed
    /// without a trace, so that the inner one hashes itself again as well; and what was reported to
    /// the inner one is a change of this one.
    pub(crate) fn inner_handle(&mut self, changes: &Changes) {
        match &mut self.walk {
            FingerprintMode::Watch(watcher) => watcher.word(changes.reported() as i64),
            FingerprintMode::Hash(collector) => {
                changes.outer_hashed();
                collector.modules += 1;
            }
            FingerprintMode::Survey(survey) => survey.has_weights = true,
        }
    }

    /// Keeps a claim of what is hashed as long as rows can be found under the hash.
    pub(crate) fn holds(&mut self, claim: Claim) {
        if let FingerprintMode::Hash(collector) = &mut self.walk {
            collector.claims.push(claim);
        }
    }

    /// Whether this walk computes the hash.
    pub(crate) fn hashes(&self) -> bool {
        matches!(self.walk, FingerprintMode::Hash(_))
    }

    /// Does work that may take long, and waits for no lock of the program; `None` where this walk does not
    /// compute the hash.
    pub(super) fn hashing<R>(&mut self, work: impl FnOnce() -> R) -> Option<R> {
        match &mut self.walk {
            FingerprintMode::Hash(collector) => Some(collector.progress.work(work)),
            FingerprintMode::Watch(_) => None,
            FingerprintMode::Survey(survey) => {
                survey.has_unwatched = true;
                None
            }
        }
    }

    /// Records that a TorchScript module is in train mode, for a warning.
    pub(crate) fn in_train_mode(&mut self) {
        if let FingerprintMode::Hash(collector) = &mut self.walk {
            collector.in_train_mode = true;
        }
    }

    /// Records that the weights of a module are only watched through the `VarStore` that holds them.
    pub(super) fn needs_variables(&mut self) {
        if let FingerprintMode::Hash(collector) = &mut self.walk {
            collector.needs_variables = true;
        }
    }

    /// Records that a `VarStore` is watched.
    pub(super) fn has_variables(&mut self) {
        if let FingerprintMode::Hash(collector) = &mut self.walk {
            collector.has_variables = true;
        }
    }

    /// Runs `walk`, and returns the digest of what it added to the hash: the same wherever the value
    /// is. `None` where this walk does not compute the hash, or cannot.
    pub(crate) fn digest_of(&mut self, walk: impl FnOnce(&mut Self)) -> Option<[u8; 32]> {
        let start = match &self.walk {
            FingerprintMode::Hash(collector) => Some(collector.parts.len()),
            FingerprintMode::Watch(_) | FingerprintMode::Survey(_) => None,
        };
        walk(self);
        match &self.walk {
            FingerprintMode::Hash(collector) if !collector.locked => {
                Some(collector.digest_from(start?, &self.path))
            }
            _ => None,
        }
    }

    /// What an instance hashes, whose number no other one of this process has: where a part of it is not watched, the
    /// number is compared in its place. Returns what [`digest_of`](Self::digest_of) does.
    pub(crate) fn instance(
        &mut self,
        number: u64,
        walk: impl FnOnce(&mut Self),
    ) -> Option<[u8; 32]> {
        let before = match &self.walk {
            FingerprintMode::Survey(survey) => survey.has_unwatched,
            FingerprintMode::Watch(_) | FingerprintMode::Hash(_) => false,
        };
        let digest = self.digest_of(walk);
        match &mut self.walk {
            FingerprintMode::Watch(_) => self.plain("instance", &number.to_le_bytes(), &number),
            FingerprintMode::Survey(survey) => survey.has_unwatched = before,
            FingerprintMode::Hash(_) => {}
        }
        digest
    }

    /// A configuration that is readable only through `Debug`.
    pub(crate) fn configuration(&mut self, value: &dyn Debug) {
        match &mut self.walk {
            FingerprintMode::Watch(watcher) => watcher.text(format_args!("{value:?}")),
            FingerprintMode::Hash(_) => {
                let text = format!("{value:?}");
                self.content("configuration", &[], || (text.clone().into_bytes(), text));
            }
            FingerprintMode::Survey(_) => {}
        }
    }

    /// Bytes that are too expensive to make on every call: `make` runs only when the hash is computed.
    /// `watched` changes whenever they do, and is compared in their place; where they are
    /// constant, it is empty.
    pub(crate) fn content(
        &mut self,
        type_name: &str,
        watched: &[u8],
        make: impl FnOnce() -> (Vec<u8>, String),
    ) {
        match &mut self.walk {
            FingerprintMode::Watch(watcher) => {
                watcher.name(self.depth, type_name);
                watcher.bytes(watched);
            }
            FingerprintMode::Hash(collector) => {
                let (bytes, readable) = collector.progress.work(make);
                collector.add(parts::plain(&self.path, type_name, &bytes, &readable));
            }
            FingerprintMode::Survey(survey) => survey.has_unwatched = true,
        }
    }

    /// A collection without an order: elements are added in the order of their digests.
    pub(crate) fn unordered<'t, T: Fingerprint + 't>(&mut self, values: impl Iterator<Item = T>) {
        if !self.hashes() {
            return self.elements(values);
        }
        let mut values: Vec<_> = values
            .map(|value| {
                let mut alone = Collector::default();
                value.fingerprint(&mut Fingerprinter::hash(&mut alone));
                if alone.locked {
                    self.locked();
                }
                (alone.digest(), value)
            })
            .collect();
        values.sort_by_key(|(digest, _)| *digest);
        for (position, (_, value)) in values.iter().enumerate() {
            self.field(&format!("{{{position}}}"), value);
        }
    }

    /// Records what is in the hash, so that the keys of rows do not have it again.
    pub(super) fn knows(&mut self, digest: impl FnOnce() -> Option<[u8; 32]>) {
        if let FingerprintMode::Hash(collector) = &mut self.walk {
            collector.functions.extend(digest());
        }
    }

    /// The code of cached methods of the module called `module`, which is inside the one that is hashed, and
    /// of those that they name.
    pub(crate) fn functions(
        &mut self,
        module: impl FnOnce() -> String,
        functions: &'static [&'static Function],
    ) {
        match &mut self.walk {
            FingerprintMode::Watch(watcher) => {
                // What the compiler put into them is fixed by the type, which is watched.
                for function in functions {
                    watcher.name(self.depth, function.name);
                    watcher.bytes(function.code.as_bytes());
                }
            }
            FingerprintMode::Hash(collector) => {
                let module = module();
                let called = functions.iter().flat_map(|it| it.all_callees());
                let mut added = BTreeSet::new();
                for function in functions.iter().copied().chain(called) {
                    if added.insert(function.code_in(&module)) {
                        parts::code(&self.path, function).for_each(|part| collector.add(part));
                    }
                }
                collector.functions.extend(added);
            }
            FingerprintMode::Survey(_) => {}
        }
    }
}
