//! Cached functions whose tokens are the same in both packages that build this file. What the
//! compiler puts into their bodies is not.

#![expect(missing_docs, reason = "for tests")]

use tch::Tensor;
use tch::nn::{self, Module};
use torchcache::{Cached, Options, TorchCache, torchcache};

/// What every function of this build multiplies by.
pub const FACTOR: f64 = if cfg!(feature = "three") { 3.0 } else { 2.0 };

pub type Call = fn(&Tensor) -> Tensor;

/// Each function, and its cache.
pub fn functions() -> Vec<(&'static str, Call, &'static TorchCache)> {
    macro_rules! functions {
        ($($name:ident: $cache:ident,)*) => { vec![$((stringify!($name), $name, $cache())),*] };
    }
    functions! {
        cfg_macro: cfg_macro_cache,
        cfg_of_core: cfg_of_core_cache,
        cfg_in_closure: cfg_in_closure_cache,
        cfg_on_statements: cfg_on_statements_cache,
        cfg_on_expressions: cfg_on_expressions_cache,
        cfg_on_arms: cfg_on_arms_cache,
        cfg_on_fields: cfg_on_fields_cache,
        cfg_attr: cfg_attr_cache,
        cfg_in_macro: cfg_in_macro_cache,
        cfg_if: cfg_if_cache,
        variable: variable_cache,
        optional_variable: optional_variable_cache,
        variable_of_std: variable_of_std_cache,
        variable_in_macro: variable_in_macro_cache,
        variable_in_concat: variable_in_concat_cache,
        variable_of_macro: variable_of_macro_cache,
        missing_variable: missing_variable_cache,
        text: text_cache,
        bytes: bytes_cache,
        included: included_cache,
        text_in_macro: text_in_macro_cache,
        missing_file: missing_file_cache,
    }
}

fn parse(text: &str) -> f64 {
    text.trim().parse().expect("a number")
}

#[torchcache]
fn cfg_macro(xs: &Tensor) -> Tensor {
    xs * if cfg!(feature = "three") { 3.0 } else { 2.0 }
}

#[torchcache]
fn cfg_of_core(xs: &Tensor) -> Tensor {
    xs * if ::core::cfg!(all(feature = "three", not(test))) {
        3.0
    } else {
        2.0
    }
}

#[torchcache]
fn cfg_in_closure(xs: &Tensor) -> Tensor {
    let factor = || {
        if std::cfg!(not(feature = "three")) {
            2.0
        } else {
            3.0
        }
    };
    xs * factor()
}

#[torchcache]
fn cfg_on_statements(xs: &Tensor) -> Tensor {
    #[cfg(feature = "three")]
    let factor = 3.0;
    #[cfg(not(feature = "three"))]
    let factor = 2.0;
    xs * factor
}

#[torchcache]
fn cfg_on_expressions(xs: &Tensor) -> Tensor {
    let factors = [
        #[cfg(feature = "three")]
        3.0,
        2.0,
    ];
    xs * factors[0]
}

#[torchcache]
fn cfg_on_arms(xs: &Tensor) -> Tensor {
    let factor = match xs.dim() {
        #[cfg(feature = "three")]
        1.. => 3.0,
        _ => 2.0,
    };
    xs * factor
}

#[torchcache]
fn cfg_on_fields(xs: &Tensor) -> Tensor {
    struct Factors {
        factor: f64,
        offset: f64,
    }
    impl Default for Factors {
        fn default() -> Self {
            Factors {
                factor: 3.0,
                offset: 0.0,
            }
        }
    }
    let factors = Factors {
        #[cfg(not(feature = "three"))]
        factor: 2.0,
        ..Default::default()
    };
    xs * (factors.factor + factors.offset)
}

#[torchcache]
fn cfg_attr(xs: &Tensor) -> Tensor {
    #[cfg_attr(feature = "three", cfg(any()))]
    let factor = 2.0;
    #[cfg_attr(not(feature = "three"), cfg_attr(all(), cfg(any())))]
    let factor = 3.0;
    xs * factor
}

#[torchcache]
fn cfg_in_macro(xs: &Tensor) -> Tensor {
    xs * vec![1.0, if cfg!(feature = "three") { 3.0 } else { 2.0 }][1]
}

