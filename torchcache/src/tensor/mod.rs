//! Tensors as memory: which ones are strided, their bytes, and hashing and copying these over the
//! cores.

pub(crate) mod blake3_batch;
pub(crate) mod digest;
pub(crate) mod layout;
pub(crate) mod parallel;
pub(crate) mod raw;
pub(crate) mod rows;
pub(crate) mod staging;
