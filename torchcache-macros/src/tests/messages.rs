//! Every error message of the attribute and the derives, and the token that it points at, as
//! snapshots. Errors that need the compiler's type checker are in `tests/compile_fail/`.

use insta::assert_snapshot;
use syn::Item;

use super::tokens;
use crate::parse;
use crate::parse::derives::{ARGUMENT, BATCHED, FingerprintDerive, TensorsDerive};
use crate::parse::functions::FunctionItem;
use crate::parse::impls::ModuleImpl;
use crate::parse::structs::Struct;

/// The mistakes of an item with the attribute, a line each: the token, and the message.
fn attribute(arguments: &str, item: &str) -> String {
    let arguments = tokens(arguments);
    let error = match syn::parse2(tokens(item)).unwrap() {
        Item::Struct(item) => Struct::parse(arguments, item).err(),
        Item::Impl(item) => ModuleImpl::parse(arguments, &item).err(),
        Item::Fn(item) => FunctionItem::parse(arguments, &item).err(),
        other => Some(parse::wrong_item(&other)),
    };
    lines(error)
}

fn lines(error: Option<syn::Error>) -> String {
    let mistakes = error.into_iter().flatten().map(|mistake| {
        let token = mistake.span().source_text().unwrap_or_default();
        format!("    {token}\n        {mistake}\n")
    });
    mistakes.collect()
}

/// Each source with its mistakes.
fn report<'a>(sources: impl IntoIterator<Item = &'a str>, check: fn(&str) -> String) -> String {
    let report = |source| format!("{source}\n{}", check(source));
    sources.into_iter().map(report).collect()
}

/// The mistakes in the options of a struct that is otherwise right.
fn options(arguments: &str) -> String {
    attribute(arguments, "struct A { torchcache: TorchCache }")
}

/// The mistakes of an item whose attribute has no options.
fn item(item: &str) -> String {
    attribute("", item)
}

/// The mistakes of a method in an inherent impl.
fn method(method: &str) -> String {
    item(&format!("impl A {{ {method} {{ body() }} }}"))
}

fn fingerprint(item: &str) -> String {
    lines(FingerprintDerive::parse(syn::parse2(tokens(item)).unwrap()).err())
}

fn batched(item: &str) -> String {
    lines(TensorsDerive::parse(syn::parse2(tokens(item)).unwrap(), BATCHED).err())
}

fn argument_of(item: &str) -> String {
    lines(TensorsDerive::parse(syn::parse2(tokens(item)).unwrap(), ARGUMENT).err())
}

#[test]
fn accepted_items_have_no_mistakes() {
    for arguments in [
        "",
        r#"enabled = false, memory_cache_device = None, max_memory_cache_size = "512 MiB",
        eviction = "lru", subsample_count = 1, persistent = true, persistent_cache_dir = "a/b",
        persistent_module_hash = "resnet-18_v1.0", max_persistent_cache_size = 1e12,
        zstd_compression = true, zstd_compression_level = -7, zstd_compression_threads = 0,
        cache_dtype = tch::Kind::BFloat16, use_mmap_on_load = true, version = "", verify = 0.01"#,
        "persistent = ON, zstd_compression_level = LEVEL, version = concat!(A, B)",
        "zstd_compression = false, cache_dtype = KIND",
        "verify = 0, max_memory_cache_size = 0",
        "verify = 1, max_memory_cache_size = 18446744073709551615",
        "verify = 1.0",
        "verify = 1e-3",
        "verify = f64::NAN",
        "single_flight_timeout = 0",
        "single_flight_timeout = 86400",
        "single_flight_timeout = 0.25",
        r#"persistent = true, remote = "s3://bucket/prefix", remote_mode = "read-only", remote_timeout = 0"#,
        "persistent = ON, remote = URL, remote_mode = MODE, remote_timeout = 0.5",
    ] {
        assert_eq!(options(arguments), "", "{arguments}");
    }
    for accepted in [
        "fn forward<'a>(&'a self, xs: &'a Tensor, n: [i64; 2]) -> Tensor",
        "fn forward(self: &Self, batch: Batch) -> Tensor",
        "fn forward_t(&self, xs: &Tensor, _train: bool) -> Tensor",
        "fn forward(&self, #[id] paths: &[String]) -> Tensor",
    ] {
        assert_eq!(method(accepted), "", "{accepted}");
    }
    let overridden = "struct A { torchcache_persistent: bool, torchcache: TorchCache }";
    assert_eq!(attribute("zstd_compression = true", overridden), "");
    assert_eq!(attribute("remote = URL", overridden), "");
    assert_eq!(batched("struct Output(Tensor);"), "");
    let others = "struct Output { encoder: encoder::Output, rest: Vec<super::Output> }";
    assert_eq!(batched(others), "");
    let marked = "enum Output { One(Tensor), Other { #[batched(constant)] of: Output }, None }";
    assert_eq!(batched(marked), "");
    let marked = "struct Inputs<'a> { ids: &'a Tensor, #[argument(plain)] mode: Mode }";
    assert_eq!(argument_of(marked), "");
}

