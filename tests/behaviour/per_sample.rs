//! Each row has its own key: a batch computes only rows that are new.

use tch::nn::Module;
use tch::{Device, Kind, Tensor};
use torchcache::torchcache;

use crate::random_inputs::KINDS;
use crate::support::{Scale, device, random, same};

#[test]
fn a_second_pass_hits_in_any_batch_size_and_order() {
    let model = Scale::by(2.0);
    let xs = random(&[12, 5]);
    let first = model.forward(&xs);
    assert_eq!(model.ran.take(), (1, 12));
    assert!(same(&first, &(&xs * 2.0)));

    assert!(same(&model.forward(&xs), &first));
    for size in [1, 5, 7] {
        for start in (0..12 - size).step_by(size as usize) {
            let part = model.forward(&xs.narrow(0, start, size));
            assert!(same(&part, &first.narrow(0, start, size)));
        }
    }
    assert!(same(&model.forward(&xs.flip([0])), &first.flip([0])));
    assert_eq!(model.ran.take(), (1, 1), "the first row alone");
}

#[test]
fn a_mixed_batch_computes_only_the_misses_in_one_forward() {
    let model = Scale::by(3.0);
    let xs = random(&[10, 11]);
    model.forward(&xs.narrow(0, 0, 4));
    model.forward(&xs.narrow(0, 7, 2));
    assert_eq!(model.ran.take(), (2, 6));
    assert!(same(&model.forward(&xs), &(&xs * 3.0)));
    assert_eq!(model.ran.take(), (1, 4));
    let stats = model.cache.stats();
    assert_eq!(
        (stats.memory.hits, stats.misses, stats.rows, stats.calls),
        (6, 10, 16, 3)
    );
}

#[test]
fn a_repeated_row_is_computed_once() {
    let model = Scale::by(2.0);
    let xs = random(&[3, 4]);
    let index = Tensor::from_slice(&[0i64, 1, 0, 2, 2, 0]).to_device(device());
    let twice = xs.index_select(0, &index);
    assert!(same(&model.forward(&twice), &(&twice * 2.0)));
    assert_eq!(model.ran.take(), (1, 3));
    assert_eq!(model.cache.stats().duplicates, 3);
    // And again, with hits, a miss and repetitions of both.
    let more = Tensor::cat(&[&twice, &random(&[1, 4]).repeat([2, 1])], 0);
    assert!(same(&model.forward(&more), &(&more * 2.0)));
    assert_eq!(model.ran.take(), (1, 1));
}

#[test]
fn memory_layout_is_not_part_of_the_key() {
    let model = Scale::by(2.0);
    let xs = random(&[4, 3, 6]);
    model.forward(&xs);
    model.ran.take();
    let strided = xs.transpose(1, 2).contiguous().transpose(1, 2);
    assert!(!strided.is_contiguous());
    assert!(same(&model.forward(&strided), &(&xs * 2.0)));
    let every_other = Tensor::stack(&[&xs, &xs], 1)
        .view([8, 3, 6])
        .slice(0, 0, 8, 2);
    assert!(same(&model.forward(&every_other), &(&xs * 2.0)));
    assert_eq!(model.ran.take(), (0, 0));
}

#[test]
fn every_bit_of_a_row_is_part_of_the_key() {
    let model = Scale::by(111.0);
    model.forward(&Tensor::from_slice(&[1.5f32]).to_device(device()));
    model.ran.take();
    for row in [
        0.0f32,
        -0.0,
        f32::NAN,
        f32::from_bits(0x7fc0_0001),
        f32::MIN_POSITIVE / 2.0,
    ] {
        let xs = Tensor::from_slice(&[row]).to_device(device());
        model.forward(&xs);
        assert_eq!(model.ran.take(), (1, 1), "{row:?} ({:x})", row.to_bits());
        model.forward(&xs);
        assert_eq!(model.ran.take(), (0, 0), "{row:?} ({:x})", row.to_bits());
    }
}

#[test]
fn kinds_and_shapes_are_part_of_the_key() {
    let model = Scale::by(112.0);
    model.forward(&random(&[1, 4]));
    model.ran.take();
    for kind in KINDS {
        let zeros = Tensor::zeros([1, 4], (kind, device()));
        model.forward(&zeros);
        model.forward(&zeros.view([1, 2, 2]));
        assert_eq!(model.ran.take(), (2, 2), "{kind:?}");
    }
}

#[torchcache]
fn identity(xs: &Tensor) -> Tensor {
    xs.shallow_clone()
}

