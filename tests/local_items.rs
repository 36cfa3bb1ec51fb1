//! Cached items that only their place in the source tells apart: one name in several blocks,
//! closures and expansions, each with constants of its own around it.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tch::Tensor;
use tch::nn::Module;
use torchcache::{Fingerprint, Stats, TorchCache, torchcache};

/// A call of a cached item, which returns its output and the statistics of its cache.
type Call = Box<dyn Fn(&Tensor) -> (Tensor, Stats)>;

/// A cached item, which multiplies by `factor`.
pub(crate) struct Item {
    pub(crate) call: Call,
    pub(crate) factor: f64,
}

fn function(call: fn(&Tensor) -> Tensor, cache: &'static TorchCache, factor: f64) -> Item {
    let call = Box::new(move |xs: &Tensor| (call(xs), cache.stats()));
    Item { call, factor }
}

fn module<M: Module + 'static>(module: M, cache: fn(&M) -> &TorchCache, factor: f64) -> Item {
    let call = Box::new(move |xs: &Tensor| (module.forward(xs), cache(&module).stats()));
    Item { call, factor }
}

/// A function.
macro_rules! scaled {
    ($k:expr) => {{
        const K: f64 = $k;
        #[torchcache(persistent = true)]
        fn scaled(xs: &Tensor) -> Tensor {
            xs * K
        }
        function(scaled, scaled_cache(), K)
    }};
}

/// Two functions of one expansion, each at its own place in the macro.
macro_rules! both {
    ($two:expr, $three:expr) => {
        [
            {
                const K: f64 = $two;
                #[torchcache(persistent = true)]
                fn scaled(xs: &Tensor) -> Tensor {
                    xs * K
                }
                function(scaled, scaled_cache(), K)
            },
            {
                const K: f64 = $three;
                #[torchcache(persistent = true)]
                fn scaled(xs: &Tensor) -> Tensor {
                    xs * K
                }
                function(scaled, scaled_cache(), K)
            },
        ]
    };
}

/// Two functions from the same tokens of one expansion.
macro_rules! repeated {
    ($($k:expr),*) => {
        [$({
            const K: f64 = $k;
            #[torchcache(persistent = true)]
            fn scaled(xs: &Tensor) -> Tensor {
                xs * K
            }
            function(scaled, scaled_cache(), K)
        }),*]
    };
}

/// Two expansions of a macro in one expansion of another.
macro_rules! nested {
    ($two:expr, $three:expr) => {
        [scaled!($two), scaled!($three)]
    };
}

/// A struct and its impl.
macro_rules! scale {
    ($k:expr) => {{
        const K: f64 = $k;
        #[torchcache(persistent = true)]
        #[derive(Debug, Default)]
        struct Scale {
            torchcache: TorchCache,
        }
        #[torchcache]
        impl Module for Scale {
            fn forward(&self, xs: &Tensor) -> Tensor {
                xs * K
            }
        }
        module(Scale::default(), |scale| &scale.torchcache, K)
    }};
}

fn expansions() -> [Item; 2] {
    [scaled!(2.0), scaled!(3.0)]
}

fn structs() -> [Item; 2] {
    [scale!(2.0), scale!(3.0)]
}

fn blocks() -> [Item; 2] {
    let two = {
        fn factor() -> f64 {
            2.0
        }
        #[torchcache(persistent = true)]
        fn scaled(xs: &Tensor) -> Tensor {
            xs * factor()
        }
        function(scaled, scaled_cache(), 2.0)
    };
    let three = {
        fn factor() -> f64 {
            3.0
        }
        #[torchcache(persistent = true)]
        fn scaled(xs: &Tensor) -> Tensor {
            xs * factor()
        }
        function(scaled, scaled_cache(), 3.0)
    };
    [two, three]
}

fn closures() -> [Item; 2] {
    let two = || {
        const K: f64 = 2.0;
        #[torchcache(persistent = true)]
        fn scaled(xs: &Tensor) -> Tensor {
            xs * K
        }
        function(scaled, scaled_cache(), K)
    };
    let three = || {
        const K: f64 = 3.0;
        #[torchcache(persistent = true)]
        fn scaled(xs: &Tensor) -> Tensor {
            xs * K
        }
        function(scaled, scaled_cache(), K)
    };
    [two(), three()]
}

