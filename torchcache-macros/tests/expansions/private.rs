//! A stand-in for `torchcache::__private` with the same names and types, without libtorch. It caches
//! nothing and records calls, which shows that expansions reach the runtime with the right arguments.

use std::cell::RefCell;
use std::path::PathBuf;

pub use core::default::Default;
pub use core::iter::Iterator;
pub use core::option::Option;
pub use core::{concat, module_path};
pub use std::string::String;
pub use std::vec::Vec;

/// A row of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor(pub Vec<f64>);

thread_local! {
    /// What the last call was given, as text.
    pub static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What calls were given since the last time.
pub fn seen() -> Vec<String> {
    SEEN.take()
}

#[derive(Debug, Default)]
pub struct TorchCache(());

impl TorchCache {
    pub const fn new() -> Self {
        Self(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Device {
    Cpu,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Half,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Eviction {
    Lru,
    Never,
}

#[derive(Debug)]
pub struct Options;

impl Options {
    pub fn builder() -> OptionsBuilder {
        OptionsBuilder::default()
    }
}

#[derive(Debug, Default)]
pub struct OptionsBuilder(pub Vec<String>);

/// Stands for the parser of sizes: the length of the text.
pub const fn size(text: &str, least: u64) -> u64 {
    assert!(text.len() as u64 > least);
    text.len() as u64
}

pub trait Size: std::fmt::Debug {}
impl Size for u64 {}
impl Size for f64 {}

/// Some of the options.
macro_rules! options {
    ($($name:ident: $ty:ty),* $(,)?) => {
        impl OptionsBuilder {
            $(pub fn $name(mut self, value: $ty) -> Self {
                self.0.push(format!(concat!(stringify!($name), " {:?}"), value));
                self
            })*
        }
        impl Overrides<'_> {
            $(pub fn $name<T: std::fmt::Debug>(&mut self, value: &T) {
                self.0.push(format!(concat!(stringify!($name), " {:?}"), value));
            })*
        }
    };
}

options! {
    enabled: bool,
    memory_cache_device: impl Into<Option<Device>> + std::fmt::Debug,
    max_memory_cache_size: impl Size,
    eviction: Eviction,
    subsample_count: impl Into<Option<usize>> + std::fmt::Debug,
    persistent: bool,
    persistent_cache_dir: impl Into<PathBuf> + std::fmt::Debug,
    max_persistent_cache_size: impl Size,
    zstd_compression: bool,
    zstd_compression_level: i32,
    cache_dtype: impl Into<Option<Kind>> + std::fmt::Debug,
    version: &str,
    verify: f64,
}

pub struct Overrides<'a>(pub &'a mut Vec<String>);

pub trait Fingerprint {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>);
}

pub struct Fingerprinter<'a>(pub &'a mut Vec<String>);

impl Fingerprinter<'_> {
    pub fn field<T: Fingerprint + ?Sized>(&mut self, name: &str, value: &T) {
        self.0.push(name.to_owned());
        value.fingerprint(&mut Fingerprinter(self.0));
    }
    pub fn functions(&mut self, functions: &[Function]) {
        self.0.extend(
            functions
                .iter()
                .map(|function| format!("fn {}", function.name)),
        );
    }
    pub fn variant(&mut self, name: &str) {
        self.0.push(format!("::{name}"));
    }
}

pub fn type_of<T: ?Sized>(_: &T, f: &mut Fingerprinter<'_>) {
    let name = std::any::type_name::<T>();
    f.0.push(name.replace("expansions::", ""));
}

macro_rules! plain {
    ($($ty:ty),*) => {$(
        impl Fingerprint for $ty {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                f.0.push(format!("{self:?}"));
            }
        }
        impl Argument<'_> for $ty {
            type Held = Nothing;
        }
    )*};
}
plain!(bool, i64, f64, usize, String, Tensor);

impl<T: Fingerprint> Fingerprint for Option<T> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        if let Some(value) = self {
            value.fingerprint(f);
        }
    }
}

impl<T: Fingerprint + ?Sized> Fingerprint for &T {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        T::fingerprint(self, f);
    }
}

impl<T: Fingerprint, const N: usize> Fingerprint for [T; N] {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        self.iter().for_each(|value| value.fingerprint(f));
    }
}

impl<T: Fingerprint + ?Sized> Fingerprint for Box<T> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        T::fingerprint(self, f);
    }
}

pub struct Function {
    pub name: &'static str,
    pub arguments: &'static [&'static str],
    pub code: &'static str,
    pub output: fn() -> String,
}

pub struct Returned<O>(std::marker::PhantomData<O>);

impl<O: Output> Returned<O> {
    pub fn structure() -> String {
        std::any::type_name::<O>().to_owned()
    }
}

pub trait Unreturnable {
    fn structure() -> String {
        String::new()
    }
}

impl<O> Unreturnable for Returned<O> {}

