//! Per-sample memoisation of PyTorch modules used through `tch`.
//!
//! One attribute, [`#[torchcache]`](macro@torchcache), on a module's struct and its `forward` impl
//! or on a free tensor function, makes every sample that was ever computed come from memory or
//! disk instead of from the model.

mod argument;
mod batch;
mod bypass;
mod bytes;
mod cached;
mod call;
mod directory;
mod error;
mod function;
mod handle;
mod identity;
mod keys;
mod memory;
mod options;
mod output;
mod overrides;
mod plain;
mod schema;
mod size;
mod slab;
mod stats;
mod subject;
mod tiers;

pub use argument::{Argument, PlainArgument};
pub use cached::{Cached, Eval, Weights};
pub use error::{Error, Problem};
pub use handle::TorchCache;
pub use identity::{Fingerprint, Fingerprinter};
pub use options::{Eviction, Options};
pub use output::{Batched, Output};
pub use overrides::Setting;
pub use size::Size;
pub use stats::Stats;
pub use torchcache_macros::{Fingerprint, torchcache};

#[doc(hidden)]
pub mod __private;
