//! The checks of the example `transfer_learning` fail on wrong features, which its runs never have.

#[path = "../transfer_learning/report.rs"]
mod report;

use report::{Checks, Summary, table};
use tch::{Kind, Tensor};
use torchcache_examples::rows_that_differ;

fn summary() -> Summary {
    Summary {
        epochs: vec![10.0, 8.0],
        accuracy: 0.75,
        from_memory: 3,
        from_disk: 2,
        repeated: 1,
        computed: 4,
        changed_rows: 0,
    }
}

fn features() -> Tensor {
    Tensor::arange(12, (Kind::Float, tch::Device::Cpu)).view([4, 3])
}

fn with_one_value(value: f64) -> Tensor {
    let features = features();
    let _ = features.get(2).get(1).fill_(value);
    features
}

#[test]
fn a_cached_feature_that_differs_fails_the_demo() {
    let runs = [&summary(), &summary(), &summary()];
    assert!(Checks::new(runs, &features(), &features()).hold());
    for wrong in [7.5, f64::NAN, f64::INFINITY] {
        let checks = Checks::new(runs, &features(), &with_one_value(wrong));
        assert!(!checks.hold(), "{wrong}");
        assert!(checks.to_string().contains("3 of 4 rows"), "{checks}");
    }
}

#[test]
fn a_difference_in_the_last_bits_does_not_fail_the_demo() {
    let runs = [&summary(), &summary(), &summary()];
    let close = Checks::new(runs, &features(), &with_one_value(7.000_001));
    assert!(close.hold(), "{close}");
}

#[test]
fn a_row_that_changed_between_epochs_fails_the_demo() {
    let changed = Summary {
        changed_rows: 1,
        ..summary()
    };
    for runs in [
        [&summary(), &changed, &summary()],
        [&summary(), &summary(), &changed],
    ] {
        assert!(!Checks::new(runs, &features(), &features()).hold());
    }
}

#[test]
fn accuracies_far_apart_fail_the_demo() {
    let worse = Summary {
        accuracy: 0.5,
        ..summary()
    };
    let checks = Checks::new([&summary(), &worse, &summary()], &features(), &features());
    assert!(!checks.hold());
}

#[test]
fn rows_are_compared_by_their_bits() {
    let zeros = Tensor::zeros([2, 2], (Kind::Float, tch::Device::Cpu));
    assert_eq!(rows_that_differ(&zeros, &-&zeros), 2, "0.0 and -0.0");
    let nan = &zeros / 0.0;
    assert_eq!(rows_that_differ(&nan, &nan), 0);
}

#[test]
fn the_table_has_a_column_for_each_run() {
    let table = table([&summary(), &summary(), &summary()]);
    let epoch = table.lines().find(|line| line.starts_with("epoch 2"));
    assert_eq!(
        epoch.map(|line| line.matches("8.00 s").count()),
        Some(3),
        "{table}"
    );
    let hits = table.lines().find(|line| line.starts_with("from disk"));
    let cells: Vec<_> = hits.unwrap().split_whitespace().skip(2).collect();
    assert_eq!(cells, ["-", "2", "2"], "{table}");
}