fn structs_in_closures() -> [Item; 2] {
    let two = || scale!(2.0);
    let three = || scale!(3.0);
    [two(), three()]
}

async fn in_async_function() -> [Item; 2] {
    #[torchcache(persistent = true)]
    #[derive(Debug, Default)]
    struct Scale {
        torchcache: TorchCache,
    }
    #[torchcache]
    impl Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2.0
        }
    }
    let three = async { scale!(3.0) };
    let two = module(Scale::default(), |scale| &scale.torchcache, 2.0);
    [two, three.await]
}

fn async_functions() -> [Item; 2] {
    let future = pin!(in_async_function());
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(items) => items,
        Poll::Pending => unreachable!("nothing in it waits"),
    }
}

/// Functions in two arms of a `match`.
fn arms() -> [Item; 2] {
    let make = |factor: i32| match factor {
        2 => {
            const K: f64 = 2.0;
            #[torchcache(persistent = true)]
            fn scaled(xs: &Tensor) -> Tensor {
                xs * K
            }
            function(scaled, scaled_cache(), K)
        }
        _ => {
            const K: f64 = 3.0;
            #[torchcache(persistent = true)]
            fn scaled(xs: &Tensor) -> Tensor {
                xs * K
            }
            function(scaled, scaled_cache(), K)
        }
    };
    [make(2), make(3)]
}

/// Functions in the initialisers of statics and in a `const` block.
fn statics() -> [Item; 2] {
    static TWO: fn() -> Item = {
        const K: f64 = 2.0;
        #[torchcache(persistent = true)]
        fn scaled(xs: &Tensor) -> Tensor {
            xs * K
        }
        || function(scaled, scaled_cache(), K)
    };
    let three: fn() -> Item = const {
        const K: f64 = 3.0;
        #[torchcache(persistent = true)]
        fn scaled(xs: &Tensor) -> Tensor {
            xs * K
        }
        || function(scaled, scaled_cache(), K)
    };
    [TWO(), three()]
}

/// Functions in the default methods of two traits, in generic methods.
fn default_methods() -> [Item; 2] {
    trait TwoByDefault {
        fn item<T>(_: T) -> Item {
            const K: f64 = 2.0;
            #[torchcache(persistent = true)]
            fn scaled(xs: &Tensor) -> Tensor {
                xs * K
            }
            function(scaled, scaled_cache(), K)
        }
    }
    trait ThreeByDefault {
        fn item<T>(_: T) -> Item {
            const K: f64 = 3.0;
            #[torchcache(persistent = true)]
            fn scaled(xs: &Tensor) -> Tensor {
                xs * K
            }
            function(scaled, scaled_cache(), K)
        }
    }
    impl TwoByDefault for Two {}
    impl ThreeByDefault for Two {}
    [
        <Two as TwoByDefault>::item(1),
        <Two as ThreeByDefault>::item("one"),
    ]
}

trait Made {
    fn item() -> Item;
}

struct Two;
const _: () = {
    const K: f64 = 2.0;
    #[torchcache(persistent = true)]
    fn scaled(xs: &Tensor) -> Tensor {
        xs * K
    }
    impl Made for Two {
        fn item() -> Item {
            function(scaled, scaled_cache(), K)
        }
    }
};

struct Three;
const _: () = {
    const K: f64 = 3.0;
    #[torchcache(persistent = true)]
    fn scaled(xs: &Tensor) -> Tensor {
        xs * K
    }
    impl Made for Three {
        fn item() -> Item {
            function(scaled, scaled_cache(), K)
        }
    }
};

fn constants() -> [Item; 2] {
    [Two::item(), Three::item()]
}

fn modules() -> [Item; 2] {
    macro_rules! in_module {
        ($k:expr) => {{
            mod inner {
                use super::*;
                const K: f64 = $k;
                #[torchcache(persistent = true)]
                fn scaled(xs: &Tensor) -> Tensor {
                    xs * K
                }
                pub(super) fn item() -> Item {
                    function(scaled, scaled_cache(), K)
                }
            }
            inner::item()
        }};
    }
    [in_module!(2.0), in_module!(3.0)]
}

