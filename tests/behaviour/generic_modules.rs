//! Generic structs, and the ways in which their impls name them.

#![deny(warnings)]

use std::fmt::Debug;

use tch::Tensor;
use tch::nn::{self, Module};
use torchcache::{Fingerprint, TorchCache, torchcache};

use crate::support::assert_computed_once;

#[derive(Debug, Clone, Fingerprint)]
struct Times(f64);

impl Module for Times {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * self.0
    }
}

#[derive(Debug, Fingerprint)]
enum Never {}

/// Calls a module twice, and returns its module hash.
fn hash(module: &impl Module, cache: &TorchCache, factor: f64) -> String {
    assert_computed_once(cache, |xs| module.forward(xs), |xs| xs * factor);
    cache.module_hash().unwrap()
}

#[torchcache]
#[derive(Debug)]
struct Wrap<'a, M, const N: usize>
where
    M: Debug,
{
    inner: M,
    more: [Option<M>; N],
    never: Option<Never>,
    name: &'a usize,
    torchcache: TorchCache,
}

#[torchcache]
impl<M: Module + Debug, const N: usize> nn::Module for Wrap<'_, M, N> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs)
    }
}

fn wrap<const N: usize>(more: [Option<Times>; N], name: &usize) -> Wrap<'_, Times, N> {
    Wrap {
        inner: Times(2.0),
        more,
        never: None,
        name,
        torchcache: TorchCache::default(),
    }
}

#[test]
fn the_fields_of_a_generic_struct_are_its_identity() {
    let modules = [
        wrap([None], &3),
        wrap([None], &4),
        wrap([Some(Times(2.0))], &3),
    ];
    let mut hashes: Vec<_> = modules
        .iter()
        .map(|it| hash(it, &it.torchcache, 2.0))
        .collect();
    let longer = wrap([None, None], &3);
    hashes.push(hash(&longer, &longer.torchcache, 2.0));
    for (number, one) in hashes.iter().enumerate() {
        assert!(!hashes[..number].contains(one), "{number}");
    }
}

#[torchcache]
#[derive(Debug)]
struct Defaulted<M = Times> {
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
#[derive(Debug)]
struct Concrete<M> {
    inner: M,
    torchcache: TorchCache,
}

#[torchcache]
impl Concrete<Times> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs)
    }
}

#[torchcache]
#[derive(Debug)]
struct Borrowed<'a> {
    factor: &'a f64,
    torchcache: TorchCache,
}

#[torchcache]
impl<'a> Borrowed<'a> {
    fn forward<'b>(&'b self, xs: &'b Tensor) -> Tensor {
        xs * *self.factor
    }
}

#[test]
fn an_impl_may_name_defaults_types_and_lifetimes() {
    let defaulted = Defaulted {
        inner: Times(3.0),
        torchcache: TorchCache::default(),
    };
    hash(&defaulted, &defaulted.torchcache, 3.0);
    let concrete = Concrete {
        inner: Times(4.0),
        torchcache: TorchCache::default(),
    };
    assert_computed_once(
        &concrete.torchcache,
        |xs| concrete.forward(xs),
        |xs| xs * 4.0,
    );
    let borrowed = Borrowed {
        factor: &5.0,
        torchcache: TorchCache::default(),
    };
    assert_computed_once(
        &borrowed.torchcache,
        |xs| borrowed.forward(xs),
        |xs| xs * 5.0,
    );
}

/// Never used, which must not give a warning about a missing impl.
#[torchcache]
#[derive(Debug)]
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

/// A module that holds itself, with the bounds of its impl on the struct.
#[torchcache]
#[derive(Debug)]
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

fn tree(factors: &[f64]) -> Tree<Times> {
    Tree {
        leaf: Times(factors[0]),
        rest: (factors.len() > 1).then(|| Box::new(tree(&factors[1..]))),
        torchcache: TorchCache::default(),
    }
}

#[test]
fn a_generic_module_may_hold_itself() {
    let hash = |factors: &[f64]| {
        let tree = tree(factors);
        hash(&tree, &tree.torchcache, factors.iter().product())
    };
    // Powers of two, so that the product of the factors is exact.
    assert_ne!(hash(&[2.0, 4.0]), hash(&[2.0, 8.0]));
    assert_ne!(hash(&[2.0, 4.0]), hash(&[2.0]));
}

/// A derived type that holds itself.
#[derive(Debug, Fingerprint)]
struct Node<T> {
    value: T,
    next: Option<Box<Node<T>>>,
}

#[derive(Debug, Fingerprint)]
struct Mean;

#[derive(Debug, Fingerprint)]
struct Max;

/// Types without fields that only their names tell apart.
#[derive(Debug)]
enum Pooling {
    Mean(Mean),
    Max(Max),
    List(Node<f64>),
}

impl Fingerprint for Pooling {
    fn fingerprint(&self, f: &mut torchcache::Fingerprinter<'_>) {
        match self {
            Pooling::Mean(mean) => mean.fingerprint(f),
            Pooling::Max(max) => max.fingerprint(f),
            Pooling::List(node) => node.fingerprint(f),
        }
    }
}

#[torchcache]
#[derive(Debug)]
struct Pooled {
    pooling: Pooling,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Pooled {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * 2
    }
}

#[test]
fn names_of_derived_types_are_part_of_the_identity() {
    let node = |value, next: Option<_>| Node {
        value,
        next: next.map(Box::new),
    };
    let hashes = [
        Pooling::Mean(Mean),
        Pooling::Max(Max),
        Pooling::List(node(1.0, None)),
        Pooling::List(node(1.0, Some(node(2.0, None)))),
        Pooling::List(node(1.0, Some(node(3.0, None)))),
    ]
    .map(|pooling| {
        let torchcache = TorchCache::default();
        let pooled = Pooled {
            pooling,
            torchcache,
        };
        hash(&pooled, &pooled.torchcache, 2.0)
    });
    for (number, one) in hashes.iter().enumerate() {
        assert!(!hashes[..number].contains(one), "{number}");
    }
}
