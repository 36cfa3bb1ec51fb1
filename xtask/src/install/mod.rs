//! What commands need from elsewhere: taken from where the environment says, else installed below
//! `target/`.

pub(crate) mod fashion_mnist;
pub(crate) mod libtorch;
pub(crate) mod minilm;
pub(crate) mod python_peer;
pub(crate) mod readback;

mod pip;
mod python;
mod staged;
mod torch_wheel;
