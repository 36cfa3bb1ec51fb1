//! Outputs of several tensors: structs, options, arrays, in any nesting.

use tch::{Kind, TchError, Tensor};
use torchcache::{Batched, ErrorKind, TorchCache, torchcache};

use crate::support::{Ran, counts, device, logged, random, same, warnings};

#[derive(Batched, Debug)]
struct Encoded {
    pooled: Tensor,
    states: Vec<Layer>,
    attention: Option<Tensor>,
}

#[derive(Batched, Debug)]
struct Layer(Tensor, [Tensor; 2]);

#[torchcache(persistent = true)]
#[derive(Debug)]
struct Encoder {
    layers: usize,
    #[torchcache(skip)]
    ran: Ran,
    torchcache_persistent_cache_dir: String,
    cache: TorchCache,
}

#[torchcache]
impl Encoder {
    fn forward(&self, xs: &Tensor, attend: bool) -> Encoded {
        self.ran.note(xs);
        let layer = |n: usize| {
            let ys = xs + n as f64;
            Layer(ys.argmax(1, false), [ys.to_kind(Kind::Half), &ys * 2])
        };
        Encoded {
            pooled: xs.mean_dim(1, false, Kind::Float),
            states: (0..self.layers).map(layer).collect(),
            attention: attend.then(|| xs.unsqueeze(1)),
        }
    }
}

fn encoder(layers: usize, dir: &tempfile::TempDir) -> Encoder {
    Encoder {
        layers,
        ran: Ran::default(),
        torchcache_persistent_cache_dir: dir.path().to_str().unwrap().to_owned(),
        cache: TorchCache::default(),
    }
}

fn check(encoded: &Encoded, xs: &Tensor, layers: usize, attend: bool) {
    assert!(same(&encoded.pooled, &xs.mean_dim(1, false, Kind::Float)));
    assert_eq!(encoded.states.len(), layers);
    for (n, Layer(first, [half, twice])) in encoded.states.iter().enumerate() {
        let ys = xs + n as f64;
        assert!(same(first, &ys.argmax(1, false)));
        assert!(same(half, &ys.to_kind(Kind::Half)));
        assert!(same(twice, &(&ys * 2)));
    }
    assert_eq!(encoded.attention.is_some(), attend);
    if let Some(attention) = &encoded.attention {
        assert!(same(attention, &xs.unsqueeze(1)));
    }
}

#[test]
fn output_structs_return_from_memory_and_disk() {
    let dir = tempfile::tempdir().unwrap();
    let xs = random(&[5, 3]);
    for (layers, attend) in [(2, true), (2, false), (0, false)] {
        let model = encoder(layers, &dir);
        check(&model.forward(&xs, attend), &xs, layers, attend);
        assert_eq!(model.ran.take(), (1, 5));
        let mixed = Tensor::cat(&[&xs.narrow(0, 2, 3), &random(&[1, 3])], 0);
        check(&model.forward(&mixed, attend), &mixed, layers, attend);
        assert_eq!(model.ran.take(), (1, 1));
        model.cache.flush().unwrap();
    }
    let model = encoder(2, &dir);
    check(&model.forward(&xs, true), &xs, 2, true);
    assert_eq!(model.ran.take(), (0, 0));
    assert_eq!(model.cache.stats().disk.hits, 5);
}

#[derive(Batched)]
struct Moody {
    always: Tensor,
    sometimes: Option<Tensor>,
}

/// The structure depends on the whole batch, which no module should do.
#[torchcache]
fn moody(xs: &Tensor) -> Moody {
    let is_positive = xs.sum(Kind::Float).double_value(&[]) > 0.0;
    Moody {
        always: xs * 2,
        sometimes: is_positive.then(|| xs * 3),
    }
}

#[test]
fn rows_of_different_output_structure_are_not_joined() {
    let fixed = |value: f64| Tensor::full([1, 2], value, (Kind::Float, device()));
    let (positive, negative) = (fixed(10.0), fixed(-1.0));
    assert!(moody(&positive).sometimes.is_some());
    assert!(moody(&negative).sometimes.is_none());
    assert!(moody(&negative).sometimes.is_none(), "as it was computed");
    let both = Tensor::cat(&[&positive, &negative], 0);
    let given = moody(&both);
    assert!(same(&given.always, &(&both * 2)));
    assert!(same(&given.sometimes.unwrap(), &(&both * 3)));
    let stats = moody_cache().stats();
    assert_eq!((stats.misses, stats.memory.hits, stats.bypassed), (2, 1, 1));
}

/// Returns no tensor for some batches.
#[torchcache]
fn picky(xs: &Tensor) -> Option<Vec<Tensor>> {
    match xs.max().double_value(&[]) {
        max if max > 1.0 => Some(vec![xs * 2]),
        max if max > 0.0 => Some(Vec::new()),
        _ => None,
    }
}