#[test]
fn option_names_and_syntax() {
    assert_snapshot!(report(
        [
            "persistant = true",
            "eviction_policy = \"lru\"",
            "persistent",
            "persistent = true, persistent = false",
            "persistent = ",
            "persistent true, enabled = 3",
            "enabled = 3, persistent(true)",
        ],
        options,
    ));
}

#[test]
fn option_values_of_the_wrong_type() {
    assert_snapshot!(report(
        [
            r#"enabled = "yes""#,
            r#"memory_cache_device = "cpu""#,
            "max_memory_cache_size = true",
            "eviction = 1",
            "subsample_count = 0.5",
            "persistent = 1",
            "persistent_cache_dir = true",
            "persistent_module_hash = 7",
            r#"zstd_compression_level = "fast""#,
            "zstd_compression_threads = true",
            r#"cache_dtype = "half""#,
            "use_mmap_on_load = -1",
            "version = 2",
            r#"verify = "1 %""#,
            "persistent = true, remote = true",
            "remote_mode = 1",
            r#"remote_timeout = "2 s""#,
        ],
        options,
    ));
}

#[test]
fn option_values_out_of_range() {
    let long = format!("persistent_module_hash = \"{}\"", "x".repeat(129));
    assert_snapshot!(report(
        [
            "max_memory_cache_size = -1",
            "max_memory_cache_size = 1e20",
            "max_memory_cache_size = 18446744073709551616",
            "max_persistent_cache_size = 0",
            "max_persistent_cache_size = 0.5",
            r#"eviction = "lfu""#,
            r#"eviction = "fifo""#,
            "subsample_count = 0",
            r#"persistent_cache_dir = """#,
            r#"persistent_cache_dir = "a\0b""#,
            r#"persistent_cache_dir = "~/features""#,
            r#"persistent_cache_dir = "~someone""#,
            r#"persistent_cache_dir = "$HOME/features""#,
            r#"persistent_module_hash = """#,
            r#"persistent_module_hash = "a/b""#,
            r#"persistent_module_hash = "a\\b""#,
            r#"persistent_module_hash = "..""#,
            r#"persistent_module_hash = "a\0b""#,
            &long,
            "zstd_compression_level = 23",
            "zstd_compression_level = -8",
            "zstd_compression_threads = 257",
            "zstd_compression_threads = -1",
            "cache_dtype = Kind::Int64",
            "verify = 1.01",
            "verify = -0.01",
            "verify = 2",
            "verify = -1",
            "verify = 1e9",
            "single_flight_timeout = -1",
            "single_flight_timeout = 86401",
            "single_flight_timeout = 86400.5",
            r#"persistent = true, remote = "/mnt/bucket""#,
            r#"remote_mode = "readonly""#,
            r#"remote_mode = "off""#,
            "remote_timeout = -1",
        ],
        options,
    ));
}

#[test]
fn options_that_need_persistence() {
    assert_snapshot!(report(
        [
            "zstd_compression = true",
            "persistent = false, zstd_compression = true",
            r#"remote = "s3://bucket""#,
            r#"persistent = false, zstd_compression = true, remote = URL"#,
        ],
        options,
    ));
    let function = "fn f(xs: &Tensor) -> Tensor { xs.copy() }";
    assert_eq!(
        attribute("zstd_compression = true", function),
        options("zstd_compression = true")
    );
}

#[test]
fn structs() {
    assert_snapshot!(report(
        [
            "struct Backbone { fc: Linear }",
            "struct Backbone(Linear);",
            "struct Backbone;",
            "struct A { first: TorchCache, second: torchcache::TorchCache }",
            "struct A(TorchCache, TorchCache);",
            "struct A { torchcache_enabeld: bool, cache: TorchCache }",
            "struct A { #[torchcache(skp)] a: u8, cache: TorchCache }",
            "struct A { #[torchcache] a: u8, #[torchcache()] b: u8, cache: TorchCache }",
            "struct A { #[torchcache(skip = true)] a: u8, cache: TorchCache }",
            "struct A { #[torchcache(skip)] torchcache_enabled: bool, #[torchcache(skip)] cache: TorchCache }",
        ],
        item,
    ));
}

