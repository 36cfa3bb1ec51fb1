//! The link arguments of `torchcache/build.rs`, for the binaries of this package.

#[path = "../../torchcache/build.rs"]
mod torchcache_build;

fn main() {
    torchcache_build::main();
}