#[test]
fn an_output_without_a_tensor_is_not_cached() {
    let xs = |value: f64| Tensor::full([3, 1], value, (Kind::Float, device()));
    let distinct = |value: f64| xs(value) + Tensor::arange(3, (Kind::Float, device())).unsqueeze(1);
    let (_, lines) = logged(|| {
        for _ in 0..2 {
            assert!(picky(&xs(-1.0)).is_none());
            assert!(picky(&distinct(-5.0)).is_none());
            assert!(picky(&xs(0.5)).is_some_and(|tensors| tensors.is_empty()));
            assert!(picky(&xs(2.0)).is_some_and(|tensors| tensors.len() == 1));
        }
    });
    assert_eq!(warnings(&lines, "the output holds no tensor"), 1);
    let stats = picky_cache().stats();
    assert_eq!((stats.misses, stats.memory.hits, stats.bypassed), (1, 1, 6));
}

/// Valid Rust, since vectors may be empty, but without a finite structure.
#[derive(Batched)]
struct Node {
    value: Tensor,
    edges: Vec<Edge>,
}

#[derive(Batched)]
struct Edge {
    weight: Tensor,
    to: Node,
}

#[test]
#[should_panic(expected = "contains itself through other types")]
fn mutually_recursive_output_structs_panic() {
    #[torchcache]
    fn graph(xs: &Tensor) -> Node {
        Node {
            value: xs + 1,
            edges: Vec::new(),
        }
    }
    graph(&random(&[2, 2]));
}

#[derive(Batched)]
struct Flat(Tensor);

#[torchcache]
fn flat(xs: &Tensor) -> Flat {
    Flat((xs * 2.0).flatten(1, -1))
}

/// `use torchcache::Batched` imports the derive and the trait, which has methods for `Tensor`.
#[test]
fn the_trait_of_outputs_hides_no_method_of_tensors() {
    let xs = random(&[2, 3, 4]);
    for _ in 0..2 {
        assert!(same(&flat(&xs).0, &(&xs * 2.0).view([2, 12])));
    }
    assert_eq!(counts(flat_cache()), (2, 2, 0));
}

/// Functions that return each error which the library's own converts into.
mod results {
    use super::*;
    use std::error::Error;

    macro_rules! fallible {
        ($($name:ident: $error:ty, |$text:ident| $failure:expr;)*) => {$(
            #[torchcache]
            pub(super) fn $name(xs: &Tensor) -> Result<Tensor, $error> {
                if xs.size()[1] == 7 {
                    let $text = "seven columns";
                    return Err($failure);
                }
                // A failure of libtorch where there are not three columns.
                let product = xs.f_matmul(&Tensor::ones([3, 2], (Kind::Float, xs.device())))?;
                Ok(product)
            }
        )*};
    }

    fallible! {
        of_tch: TchError, |text| TchError::Shape(text.into());
        of_the_library: torchcache::Error, |text| TchError::Shape(text.into()).into();
        boxed: Box<dyn Error + Send + Sync>, |text| text.into();
    }

    #[torchcache]
    pub(super) fn text(xs: &Tensor) -> Result<Tensor, String> {
        xs.f_matmul(&Tensor::ones([3, 2], (Kind::Float, xs.device())))
            .map_err(|error| error.to_string())
    }
}

#[test]
fn each_common_error_type_holds_every_failure() {
    fn assert_fails<E: std::fmt::Display>(
        cache: &TorchCache,
        call: impl Fn(&Tensor) -> Result<Tensor, E>,
        full_text: impl Fn(E) -> String,
    ) {
        let ones = Tensor::ones([3, 2], (Kind::Float, device()));
        let xs = random(&[4, 3]);
        for _ in 0..2 {
            let output = call(&xs).unwrap_or_else(|error| panic!("{error}"));
            assert!(same(&output, &xs.matmul(&ones)));
        }
        assert_eq!(counts(cache), (4, 4, 0));
        let failed = |xs: &Tensor| full_text(call(xs).unwrap_err());
        let misuse = failed(&Tensor::from(1.0f32));
        assert!(misuse.contains("0-d tensor"), "{misuse}");
        for _ in 0..2 {
            let torch = failed(&random(&[4, 5]));
            assert!(torch.contains("cannot be multiplied"), "{torch}");
        }
    }
    let with_sources = |error: &dyn std::error::Error| {
        let sources = std::iter::successors(Some(error), |error| error.source());
        sources
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ")
    };
    assert_fails(results::of_tch_cache(), results::of_tch, |error| {
        with_sources(&error)
    });
    assert_fails(
        results::of_the_library_cache(),
        results::of_the_library,
        |error| with_sources(&error),
    );
    assert_fails(results::boxed_cache(), results::boxed, |error| {
        with_sources(&*error)
    });
    assert_fails(results::text_cache(), results::text, |error| error);

    let seven = random(&[1, 7]);
    let error = results::of_the_library(&seven).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Torch);
    assert_eq!(
        with_sources(&error),
        "libtorch failed: invalid shape: seven columns"
    );
    let error = results::of_tch(&seven).unwrap_err();
    assert!(
        matches!(error, TchError::Shape(_)),
        "as the body returned it"
    );
}