/// As the macro of the crate `cfg-if`.
macro_rules! cfg_if {
    (if #[cfg($predicate:meta)] { $($yes:tt)* } else { $($no:tt)* }) => {
        #[cfg($predicate)]
        { $($yes)* }
        #[cfg(not($predicate))]
        { $($no)* }
    };
}

#[torchcache]
fn cfg_if(xs: &Tensor) -> Tensor {
    let factor;
    cfg_if! {
        if #[cfg(feature = "three")] {
            factor = parse(include_str!(concat!(env!("OUT_DIR"), "/three.txt")));
        } else {
            factor = 2.0;
        }
    }
    xs * factor
}

#[torchcache]
fn variable(xs: &Tensor) -> Tensor {
    xs * parse(env!("FACTOR"))
}

#[torchcache]
fn optional_variable(xs: &Tensor) -> Tensor {
    xs * option_env!("THREE").map_or(2.0, parse)
}

#[torchcache]
fn variable_of_std(xs: &Tensor) -> Tensor {
    xs * parse(std::env!("FACTOR", "the build script sets it"))
}

#[torchcache]
fn variable_in_macro(xs: &Tensor) -> Tensor {
    xs * parse(&format!("{}{}", env!("FACTOR"), ""))
}

#[torchcache]
fn variable_in_concat(xs: &Tensor) -> Tensor {
    xs * parse(concat!(env!("FACTOR"), "0"))
}

macro_rules! from_variable {
    ($name:ident, $variable:expr) => {
        #[torchcache]
        fn $name(xs: &Tensor) -> Tensor {
            xs * parse(env!($variable))
        }
    };
}

from_variable!(variable_of_macro, "FACTOR");

#[torchcache]
fn missing_variable(xs: &Tensor) -> Tensor {
    #[cfg(feature = "three")]
    let factor = parse(env!("THREE"));
    #[cfg(not(feature = "three"))]
    let factor = 2.0;
    xs * factor
}

#[torchcache]
fn text(xs: &Tensor) -> Tensor {
    xs * parse(include_str!(concat!(env!("OUT_DIR"), "/factor.txt")))
}

#[torchcache]
fn bytes(xs: &Tensor) -> Tensor {
    let bytes = core::include_bytes!(concat!(env!("OUT_DIR"), "/factor.txt"));
    xs * f64::from(bytes[0] - b'0')
}

#[torchcache]
fn included(xs: &Tensor) -> Tensor {
    let factor: f64 = include!(concat!(env!("OUT_DIR"), "/factor.txt"));
    xs * factor
}

#[torchcache]
fn text_in_macro(xs: &Tensor) -> Tensor {
    macro_rules! same {
        ($($tokens:tt)*) => { $($tokens)* };
    }
    xs * parse(same!(include_str!(concat!(env!("OUT_DIR"), "/factor.txt"))))
}

#[torchcache]
fn missing_file(xs: &Tensor) -> Tensor {
    let factor = 2.0f64;
    #[cfg_attr(not(feature = "three"), cfg(any()))]
    let factor = factor.max(parse(include_str!(concat!(env!("OUT_DIR"), "/three.txt"))));
    xs * factor
}

/// A module with a method as above.
#[torchcache]
#[derive(Debug, Default)]
pub struct Scale {
    pub torchcache: TorchCache,
}

#[torchcache]
impl Module for Scale {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * parse(env!("FACTOR"))
    }
}

/// A module of which one method differs between the builds.
#[torchcache(persistent = true)]
#[derive(Debug, Default)]
pub struct Codec {
    pub torchcache: TorchCache,
}

#[torchcache]
impl Codec {
    #[torchcache]
    pub fn encode(&self, xs: &Tensor) -> Tensor {
        xs * parse(env!("FACTOR"))
    }

    #[torchcache]
    pub fn decode(&self, xs: &Tensor) -> Tensor {
        xs * 0.5
    }

    #[torchcache]
    pub fn round_trip(&self, xs: &Tensor) -> Tensor {
        self.decode(&self.encode(xs))
    }

    #[torchcache]
    pub fn encode_by_helper(&self, xs: &Tensor) -> Tensor {
        self.helper(xs)
    }

