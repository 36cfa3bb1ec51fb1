//! What commands need from elsewhere: taken from where the environment says, else installed below
//! `target/`.

pub(crate) mod fake_cuda;
pub(crate) mod fashion_mnist;
pub(crate) mod libtorch;
pub(crate) mod minilm;
pub(crate) mod nvrtc;
pub(crate) mod python_peer;
pub(crate) mod readback;
pub(crate) mod seaweedfs;

mod pip;
mod python;
mod staged;
mod torch_wheel;

use std::env;
use std::path::PathBuf;

/// The path in a variable of the environment. One that is set to nothing counts as not set.
fn named(variable: &str) -> Option<PathBuf> {
    let value = env::var_os(variable).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}
