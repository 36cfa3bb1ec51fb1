//! Results belong to the caller: writing to one changes neither cache, input nor weights.

use tch::nn::Module;
use tch::{Kind, Tensor};
use torchcache::{TorchCache, torchcache};

use crate::support::{Ran, Scale, counts, device, random, same};

#[test]
fn writing_to_a_result_leaves_the_cache_unchanged() {
    let model = Scale::by(2.0);
    let xs = random(&[4, 3]);
    let expected = &xs * 2.0;
    // The computed output, an all-hit output, a mixed one and one with repeated rows.
    let _ = model.forward(&xs).fill_(7.0);
    let _ = model.forward(&xs).fill_(8.0);
    let _ = model
        .forward(&Tensor::cat(&[&xs, &random(&[1, 3])], 0))
        .fill_(9.0);
    let _ = model.forward(&Tensor::cat(&[&xs, &xs], 0)).fill_(10.0);
    assert!(same(&model.forward(&xs), &expected));
}

#[torchcache]
fn same_tensor(xs: &Tensor) -> Tensor {
    xs.shallow_clone()
}

#[torchcache]
fn part_of_it(xs: &Tensor) -> Tensor {
    xs.narrow(1, 0, 1)
}

#[torchcache]
fn last_rows_view(xs: &Tensor) -> (Tensor, Tensor) {
    (xs.view_as(xs), xs.detach())
}

#[test]
fn writing_to_a_result_leaves_the_input_unchanged() {
    let xs = random(&[4, 1]);
    let before = xs.copy();
    let _ = same_tensor(&xs).fill_(7.0);
    let _ = part_of_it(&xs).fill_(7.0);
    let (mut a, mut b) = last_rows_view(&xs);
    let _ = (a.fill_(7.0), b.fill_(8.0));
    assert!(same(&xs, &before));
    assert!(same(&same_tensor(&xs), &before));
    let (a, b) = last_rows_view(&xs);
    assert!(same(&a, &before) && same(&b, &before));
}

#[torchcache]
#[derive(Debug)]
struct Positions {
    table: Tensor,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Positions {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.table.narrow(0, 0, xs.size()[0])
    }
}

#[test]
fn writing_to_a_result_leaves_the_weights_unchanged() {
    let table = random(&[10, 3]);
    let before = table.copy();
    let model = Positions {
        table,
        torchcache: TorchCache::default(),
    };
    let _ = model.forward(&random(&[4, 2])).fill_(9.0);
    assert!(same(&model.table, &before));
}

#[torchcache]
fn transposed(xs: &Tensor) -> Tensor {
    xs.transpose(1, 2)
}

#[test]
fn results_are_contiguous_and_detached() {
    let xs = random(&[3, 2, 5]);
    for _ in 0..2 {
        let ys = transposed(&xs);
        assert!(ys.is_contiguous() && !ys.requires_grad());
        assert_eq!((ys.kind(), ys.device()), (Kind::Float, device()));
        assert!(same(&ys, &xs.transpose(1, 2).contiguous()));
    }
}

#[torchcache(cache_dtype = Kind::Half)]
fn rounded(xs: &Tensor) -> (Tensor, Tensor) {
    (xs * 1.0, xs.to_kind(Kind::Int64))
}

#[test]
fn misses_return_the_same_rounded_rows_as_hits() {
    let xs = random(&[64, 3]) * 1000.0;
    let (floats, ints) = rounded(&xs);
    assert_eq!(floats.kind(), Kind::Float);
    assert!(
        same(&floats, &xs.to_kind(Kind::Half).to_kind(Kind::Float)),
        "rounded on the miss as well"
    );
    assert!(
        same(&ints, &xs.to_kind(Kind::Int64)),
        "only floats are rounded"
    );
    let (again, ints_again) = rounded(&xs);
    assert!(same(&again, &floats) && same(&ints_again, &ints));
    assert_eq!(rounded_cache().stats().misses, 64);
}

/// Whether the storage holds exactly the tensor's elements.
fn owns_exactly_its_elements(tensor: &Tensor) -> bool {
    let elements = |count: usize| tensor.f_as_strided([count as i64], [1], 0);
    elements(tensor.numel()).is_ok() && elements(tensor.numel() + 1).is_err()
}

#[torchcache(persistent = true, max_memory_cache_size = 0)]
fn doubled_on_disk(xs: &Tensor) -> Tensor {
    xs * 2
}

#[test]
fn a_result_owns_only_its_own_elements() {
    let xs = random(&[64, 10]);
    let row = |number| xs.narrow(0, number, 1);
    assert!(!owns_exactly_its_elements(&row(3)), "a view does");
    // Computed: the forward returns a view of its input, which is a row of a batch.
    assert!(owns_exactly_its_elements(&same_tensor(&row(0))));
    let (a, b) = last_rows_view(&row(1));
    assert!(owns_exactly_its_elements(&a) && owns_exactly_its_elements(&b));
    // From memory, where one call stored the whole batch.
    let model = Scale::by(2.0);
    model.forward(&xs);
    assert!(owns_exactly_its_elements(&model.forward(&row(5))));
    assert_eq!(model.cache.stats().memory.hits, 1);
    // From the queue, and from disk.
    doubled_on_disk(&xs);
    assert!(owns_exactly_its_elements(&doubled_on_disk(&row(5))));
    doubled_on_disk_cache().flush().unwrap();
    let ys = doubled_on_disk(&row(6));
    assert!(owns_exactly_its_elements(&ys));
    assert!(same(&ys, &(row(6) * 2)));
    assert_eq!(counts(doubled_on_disk_cache()), (64, 0, 2));
}

/// Adds noise, so that each forward returns another value.
#[torchcache]
#[derive(Debug, Default)]
struct Noise {
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Noise {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs + xs.rand_like()
    }
}

#[test]
fn a_nondeterministic_forward_has_one_value_per_row() {
    let model = Noise::default();
    let xs = random(&[5, 2]);
    let doubled = model.forward(&Tensor::cat(&[&xs, &xs], 0));
    assert!(same(&doubled.narrow(0, 0, 5), &doubled.narrow(0, 5, 5)));
    let more = model.forward(&Tensor::cat(&[&random(&[1, 2]), &xs], 0));
    assert!(same(&more.narrow(0, 1, 5), &doubled.narrow(0, 0, 5)));
    assert_eq!(model.ran.take(), (2, 6));
}
