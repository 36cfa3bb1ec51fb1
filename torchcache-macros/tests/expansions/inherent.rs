//! An inherent impl: many arguments, patterns, several functions.

use super::*;
use crate::__private::{Tensor, TorchCache};
use torchcache_macros::torchcache;

#[torchcache(enabled = true)]
struct Attention {
    cache: TorchCache,
}

#[torchcache]
impl Attention {
    const HEADS: usize = 2;

    fn new() -> Self {
        Self {
            cache: TorchCache::default(),
        }
    }

    fn forward(
        &self,
        mut xs: Tensor,
        mask: std::option::Option<&Tensor>,
        (low, high): (f64, f64),
        _: &[i64],
        rows: &str,
    ) -> std::result::Result<(Tensor, Tensor), String> {
        let first = xs.0.first().copied().ok_or("no rows")?;
        xs.0.push(first.clamp(low, high));
        xs.0.push(Self::HEADS as f64 + rows.len() as f64);
        Ok((xs, mask.cloned().unwrap_or(Tensor(Vec::new()))))
    }

    fn forward_t(&self, xs: &Tensor, _train: bool) -> Vec<Tensor> {
        vec![xs.clone()]
    }
}

#[test]
fn patterns_bind_inside_the_body() {
    let module = Attention::new();
    let out = module.forward(Tensor(vec![9.0]), None, (0.0, 1.0), &[3], "abc");
    assert_eq!(out, Ok((Tensor(vec![9.0, 1.0, 5.0]), Tensor(vec![]))));
    assert_eq!(
        seen()[..6],
        [
            "expansions::inherent::Attention forward",
            "xs = Tensor([9.0])",
            "mask = None",
            "argument_2 = (0.0, 1.0)",
            "argument_3 = [3]",
            "rows = \"abc\"",
        ]
    );
    assert!(
        module
            .forward(Tensor(vec![]), None, (0.0, 1.0), &[], "")
            .is_err()
    );
}

#[test]
fn both_functions_have_their_place() {
    let module = Attention::new();
    seen();
    module.forward_t(&Tensor(vec![]), false);
    assert_eq!(seen()[1], "expansions::inherent::Attention forward_t");
    assert_eq!(
        identity(&module),
        ["inherent::Attention", "fn forward", "fn forward_t"]
    );
}
