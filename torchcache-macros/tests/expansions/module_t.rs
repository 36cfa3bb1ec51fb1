//! An impl of `nn::ModuleT`: `train` is passed separately from the arguments.

use super::*;
use crate::__private::{Tensor, TorchCache as Renamed};
use torchcache_macros::torchcache;

type TorchCache = Renamed;

#[derive(Debug)]
#[torchcache]
pub(super) struct Dropout(pub(super) TorchCache, pub(super) f64);

#[torchcache]
impl nn::ModuleT for Dropout {
    #[inline]
    fn forward_t(&self, xs: &Tensor, mut training: bool) -> Tensor {
        training = !training;
        Tensor(if training { xs.0.clone() } else { vec![self.1] })
    }
}

#[test]
fn train_is_passed_separately_from_the_arguments() {
    use nn::ModuleT;
    let module = Dropout(TorchCache::new(), 0.5);
    assert_eq!(
        module.forward_t(&Tensor(vec![1.0]), true),
        Tensor(vec![0.5])
    );
    assert_eq!(
        seen(),
        [
            "train true",
            "expansions::module_t::Dropout forward_t",
            "xs = Tensor([1.0])",
            "row argument 0"
        ]
    );
    assert_eq!(
        identity(&module),
        ["module_t::Dropout", "fn forward_t", "1", "0.5"]
    );
}
