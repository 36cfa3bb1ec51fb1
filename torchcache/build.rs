//! How the tests, examples and doc tests of this package find libtorch when they run.
//!
//! `cargo:rustc-link-arg` reaches the binaries of the package that prints it and no others, so
//! `examples/`, `tests/` and `benches/` have a build script too; theirs is this file.

use std::env;

pub(crate) fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TORCHCACHE_LINK_CUDA");

    // Code that is fast only when it is optimised gives way to other code.
    println!("cargo:rustc-check-cfg=cfg(unoptimized)");
    if env::var("OPT_LEVEL").is_ok_and(|level| level == "0") {
        println!("cargo:rustc-cfg=unoptimized");
    }

    // torch-sys passes the folder of libtorch to the packages that depend on it, unless it was built
    // for documentation only.
    let Ok(lib) = env::var("DEP_TCH_LIBTORCH_LIB") else {
        return;
    };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");

    // No symbol of libtorch_cuda is named by us, so the linker drops the library and torch then
    // says that there is no GPU. It is loaded on request only: without a GPU it costs every
    // process a second and a gigabyte, and the small installation lacks the libraries it needs.
    if env::var("TORCHCACHE_LINK_CUDA").is_ok_and(|value| value == "1") {
        println!("cargo:rustc-link-arg=-Wl,--push-state,--no-as-needed,-ltorch_cuda,--pop-state");
    }
}
