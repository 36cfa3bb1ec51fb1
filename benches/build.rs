//! The link arguments of `torchcache/build.rs`, for the binaries of this package.

#[path = "../torchcache/build.rs"]
mod torchcache_build;

/// Functions of the CUDA runtime that `cuda/waits.rs` defines: libtorch is to call those.
const COUNTED: [&str; 4] = [
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "cudaDeviceSynchronize",
    "cudaMemcpy",
];

fn main() {
    torchcache_build::main();
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        for function in COUNTED {
            println!("cargo:rustc-link-arg-benches=-Wl,--export-dynamic-symbol={function}");
        }
    }
}
