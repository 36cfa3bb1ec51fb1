//! `verify`: a share of the hits is computed again. Mismatches are counted and logged, and the caller
//! gets the cached rows in every case.

use std::cell::Cell;
use std::path::PathBuf;

use tch::nn::{self, Module, ModuleT};
use tch::{Kind, Tensor};
use torchcache::{Cached, Error, ErrorKind, Options, Stats, TorchCache, torchcache};

use crate::support::{Ran, device, logged, panic_of, random, same, warnings};

/// What the forward does with a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Does {
    Double,
    DropOut,
    TakeOffTheMean,
    TrainANorm,
    Fail,
    Panic,
    LoseARow,
    Widen,
    Count,
    /// By the weight, which requires grad.
    Train,
}

/// A forward whose behaviour can be switched without changing the identity, so that verifying
/// computes other rows than the miss did.
#[torchcache]
#[derive(Debug)]
struct Fickle {
    /// Gives each test its own identity.
    name: &'static str,
    #[torchcache(skip)]
    does: Cell<Does>,
    #[torchcache(skip)]
    weight: Tensor,
    #[torchcache(skip)]
    ran: Ran,
    torchcache_enabled: bool,
    torchcache_verify: f64,
    torchcache_cache_dtype: Option<Kind>,
    torchcache_max_memory_cache_size: u64,
    torchcache_persistent: bool,
    torchcache_persistent_cache_dir: Option<PathBuf>,
    torchcache: TorchCache,
}

#[torchcache]
impl Fickle {
    fn forward(&self, xs: &Tensor) -> Result<Tensor, Error> {
        self.ran.note(xs);
        Ok(match self.does.get() {
            Does::Double => xs * 2.0,
            Does::DropOut => xs.dropout(0.1, true),
            Does::TakeOffTheMean => xs - xs.mean_dim(0, true, xs.kind()),
            Does::TrainANorm => {
                let none = None::<&Tensor>;
                xs.batch_norm(none, none, none, none, true, 0.1, 1e-5, false)
            }
            Does::Fail => return Err(Options::builder().subsample_count(0).build().unwrap_err()),
            Does::Panic => panic!("the forward panicked"),
            Does::LoseARow => xs.narrow(0, 0, xs.size()[0] - 1),
            Does::Widen => Tensor::cat(&[xs, xs], 1),
            Does::Count => (xs * 2.0).to_kind(Kind::Int64),
            Does::Train => xs * &self.weight,
        })
    }
}

fn fickle(name: &'static str, does: Does, verify: f64) -> Fickle {
    Fickle {
        name,
        does: Cell::new(does),
        weight: Tensor::ones([1], (Kind::Float, device())).set_requires_grad(true),
        ran: Ran::default(),
        torchcache_enabled: true,
        torchcache_verify: verify,
        torchcache_cache_dtype: None,
        torchcache_max_memory_cache_size: 1_000_000,
        torchcache_persistent: false,
        torchcache_persistent_cache_dir: None,
        torchcache: TorchCache::default(),
    }
}

/// Rows verified, and mismatches among them.
fn verified(stats: &Stats) -> (u64, u64) {
    (stats.verified, stats.mismatched)
}

#[test]
fn verify_1_recomputes_every_hit() {
    let model = fickle("faithful", Does::Double, 1.0);
    let xs = random(&[10, 11]);
    model.forward(&xs.narrow(0, 0, 6)).unwrap();
    assert_eq!(model.ran.take(), (1, 6), "a miss is not verified");
    let twice = Tensor::cat(&[&xs, &xs], 0);
    let (output, lines) = logged(|| model.forward(&twice).unwrap());
    assert!(same(&output, &(&twice * 2.0)));
    assert_eq!(
        model.ran.take(),
        (2, 10),
        "the four misses, and the six hits"
    );
    let stats = model.torchcache.stats();
    assert_eq!(verified(&stats), (6, 0));
    assert_eq!(
        (stats.memory.hits, stats.misses, stats.duplicates),
        (6, 10, 10)
    );
    assert_eq!(warnings(&lines, ""), 0, "{lines:?}");
    assert!(stats.to_string().contains("0 mismatched"), "{stats}");
    assert!(!stats.time.verifying.is_zero());
}

#[test]
fn by_default_no_hit_is_recomputed() {
    let model = fickle("off", Does::Double, 0.0);
    let xs = random(&[10, 4]);
    model.forward(&xs).unwrap();
    model.does.set(Does::Panic);
    for _ in 0..100 {
        assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
    }
    let stats = model.torchcache.stats();
    assert_eq!(verified(&stats), (0, 0));
    assert!(stats.time.verifying.is_zero());
    assert!(!stats.to_string().contains("verified"), "{stats}");
}

