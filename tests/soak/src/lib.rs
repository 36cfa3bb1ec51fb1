//! Modules for tests of what can happen to whole modules: threads, panics, the end of a process. What
//! can happen to their store is in `torchcache-faults`.

#![deny(missing_docs)]

pub mod modules;
