//! One module a command.

pub(crate) mod bench;
pub(crate) mod clone;
pub(crate) mod cuda_bundle;
pub(crate) mod demo;
pub(crate) mod docs;
pub(crate) mod fake_device;
pub(crate) mod kernels;
pub(crate) mod layout;
pub(crate) mod planted;
pub(crate) mod sanitize;
pub(crate) mod servers;
pub(crate) mod soak;
pub(crate) mod test;
