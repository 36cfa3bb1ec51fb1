//! Public items without the prelude, next to types with the prelude's names: generated code names
//! every item by its path, is documented and gives no warning.

#![no_implicit_prelude]
#![deny(warnings)]

use ::tch::Tensor;
use ::tch::nn::Module;
use ::torchcache::{
    Argument as Input, Batched as Output, Fingerprint as Identity, TorchCache,
    torchcache as remember,
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

/// An argument and an output, whose fields are of each kind.
#[derive(::std::fmt::Debug, Input, Output)]
pub enum Either<T> {
    /// One with a plain value.
    One(
        Tensor,
        #[argument(plain)]
        #[batched(constant)]
        i64,
    ),
    /// A raw identifier, and a parameter.
    Named {
        /// A raw identifier.
        r#type: Tensor,
        /// Another one.
        inner: T,
    },
    /// Without a tensor.
    Nothing,
}

/// An argument with a lifetime.
#[derive(::std::fmt::Debug, Input)]
pub struct Borrowed<'a>(pub &'a Tensor, pub &'a [Either<Tensor>]);

/// A function with arguments and outputs of these.
#[remember]
pub fn turn(given: &Borrowed<'_>, either: Either<Tensor>) -> Either<Tensor> {
    match either {
        Either::One(one, number) => Either::Named {
            r#type: one.f_mul_scalar(number).unwrap(),
            inner: given.0.shallow_clone(),
        },
        Either::Named { r#type, .. } => Either::One(r#type, given.1.len() as i64),
        Either::Nothing => Either::Nothing,
    }
}
