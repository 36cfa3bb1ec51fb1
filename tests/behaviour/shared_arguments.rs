//! `#[shared]` arguments and lists of tensors.

use tch::nn::OptimizerConfig;
use tch::{Device, Kind, Tensor, nn};
use torchcache::{TorchCache, torchcache};

use crate::support::{Ran, counts, device, logged, random, same, warnings};

/// `xs` times a matrix, plus an optional offset.
#[torchcache]
#[derive(Debug, Default)]
struct Project {
    #[torchcache(skip)]
    ran: Ran,
    cache: TorchCache,
}

#[torchcache]
impl Project {
    fn forward(
        &self,
        xs: &Tensor,
        #[shared] matrix: &Tensor,
        #[shared] offset: Option<&Tensor>,
    ) -> Tensor {
        assert_eq!(matrix.size(), [4, 2], "passed whole");
        self.ran.note(xs);
        let ys = xs.matmul(matrix);
        offset.map_or_else(|| ys.shallow_clone(), |offset| &ys + offset)
    }
}

#[test]
fn a_shared_tensor_is_part_of_every_key() {
    let model = Project::default();
    let (xs, matrix) = (random(&[6, 4]), random(&[4, 2]));
    let ys = model.forward(&xs, &matrix, None);
    assert!(same(&ys, &xs.matmul(&matrix)));
    let again = model.forward(&xs.narrow(0, 1, 3), &matrix.copy(), None);
    assert!(same(&again, &ys.narrow(0, 1, 3)));
    assert_eq!(model.ran.take(), (1, 6), "an equal tensor has the same key");

    let other = random(&[4, 2]);
    assert!(same(&model.forward(&xs, &other, None), &xs.matmul(&other)));
    assert_eq!(model.ran.take(), (1, 6));
    model.forward(
        &xs,
        &matrix,
        Some(&Tensor::zeros([2], (Kind::Float, device()))),
    );
    assert_eq!(
        model.ran.take(),
        (1, 6),
        "None and zeros have different keys"
    );
    model.forward(&xs, &matrix, None);
    assert_eq!(
        model.ran.take(),
        (0, 0),
        "the old tensor finds the old rows"
    );
}

#[test]
fn an_edit_of_a_shared_tensor_is_noticed() {
    let model = Project::default();
    let (xs, mut matrix) = (random(&[6, 4]), random(&[4, 2]));
    model.forward(&xs, &matrix, None);
    let _ = matrix.get(0).fill_(0.5);
    let ys = model.forward(&xs, &matrix, None);
    assert!(same(&ys, &xs.matmul(&matrix)));
    assert_eq!(model.ran.take(), (2, 12));
    matrix.set_data(&random(&[4, 2]));
    assert!(same(
        &model.forward(&xs, &matrix, None),
        &xs.matmul(&matrix)
    ));
    assert_eq!(model.ran.take(), (1, 6));
}

#[test]
fn a_shared_tensor_that_requires_grad_bypasses() {
    let model = Project::default();
    let (xs, matrix) = (random(&[6, 4]), random(&[4, 2]).set_requires_grad(true));
    let (ys, lines) = logged(|| model.forward(&xs, &matrix, None));
    assert!(ys.requires_grad());
    assert_eq!(warnings(&lines, "argument `matrix` requires grad"), 1);
    let _guard = tch::no_grad_guard();
    model.forward(&xs, &matrix, None);
    model.forward(&xs, &matrix, None);
    assert_eq!(model.cache.stats().memory.hits, 6);
}