#[diagnostic::on_unimplemented(message = "`{Self}` lacks `#[torchcache]` on its struct")]
pub trait CachedStruct {
    const NAME: &'static str;
    fn options() -> OptionsBuilder;
    fn cache(&self) -> &TorchCache;
    fn overrides(&self, overrides: &mut Overrides<'_>);
    fn fields(&self, f: &mut Fingerprinter<'_>);
}

#[diagnostic::on_unimplemented(message = "`{Self}` lacks `#[torchcache]` on its impl")]
pub trait CachedForward: CachedStruct {
    const FUNCTIONS: &'static [Function];
    fn identity(&self, f: &mut Fingerprinter<'_>) {
        f.functions(Self::FUNCTIONS);
        self.fields(f);
    }
    fn nested(&self, f: &mut Fingerprinter<'_>) {
        type_of(self, f);
        self.identity(f);
    }
}

pub trait CachedFunction {
    const NAME: &'static str;
    const FUNCTION: Function;
    fn options() -> OptionsBuilder;
    fn cache() -> &'static TorchCache;
}

/// The place that holds the rows of an argument during a call.
#[derive(Default)]
pub struct Nothing;

pub trait Argument<'r>: Clone + std::fmt::Debug {
    type Held: Default;
}
impl<'r> Argument<'r> for &'r Tensor {
    type Held = Nothing;
}
impl<'r> Argument<'r> for Option<&'r Tensor> {
    type Held = Nothing;
}
impl<'r> Argument<'r> for &'r [&'r Tensor] {
    type Held = Vec<&'r Tensor>;
}
impl Argument<'_> for &str {
    type Held = Nothing;
}
impl Argument<'_> for &[i64] {
    type Held = Nothing;
}
impl Argument<'_> for (f64, f64) {
    type Held = Nothing;
}

pub trait SampleIds<'r>: Clone + std::fmt::Debug {
    type Held: Default;
}
impl<'r, T: Clone + std::fmt::Debug> SampleIds<'r> for &'r [T] {
    type Held = Vec<T>;
}

pub trait SharedArgument: Clone + std::fmt::Debug {}
impl SharedArgument for &Tensor {}

#[derive(Default)]
pub struct Arguments(Vec<String>);

impl Arguments {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn with<'r, A: Argument<'r>>(mut self, argument: &A) -> Self {
        self.0.push(format!("{argument:?}"));
        self
    }
    pub fn with_id<'r, A: SampleIds<'r>>(mut self, argument: &A) -> Self {
        self.0.push(format!("id {argument:?}"));
        self
    }
    pub fn with_shared<A: SharedArgument>(mut self, argument: &A) -> Self {
        self.0.push(format!("shared {argument:?}"));
        self
    }
}

pub struct Rows(());

impl Rows {
    pub fn argument<'r, A: Argument<'r>>(
        &'r self,
        argument: &A,
        position: usize,
        _: &'r mut A::Held,
    ) -> A {
        SEEN.with_borrow_mut(|seen| seen.push(format!("row argument {position}")));
        argument.clone()
    }
    pub fn id<'r, A: SampleIds<'r>>(&'r self, argument: &A, _: &'r mut A::Held) -> A {
        SEEN.with_borrow_mut(|seen| seen.push("ids".to_owned()));
        argument.clone()
    }
    pub fn shared<A: SharedArgument>(&self, argument: &A) -> A {
        SEEN.with_borrow_mut(|seen| seen.push("shared".to_owned()));
        argument.clone()
    }
}

pub trait Batched: Sized {
    fn structure(text: &mut String);
    fn flatten(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>);
    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        lengths: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self>;
}

impl Batched for Tensor {
    fn structure(text: &mut String) {
        text.push('T');
    }
    fn flatten(self, tensors: &mut Vec<Tensor>, _: &mut Vec<u32>) {
        tensors.push(self);
    }
    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        _: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self> {
        tensors.next()
    }
}

impl<T: Batched> Batched for Option<T> {
    fn structure(text: &mut String) {
        text.push('?');
        T::structure(text);
    }
    fn flatten(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>) {
        lengths.push(u32::from(self.is_some()));
        if let Some(value) = self {
            value.flatten(tensors, lengths);
        }
    }
    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        lengths: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self> {
        match lengths.next()? {
            0 => Some(None),
            _ => T::unflatten(tensors, lengths).map(Some),
        }
    }
}

pub fn nested(_: &str, text: &mut String, fields: impl FnOnce(&mut String)) {
    fields(text);
}

pub trait Output {}
impl<T> Output for T {}

fn call<O>(function: &Function, name: &str, arguments: Arguments, body: impl Fn(&Rows) -> O) -> O {
    SEEN.with_borrow_mut(|seen| {
        seen.push(format!("{name} {}", function.name));
        for (name, value) in function.arguments.iter().zip(arguments.0) {
            seen.push(format!("{name} = {value}"));
        }
    });
    body(&Rows(()))
}

pub fn call_method<T: CachedForward, O: Output>(
    module: &T,
    function: usize,
    arguments: Arguments,
    body: impl Fn(&Rows) -> O,
) -> O {
    let _: &TorchCache = module.cache();
    call(&T::FUNCTIONS[function], T::NAME, arguments, body)
}

pub fn call_method_t<T: CachedForward, O: Output>(
    module: &T,
    function: usize,
    train: bool,
    arguments: Arguments,
    body: impl Fn(&Rows) -> O,
) -> O {
    SEEN.with_borrow_mut(|seen| seen.push(format!("train {train}")));
    call_method(module, function, arguments, body)
}

pub fn call_function<F: CachedFunction, O: Output>(
    arguments: Arguments,
    body: impl Fn(&Rows) -> O,
) -> O {
    call(&F::FUNCTION, F::NAME, arguments, body)
}

pub fn handle<F: CachedFunction>() -> &'static TorchCache {
    F::cache()
}
