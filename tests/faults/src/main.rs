//! The scenarios of the store alone, without libtorch.

use std::process::ExitCode;

fn main() -> ExitCode {
    torchcache_faults::main(&[torchcache_faults::STORE])
}