#[test]
fn verify_draws_its_share_in_any_batch_size() {
    for (name, rows) in [("by ones", 1), ("by threes", 3), ("by hundreds", 100)] {
        let model = fickle(name, Does::Double, 0.01);
        let xs = random(&[rows, 2]);
        model.forward(&xs).unwrap();
        model.ran.take();
        for _ in 0..9_999 / rows + 1 {
            model.forward(&xs).unwrap();
        }
        let (drawn, mismatched) = verified(&model.torchcache.stats());
        // Ten thousand draws: six standard deviations about a hundred.
        assert!((40..160).contains(&drawn), "{drawn} {name}");
        assert_eq!(mismatched, 0);
        assert_eq!(model.ran.take().1, drawn as i64, "{name}");
    }
}

/// Computes rows, requests them again in pairs, and returns the log. The rows are wide, so that no two
/// masks of the dropout are equal.
fn warned(model: &Fickle) -> Vec<String> {
    let xs = random(&[16, 1000]) + 5.0;
    let first = model.forward(&xs).unwrap();
    let ((), lines) = logged(|| {
        for row in (0..16).step_by(2) {
            let again = model.forward(&xs.narrow(0, row, 2)).unwrap();
            assert!(same(&again, &first.narrow(0, row, 2)), "the cached rows");
        }
    });
    lines
}

#[test]
fn mismatches_are_counted_with_one_warning() {
    for (name, does) in [
        ("dropout", Does::DropOut),
        ("mean", Does::TakeOffTheMean),
        ("norm", Does::TrainANorm),
    ] {
        let model = fickle(name, does, 1.0);
        let lines = warned(&model);
        assert_eq!(verified(&model.torchcache.stats()), (16, 16), "{name}");
        assert_eq!(model.ran.take(), (9, 32), "{name}");
        assert_eq!(warnings(&lines, ""), 1, "{lines:#?}");
        for words in [
            "module=\"behaviour::verify::Fickle\"",
            "2 of 2 recomputed rows",
            "the output has",
            "train mode",
            "dropout",
            "the rest of its batch",
            "bump `version`",
        ] {
            assert_eq!(warnings(&lines, words), 1, "{words}: {lines:#?}");
        }
    }
}

#[test]
fn the_caller_gets_cached_rows_despite_mismatches() {
    let xs = random(&[6, 4]);
    for (name, does, words) in [
        ("fails", Does::Fail, "the forward failed"),
        ("loses", Does::LoseARow, "another number of rows"),
        ("widens", Does::Widen, "rows of another shape or kind"),
        ("counts", Does::Count, "rows of another shape or kind"),
    ] {
        let model = fickle(name, Does::Double, 1.0);
        let first = model.forward(&xs).unwrap();
        model.does.set(does);
        let (again, lines) = logged(|| model.forward(&xs).unwrap());
        assert!(same(&again, &first), "{name}");
        assert_eq!(model.ran.take(), (2, 12), "{name}");
        assert_eq!(verified(&model.torchcache.stats()), (6, 6), "{name}");
        assert_eq!(warnings(&lines, words), 1, "{name}: {lines:#?}");
        assert_eq!(warnings(&lines, ""), 1, "{name}: {lines:#?}");
    }
}

#[test]
fn a_panic_while_verifying_loses_no_rows() {
    let mut model = fickle("panics", Does::Double, 1.0);
    let xs = random(&[6, 4]);
    model.forward(&xs).unwrap();
    model.does.set(Does::Panic);
    assert_eq!(panic_of(|| model.forward(&xs)), "the forward panicked");
    model.torchcache_verify = 0.0;
    assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
    assert_eq!(model.ran.take(), (2, 12));
}

#[test]
fn verifying_refuses_an_output_that_requires_grad() {
    let model = fickle("gradients", Does::Train, 1.0);
    let xs = random(&[6, 4]);
    tch::no_grad(|| {
        for _ in 0..2 {
            assert!(same(&model.forward(&xs).unwrap(), &xs));
        }
    });
    assert_eq!(verified(&model.torchcache.stats()), (6, 0));
    let error = model.forward(&xs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RequiresGrad, "{error}");
}

#[test]
fn rounded_rows_are_compared_after_rounding() {
    for dtype in [
        Kind::Half,
        Kind::BFloat16,
        Kind::Double,
        Kind::Float8e5m2,
        Kind::Float8e4m3fn,
        Kind::QInt8,
    ] {
        let mut model = fickle("rounded", Does::Double, 1.0);
        model.torchcache_cache_dtype = Some(dtype);
        let xs = random(&[50, 40]) * 20.0;
        let first = model.forward(&xs).unwrap();
        assert!(same(&model.forward(&xs).unwrap(), &first));
        assert_eq!(verified(&model.torchcache.stats()), (50, 0), "{dtype:?}");
    }
}

