//! Outputs whose first dimension is not the batch, and has its length by chance.

use tch::{Kind, Tensor};
use torchcache::{Batched, Error, ErrorKind, torchcache};

use crate::support::{Ran, random, same};

/// The keys and values of a layer are stacked before the batch, as the presents of GPT-2 are.
#[derive(Batched, Debug)]
struct Attended {
    output: Tensor,
    present: Tensor,
}

fn attended(xs: &Tensor) -> Attended {
    let present = Tensor::stack(&[xs * 2.0, xs * 3.0], 0);
    Attended {
        output: xs + 1.0,
        present,
    }
}

#[torchcache]
fn attend(xs: &Tensor) -> Attended {
    attended(xs)
}

/// In each order, also where a row repeats, so that two of three rows are computed.
#[test]
fn keys_and_values_of_two_rows_are_not_taken_for_rows() {
    let (a, b) = (random(&[1, 5]), random(&[1, 5]));
    for rows in [&[&a, &b][..], &[&b, &a], &[&a, &a], &[&a, &b]] {
        let xs = Tensor::cat(rows, 0);
        let (got, expected) = (attend(&xs), attended(&xs));
        assert!(same(&got.output, &expected.output));
        assert!(same(&got.present, &expected.present), "{rows:?}");
    }
    let stats = attend_cache().stats();
    assert_eq!((stats.hits(), stats.bypassed), (0, 4), "{stats}");
}

#[torchcache]
fn attend_or_fail(xs: &Tensor) -> Result<Attended, Error> {
    Ok(attended(xs))
}

/// A batch of three with two different rows runs on these two.
#[test]
fn keys_and_values_of_two_rows_of_three_are_not_taken_for_rows() {
    let (a, b) = (random(&[1, 5]), random(&[1, 5]));
    let error = attend_or_fail(&Tensor::cat(&[&a, &b, &b], 0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutputBatchMismatch, "{error}");
}

/// The states of a recurrent layer have the layers before the batch.
#[torchcache]
fn states(xs: &Tensor) -> Tensor {
    (xs * 2.0).unsqueeze(0)
}

#[test]
fn states_of_rows_that_were_computed_alone_are_not_joined() {
    let (a, b) = (random(&[1, 5]), random(&[1, 5]));
    for _ in 0..2 {
        for xs in [&a, &b] {
            assert!(same(&states(xs), &(xs * 2.0).unsqueeze(0)));
        }
    }
    let stats = states_cache().stats();
    assert_eq!((stats.hits(), stats.stored), (0, 0), "{stats}");
}

#[torchcache]
fn in_parts(xs: &Tensor, #[skip] ran: &Ran) -> Tensor {
    ran.note(xs);
    Tensor::stack(&[xs * 2.0, xs * 3.0], 1)
}

#[test]
fn rows_with_as_many_parts_as_the_batch_has_rows_are_found_in_any_order() {
    let ran = Ran::default();
    let xs = random(&[2, 5]);
    let expected = Tensor::stack(&[&xs * 2.0, &xs * 3.0], 1);
    assert!(same(&in_parts(&xs, &ran), &expected));
    assert_eq!(
        ran.take(),
        (2, 5),
        "the second time shows that these are rows"
    );
    assert!(same(&in_parts(&xs.flip([0]), &ran), &expected.flip([0])));
    let others = random(&[2, 5]);
    in_parts(&others, &ran);
    assert_eq!(ran.take(), (1, 2), "that is known now");
    assert_eq!(in_parts_cache().stats().memory.hits, 2);
}

#[torchcache]
fn of_two(xs: &Tensor, #[skip] ran: &Ran) -> Tensor {
    ran.note(xs);
    let size = xs.size()[0];
    assert_eq!(size, 2, "as a module that was traced with two rows");
    Tensor::stack(&[xs * 2.0, xs * 3.0], 1).to_kind(Kind::Double)
}

#[test]
fn a_body_that_fails_on_more_rows_says_nothing_of_those_it_computed() {
    let ran = Ran::default();
    let xs = random(&[2, 5]);
    let first = of_two(&xs, &ran);
    assert!(same(&of_two(&xs.flip([0]), &ran), &first.flip([0])));
    assert_eq!(ran.take(), (2, 5));
    assert_eq!(of_two_cache().stats().memory.hits, 2);
}

#[torchcache]
fn moments(xs: &Tensor) -> Tensor {
    Tensor::stack(
        &[
            xs.sum_dim_intlist(1, false, Kind::Float),
            xs.mean_dim(1, false, Kind::Float),
        ],
        0,
    )
}

#[test]
fn numbers_of_two_rows_are_not_taken_for_rows() {
    let (a, b) = (random(&[1, 5]), random(&[1, 5]));
    for rows in [[&a, &b], [&b, &a]] {
        let xs = Tensor::cat(&rows, 0);
        let expected = [
            xs.sum_dim_intlist(1, false, Kind::Float),
            xs.mean_dim(1, false, Kind::Float),
        ];
        assert!(same(&moments(&xs), &Tensor::stack(&expected, 0)));
    }
    let stats = moments_cache().stats();
    assert_eq!((stats.hits(), stats.bypassed), (0, 2), "{stats}");
}

#[torchcache]
fn doubled(xs: &Tensor, #[skip] ran: &Ran) -> Tensor {
    ran.note(xs);
    xs * 2.0
}

#[test]
fn a_batch_with_as_many_elements_as_rows_is_shown_by_two_rows() {
    let ran = Ran::default();
    let xs = random(&[6, 6]);
    assert!(same(&doubled(&xs, &ran), &(&xs * 2.0)));
    assert_eq!(ran.take(), (2, 6 + 2));
    assert!(same(&doubled(&xs.flip([0]), &ran), &(xs.flip([0]) * 2.0)));
    doubled(&random(&[6, 6]), &ran);
    assert_eq!(ran.take(), (1, 6), "that is known now");
    assert_eq!(doubled_cache().stats().memory.hits, 6);
}
