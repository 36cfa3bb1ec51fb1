//! The behaviour of the store as a caller sees it. One test program, since some of its tests
//! start it again as another process.

mod admin;
mod common;
mod copies;
mod elements;
mod eviction_never;
mod faults;
mod golden;
mod limits;
mod processes;
mod remove;
mod root_limit;
mod round_trip;
mod scale;
mod segment;
mod shared_rows;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod syncs;
mod temp_cache;
mod threads;