/// A module whose parameter decides what it computes.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Wrap<M> {
    inner: M,
    torchcache: TorchCache,
}

#[torchcache]
impl<M: Module> Module for Wrap<M> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs)
    }
}

macro_rules! wrapped {
    ($k:expr) => {{
        #[derive(Debug, Fingerprint)]
        struct Scale;
        impl Module for Scale {
            fn forward(&self, xs: &Tensor) -> Tensor {
                xs * $k
            }
        }
        let torchcache = TorchCache::default();
        let inner = Scale;
        module(Wrap { inner, torchcache }, |wrap| &wrap.torchcache, $k)
    }};
}

fn parameters() -> [Item; 2] {
    [wrapped!(2.0), wrapped!(3.0)]
}

/// The parameter of a module is in a closure.
fn parameters_in_closures() -> [Item; 2] {
    let two = || wrapped!(2.0);
    let three = || wrapped!(3.0);
    [two(), three()]
}

/// A generic struct whose impls are in two blocks, for types of one name.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Marked<M> {
    mark: PhantomData<M>,
    torchcache: TorchCache,
}

fn impls() -> [Item; 2] {
    let two = {
        const K: f64 = 2.0;
        #[derive(Debug)]
        struct Mark;
        #[torchcache]
        impl Module for Marked<Mark> {
            fn forward(&self, xs: &Tensor) -> Tensor {
                xs * K
            }
        }
        let torchcache = TorchCache::default();
        let mark = PhantomData::<Mark>;
        module(Marked { mark, torchcache }, |marked| &marked.torchcache, K)
    };
    let three = {
        const K: f64 = 3.0;
        #[derive(Debug)]
        struct Mark;
        #[torchcache]
        impl Module for Marked<Mark> {
            fn forward(&self, xs: &Tensor) -> Tensor {
                xs * K
            }
        }
        let torchcache = TorchCache::default();
        let mark = PhantomData::<Mark>;
        module(Marked { mark, torchcache }, |marked| &marked.torchcache, K)
    };
    [two, three]
}

/// Structs and functions under one `persistent_module_hash`, in modules and in blocks.
macro_rules! named {
    ($name:ident, $k:expr) => {
        #[torchcache(persistent = true, persistent_module_hash = "one-name")]
        #[derive(Debug, Default)]
        struct $name {
            torchcache: TorchCache,
        }
        #[torchcache]
        impl Module for $name {
            fn forward(&self, xs: &Tensor) -> Tensor {
                xs * $k
            }
        }
    };
}

named!(NamedTwo, 2.0);
named!(NamedThree, 3.0);

fn names() -> [Item; 2] {
    let two = module(NamedTwo::default(), |it| &it.torchcache, 2.0);
    let three = module(NamedThree::default(), |it| &it.torchcache, 3.0);
    [two, three]
}

fn names_in_blocks() -> [Item; 2] {
    let two = {
        #[torchcache(persistent = true, persistent_module_hash = "one-name")]
        fn named(xs: &Tensor) -> Tensor {
            xs * 2.0
        }
        function(named, named_cache(), 2.0)
    };
    let three = {
        #[torchcache(persistent = true, persistent_module_hash = "one-name")]
        fn named(xs: &Tensor) -> Tensor {
            xs * 3.0
        }
        function(named, named_cache(), 3.0)
    };
    [two, three]
}

type Make = fn() -> [Item; 2];

/// Every way to make two items that only their place tells apart.
pub(crate) const WAYS: [(&str, Make); 19] = [
    ("expansions", expansions),
    ("both", || both!(2.0, 3.0)),
    ("repeated", || repeated!(2.0, 3.0)),
    ("nested", || nested!(2.0, 3.0)),
    ("structs", structs),
    ("blocks", blocks),
    ("closures", closures),
    ("structs in closures", structs_in_closures),
    ("async functions", async_functions),
    ("arms", arms),
    ("statics", statics),
    ("default methods", default_methods),
    ("constants", constants),
    ("modules", modules),
    ("parameters", parameters),
    ("parameters in closures", parameters_in_closures),
    ("impls", impls),
    ("names", names),
    ("names in blocks", names_in_blocks),
];
