//! What torchcache promises, tested from the outside: one module per promise or part.
//!
//! Every test says how often the forward ran and on how many rows, so that a hit is known to be
//! one. The suite runs on the CPU, and with `TORCHCACHE_TEST_DEVICE=cuda` on the first GPU.

#![expect(
    unused_must_use,
    reason = "many a call is made for what it does to the cache"
)]

mod bad_input;
mod cached;
mod eviction;
mod faults;
mod forms;
mod gradients;
mod identity;
mod ids;
mod kept;
mod nested;
mod options;
mod outputs;
mod ownership;
mod per_sample;
mod persistence;
mod prefill;
mod processes;
mod property;
mod python;
mod raw;
mod reentrancy;
mod refresh;
mod reports;
mod shared;
mod state_machine;
mod support;
mod torchscript;
mod verify;
mod watching;
