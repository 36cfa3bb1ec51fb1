//! Free functions, also nested and with raw names.

use super::*;
use crate::__private::{CachedFunction, Tensor, TorchCache};
use torchcache_macros::torchcache;

fn dtype() -> Option<__private::Kind> {
    None
}

/// Documented.
#[torchcache(max_memory_cache_size = "2 GB", cache_dtype = dtype(), memory_cache_device = None)]
pub(super) fn embed(tokens: &Tensor, scale: f64) -> Tensor {
    #![inline]
    return Tensor(tokens.0.iter().map(|token| token * scale).collect());
}

#[torchcache]
fn r#match(xs: &Tensor) -> Tensor {
    xs.clone()
}

#[test]
fn a_function_has_a_module_with_its_handle() {
    assert_eq!(embed(&Tensor(vec![1.0]), 3.0), Tensor(vec![3.0]));
    assert_eq!(
        seen()[..2],
        [
            "expansions::function::embed embed",
            "tokens = Tensor([1.0])"
        ]
    );
    let _: &'static TorchCache = embed::cache();
    assert_eq!(
        embed::Cached::options().0,
        [
            "max_memory_cache_size 4",
            "cache_dtype None",
            "memory_cache_device None"
        ]
    );
    assert_eq!(r#match(&Tensor(vec![])), Tensor(vec![]));
    assert_eq!(r#match::Cached::FUNCTION.name, "match");
}

#[test]
fn a_function_may_be_nested_in_another() {
    #[derive(Debug, PartialEq)]
    struct Local(u8);

    #[torchcache]
    fn inner(xs: &Tensor) -> Result<Tensor, Local> {
        if xs.0.is_empty() {
            Err(Local(1))
        } else {
            Ok(xs.clone())
        }
    }
    assert_eq!(inner(&Tensor(vec![])), Err(Local(1)));
    let _ = inner::cache();
}

#[torchcache]
fn attend(
    queries: &[&Tensor],
    #[shared] mask: &Tensor,
    #[id] names: &[&str],
    scale: f64,
) -> Tensor {
    assert_eq!(
        (queries.len(), names, mask),
        (1, ["a", "b"].as_slice(), queries[0])
    );
    Tensor(vec![scale])
}

#[test]
fn marked_arguments_are_passed_in_their_roles() {
    let mask = Tensor(vec![5.0]);
    assert_eq!(attend(&[&mask], &mask, &["a", "b"], 2.0), Tensor(vec![2.0]));
    assert_eq!(
        seen(),
        [
            "expansions::function::attend attend",
            "queries = [Tensor([5.0])]",
            "mask = shared Tensor([5.0])",
            "names = id [\"a\", \"b\"]",
            "scale = 2.0",
            "row argument 0",
            "shared",
            "ids",
            "row argument 3",
        ]
    );
    assert!(
        attend::Cached::FUNCTION.code.contains("# [ id ]"),
        "marks are part of the code"
    );
}

#[derive(Debug, PartialEq)]
struct Named<'a>(&'a str);

#[torchcache]
fn named<'a>(xs: &Tensor, name: &'a str) -> Result<Tensor, Named<'a>> {
    if xs.0.is_empty() {
        Err(Named(name))
    } else {
        Ok(xs.clone())
    }
}

/// The constant that describes the function cannot name these lifetimes.
#[test]
fn an_output_may_have_lifetimes_of_the_signature() {
    assert_eq!(named(&Tensor(vec![]), "empty"), Err(Named("empty")));
    assert!((named::Cached::FUNCTION.output)().contains("Named"));
}