#[test]
fn rows_from_disk_are_verified() {
    let root = tempfile::tempdir().unwrap();
    let open = || Fickle {
        torchcache_persistent: true,
        torchcache_persistent_cache_dir: Some(root.path().to_owned()),
        torchcache_max_memory_cache_size: 0,
        ..fickle("disk", Does::Double, 1.0)
    };
    let xs = random(&[20, 4]);
    let first = open().forward(&xs).unwrap();
    for (does, mismatched) in [(Does::Double, 0), (Does::DropOut, 20)] {
        let model = open();
        model.does.set(does);
        assert!(same(&model.forward(&xs).unwrap(), &first));
        let stats = model.torchcache.stats();
        assert_eq!((stats.disk.hits, stats.misses), (20, 0));
        assert_eq!(verified(&stats), (20, mismatched));
        assert_eq!(model.ran.take(), (1, 20));
    }
}

#[test]
fn bypassed_calls_are_not_verified() {
    let mut model = fickle("past", Does::Double, 1.0);
    let xs = random(&[4, 2]);
    model.forward(&xs).unwrap();
    model.forward(&xs.narrow(0, 0, 0)).unwrap();
    let trained = xs.copy().set_requires_grad(true);
    model.forward(&trained).unwrap();
    model.torchcache_enabled = false;
    model.forward(&xs).unwrap();
    assert_eq!(model.ran.take(), (4, 12));
    assert_eq!(verified(&model.torchcache.stats()), (0, 0));
}

/// The largest value, its position, and all of them; `OFF_BY_ONE` breaks the position.
#[torchcache(verify = 1.0)]
fn several(xs: &Tensor) -> (Tensor, Tensor, Vec<Tensor>) {
    let (largest, mut at) = xs.max_dim(1, false);
    if OFF_BY_ONE.get() {
        at += 1;
    }
    (largest, at, vec![xs.gt(0.0), xs.shallow_clone()])
}

thread_local! {
    static OFF_BY_ONE: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn every_output_is_compared_and_integers_exactly() {
    let xs = random(&[8, 5]);
    several(&xs);
    several(&xs);
    assert_eq!(verified(&several_cache().stats()), (8, 0));
    OFF_BY_ONE.set(true);
    let ((_, at, _), lines) = logged(|| several(&xs));
    assert!(same(&at, &xs.argmax(1, false)));
    assert_eq!(verified(&several_cache().stats()), (16, 8));
    assert_eq!(warnings(&lines, "output `1` has"), 1, "{lines:#?}");
    assert_eq!(warnings(&lines, "verify::several"), 1, "{lines:#?}");
}

/// Rows as integers of 8 bits with a scale each, computed with some noise.
#[torchcache(verify = 1.0)]
#[derive(Debug)]
struct Quantizer {
    #[torchcache(skip)]
    noise: Cell<f64>,
    torchcache: TorchCache,
}

#[torchcache]
impl Quantizer {
    fn forward(&self, xs: &Tensor) -> (Tensor, Tensor) {
        let xs = xs + self.noise.get();
        let scale = xs.abs().amax([1], true) / 127.0;
        ((xs / &scale).round().to_kind(Kind::Int8), scale)
    }
}

#[test]
fn integers_with_a_scale_a_row_may_be_off_by_rounding() {
    let model = Quantizer {
        noise: Cell::new(0.0),
        torchcache: TorchCache::default(),
    };
    // In the middle between two integers.
    let xs = Tensor::arange(8, (Kind::Float, device())) + 0.5;
    let xs = xs.repeat([4, 1]);
    let xs = Tensor::cat(
        &[&xs, &Tensor::full([4, 1], 127.0, (Kind::Float, device()))],
        1,
    );
    let shift = Tensor::arange(4, (Kind::Float, device())).view([4, 1]) * 10.0;
    let xs = &xs + shift * xs.lt(100.0);
    let (first, _) = model.forward(&xs);
    for (noise, mismatched) in [(0.0, 0), (-1e-4, 0), (1e-4, 0), (-3.0, 4)] {
        model.noise.set(noise);
        let before = model.torchcache.stats();
        let ((cached, _), lines) = logged(|| model.forward(&xs));
        assert!(same(&cached, &first), "the cached rows");
        let stats = model.torchcache.stats().since(&before);
        assert_eq!(verified(&stats), (4, mismatched), "{noise}");
        assert_eq!(warnings(&lines, "") as u64, mismatched / 4, "{lines:#?}");
    }
    // The noise does change integers.
    model.torchcache.clear();
    model.noise.set(1e-4);
    assert!(!same(&model.forward(&xs).0, &first));
}

/// A map of classes with 8 bits a pixel, and how sure each image is, or the logits of its classes.
#[torchcache(verify = 1.0)]
#[derive(Debug)]
struct Segmenter {
    logits: bool,
    /// How many columns are of no class, which is 255.
    ignored: i64,
    scores: Kind,
    #[torchcache(skip)]
    shift: Cell<i64>,
    torchcache: TorchCache,
}

#[torchcache]
impl Segmenter {
    fn forward(&self, xs: &Tensor) -> (Tensor, Tensor) {
        let classes = (xs.argmax(1, false) + self.shift.get()).to_kind(Kind::Uint8);
        let _ = classes.narrow(2, 0, self.ignored).fill_(255);
        let scores = xs.mean_dim(&[2i64, 3][..], false, self.scores);
        let sure = || scores.softmax(1, self.scores).amax([1], false);
        (classes, if self.logits { scores } else { sure() })
    }
}

#[test]
fn class_maps_with_8_bits_are_compared_exactly() {
    for (logits, ignored, scores) in [
        (false, 0, Kind::Float),
        (true, 0, Kind::Float),
        (false, 1, Kind::Float),
        (true, 3, Kind::Float),
        (false, 3, Kind::Half),
    ] {
        let model = Segmenter {
            logits,
            ignored,
            scores,
            shift: Cell::new(0),
            torchcache: TorchCache::default(),
        };
        // As many pixels as are divisible by the number of classes.
        let xs = random(&[3, 16, 8, 8]);
        let (first, _) = model.forward(&xs);
        model.shift.set(1);
        let ((cached, _), lines) = logged(|| model.forward(&xs));
        assert!(same(&cached, &first), "the cached rows");
        let name = format!("{logits}, {ignored}, {scores:?}");
        assert_eq!(verified(&model.torchcache.stats()), (3, 3), "{name}");
        assert_eq!(warnings(&lines, "output `0` has"), 1, "{lines:#?}");
    }
}

#[torchcache(verify = 1.0)]
fn countdown(xs: &Tensor, steps: u32) -> Tensor {
    if steps == 0 {
        return xs.shallow_clone();
    }
    countdown(&(xs * 2), steps - 1)
}

/// Holds a cached module, which is verified while this one is verified.
#[torchcache(verify = 1.0)]
#[derive(Debug)]
struct Outer {
    inner: Fickle,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Outer {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs).unwrap() + 1.0
    }
}