#[test]
fn every_kind_returns_bit_for_bit() {
    let floats = random(&[5, 3, 20]);
    let eighths = [Kind::Float8e4m3fn, Kind::Float8e5m2];
    for kind in KINDS.into_iter().chain(eighths) {
        let xs = match kind {
            Kind::Bool => floats.gt(0.0),
            _ => floats.to_kind(kind),
        };
        let misses = identity_cache().stats().misses;
        assert!(same(&identity(&xs), &xs), "{kind:?}");
        assert_eq!(identity_cache().stats().misses - misses, 5, "{kind:?}");
        assert!(same(&identity(&xs), &xs), "{kind:?}");
        assert_eq!(identity_cache().stats().misses - misses, 5, "{kind:?}");
        let mixed = identity(&Tensor::cat(
            &[&xs.narrow(0, 1, 2), &random(&[1, 3, 20]).to_kind(kind)],
            0,
        ));
        assert!(
            same(&mixed.narrow(0, 0, 2), &xs.narrow(0, 1, 2)),
            "{kind:?}"
        );
    }
}

#[test]
fn one_dimensional_batches_and_empty_rows_are_cached() {
    let model = Scale::by(113.0);
    let flat = random(&[6]);
    assert!(same(&model.forward(&flat), &(&flat * 113.0)));
    assert!(same(&model.forward(&flat), &(&flat * 113.0)));
    assert_eq!(model.ran.take(), (1, 6));
    let hollow = Tensor::zeros([3, 0, 2], (Kind::Float, device()));
    assert_eq!(model.forward(&hollow).size(), [3, 0, 2]);
    assert_eq!(model.forward(&hollow).size(), [3, 0, 2]);
    assert_eq!(model.ran.take(), (1, 3), "three equal rows");
}

#[test]
fn copies_in_other_memory_or_devices_share_rows() {
    let model = Scale::by(2.0);
    let xs = random(&[4, 3]);
    let expected = model.forward(&xs);
    model.ran.take();
    // With TORCHCACHE_TEST_DEVICE=cuda the second copy is on another device.
    for copy in [xs.copy(), xs.copy().to_device(Device::Cpu)] {
        assert_ne!(copy.data_ptr(), xs.data_ptr());
        let there = model.forward(&copy);
        assert_eq!(there.device(), copy.device(), "outputs follow their input");
        assert!(same(&there, &expected));
        assert_eq!(model.ran.take(), (0, 0));
    }
    assert_eq!(model.cache.stats().memory.hits, 8);
}

#[torchcache]
fn combine(
    xs: &Tensor,
    ys: &Tensor,
    scale: f64,
    label: &str,
    mask: Option<&Tensor>,
) -> (Tensor, Vec<Tensor>) {
    assert_eq!(label, "sum");
    let sum = (xs + ys) * scale;
    let masked = mask.map_or_else(|| sum.shallow_clone(), |mask| &sum * mask);
    (
        sum.to_kind(Kind::Int64),
        vec![masked.shallow_clone(), masked.unsqueeze(1)],
    )
}

#[test]
fn several_arguments_and_outputs_are_cached_per_row() {
    let (xs, ys, mask) = (random(&[6, 3]), random(&[6, 3]), random(&[6, 3]));
    let misses = || combine_cache().stats().misses;
    let run = |start: i64, rows: i64, mask: Option<&Tensor>| {
        let part = |tensor: &Tensor| tensor.narrow(0, start, rows);
        let mask = mask.map(part);
        let (a, b) = combine(&part(&xs), &part(&ys), 2.0, "sum", mask.as_ref());
        let sum = (part(&xs) + part(&ys)) * 2.0;
        let masked = mask
            .as_ref()
            .map_or_else(|| sum.shallow_clone(), |mask| &sum * mask);
        assert!(same(&a, &sum.to_kind(Kind::Int64)));
        assert!(same(&b[0], &masked) && same(&b[1], &masked.unsqueeze(1)));
    };
    run(0, 4, None);
    assert_eq!(misses(), 4);
    run(2, 4, None);
    assert_eq!(misses(), 6);
    run(0, 6, None);
    assert_eq!(misses(), 6);
    run(0, 6, Some(&mask));
    assert_eq!(misses(), 12);
    run(1, 5, Some(&mask));
    assert_eq!(misses(), 12);
    combine(&ys, &xs, 2.0, "sum", None);
    assert_eq!(misses(), 18, "the order of arguments counts");
}
