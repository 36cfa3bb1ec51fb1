//! Methods other than `forward`, several of one module, and several impls.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use tch::nn::{Module, ModuleT};
use tch::{Kind, Tensor, nn};
use torchcache::{Error, Fingerprint, TorchCache, torchcache};

use crate::multi_process::{child, succeed};
use crate::support::{Ran, Scale, assert_panics, counts, device, panic_of, random, same};

/// A module with methods in four impls.
#[torchcache]
#[derive(Debug)]
struct Vae {
    fc: nn::Linear,
    #[torchcache(skip)]
    encoded: Ran,
    #[torchcache(skip)]
    decoded: Ran,
    #[torchcache(skip)]
    forwarded: Ran,
    torchcache: TorchCache,
}

impl Vae {
    fn new() -> Self {
        let mut vs = nn::VarStore::new(device());
        let fc = nn::linear(vs.root(), 3, 3, Default::default());
        vs.freeze();
        Vae {
            fc,
            encoded: Ran::default(),
            decoded: Ran::default(),
            forwarded: Ran::default(),
            torchcache: TorchCache::default(),
        }
    }
}

#[torchcache]
impl Vae {
    #[torchcache]
    fn encode(&self, xs: &Tensor) -> Tensor {
        self.encoded.note(xs);
        xs.apply(&self.fc)
    }

    /// As `encode`, with a factor.
    #[torchcache]
    fn decode(&self, xs: &Tensor, scale: f64) -> Tensor {
        self.decoded.note(xs);
        xs.apply(&self.fc) * scale
    }

    /// Not cached.
    fn describe(&self, xs: &Tensor) -> Vec<i64> {
        self.encode(xs).size()
    }
}

#[torchcache]
impl Vae {
    #[torchcache]
    fn step<'a>(
        &self,
        #[id] ids: &[i64],
        xs: &'a Tensor,
        #[shared] noise: &Tensor,
        train: bool,
    ) -> Result<(Tensor, Option<Tensor>), Error> {
        let ys = xs + noise;
        Ok((ys * ids.len() as f64, train.then(|| xs.shallow_clone())))
    }
}

#[torchcache]
impl Module for Vae {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.forwarded.note(xs);
        self.decode(&self.encode(xs), 2.0)
    }
}

trait Images {
    fn features(&self, xs: &Tensor) -> Tensor;
    fn count(&self) -> i64;
}

trait Texts {
    fn features(&self, xs: &Tensor) -> Tensor;
}

mod images {
    use super::*;

    const FACTOR: f64 = 2.0;

    #[torchcache]
    impl Images for Vae {
        #[torchcache]
        fn features(&self, xs: &Tensor) -> Tensor {
            xs * FACTOR
        }

        fn count(&self) -> i64 {
            3
        }
    }
}

/// Its method has the same tokens, and another constant.
mod texts {
    use super::*;

    const FACTOR: f64 = 5.0;

    #[torchcache]
    impl Texts for Vae {
        #[torchcache]
        fn features(&self, xs: &Tensor) -> Tensor {
            xs * FACTOR
        }
    }
}

impl Vae {
    fn expected(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.fc)
    }
}

/// Misses and hits in memory of a method.
fn of(cache: &TorchCache, method: &str) -> (u64, u64) {
    let stats = cache.stats_by_method();
    (stats[method].misses, stats[method].memory.hits)
}

#[test]
fn each_method_has_rows_of_its_own() {
    let vae = Vae::new();
    let xs = random(&[4, 3]);
    let expected = vae.expected(&xs);
    for hits in [0, 4] {
        assert!(same(&vae.encode(&xs), &expected));
        assert!(same(&vae.decode(&xs, 2.0), &(&expected * 2.0)));
        assert_eq!(of(&vae.torchcache, "encode"), (4, hits));
        assert_eq!(of(&vae.torchcache, "decode"), (4, hits));
    }
    assert_eq!((vae.encoded.take(), vae.decoded.take()), ((1, 4), (1, 4)));
    // Plain arguments are part of the keys; a batch computes only what is missing.
    let more = Tensor::cat(&[&xs, &random(&[2, 3])], 0);
    assert!(same(&vae.encode(&more), &vae.expected(&more)));
    vae.decode(&xs, 3.0);
    assert_eq!((vae.encoded.take(), vae.decoded.take()), ((1, 2), (1, 4)));
    let stats = vae.torchcache.stats();
    assert_eq!((stats.calls, stats.rows, stats.misses), (6, 26, 14));
    assert_eq!(vae.describe(&xs), [4, 3]);
    assert_eq!(of(&vae.torchcache, "encode"), (6, 12));
    assert!(!vae.torchcache.stats_by_method().contains_key("describe"));
}