/// `nn::Sgd` writes parameters through aliases that move no version counter.
#[test]
fn an_optimizer_step_on_a_shared_table_is_noticed() {
    #[torchcache]
    fn look_up(xs: &Tensor, #[shared] table: &Tensor) -> Tensor {
        table.index_select(0, xs)
    }
    let vs = nn::VarStore::new(device());
    let weights = vs.root().randn_standard("table", &[10_000, 16]);
    let table = weights.detach();
    let mut sgd = nn::Sgd::default().build(&vs, 1.0).unwrap();
    let xs = Tensor::from_slice(&[7i64, 9_999]).to_device(device());
    let before = look_up(&xs, &table);
    assert!(same(&look_up(&xs, &table), &before));
    assert_eq!(look_up_cache().stats().memory.hits, 2);
    sgd.backward_step(&weights.index_select(0, &xs).sum(Kind::Float));
    if device() != Device::Cpu {
        look_up_cache().refresh(); // only memory of the CPU is read at each call
    }
    let after = look_up(&xs, &table);
    assert!(same(&after, &table.index_select(0, &xs)));
    assert!(!same(&after, &before));
    // The parameter itself, while no gradients are recorded.
    let _guard = tch::no_grad_guard();
    let before = look_up(&xs, &weights);
    tch::with_grad(|| sgd.backward_step(&weights.index_select(0, &xs).sum(Kind::Float)));
    let after = look_up(&xs, &weights);
    assert!(same(&after, &weights.index_select(0, &xs)));
    assert!(!same(&after, &before));
}

/// On CPU and GPU: small tensors are read at each call, and a resized one is another tensor.
#[test]
fn a_resized_or_reallocated_shared_tensor_is_noticed() {
    #[torchcache]
    fn scaled(xs: &Tensor, #[shared] by: &Tensor) -> Tensor {
        xs * by.flatten(0, -1).get(0)
    }
    let xs = random(&[2, 3]);
    let right = |by: &Tensor| same(&scaled(&xs, by), &(&xs * by.flatten(0, -1).get(0)));
    let small = random(&[4]);
    assert!(right(&small));
    let _ = small.data().fill_(7.0);
    assert!(right(&small));

    // Large tensors at reused addresses.
    let large = |value: f64| Tensor::full([300, 300], value, (Kind::Float, device()));
    let mut first = large(1.0);
    assert!(right(&first));
    let _ = first.resize_([600, 600]);
    let _ = first.fill_(2.0);
    assert!(right(&first));
    for value in 3..20 {
        assert!(right(&large(f64::from(value))), "{value}");
    }
    let _ = first.get(0).get(0).fill_(30.0);
    assert!(right(&first));
}

/// The function sees stored zeros, as in degrees of a graph.
#[test]
fn sparse_shared_tensors_are_keyed_by_stored_values() {
    #[torchcache]
    fn stored(xs: &Tensor, #[shared] graph: &Tensor) -> Tensor {
        let stored = if graph.is_sparse() {
            graph.internal_nnz()
        } else {
            -1
        };
        xs.zeros_like() + stored
    }
    let xs = random(&[2, 2]);
    let options = (Kind::Float, device());
    let graph = |columns: &[i64], values: &[f32]| {
        let rows = vec![0; columns.len()];
        let index = Tensor::from_slice(&[rows.as_slice(), columns].concat()).view([2, -1]);
        let (index, values) = (
            index.to_device(device()),
            Tensor::from_slice(values).to_device(device()),
        );
        Tensor::sparse_coo_tensor_indices_size(&index, &values, [2, 2], options, false)
    };
    let (two, one) = (graph(&[0, 1], &[1.0, 0.0]), graph(&[0], &[1.0]));
    let dense = one.to_dense(None::<Kind>, false);
    for _ in 0..2 {
        for (graph, stored_values) in [(&two, 2.0), (&one, 1.0), (&dense, -1.0)] {
            assert_eq!(stored(&xs, graph).double_value(&[0, 0]), stored_values);
        }
    }
    assert_eq!(counts(stored_cache()), (6, 6, 0));
}

#[test]
fn a_sparse_shared_tensor_that_requires_grad_bypasses() {
    #[torchcache]
    fn multiplied(xs: &Tensor, #[shared] graph: &Tensor) -> Tensor {
        graph.mm(xs)
    }
    let xs = random(&[2, 2]);
    let leaf = Tensor::eye(2, (Kind::Float, device())).set_requires_grad(true);
    let graph = leaf.to_sparse(None, None::<&[i64]>, None);
    tch::no_grad(|| multiplied(&xs, &graph));
    assert_eq!(multiplied_cache().stats().misses, 2);
    assert!(
        multiplied(&xs, &graph).requires_grad(),
        "the gradient is kept"
    );
    tch::no_grad(|| multiplied(&xs, &graph));
    assert_eq!(multiplied_cache().stats().memory.hits, 2);
}

