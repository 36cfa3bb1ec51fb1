//! Arguments that no key can be made of.

use tch::{Tensor, nn};
use torchcache::{Argument, torchcache};

#[derive(Clone)]
struct Scaling {
    by: f64,
}

#[torchcache]
fn embed(xs: &Tensor, scaling: Scaling, masks: &[Tensor]) -> Tensor {
    xs * &masks[0] * scaling.by
}

#[torchcache]
fn encode(xs: &Tensor, layers: &nn::Sequential) -> Tensor {
    xs.apply(layers)
}

#[derive(Argument)]
struct Inputs {
    ids: Tensor,
    scaling: Scaling,
}

#[derive(Argument)]
struct Marked {
    ids: Tensor,
    #[argument(plain)]
    scaling: Scaling,
}

fn main() {}
