//! Generic structs, and the ways in which their impls name them.

use super::*;
use crate::__private::{Tensor, TorchCache};
use crate::nn::Module;
use std::fmt::Debug;
use torchcache_macros::torchcache;

#[torchcache]
struct Wrap<'a, M, const N: usize>
where
    M: Debug,
{
    inner: M,
    more: [Option<M>; N],
    name: &'a usize,
    torchcache: TorchCache,
}

#[torchcache]
impl<M: Module + Debug, const N: usize> nn::Module for Wrap<'_, M, N> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs)
    }
}

#[torchcache]
struct Defaulted<M = Twice> {
    inner: M,
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Defaulted {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs)
    }
}

#[torchcache]
struct Concrete<M> {
    inner: M,
    torchcache: TorchCache,
}

#[torchcache]
impl Concrete<Twice> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs)
    }
}

#[torchcache]
struct Borrowed<'a> {
    name: &'a usize,
    torchcache: TorchCache,
}

#[torchcache]
impl<'a> Borrowed<'a> {
    fn forward<'b>(&'b self, xs: &'b Tensor) -> Tensor {
        Tensor(vec![xs.0[0] + *self.name as f64])
    }
}

#[derive(Debug, Clone, torchcache_macros::Fingerprint)]
struct Twice;

impl Module for Twice {
    fn forward(&self, xs: &Tensor) -> Tensor {
        Tensor(xs.0.iter().map(|x| x * 2.0).collect())
    }
}

#[test]
fn a_generic_struct_forwards_with_any_parameters() {
    let wrap = Wrap {
        inner: Twice,
        more: [None],
        name: &3,
        torchcache: TorchCache::new(),
    };
    assert_eq!(wrap.forward(&Tensor(vec![1.0])), Tensor(vec![2.0]));
    assert_eq!(
        identity(&wrap),
        [
            "generic::Wrap<'_, generic::Twice, 1>",
            "fn forward",
            "inner",
            "generic::Twice",
            "more",
            "name",
            "3"
        ]
    );
    let defaulted = Defaulted {
        inner: Twice,
        torchcache: TorchCache::new(),
    };
    assert_eq!(defaulted.forward(&Tensor(vec![1.0])), Tensor(vec![2.0]));
    let concrete = Concrete {
        inner: Twice,
        torchcache: TorchCache::new(),
    };
    assert_eq!(concrete.forward(&Tensor(vec![1.0])), Tensor(vec![2.0]));
    let borrowed = Borrowed {
        name: &3,
        torchcache: TorchCache::new(),
    };
    assert_eq!(borrowed.forward(&Tensor(vec![1.0])), Tensor(vec![4.0]));
    assert_eq!(
        identity(&borrowed),
        ["generic::Borrowed<'_>", "fn forward", "name", "3"]
    );
}

/// Unused, which must not trip the lint that looks for the impl.
#[torchcache]
struct Unused<M> {
    inner: M,
    torchcache: TorchCache,
}

#[torchcache]
impl<M: Module> nn::Module for Unused<M> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs)
    }
}

/// Holds cached modules, one of them generic.
#[torchcache]
struct Outer {
    first: Concrete<Twice>,
    second: super::module_t::Dropout,
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Outer {
    fn forward(&self, xs: &Tensor) -> Tensor {
        nn::ModuleT::forward_t(&self.second, &self.first.forward(xs), false)
    }
}

/// Otherwise, after a change of the inner module's code, the outer cache would return rows that the
/// inner module no longer computes.
#[test]
fn the_code_of_a_module_in_a_field_is_part_of_the_identity() {
    let outer = Outer {
        first: Concrete {
            inner: Twice,
            torchcache: TorchCache::new(),
        },
        second: super::module_t::Dropout(TorchCache::new(), 0.5),
        torchcache: TorchCache::new(),
    };
    assert_eq!(outer.forward(&Tensor(vec![1.0])), Tensor(vec![2.0]));
    assert_eq!(
        identity(&outer),
        [
            "generic::Outer",
            "fn forward",
            "first",
            "generic::Concrete<generic::Twice>",
            "fn forward",
            "inner",
            "generic::Twice",
            "second",
            "module_t::Dropout",
            "fn forward_t",
            "1",
            "0.5"
        ]
    );
}

/// A module that holds itself, whose bounds are those of its impl.
#[torchcache]
struct Tree<M: Module> {
    leaf: M,
    rest: Option<Box<Tree<M>>>,
    torchcache: TorchCache,
}

#[torchcache]
impl<M: Module> nn::Module for Tree<M> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        match &self.rest {
            Some(rest) => rest.forward(&self.leaf.forward(xs)),
            None => self.leaf.forward(xs),
        }
    }
}

#[test]
fn a_generic_module_may_hold_itself() {
    let leaf = |rest| Tree {
        leaf: Twice,
        rest,
        torchcache: TorchCache::new(),
    };
    let tree = leaf(Some(Box::new(leaf(None))));
    assert_eq!(tree.forward(&Tensor(vec![1.0])), Tensor(vec![4.0]));
    assert_eq!(
        identity(&tree),
        [
            "generic::Tree<generic::Twice>",
            "fn forward",
            "leaf",
            "generic::Twice",
            "rest",
            "generic::Tree<generic::Twice>",
            "fn forward",
            "leaf",
            "generic::Twice",
            "rest"
        ]
    );
}
