//! Tests of the public API, one module per behaviour.
//!
//! Tests assert how often the forward ran and on how many rows, not only what a call returns: a
//! wrong miss would return the right rows too. The suite runs on the CPU, and on the first GPU with
//! `TORCHCACHE_TEST_DEVICE=cuda`.

#![expect(
    unused_must_use,
    reason = "many calls are made for their effect on the cache"
)]

mod across_devices;
mod attribute_forms;
mod autocast;
mod autograd;
mod bad_input;
mod batch_not_first;
mod bounds;
mod build_inputs;
mod cached;
mod changing_modules;
mod cut_batches;
mod derived_modules;
mod device_copies;
mod device_faults;
mod device_hashing;
mod device_tier;
mod device_watching;
mod eviction;
mod faults;
mod generic_modules;
mod gradients;
mod hints;
mod hygiene;
mod identity;
mod import;
mod local_items;
mod methods;
mod model_arguments;
mod multi_process;
mod nested_modules;
pub mod no_prelude;
mod odd_tensors;
mod one_row;
mod opaque_fields;
mod optimizer_steps;
mod options;
mod output_devices;
mod outputs;
mod ownership;
mod padded_rows;
mod peek;
mod per_sample;
mod persistence;
mod persistent_module;
mod prefill;
mod python;
mod random_inputs;
mod raw;
mod read_ahead;
mod reentrancy;
mod refresh;
mod remote;
mod remote_faults;
mod remove;
mod sample_ids;
mod shared_arguments;
mod shared_handles;
mod single_flight;
mod skipped_arguments;
mod state_machine;
mod stats_and_log;
mod structured_arguments;
mod structured_outputs;
mod support;
mod torchscript;
mod training;
mod training_machine;
mod values;
mod verify;
mod weight_changes;
