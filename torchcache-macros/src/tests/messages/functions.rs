//! Mistakes in impls and functions.

use super::{expect, method, mistakes};
use crate::parse;

#[test]
fn options_do_not_go_on_the_impl() {
    expect(
        &mistakes(
            "persistent = true",
            "impl A { fn forward(&self, xs: &Tensor) -> Tensor { x } }",
        ),
        &[("persistent = true", "options go on the struct")],
    );
}

#[test]
fn an_impl_must_have_something_to_cache() {
    expect(
        &mistakes(
            "",
            "impl A { fn infer(&self, xs: &Tensor) -> Tensor { x } }",
        ),
        &[("A", "has neither `forward` nor `forward_t`")],
    );
    expect(
        &mistakes("", "impl fmt::Display for A { fn forward(&self) {} }"),
        &[(
            "fmt::Display",
            "`nn::Module` or `nn::ModuleT`, or on an inherent impl",
        )],
    );
}

#[test]
fn a_method_takes_self_by_reference() {
    method(
        "fn forward(xs: &Tensor) -> Tensor",
        &[("forward", "takes no `self`")],
    );
    method(
        "fn forward(self, xs: &Tensor) -> Tensor",
        &[("self", "takes `&self`")],
    );
    method(
        "fn forward(&mut self, xs: &Tensor) -> Tensor",
        &[("&mut self", "takes `&self`")],
    );
    method(
        "fn forward(self: Box<Self>, xs: &Tensor) -> Tensor",
        &[("self: Box<Self>", "takes `&self`")],
    );
}

#[test]
fn a_function_that_a_hit_cannot_stand_for_is_refused() {
    method(
        "const fn forward(&self, xs: &Tensor) -> Tensor",
        &[("const", "remove `const`")],
    );
    method(
        "async fn forward(&self, xs: &Tensor) -> Tensor",
        &[("async", "remove `async`")],
    );
    method(
        "unsafe fn forward(&self, xs: &Tensor) -> Tensor",
        &[("unsafe", "remove `unsafe`")],
    );
    method(
        "extern \"C\" fn forward(&self, xs: &Tensor) -> Tensor",
        &[("extern \"C\"", "`extern`")],
    );
    method(
        "fn forward<T, const N: usize>(&self, xs: &Tensor) -> Tensor",
        &[
            ("T", "a generic function cannot be cached"),
            ("N", "a generic function"),
        ],
    );
    method(
        "fn forward(&self, xs: &Tensor, x: impl Into<f64>) -> Tensor",
        &[("impl Into<f64>", "write the type out")],
    );
    method(
        "fn forward(&self, #[cfg(a)] xs: &Tensor) -> Tensor",
        &[("#[cfg(a)]", "put `#[cfg]` on the whole item")],
    );
    method(
        "#[cfg(a)] fn forward(&self, xs: &Tensor) -> Tensor",
        &[("#[cfg(a)]", "on the impl")],
    );
}

#[test]
fn arguments_to_write_into_are_refused() {
    method(
        "fn forward(&self, xs: &mut Tensor) -> Tensor",
        &[("&mut Tensor", "take `&Tensor` and return the new tensor")],
    );
    method(
        "fn forward(&self, xs: &Tensor, seen: Option<&mut Vec<i64>>) -> Tensor",
        &[("&mut Vec<i64>", "take `&` and return what changes")],
    );
}

#[test]
fn rows_come_from_a_tensor_argument() {
    method(
        "fn forward(&self) -> Tensor",
        &[("forward", "has no tensor argument")],
    );
    method(
        "fn forward(&self, a: f64, b: &[(i64, bool)], c: Option<&str>, d: tch::Kind) -> Tensor",
        &[("forward", "has no tensor argument")],
    );
    method(
        "fn forward_t(&self, train: bool) -> Tensor",
        &[("forward_t", "has no tensor argument")],
    );
}