#[test]
fn recursive_and_nested_caches_are_verified() {
    let xs = random(&[3, 2]);
    for _ in 0..2 {
        assert!(same(&countdown(&xs, 5), &(&xs * 32)));
    }
    // Inner calls of a verification compute their rows, and verify none.
    assert_eq!(verified(&countdown_cache().stats()), (3, 0));
    let inner = fickle("inner", Does::Double, 1.0);
    let model = Outer {
        inner,
        torchcache: TorchCache::default(),
    };
    for _ in 0..2 {
        assert!(same(&model.forward(&xs), &(&xs * 2.0 + 1.0)));
    }
    assert_eq!(verified(&model.torchcache.stats()), (3, 0));
    assert_eq!(verified(&model.inner.torchcache.stats()), (0, 0));
    assert_eq!(model.inner.ran.take(), (2, 6));
}

#[test]
fn rounding_differences_of_batches_are_no_mismatch() {
    fn wrap<M: ModuleT>(vs: &nn::VarStore, module: M) -> Cached<M> {
        let options = Options::builder()
            .verify(1.0)
            .version("verified")
            .build()
            .unwrap();
        Cached::new(module, vs, options).unwrap()
    }
    fn check<M: ModuleT>(model: &Cached<M>, xs: &Tensor) {
        let ((), lines) = logged(|| {
            model.forward(xs);
            for size in [1, 3, 7] {
                for part in xs.split(size, 0) {
                    model.forward(&part);
                }
            }
        });
        let rows = xs.size()[0] as u64;
        assert_eq!(verified(&model.cache().stats()), (3 * rows, 0));
        assert_eq!(warnings(&lines, ""), 0, "{lines:#?}");
    }
    let mut vs = nn::VarStore::new(device());
    let net = tch::vision::resnet::resnet18_no_final_layer(&(vs.root() / "net"));
    let wide = nn::linear(vs.root() / "wide", 2048, 2048, Default::default());
    vs.freeze();
    check(&wrap(&vs, net), &random(&[16, 3, 64, 64]));
    check(&wrap(&vs, wide), &(random(&[64, 2048]) * 1000.0));
}
