//! The program `soak`: the scenarios of the store and those of whole modules, and one table. The
//! program `faults` must be beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    torchcache_faults::main(&[torchcache_faults::STORE, torchcache_soak::MODULES])
}