#[test]
fn impls() {
    let with_options = |item: &str| attribute("persistent = true", item);
    let item_with_options = "impl A { fn forward(&self, xs: &Tensor) -> Tensor { x } }";
    assert_snapshot!(format!(
        "persistent = true, {item_with_options}\n{}{}",
        with_options(item_with_options),
        report(
            [
                "impl A { fn infer(&self, xs: &Tensor) -> Tensor { x } }",
                "impl fmt::Display for A { fn fmt(&self) {} }",
                "impl A { #[torchcache] fn encode(&mut self, xs: &Tensor) -> Tensor { x } }",
                "impl A { #[torchcache] fn encode(xs: &Tensor) -> Tensor { x } }",
                "impl A { #[torchcache] fn encode<T>(&self, n: i64) {} }",
                "impl A { #[cfg_attr(on, torchcache)] fn encode(&self, xs: &Tensor) -> Tensor { x } }",
                "impl A { #[torchcache] #[torchcache] fn encode(&self, xs: &Tensor) -> Tensor { x } }",
                "impl A { #[torchcache = 1] fn encode(&self, xs: &Tensor) -> Tensor { x } }",
                "impl A { #[torchcache(persistent = true, handle = \"rows\", versoin = 1, verify = 2.0)]
                 fn encode(&self, xs: &Tensor) -> Tensor { x } }",
                "impl A { #[torchcache(skip)] fn forward(&self, xs: &Tensor) -> Tensor { x } }",
                "fn forward(&self, xs: &Tensor) -> Tensor { x }",
            ],
            item,
        )
    ));
}

#[test]
fn receivers_and_qualifiers() {
    assert_snapshot!(report(
        [
            "fn forward(xs: &Tensor) -> Tensor",
            "fn forward(self, xs: &Tensor) -> Tensor",
            "fn forward(&mut self, xs: &Tensor) -> Tensor",
            "fn forward(self: Box<Self>, xs: &Tensor) -> Tensor",
            "const fn forward(&self, xs: &Tensor) -> Tensor",
            "async fn forward(&self, xs: &Tensor) -> Tensor",
            "unsafe fn forward(&self, xs: &Tensor) -> Tensor",
            "extern \"C\" fn forward(&self, xs: &Tensor) -> Tensor",
            "fn forward<T, const N: usize>(&self, xs: &Tensor) -> Tensor",
        ],
        method,
    ));
}

#[test]
fn arguments() {
    assert_snapshot!(report(
        [
            "fn forward(&self, xs: &Tensor, x: impl Into<f64>) -> Tensor",
            "fn forward(&self, #[cfg_attr(a, cfg_attr(b, id))] xs: &[i64]) -> Tensor",
            "fn forward(&self, xs: &mut Tensor) -> Tensor",
            "fn forward(&self, xs: &Tensor, seen: Option<&mut Vec<i64>>) -> Tensor",
            "fn forward(&self) -> Tensor",
            "fn forward(&self, a: f64, b: &[(i64, bool)], c: Option<&str>, d: tch::Kind) -> Tensor",
            "fn forward(&self, a: [u8; 2], b: &(str)) -> Tensor",
            "fn forward_t(&self, train: bool) -> Tensor",
            "fn forward_t(&self, xs: &Tensor, trained: bool) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[ids] names: &[&str]) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[id] #[shared] a: &Tensor) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[id(1)] a: &[i64], #[id] b: &[i64]) -> Tensor",
            "fn forward_t(&self, xs: &Tensor, #[id] train: bool) -> Tensor",
            "fn forward(&self, #[shared] xs: &Tensor) -> Tensor",
            "fn forward(#[skip] &self, xs: &Tensor) -> Tensor",
            "fn forward(&self, #[skip] xs: &Tensor, scale: f64) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[skip] #[skip] a: u8, #[skip] #[id] b: &[i64]) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[skip(a)] a: u8, #[skpi] b: u8) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[cfg_attr(a, skip)] b: u8) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[skip] train: bool) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[skip] log: &mut Vec<u8>) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[skip] log: &dyn Fn(&mut Vec<u8>), #[skip] #[shared] b: &Tensor) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[skip] log: impl Fn()) -> Tensor",
            "fn forward(&self, #[padded] xs: &Tensor, #[padded()] ys: &Tensor) -> Tensor",
            "fn forward(&self, #[padded = 0] xs: &Tensor, #[padded(0, 1)] ys: &Tensor) -> Tensor",
            "fn forward(&self, #[padded(0)] #[padded(1)] xs: &Tensor, #[pading(0)] ys: &Tensor) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[shared] #[padded(0)] mask: &Tensor, #[padded(0)] #[id] a: &Tensor) -> Tensor",
            "fn forward(&self, #[skip] #[padded(0)] xs: &Tensor) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[id(any_shap)] a: &[i64]) -> Tensor",
            "fn forward(&self, xs: &Tensor, #[padded(0)] train: bool) -> Tensor",
        ],
        method,
    ));
}

