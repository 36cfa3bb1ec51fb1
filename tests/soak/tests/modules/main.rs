//! What can happen to whole modules. `cargo xtask soak` runs the same tests with more cases.

mod panics;
mod shutdown;
mod threads;
