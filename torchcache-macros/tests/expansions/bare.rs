//! No prelude, and users' own types with the names of the prelude.

use ::torchcache_macros::{Batched as Output, Fingerprint as Identity, torchcache as cached};

/// Public, so documented.
pub struct Result;
/// Public, so documented.
pub struct Option;
/// Public, so documented.
pub struct String;
/// Public, so documented.
pub struct Vec;
/// Public, so documented.
pub struct Function;
/// Public, so documented.
pub trait Fn {}
/// Public, so documented.
pub trait Default {}
/// Public, so documented.
pub type Tensor = crate::__private::Tensor;
/// Public, so documented.
pub type TorchCache = crate::__private::TorchCache;

/// Public, so documented.
#[cached(persistent = true, version = "2")]
pub struct Backbone {
    /// Public, so documented.
    pub by: f64,
    /// Public, so documented.
    pub torchcache_enabled: bool,
    /// Public, so documented.
    pub torchcache: TorchCache,
}

#[cached]
impl crate::nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        crate::__private::Tensor(::std::vec![xs.0[0] * self.by])
    }
}

/// Public, so documented.
#[cached(eviction = "lru", max_memory_cache_size = 1e9)]
pub fn embed(xs: &Tensor) -> Tensor {
    crate::__private::Tensor(::std::vec![xs.0[0]])
}

/// Public, so documented.
#[derive(Identity)]
pub enum Mode {
    /// Public, so documented.
    Plain,
    /// Public, so documented.
    Scaled(f64, #[torchcache(skip)] Function),
    /// Public, so documented.
    Named {
        /// Public, so documented.
        r#type: i64,
        /// Public, so documented.
        #[torchcache(skip)]
        label: Option,
    },
}

/// Public, so documented.
#[derive(Output)]
pub struct Encoded<T> {
    /// Public, so documented.
    pub r#type: Tensor,
    /// Public, so documented.
    pub inner: T,
}

/// Public, so documented.
#[derive(Output)]
pub struct Pair(pub Tensor, pub ::std::option::Option<Tensor>);

/// Public, so documented.
#[cached]
pub fn pick(xs: &Tensor, #[id] ids: &[u8], #[shared] table: &Tensor) -> Encoded<Pair> {
    Encoded {
        r#type: crate::__private::Tensor(::std::vec![table.0[ids[0] as usize]]),
        inner: Pair(
            crate::__private::Tensor(::std::vec![xs.0[0]]),
            ::std::option::Option::None,
        ),
    }
}
