//! Every mistake: what is said, and under which token. Here those of structs and of other items.

mod functions;
mod options;

use syn::Item;

use super::tokens;
use crate::parse;

/// The mistakes of an item: the token each points at, and the message.
fn mistakes(arguments: &str, item: &str) -> Vec<(String, String)> {
    let arguments = tokens(arguments);
    let error = match syn::parse2(tokens(item)).unwrap() {
        Item::Struct(item) => parse::Struct::parse(arguments, item).err(),
        Item::Impl(item) => parse::Impl::parse(arguments, &item).err(),
        Item::Fn(item) => parse::Function::parse(arguments, &item).err(),
        other => Some(parse::wrong_item(&other)),
    };
    listed(error)
}

fn listed(error: Option<syn::Error>) -> Vec<(String, String)> {
    let mistakes = error.into_iter().flatten();
    mistakes
        .map(|mistake| {
            let token = mistake.span().source_text().unwrap_or_default();
            (token, mistake.to_string())
        })
        .collect()
}

/// Asserts that `found` are the mistakes expected: each one's token, and a part of its message.
#[track_caller]
fn expect(found: &[(String, String)], expected: &[(&str, &str)]) {
    let agree = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|((token, message), (expected_token, part))| {
                token == expected_token && message.contains(part)
            });
    assert!(agree, "found {found:#?}, expected {expected:#?}");
}

/// The mistakes in the options of an otherwise right struct.
#[track_caller]
fn options(arguments: &str, expected: &[(&str, &str)]) {
    expect(
        &mistakes(arguments, "struct A { torchcache: TorchCache }"),
        expected,
    );
}

/// The mistakes of a method, in an inherent impl.
#[track_caller]
fn method(method: &str, expected: &[(&str, &str)]) {
    expect(
        &mistakes("", &format!("impl A {{ {method} {{ body() }} }}")),
        expected,
    );
}

#[test]
fn a_right_item_has_no_mistakes() {
    options("", &[]);
    options(
        r#"enabled = false, memory_cache_device = None, max_memory_cache_size = "512 MiB",
        eviction = "lru", subsample_count = 1, persistent = true, persistent_cache_dir = "a/b",
        persistent_module_hash = "resnet-18_v1.0", max_persistent_cache_size = 1e12,
        zstd_compression = true, zstd_compression_level = -7, zstd_compression_threads = 0,
        cache_dtype = tch::Kind::BFloat16, use_mmap_on_load = true, version = "", verify = 0.01"#,
        &[],
    );
    options(
        "persistent = ON, zstd_compression_level = LEVEL, version = concat!(A, B)",
        &[],
    );
    method(
        "fn forward<'a>(&'a self, xs: &'a Tensor, n: [i64; 2]) -> Tensor",
        &[],
    );
    method("fn forward(self: &Self, batch: Batch) -> Tensor", &[]);
}

#[test]
fn a_struct_has_exactly_one_cache() {
    expect(
        &mistakes("", "struct Backbone { fc: Linear }"),
        &[(
            "Backbone",
            "add these two lines:\n    torchcache: torchcache::TorchCache,             // in the \
             struct\n    torchcache: torchcache::TorchCache::default(),  // where it is built",
        )],
    );
    expect(
        &mistakes("", "struct Backbone;"),
        &[("Backbone", "has no field for its cache")],
    );
    expect(
        &mistakes(
            "",
            "struct A { first: TorchCache, second: torchcache::TorchCache }",
        ),
        &[("second", "one cache, and the field `first` is it already")],
    );
    expect(
        &mistakes("", "struct A(TorchCache, TorchCache);"),
        &[("TorchCache", "the field `0` is it already")],
    );
}

