//! Expansions compile and run against a stand-in for the runtime, without libtorch, with all lints
//! denied and without the prelude.
#![deny(warnings)]

extern crate self as torchcache;

#[expect(missing_docs, reason = "it stands for a hidden module")]
#[path = "private.rs"]
pub mod __private;

#[no_implicit_prelude]
pub mod bare;
mod derived;
mod function;
mod generic;
mod inherent;
mod module;
mod module_t;
pub mod nn;

use __private::seen;

fn identity<T: __private::Fingerprint>(value: &T) -> Vec<String> {
    let mut parts = Vec::new();
    value.fingerprint(&mut __private::Fingerprinter(&mut parts));
    parts
}

#[test]
fn generated_code_needs_no_prelude() {
    use nn::Module;
    let module = bare::Backbone {
        by: 3.0,
        torchcache_enabled: true,
        torchcache: Default::default(),
    };
    let one = __private::Tensor(vec![1.0]);
    assert_eq!(module.forward(&one).0, [3.0]);
    assert_eq!(bare::embed(&one).0, [1.0]);
}

#[test]
fn the_derive_hashes_the_variant_and_its_fields() {
    use bare::Mode;
    assert_eq!(identity(&Mode::Plain), ["bare::Mode", "::Plain"]);
    assert_eq!(
        identity(&Mode::Scaled(2.0, bare::Function)),
        ["bare::Mode", "::Scaled", "0", "2.0"]
    );
    assert_eq!(
        identity(&Mode::Named {
            r#type: 3,
            label: bare::Option
        }),
        ["bare::Mode", "::Named", "type", "3"]
    );
}

#[test]
fn the_derive_flattens_and_rebuilds_a_struct() {
    use __private::{Batched, Tensor};
    let number = |number: f64| Tensor(vec![number]);
    let encoded = bare::pick(&number(7.0), &[1], &Tensor(vec![4.0, 5.0]));
    let mut structure = String::new();
    <bare::Encoded<bare::Pair>>::structure(&mut structure);
    assert_eq!(structure, "{type:T,inner:(T?T)}");
    let (mut tensors, mut lengths) = (Vec::new(), Vec::new());
    encoded.flatten(&mut tensors, &mut lengths);
    assert_eq!(
        (&*tensors, &*lengths),
        (&[number(5.0), number(7.0)][..], &[0][..])
    );
    let (mut parts, mut none) = (tensors.into_iter(), lengths.into_iter());
    let again = <bare::Encoded<bare::Pair>>::unflatten(&mut parts, &mut none).unwrap();
    assert_eq!((again.r#type, again.inner.0), (number(5.0), number(7.0)));
    assert!(bare::Pair::unflatten(&mut parts, &mut none).is_none());
}
