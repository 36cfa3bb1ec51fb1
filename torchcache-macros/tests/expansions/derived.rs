//! The derive on recursive types and on types without fields.

use super::*;
use torchcache_macros::Fingerprint;

#[derive(Fingerprint)]
enum Never {}

#[derive(Fingerprint)]
struct Node<T> {
    value: T,
    next: Option<Box<Node<T>>>,
}

#[derive(Fingerprint)]
struct Mean;

#[derive(Fingerprint)]
struct Max;

/// Neither has a field, but pooling by `Max` and by `Mean` must not share rows.
#[test]
fn types_without_fields_are_told_apart() {
    assert_eq!(identity(&Mean), ["derived::Mean"]);
    assert_ne!(identity(&Mean), identity(&Max));
}

#[test]
fn a_type_may_hold_itself() {
    let last = Node {
        value: 2.0,
        next: None,
    };
    let first = Node {
        value: 1.0,
        next: Some(Box::new(last)),
    };
    assert_eq!(
        identity(&first),
        [
            "derived::Node<f64>",
            "value",
            "1.0",
            "next",
            "derived::Node<f64>",
            "value",
            "2.0",
            "next"
        ]
    );
    assert!(identity(&None::<Never>).is_empty());
}