#[test]
fn all_methods_share_the_identity_and_notice_weights() {
    let vae = Vae::new();
    let xs = random(&[4, 3]);
    vae.encode(&xs);
    let hash = vae.torchcache.module_hash();
    vae.decode(&xs, 1.0);
    assert_eq!(vae.torchcache.module_hash(), hash);
    let mut weight = vae.fc.ws.shallow_clone();
    let _ = tch::no_grad(|| weight.g_mul_scalar_(2.0));
    let expected = vae.expected(&xs);
    assert!(same(&vae.encode(&xs), &expected));
    assert!(same(&vae.decode(&xs, 1.0), &expected));
    assert_ne!(vae.torchcache.module_hash(), hash);
    assert_eq!((vae.encoded.take(), vae.decoded.take()), ((2, 8), (2, 8)));
}

#[test]
fn methods_of_two_traits_with_one_name_do_not_share_rows() {
    let vae = Vae::new();
    let xs = random(&[4, 3]);
    for _ in 0..2 {
        assert!(same(&Images::features(&vae, &xs), &(&xs * 2.0)));
        assert!(same(&Texts::features(&vae, &xs), &(&xs * 5.0)));
    }
    assert_eq!(vae.count(), 3);
    // Counted under one name.
    assert_eq!(of(&vae.torchcache, "features"), (8, 8));
}

#[test]
fn a_method_takes_what_forward_takes() {
    let vae = Vae::new();
    let (xs, noise) = (random(&[2, 3]), random(&[3]));
    let expected = (&xs + &noise) * 2.0;
    for hits in [0, 2] {
        let (ys, rest) = vae.step(&[7, 8], &xs, &noise, false).unwrap();
        assert!(same(&ys, &expected) && rest.is_none());
        assert_eq!(of(&vae.torchcache, "step"), (2, hits));
    }
    // An id and a shared argument of its own.
    vae.step(&[8, 9], &xs, &noise, false).unwrap();
    assert_eq!(of(&vae.torchcache, "step"), (3, 3));
    vae.step(&[7, 8], &xs, &random(&[3]), false).unwrap();
    assert_eq!(of(&vae.torchcache, "step"), (5, 3));
    // In training it bypasses the cache.
    let (_, rest) = vae.step(&[7, 8], &xs, &noise, true).unwrap();
    assert!(rest.is_some());
    assert_eq!(vae.torchcache.stats_by_method()["step"].bypassed, 1);
    // Misuse is an error, with the name of the module.
    let error = vae.step(&[7], &xs, &noise, false).unwrap_err();
    assert!(error.to_string().contains("Vae"), "{error}");
}

#[test]
fn an_input_that_requires_grad_bypasses_the_cache_of_a_method() {
    let vae = Vae::new();
    let xs = random(&[4, 3]).set_requires_grad(true);
    for _ in 0..2 {
        vae.encode(&xs).sum(Kind::Float).backward();
    }
    assert!(xs.grad().defined());
    assert_eq!(vae.encoded.take(), (2, 8));
    let stats = vae.torchcache.stats_by_method();
    assert_eq!((stats["encode"].bypassed, stats["encode"].rows), (2, 0));
    let mut weight = vae.fc.ws.set_requires_grad(true);
    assert_panics(&["requires grad"], || vae.encode(&xs.detach()));
    weight = weight.set_requires_grad(false);
    drop(weight);
}

#[test]
fn a_method_calls_others_of_its_module() {
    let vae = Vae::new();
    let xs = random(&[4, 3]);
    let expected = vae.expected(&vae.expected(&xs)) * 2.0;
    vae.encode(&xs.narrow(0, 0, 2));
    for _ in 0..2 {
        assert!(same(&vae.forward(&xs), &expected));
    }
    assert_eq!(vae.forwarded.take(), (1, 4));
    // Two rows were encoded before.
    assert_eq!((vae.encoded.take(), vae.decoded.take()), ((2, 4), (1, 4)));
    assert_eq!(of(&vae.torchcache, "forward"), (4, 4));
    // A miss of some rows calls the others with these.
    let more = Tensor::cat(&[&xs, &random(&[2, 3])], 0);
    vae.forward(&more);
    assert_eq!((vae.encoded.take(), vae.decoded.take()), ((1, 2), (1, 2)));
}

/// Calls itself and the other method, and waits for threads that call them.
#[torchcache]
#[derive(Debug, Default)]
struct Mutual {
    #[torchcache(skip)]
    ran: AtomicUsize,
    torchcache: TorchCache,
}

#[torchcache]
impl Mutual {
    #[torchcache]
    fn even(&self, xs: &Tensor, depth: i64) -> Tensor {
        self.ran.fetch_add(1, Relaxed);
        match depth {
            0 => xs * 2.0,
            _ => self.odd(xs, depth - 1) + 1.0,
        }
    }