#[test]
fn a_function_returns_tensors() {
    let advice = "return a `Tensor`, a tuple, `Vec` or struct of them, or a `Result` of these";
    method("fn forward(&self, xs: &Tensor)", &[("forward", advice)]);
    method("fn forward(&self, xs: &Tensor) -> ()", &[("()", advice)]);
    method(
        "fn forward(&self, xs: &Tensor) -> &Tensor",
        &[("&Tensor", "this returns a reference")],
    );
    method(
        "fn forward(&self, xs: &Tensor) -> impl Out",
        &[("impl Out", "a type without a name")],
    );
}

#[test]
fn an_inherent_forward_t_needs_train() {
    method(
        "fn forward_t(&self, xs: &Tensor, _train: bool) -> Tensor",
        &[],
    );
    method(
        "fn forward_t(&self, xs: &Tensor, training: bool) -> Tensor",
        &[("forward_t", "needs an argument `train: bool`")],
    );
}

#[test]
fn all_mistakes_of_an_impl_come_at_once() {
    expect(
        &mistakes(
            "",
            "impl A {
                async fn forward(&mut self, x: f64) {}
                fn forward_t(self, xs: &mut Tensor) -> Tensor { xs }
            }",
        ),
        &[
            ("&mut self", "takes `&self`"),
            ("async", "remove `async`"),
            ("forward", "no tensor argument"),
            ("forward", "returns nothing"),
            ("self", "takes `&self`"),
            ("&mut Tensor", "take `&Tensor`"),
            ("forward_t", "needs an argument `train: bool`"),
        ],
    );
}

#[test]
fn a_method_alone_cannot_be_annotated() {
    expect(
        &mistakes("", "fn forward(&self, xs: &Tensor) -> Tensor { x }"),
        &[("&self", "this is a method; put `#[torchcache]` on the impl")],
    );
}

#[test]
fn an_argument_has_one_mark_and_rows_have_one_id() {
    method(
        "fn forward(&self, xs: &Tensor, #[id] #[shared] a: &Tensor) -> Tensor",
        &[("#[shared]", "is `#[id]` already")],
    );
    method(
        "fn forward(&self, xs: &Tensor, #[id(1)] a: &[i64], #[id] b: &[i64]) -> Tensor",
        &[
            ("#[id(1)]", "write `#[id]` alone"),
            ("b", "rows have one id, and `a` is it already"),
        ],
    );
    method(
        "fn forward_t(&self, xs: &Tensor, #[id] train: bool) -> Tensor",
        &[("train", "`train` is no part of a key")],
    );
}

#[test]
fn shared_tensors_have_no_rows_and_ids_do() {
    method(
        "fn forward(&self, #[shared] xs: &Tensor) -> Tensor",
        &[(
            "forward",
            "at least one `&Tensor` that is not shared, or `#[id]`s",
        )],
    );
    method("fn forward(&self, #[id] paths: &[String]) -> Tensor", &[]);
}

#[test]
fn only_a_struct_with_fields_is_made_of_tensors() {
    let derived = |item: &str| {
        super::listed(parse::Batched::parse(syn::parse2(super::tokens(item)).unwrap()).err())
    };
    expect(
        &derived("enum Output { One(Tensor) }"),
        &[("enum", "cannot be derived for an enum")],
    );
    expect(
        &derived("union Output { one: u8 }"),
        &[("union", "cannot be derived for a union")],
    );
    expect(&derived("struct Output;"), &[("Output", "has no fields")]);
    expect(&derived("struct Output(Tensor);"), &[]);
    expect(
        &derived(
            "struct Tree { value: Tensor, children: Vec<Tree>, next: self::Tree, parent: Option<Box<Self>> }",
        ),
        &[
            ("Vec<Tree>", "made of itself"),
            ("self::Tree", "made of itself"),
            ("Option<Box<Self>>", "made of itself"),
        ],
    );
    expect(
        &derived("struct Output { encoder: encoder::Output, rest: Vec<super::Output> }"),
        &[],
    );
}
