//! The behaviour of the store as a caller sees it. One test program, since some of its tests
//! start it again as another process.

mod admin;
mod common;
mod cores;
mod duplicates;
mod faults;
mod golden;
mod keeping;
mod limits;
mod numbers;
mod private_dir;
mod processes;
mod round_trip;
mod scale;
mod segment;
mod shared_rows;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod syncs;