    #[torchcache]
    fn odd(&self, xs: &Tensor, depth: i64) -> Tensor {
        self.ran.fetch_add(1, Relaxed);
        let xs = xs.shallow_clone();
        thread::scope(|scope| {
            let even = scope.spawn(move || self.even(&xs, depth - 1));
            even.join().expect("it does not panic") - 1.0
        })
    }
}

#[test]
fn methods_that_call_each_other_do_not_block() {
    let mutual = Mutual::default();
    let xs = random(&[3, 2]);
    for _ in 0..2 {
        let ys = mutual.even(&xs, 4);
        assert!(ys.allclose(&(&xs * 2.0), 1e-5, 1e-5, false));
    }
    assert_eq!(mutual.ran.load(Relaxed), 5);
    assert_eq!(counts(&mutual.torchcache), (15, 3, 0));
}

/// Generic, with the method in an impl of narrower bounds.
#[torchcache]
#[derive(Debug)]
struct Tower<M> {
    inner: M,
    torchcache: TorchCache,
}

#[torchcache]
impl<M: Module> Tower<M> {
    #[torchcache]
    fn embed(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs) + 1.0
    }

    #[torchcache]
    fn twice(&self, xs: &Tensor) -> Tensor {
        self.embed(&self.embed(xs))
    }
}

#[test]
fn methods_of_generic_modules_are_cached() {
    let tower = |factor| Tower {
        inner: Scale::by(factor),
        torchcache: TorchCache::default(),
    };
    let (two, three) = (tower(2.0), tower(3.0));
    let xs = random(&[4, 3]);
    for _ in 0..2 {
        assert!(same(&two.embed(&xs), &(&xs * 2.0 + 1.0)));
        assert!(same(&three.embed(&xs), &(&xs * 3.0 + 1.0)));
        assert!(same(&two.twice(&xs), &((&xs * 2.0 + 1.0) * 2.0 + 1.0)));
    }
    assert_eq!(of(&two.torchcache, "twice"), (4, 4));
    assert_eq!(of(&two.torchcache, "embed"), (8, 8));
    assert_eq!(two.inner.ran.take(), (2, 8));
}