#[test]
fn an_undefined_shared_tensor_bypasses_with_one_warning() {
    #[torchcache]
    fn ignored(xs: &Tensor, #[shared] mask: &Tensor) -> Tensor {
        assert!(!mask.defined());
        xs * 2
    }
    let xs = random(&[2, 2]);
    let (ys, lines) = logged(|| ignored(&xs, &Tensor::new()));
    assert!(same(&ys, &(&xs * 2)));
    assert_eq!(
        warnings(&lines, "argument `mask` is undefined or of a kind"),
        1
    );
    assert!(
        lines.iter().all(|line| line.lines().count() == 1),
        "{lines:?}"
    );
    let stats = ignored_cache().stats();
    assert_eq!((stats.bypassed, stats.faults.total()), (1, 0));
}

/// A shared sparse matrix and a list of shared ones.
#[torchcache]
fn mixed(
    xs: &Tensor,
    #[shared] graph: Tensor,
    #[shared] all: &[Tensor],
    #[shared] by: &[&Tensor],
) -> Tensor {
    assert!(graph.is_sparse());
    let sum = all
        .iter()
        .chain(by.iter().copied())
        .fold(xs + 0.0, |sum, one| sum + one);
    sum + graph.to_dense(None::<Kind>, false).sum(Kind::Float)
}

#[test]
fn lists_of_shared_tensors_have_any_layout() {
    let graph = |value: f64| {
        let dense = Tensor::full([2, 2], value, (Kind::Float, device()));
        dense.to_sparse(None, None::<&[i64]>, None)
    };
    let xs = random(&[3, 1]);
    let (a, b) = (random(&[1]), random(&[1]));
    let all = [a.copy(), b.copy()];
    let call = |sum: f64, all: &[Tensor], by: &[&Tensor]| mixed(&xs, graph(sum), all, by);
    let ys = call(1.0, &all, &[&b]);
    assert!(same(&ys, &(&xs + 0.0 + &a + &b + &b + 4.0)));
    call(1.0, &all, &[&b]);
    assert_eq!(counts(mixed_cache()), (3, 3, 0));
    call(2.0, &all, &[&b]);
    call(1.0, &all[..1], &[&b, &b]);
    call(1.0, &[b.copy(), a.copy()], &[&b]);
    assert_eq!(counts(mixed_cache()), (12, 3, 0));
}

/// The sum of two lists of batches.
#[torchcache]
fn sum(xs: &[Tensor], ys: &[&Tensor]) -> Tensor {
    let first = xs.first().or(ys.first().copied());
    let zeros = first.map(Tensor::zeros_like).unwrap_or_default();
    xs.iter()
        .chain(ys.iter().copied())
        .fold(zeros, |sum, one| sum + one)
}

#[test]
fn lists_of_tensors_are_cut_into_rows() {
    let [a, b, c] = [(); 3].map(|()| random(&[5, 2]));
    let ys = sum(&[a.copy(), b.copy()], &[&c]);
    assert!(same(&ys, &(a.zeros_like() + &a + &b + &c)));
    // Two rows of five are new.
    let index = Tensor::from_slice(&[4i64, 0, 2]).to_device(device());
    let some =
        |tensor: &Tensor| Tensor::cat(&[&tensor.index_select(0, &index), &random(&[2, 2])], 0);
    let (a, b, c) = (some(&a), some(&b), some(&c));
    let zs = sum(&[a.copy(), b.copy()], &[&c]);
    assert!(same(&zs, &(a.zeros_like() + &a + &b + &c)));
    assert!(same(&zs.narrow(0, 0, 3), &ys.index_select(0, &index)));
    assert_eq!(counts(sum_cache()), (7, 3, 0));
    // The same tensors in other lists have other keys.
    sum(&[a.copy()], &[&b, &c]);
    sum(&[], &[&a, &b, &c]);
    assert_eq!(counts(sum_cache()), (17, 3, 0));
}

#[test]
#[should_panic(expected = "no tensor argument")]
fn empty_lists_alone_have_no_rows() {
    sum(&[], &[]);
}

#[test]
#[should_panic(expected = "argument `xs[0]` has 2 rows, argument `xs[1]` has 3")]
fn batch_sizes_in_lists_must_be_equal() {
    sum(&[random(&[2, 2]), random(&[3, 2])], &[&random(&[2, 2])]);
}