#[test]
fn outputs() {
    assert_snapshot!(report(
        [
            "fn forward(&self, xs: &Tensor)",
            "fn forward(&self, xs: &Tensor) -> ()",
            "fn forward(&self, xs: &Tensor) -> !",
            "fn forward(&self, xs: &Tensor) -> &Tensor",
            "fn forward(&self, xs: &Tensor) -> impl Out",
        ],
        method,
    ));
}

#[test]
fn derives() {
    let fingerprints = [
        "union A { a: u8 }",
        "enum A { B(#[torchcache(skp)] u8), C { #[torchcache(skipp)] x: u8 } }",
        "#[fingerprint] struct A;",
        "#[fingerprint(version = 1)] struct A;",
        "#[fingerprint(version = \"\")] struct A;",
        "#[fingerprint(vresion = \"1\")] struct A;",
        "#[fingerprint(version = \"1\")] #[fingerprint(version = \"2\")] struct A;",
    ];
    let outputs = [
        "enum Output {}",
        "union Output { one: u8 }",
        "struct Output;",
        "struct Output { #[batched(plain)] heads: i64, #[batched] rows: i64 }",
        "#[batched(constant)] struct Output(Tensor);",
        "struct Tree { value: Tensor, children: Vec<Tree>, next: self::Tree, parent: Option<Box<Self>> }",
    ];
    let arguments = [
        "union Inputs { one: u8 }",
        "enum Inputs { One(Tensor), More { all: Vec<Inputs> } }",
        "struct Inputs { #[argument(constant)] heads: i64 }",
        "#[argument(version = 1)] struct Inputs(Tensor);",
        "struct Inputs<'a, 'b> { ids: &'a Tensor, mask: &'b Tensor }",
    ];
    let reports = [
        report(fingerprints, fingerprint),
        report(outputs, batched),
        report(arguments, argument_of),
    ];
    assert_snapshot!(reports.concat());
}

#[test]
fn other_items() {
    assert_snapshot!(report(
        [
            "enum A {}",
            "union A { a: u8 }",
            "trait A {}",
            "mod a {}",
            "const A: u8 = 0;",
            "static A: u8 = 0;",
            "type A = u8;",
            "use a::b;",
            "extern crate a;",
        ],
        item,
    ));
}

#[test]
fn all_mistakes_of_an_item_are_shown_at_once() {
    assert_snapshot!([
        attribute(
            "persistant = true, enabled = 3, zstd_compression = true",
            "struct A { #[torchcache(skp)] a: u8, torchcache_versoin: bool }",
        ),
        attribute(
            "enabled = true",
            "impl A {
                async fn forward(&mut self, x: f64) {}
                fn forward_t(self, xs: &mut Tensor) -> Tensor { xs }
            }",
        ),
        attribute(
            "verson = \"1\", persistent",
            "unsafe fn embed<T>(tokens: &mut Tensor, scale: impl Into<f64>) -> &Tensor { tokens }",
        ),
    ]
    .join("\n"));
}

#[test]
fn an_erroneous_item_is_emitted_with_what_others_refer_to() {
    let expansion = |arguments, item| crate::attribute(tokens(arguments), tokens(item)).to_string();
    let derived = |item| crate::derive_struct(tokens(item)).to_string();
    let structure = derived(
        "#[torchcache_struct(persistant = true)]
        struct A<M> { #[torchcache(skip)] x: M, c: TorchCache }",
    );
    assert!(
        structure.contains("CachedStruct for A < M >"),
        "{structure}"
    );
    let block = expansion(
        "no",
        "impl A { fn forward(&self, xs: &Tensor) -> Tensor { x } }",
    );
    assert!(
        block.contains("OneImplWithForwardPerStruct for A"),
        "{block}"
    );
    let function = expansion("no = 1", "fn f(xs: &Tensor) -> Tensor { x }");
    assert!(function.contains("fn f_cache ()"), "{function}");
    for text in [structure, block, function] {
        assert_eq!(text.matches("compile_error").count(), 1, "{text}");
    }
}
