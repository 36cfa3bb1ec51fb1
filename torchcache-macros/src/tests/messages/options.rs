//! Mistakes in the options, apart because there are many.

use super::{expect, mistakes, options};

#[test]
fn a_misspelt_option_names_the_right_one() {
    options(
        "persistant = true",
        &[(
            "persistant",
            "unknown option `persistant`; did you mean `persistent`?",
        )],
    );
    options(
        "eviction_policy = \"lru\"",
        &[("eviction_policy", "; known are `enabled`, `memory_")],
    );
}

#[test]
fn an_option_needs_a_value_of_its_kind() {
    options(
        "persistent",
        &[("persistent", "has no value; write `persistent = true`")],
    );
    options(
        r#"persistent = "yes""#,
        &[(
            r#""yes""#,
            r#"`persistent` takes `true` or `false`; got `"yes"`"#,
        )],
    );
    options("use_mmap_on_load = 1", &[("1", "takes `true` or `false`")]);
    options(
        r#"cache_dtype = "half""#,
        &[(r#""half""#, "such as `Kind::Half`, or `None`")],
    );
    options(
        "cache_dtype = Kind::Int64",
        &[("Kind::Int64", "`Kind::Half`, `Kind::BFloat16`")],
    );
    options(
        "memory_cache_device = 0",
        &[("0", "such as `Device::Cpu`, or `None`")],
    );
    options("version = 2", &[("2", "`version` takes a string")]);
    options(
        r#"verify = "1 %""#,
        &[(r#""1 %""#, "takes a share from 0.0 (off) to 1.0")],
    );
    options(
        "persistent_cache_dir = true",
        &[("true", "takes a path such as `\"features\"`")],
    );
}

#[test]
fn sizes_out_of_range_are_refused() {
    options(
        "max_memory_cache_size = -1",
        &[("-1", "takes a size from 0 B to below 16 EiB")],
    );
    options(
        "max_memory_cache_size = 1e20",
        &[("1e20", "takes a size from 0 B to below 16 EiB")],
    );
    options(
        "max_memory_cache_size = 18446744073709551616",
        &[("18446744073709551616", "a size")],
    );
    options(
        "max_memory_cache_size = true",
        &[("true", "takes a size from 0 B to below 16 EiB")],
    );
    options(
        r#"max_memory_cache_size = "5 XB""#,
        &[(
            r#""5 XB""#,
            "no unit `XB`; the units are B, KB, MB, GB, TB, KiB, MiB, GiB, TiB",
        )],
    );
    options(
        r#"max_memory_cache_size = "big""#,
        &[(r#""big""#, "`big` is not a size")],
    );
    options(
        "max_persistent_cache_size = 0",
        &[("0", "takes a size above 0")],
    );
    options(
        r#"max_persistent_cache_size = "0 GB""#,
        &[(r#""0 GB""#, "takes a size above 0")],
    );
}

#[test]
fn numbers_out_of_range_are_refused() {
    options(
        "subsample_count = 0",
        &[("0", "a whole number of at least 1")],
    );
    options(
        "subsample_count = 0.5",
        &[("0.5", "a whole number of at least 1")],
    );
    options(
        "persistent = true, zstd_compression_level = 23",
        &[(
            "23",
            "`zstd_compression_level` takes a whole number from -7 to 22; got `23`",
        )],
    );
    options("zstd_compression_level = -8", &[("-8", "from -7 to 22")]);
    options(
        "zstd_compression_threads = 257",
        &[("257", "from 0 (all cores) to 256")],
    );
    options(
        "zstd_compression_threads = -1",
        &[("-1", "from 0 (all cores) to 256")],
    );
}

#[test]
fn shares_out_of_range_are_refused() {
    for share in ["1.01", "-0.01", "2", "-1", "1e9"] {
        let message =
            format!("`verify` takes a share from 0.0 (off) to 1.0, such as `0.01`; got `{share}`");
        options(&format!("verify = {share}"), &[(share, &message)]);
    }
    for share in ["0", "1", "0.0", "1.0", "1e-3", "SHARE", "f64::NAN"] {
        options(&format!("verify = {share}"), &[]);
    }
}

#[test]
fn an_unknown_eviction_policy_is_refused() {
    options(
        r#"eviction = "lfu""#,
        &[(
            r#""lfu""#,
            "unknown eviction policy `lfu`; did you mean `lru`",
        )],
    );
    options(
        r#"eviction = "fifo""#,
        &[(r#""fifo""#, "; known are `lru`, `never`, `auto`")],
    );
    options(
        "eviction = 1",
        &[("1", r#"takes `"lru"`, `"never"` or `"auto"`"#)],
    );
}

#[test]
fn a_module_hash_must_be_one_directory_name() {
    let long = "x".repeat(129);
    for (hash, why) in [
        ("", "it is empty"),
        ("a/b", "it contains '/'"),
        ("a\\\\b", "it contains '\\\\'"),
        ("..", "it begins with `.`"),
        ("a\\0b", "it contains '\\0'"),
        (&long, "it has 129 characters; 128 are allowed"),
    ] {
        let literal = format!("\"{hash}\"");
        options(
            &format!("persistent_module_hash = {literal}"),
            &[(&literal, why)],
        );
    }
    options(
        r#"persistent_cache_dir = """#,
        &[("\"\"", "`persistent_cache_dir` is empty")],
    );
}

#[test]
fn an_option_given_twice_names_the_first() {
    options(
        "persistent = true, persistent = false",
        &[(
            "persistent",
            "given twice; the first is `persistent = true`",
        )],
    );
}

#[test]
fn compression_needs_persistence() {
    let message = "`zstd_compression` compresses what is kept on disk, but `persistent` is false";
    options("zstd_compression = true", &[("zstd_compression", message)]);
    options(
        "persistent = false, zstd_compression = true",
        &[("zstd_compression", message)],
    );
    options("zstd_compression = false", &[]);
    let overridden = "struct A { torchcache_persistent: bool, torchcache: TorchCache }";
    expect(&mistakes("zstd_compression = true", overridden), &[]);
    let function = "fn f(xs: &Tensor) -> Tensor { xs.copy() }";
    expect(
        &mistakes("zstd_compression = true", function),
        &[("zstd_compression", message)],
    );
}

#[test]
fn what_is_no_option_list_is_refused_where_it_stops_making_sense() {
    options("persistent = ", &[("", "expected an expression")]);
    options(
        "persistent true, enabled = 3",
        &[(
            "persistent",
            "expected `=` after `persistent`: write `persistent = true`",
        )],
    );
    options(
        "enabled = 3, persistent(true)",
        &[
            ("persistent", "expected `=`"),
            ("3", "takes `true` or `false`"),
        ],
    );
}
