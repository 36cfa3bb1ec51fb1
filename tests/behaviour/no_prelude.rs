//! Public items without the prelude, next to types with the prelude's names: generated code names
//! every item by its path, is documented and gives no warning.

#![no_implicit_prelude]
#![deny(warnings)]

use ::tch::Tensor;
use ::tch::nn::Module;
use ::torchcache::{
    Batched as Output, Fingerprint as Identity, TorchCache, torchcache as remember,
};

/// Has the name of a type of the prelude.
#[derive(::std::fmt::Debug)]
pub struct Result;
/// Has the name of a type of the prelude.
#[derive(::std::fmt::Debug)]
pub struct Option;
/// Has the name of a type of the prelude.
#[derive(::std::fmt::Debug)]
pub struct String;
/// Has the name of a type of the prelude.
#[derive(::std::fmt::Debug)]
pub struct Vec;
/// Has the name of a type in generated code.
#[derive(::std::fmt::Debug)]
pub struct Function;
/// Has the name of a trait of the prelude.
pub trait Fn {}
/// Has the name of a trait of the prelude.
pub trait Default {}

/// An enum with each kind of variant.
#[derive(::std::fmt::Debug, Identity)]
pub enum Mode {
    /// Without fields.
    Plain,
    /// With a skipped field.
    Scaled(f64, #[torchcache(skip)] Function),
    /// With a raw identifier.
    Named {
        /// A raw identifier.
        r#type: i64,
        /// Skipped.
        #[torchcache(skip)]
        label: Option,
    },
}

/// A documented module.
#[remember(enabled = true, version = "2")]
#[derive(::std::fmt::Debug)]
pub struct Doubled {
    /// A derived type.
    pub mode: Mode,
    /// Skipped.
    #[torchcache(skip)]
    pub result: Result,
    /// Skipped by the name of the attribute here.
    #[remember(skip)]
    pub string: String,
    /// Skipped under a condition.
    #[cfg_attr(all(), remember(skip))]
    pub vec: Vec,
    /// An option.
    pub torchcache_subsample_count: usize,
    /// The handle.
    pub torchcache: TorchCache,
}

#[remember]
impl Module for Doubled {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.f_mul_scalar(2).unwrap()
    }
}

/// A documented function.
#[remember(eviction = "lru", max_memory_cache_size = 1e9)]
pub fn doubled(xs: &Tensor) -> Tensor {
    xs.f_mul_scalar(2).unwrap()
}

/// An output with a raw identifier and a type parameter.
#[derive(::std::fmt::Debug, Output)]
pub struct Encoded<T> {
    /// A raw identifier.
    pub r#type: Tensor,
    /// Another output.
    pub inner: T,
}

/// A tuple as an output.
#[derive(::std::fmt::Debug, Output)]
pub struct Pair(pub Tensor, pub ::std::option::Option<Tensor>);

/// A function with an argument of each kind.
#[remember]
pub fn pick(xs: &Tensor, #[id] ids: &[u8], #[shared] table: &Tensor) -> Encoded<Pair> {
    ::std::assert_eq!(xs.size()[0] as usize, ids.len());
    Encoded {
        r#type: xs.f_mul(table).unwrap(),
        inner: Pair(xs.shallow_clone(), ::std::option::Option::None),
    }
}