    fn helper(&self, xs: &Tensor) -> Tensor {
        self.encode(xs)
    }
}

#[torchcache]
impl Module for Codec {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.encode(xs) + 1.0
    }
}

/// A module around it, which calls its `forward` alone.
#[torchcache(persistent = true)]
#[derive(Debug, Default)]
pub struct Around {
    pub codec: Codec,
    pub torchcache: TorchCache,
}

#[torchcache]
impl Module for Around {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.codec.forward(xs)
    }
}

/// A module around it, which calls a method that its `forward` does not call.
#[torchcache(persistent = true)]
#[derive(Debug, Default)]
pub struct Pipeline {
    pub codec: Codec,
    pub torchcache: TorchCache,
}

#[torchcache]
impl Module for Pipeline {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.codec.encode_by_helper(xs) + self.codec.forward(xs)
    }
}

/// Two calls of a method: its name, the misses and the hits of each, and whether both were right.
pub type TwoCalls = (&'static str, [(u64, u64); 2], bool);

/// Changes with the constant that it uses.
#[torchcache(version = env!("FACTOR"))]
fn versioned(xs: &Tensor) -> Tensor {
    xs * FACTOR
}

#[torchcache(persistent = true)]
fn calls_versioned(xs: &Tensor) -> Tensor {
    versioned(xs) + 1.0
}

thread_local! {
    /// Calls a cached function.
    static WRAPPED: Cached<nn::Func<'static>> =
        Cached::new(nn::func(variable), (), Options::default()).expect("its options are valid");
}

#[torchcache(persistent = true)]
fn calls_wrapped(xs: &Tensor) -> Tensor {
    WRAPPED.with(|wrapped| wrapped.forward(xs)) + 2.0
}

/// Calls each method twice with four rows.
pub fn call_methods() -> Vec<TwoCalls> {
    let xs = Tensor::arange(4, (tch::Kind::Float, tch::Device::Cpu)).unsqueeze(-1);
    let (codec, around, pipeline) = (Codec::default(), Around::default(), Pipeline::default());
    let encoded = &xs * FACTOR;
    let call = |name, cache: &TorchCache, method: &dyn Fn() -> Tensor, expected: Tensor| {
        let stats = || cache.stats_by_method().remove(name).unwrap_or_default();
        let mut is_right = true;
        let counts = [(); 2].map(|()| {
            let before = stats();
            is_right &= method().equal(&expected);
            let stats = stats().since(&before);
            (stats.misses, stats.hits())
        });
        (name, counts, is_right)
    };
    let cache = &codec.torchcache;
    let mut called = vec![
        call("decode", cache, &|| codec.decode(&xs), &xs * 0.5),
        call(
            "round_trip",
            cache,
            &|| codec.round_trip(&xs),
            &encoded * 0.5,
        ),
        call("forward", cache, &|| codec.forward(&xs), &encoded + 1.0),
        call(
            "encode_by_helper",
            cache,
            &|| codec.encode_by_helper(&xs),
            encoded.shallow_clone(),
        ),
        call(
            "encode",
            cache,
            &|| codec.encode(&xs),
            encoded.shallow_clone(),
        ),
    ];
    let outer = call(
        "forward",
        &around.torchcache,
        &|| around.forward(&xs),
        &encoded + 1.0,
    );
    called.push(("around", outer.1, outer.2));
    let outer = call(
        "forward",
        &pipeline.torchcache,
        &|| pipeline.forward(&xs),
        &encoded * 2.0 + 1.0,
    );
    called.push(("pipeline", outer.1, outer.2));
    // What they call is known after the first row.
    for (name, function, cache, added) in [
        (
            "calls_versioned",
            calls_versioned as Call,
            calls_versioned_cache(),
            1.0,
        ),
        ("calls_wrapped", calls_wrapped, calls_wrapped_cache(), 2.0),
    ] {
        let _ = function(&xs.narrow(0, 0, 1));
        called.push(call(name, cache, &|| function(&xs), &encoded + added));
    }
    called
}

/// A function of which both builds have the same tokens and the same values.
#[torchcache]
pub fn scaled(xs: &Tensor) -> Tensor {
    xs * FACTOR
}
