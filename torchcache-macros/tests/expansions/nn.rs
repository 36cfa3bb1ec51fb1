//! The module traits of `tch::nn`.

use crate::__private::Tensor;

/// As in tch.
pub trait Module {
    /// As in tch.
    fn forward(&self, xs: &Tensor) -> Tensor;
}

/// As in tch.
pub trait ModuleT {
    /// As in tch.
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor;
}
