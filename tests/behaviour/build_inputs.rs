//! What the compiler puts into a body: two builds of one crate, with another feature, environment
//! variable and file.

#![deny(warnings)]

use tch::Tensor;
use tch::nn::Module;
use torchcache::torchcache;

use crate::support::{assert_computed_once, assert_panics, counts, random, same};

#[test]
fn builds_with_other_inputs_do_not_share_rows() {
    let xs = random(&[3, 2]);
    let functions = first_build::functions().into_iter();
    for (first, second) in functions.zip(second_build::functions()) {
        // Both are alive at once: only then could they share a memory tier.
        for ((name, call, cache), factor) in
            [(first, first_build::FACTOR), (second, second_build::FACTOR)]
        {
            for hits in [0, 3] {
                assert!(same(&call(&xs), &(&xs * factor)), "{name}: {factor}");
                assert_eq!(counts(cache), (3, hits, 0), "{name}: {factor}");
            }
        }
    }
}

#[test]
fn methods_of_other_builds_do_not_share_rows() {
    let xs = random(&[3, 2]);
    let (first, second) = (
        first_build::Scale::default(),
        second_build::Scale::default(),
    );
    for _ in 0..2 {
        assert!(same(&first.forward(&xs), &(&xs * 2.0)));
        assert!(same(&second.forward(&xs), &(&xs * 3.0)));
    }
    assert_eq!(counts(&first.torchcache), (3, 3, 0));
    assert_eq!(counts(&second.torchcache), (3, 3, 0));
}

/// A constant outside of the function is not part of its identity.
#[test]
fn a_second_crate_of_one_name_is_refused() {
    let xs = random(&[3, 2]);
    let scaled: [fn(&Tensor) -> Tensor; 2] = [first_build::scaled, second_build::scaled];
    assert!(same(&scaled[0](&xs), &(&xs * 2.0)));
    let texts = ["`builds::scaled` at ", "have the same identity"];
    assert_panics(&texts, || scaled[1](&xs));
    assert!(same(&scaled[0](&xs), &(&xs * 2.0)));
    assert_eq!(counts(first_build::scaled_cache()), (3, 3, 0));
}

/// Paths relative to this file, and a predicate that is unknown to Cargo.
#[torchcache]
#[expect(
    unexpected_cfgs,
    reason = "the attribute repeats the predicate elsewhere"
)]
fn length(xs: &Tensor) -> Tensor {
    #[cfg(no_such_predicate)]
    let xs = include!("no_such_file");
    let more = Vec::from([include_bytes!("state_machine/mod.rs").len() as f64]);
    assert!(!include_str!("main.rs").is_empty());
    xs * include_str!("main.rs").len() as f64 * more[0]
}

#[test]
fn a_file_is_found_relative_to_the_source() {
    let (main, more) = (
        include_str!("main.rs"),
        include_str!("state_machine/mod.rs"),
    );
    let (main, more) = (main.len() as f64, more.len() as f64);
    assert_computed_once(length_cache(), length, |xs| xs * main * more);
}
