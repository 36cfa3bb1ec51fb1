//! Everything that can happen to a directory, caused on purpose: every row that comes back is
//! compared with what it must be. `cargo xtask soak` runs the same tests with more cases.

mod clocks;
mod corruption;
mod directory;
mod enospc;
mod flusher;
mod foreign;
mod io_errors;
mod killed;
mod mounts;
mod multi_process;
mod overlay;
mod permissions;
mod power;
mod removed;
mod shutdown;
mod signals;
mod unremovable;
mod versions;

use std::path::Path;
use std::process::Command;

use torchcache_faults::process;

/// The command that starts a role in a process of its own.
fn child(role: &str, dir: &Path, args: &[String]) -> Command {
    process::command(env!("CARGO_BIN_EXE_faults-child"), role, dir, args)
}
