//! `torchcache_faults::fuzzed::operations`, which says what is promised.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| torchcache_faults::fuzzed::operations(bytes));
