//! The kernels of the library, run by the interpreter and compared with references.

mod copies;
mod digests;
mod huge;
mod launch;
mod pieces;
#[path = "../../../../torchcache/src/device/plan.rs"]
mod plan;
mod planted;
mod sums;
mod word_sizes;
