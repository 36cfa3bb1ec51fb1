//! What torchcache promises, tested from the outside: one module per promise or part.
//!
//! Every test says how often the forward ran and on how many rows, so that a hit is known to be
//! one. The suite runs on the CPU, and with `TORCHCACHE_TEST_DEVICE=cuda` on the first GPU.

#![expect(
    unused_must_use,
    reason = "many a call is made for what it does to the cache"
)]

mod attribute_forms;
mod bad_input;
mod cached;
mod eviction;
mod faults;
mod gradients;
mod identity;
mod multi_process;
mod nested_modules;
mod options;
mod outputs;
mod ownership;
mod per_sample;
mod persistence;
mod persistent_module;
mod prefill;
mod python;
mod random_inputs;
mod raw;
mod reentrancy;
mod refresh;
mod sample_ids;
mod shared_arguments;
mod state_machine;
mod stats_and_log;
mod support;
mod torchscript;
mod verify;
mod weight_changes;