#[test]
fn fields_of_ours_are_checked() {
    expect(
        &mistakes(
            "",
            "struct A { torchcache_enabeld: bool, cache: TorchCache }",
        ),
        &[(
            "torchcache_enabeld",
            "called `enabeld`; did you mean `torchcache_enabled`?",
        )],
    );
    expect(
        &mistakes(
            "",
            "struct A { #[torchcache(skp)] a: u8, cache: TorchCache }",
        ),
        &[("skp", "unknown field attribute `skp`; did you mean `skip`?")],
    );
    expect(
        &mistakes(
            "",
            "struct A { #[torchcache] a: u8, #[torchcache()] b: u8, c: TorchCache }",
        ),
        &[
            ("#[torchcache]", "write `#[torchcache(skip)]`"),
            ("#[torchcache()]", "write `#[torchcache(skip)]`"),
        ],
    );
    expect(
        &mistakes(
            "",
            "struct A { #[torchcache(skip = true)] a: u8, c: TorchCache }",
        ),
        &[("skip", "write `skip` alone")],
    );
    expect(
        &mistakes(
            "",
            "struct A { #[torchcache(skip)] torchcache_enabled: bool, #[torchcache(skip)] c: TorchCache }",
        ),
        &[
            ("skip", "this field is an override"),
            ("skip", "this field is the cache"),
        ],
    );
}

#[test]
fn all_mistakes_of_a_struct_come_at_once() {
    expect(
        &mistakes(
            "persistant = true, enabled = 3, zstd_compression = true",
            "struct A { #[torchcache(skp)] a: u8, torchcache_x: bool }",
        ),
        &[
            ("persistant", "did you mean `persistent`"),
            ("3", "takes `true` or `false`"),
            ("skp", "did you mean `skip`"),
            ("torchcache_x", "overrides no option"),
            ("zstd_compression", "`persistent` is false"),
            ("A", "no field for its cache"),
        ],
    );
}

#[test]
fn other_items_are_refused() {
    for (item, token, what) in [
        ("enum A {}", "enum", "this is an enum"),
        ("union A { a: u8 }", "union", "this is a union"),
        ("trait A {}", "trait", "this is a trait"),
        ("mod a {}", "mod", "this is a module"),
        ("const A: u8 = 0;", "const", "this is a constant"),
        ("static A: u8 = 0;", "static", "this is a static"),
        ("type A = u8;", "type", "this is a type alias"),
        ("use a::b;", "use", "this is an import"),
        (
            "extern crate a;",
            "extern crate a;",
            "this is something else",
        ),
    ] {
        expect(&mistakes("", item), &[(token, what)]);
    }
}

#[test]
fn the_derive_refuses_what_it_cannot_count() {
    let derive = |item| {
        let input = syn::parse2(tokens(item)).unwrap();
        listed(parse::Fingerprint::parse(input).err())
    };
    expect(
        &derive("union A { a: u8 }"),
        &[("union", "cannot be derived for a union")],
    );
    expect(
        &derive("enum A { B(#[torchcache(skp)] u8), C { #[torchcache(skipp)] x: u8 } }"),
        &[
            ("skp", "did you mean `skip`"),
            ("skipp", "did you mean `skip`"),
        ],
    );
}

#[test]
fn beside_an_error_the_item_and_what_others_ask_of_it_come_out() {
    let expansion = |arguments, item| crate::attribute(tokens(arguments), tokens(item)).to_string();
    let structure = expansion(
        "persistant = true",
        "struct A<M> { #[torchcache(skip)] x: M, c: TorchCache }",
    );
    assert!(
        structure.contains("struct A < M > { x : M , c : TorchCache }"),
        "{structure}"
    );
    assert!(
        structure.contains("CachedStruct for A < M >"),
        "{structure}"
    );
    let block = expansion(
        "no",
        "impl A { fn forward(&self, xs: &Tensor) -> Tensor { x } }",
    );
    assert!(block.contains("CachedForward for A"), "{block}");
    let function = expansion("no = 1", "fn f(xs: &Tensor) -> Tensor { x }");
    assert!(function.contains("mod f {"), "{function}");
    for text in [structure, block, function] {
        assert_eq!(text.matches("compile_error").count(), 1, "{text}");
    }
}