/// Has no `forward`, so that nothing of its code is in the identity of a module around it.
#[torchcache]
#[derive(Debug)]
struct Encoder {
    factor: f64,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Encoder {
    #[torchcache]
    fn encode(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs * self.factor
    }
}

#[torchcache]
#[derive(Debug)]
struct Outer {
    encoder: Encoder,
    torchcache: TorchCache,
}

#[torchcache]
impl ModuleT for Outer {
    fn forward_t(&self, xs: &Tensor, _: bool) -> Tensor {
        self.encoder.encode(xs) + 1.0
    }
}

#[test]
fn a_module_without_forward_can_be_inside_another() {
    let mut outer = Outer {
        encoder: Encoder {
            factor: 2.0,
            ran: Ran::default(),
            torchcache: TorchCache::default(),
        },
        torchcache: TorchCache::default(),
    };
    let xs = random(&[4, 3]);
    for hits in [0, 4] {
        assert!(same(&outer.forward_t(&xs, false), &(&xs * 2.0 + 1.0)));
        assert_eq!(counts(&outer.torchcache), (4, hits, 0));
    }
    outer.encoder.factor = 3.0;
    assert!(same(&outer.forward_t(&xs, false), &(&xs * 3.0 + 1.0)));
    assert_eq!(outer.encoder.ran.take(), (2, 8));
    // Its fingerprint is that of its fields.
    let _: &dyn Fingerprint = &outer.encoder;
}

/// Methods with options of their own.
#[torchcache]
#[derive(Debug, Default)]
struct Tuned {
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Tuned {
    #[torchcache(whole_batch = true)]
    fn whole(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs * 2.0
    }

    #[torchcache(verify = 1.0, version = "2")]
    fn verified(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs * 3.0
    }

    #[torchcache]
    fn plain(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs * 4.0
    }
}

#[test]
fn options_of_a_method_are_for_it_alone() {
    let tuned = Tuned::default();
    let (xs, more) = (random(&[4, 3]), random(&[2, 3]));
    let both = Tensor::cat(&[&xs, &more], 0);
    for (method, forwards) in [
        (Tuned::whole as fn(&Tuned, &Tensor) -> Tensor, (2, 4 + 6)),
        (Tuned::verified, (3, 4 + 2 + 4)),
        (Tuned::plain, (2, 4 + 2)),
    ] {
        method(&tuned, &xs);
        method(&tuned, &both);
        assert_eq!(tuned.ran.take(), forwards);
    }
    let stats = tuned.torchcache.stats_by_method();
    let verified = ["whole", "verified", "plain"].map(|name| stats[name].verified);
    assert_eq!(verified, [0, 4, 0]);
}

/// Its `forward` has no attribute.
#[torchcache]
#[derive(Debug, Default)]
struct PlainForward {
    torchcache: TorchCache,
}

#[torchcache]
impl PlainForward {
    #[torchcache]
    fn encode(&self, xs: &Tensor) -> Tensor {
        xs * 2.0
    }
}

impl Module for PlainForward {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.encode(xs) + 1.0
    }
}

#[torchcache(persistent = true)]
#[derive(Debug, Default)]
struct AroundPlain {
    plain: PlainForward,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for AroundPlain {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.plain.forward(xs)
    }
}

#[test]
fn the_program_stands_for_a_forward_that_is_not_cached() {
    let around = AroundPlain::default();
    let xs = random(&[2, 3]);
    assert!(same(&around.forward(&xs), &(&xs * 2.0 + 1.0)));
    let manifest = around.torchcache.directory().unwrap().join("manifest.json");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    let words = "the program or library, for the code of";
    assert!(manifest.contains(words), "{manifest}");
    assert!(manifest.contains("PlainForward"), "{manifest}");
}

#[test]
fn a_panic_of_a_method_passes_through() {
    let vae = Vae::new();
    let text = panic_of(|| vae.encode(&random(&[2, 5])));
    assert!(text.contains("shapes cannot be multiplied"), "{text}");
    let xs = random(&[2, 3]);
    assert!(same(&vae.encode(&xs), &vae.expected(&xs)));
}

/// Of two builds, in which `encode` differs. Which methods a call of `self.name(…)` means is known before;
/// which are called behind a helper, or in another module, after the first call of a process.
#[test]
fn an_edit_of_a_method_changes_its_rows_and_those_that_call_it() {
    let root = tempfile::tempdir().unwrap();
    let run = |build| {
        let found = succeed(child(Some(root.path()), &["methods", build]));
        found.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = [
        "decode",
        "round_trip",
        "forward",
        "encode_by_helper",
        "encode",
        "around",
        "pipeline",
        "calls_versioned",
        "calls_wrapped",
    ];
    let lines = |counts: &dyn Fn(&str) -> &'static str| {
        all.map(|name| format!("{name}: right true {}", counts(name)))
    };
    // The misses and hits of two calls with the same rows.
    let (new, known) = ("(4, 0) (0, 4)", "(0, 4) (0, 4)");
    let first = |name: &str| match name {
        // `round_trip` called it.
        "encode" => known,
        // One row was computed before.
        "calls_versioned" | "calls_wrapped" => "(3, 1) (0, 4)",
        _ => new,
    };
    let again = |name: &str| match name {
        "encode_by_helper" | "pipeline" => new,
        _ => known,
    };
    let edited = |name: &str| match name {
        "decode" => known,
        name => first(name),
    };
    assert_eq!(run("first"), lines(&first));
    assert_eq!(run("first"), lines(&again));
    assert_eq!(run("second"), lines(&edited));
    for build in ["first", "second"] {
        assert_eq!(run(build), lines(&again));
    }
}

/// Functions of an impl that take the module first.
#[torchcache]
#[derive(Debug)]
struct Codec {
    factor: f64,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Codec {
    #[torchcache]
    fn encode(codec: &Codec, xs: &Tensor, by: f64) -> Tensor {
        codec.ran.note(xs);
        xs * codec.factor * by
    }

    #[torchcache(version = "2")]
    fn decode(Codec { factor, ran, .. }: &Self, xs: &Tensor) -> Tensor {
        ran.note(xs);
        xs / *factor
    }

    #[torchcache]
    fn between(_: &Self, (low, high): (f64, f64), xs: &Tensor) -> Tensor {
        xs.clamp(low, high)
    }
}

#[test]
fn a_function_of_an_impl_takes_the_module_in_place_of_self() {
    let mut codec = Codec {
        factor: 2.0,
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    };
    let xs = random(&[3, 2]);
    for _ in 0..2 {
        assert!(same(&Codec::encode(&codec, &xs, 3.0), &(&xs * 2.0 * 3.0)));
        assert!(same(&Codec::decode(&codec, &xs), &(&xs / 2.0)));
        let between = Codec::between(&codec, (-0.5, 0.5), &xs);
        assert!(same(&between, &xs.clamp(-0.5, 0.5)));
    }
    assert_eq!(codec.ran.take(), (2, 6));
    codec.factor = 4.0;
    assert!(same(&Codec::decode(&codec, &xs), &(&xs / 4.0)));
    let stats = codec.torchcache.stats_by_method();
    let counts = |name| (stats[name].misses, stats[name].hits());
    assert_eq!((counts("encode"), counts("decode")), ((3, 3), (6, 3)));
}
