//! What can happen to whole modules. `cargo xtask soak` runs the same tests with more cases.

mod foreign;
mod panics;
mod shutdown;
mod threads;
