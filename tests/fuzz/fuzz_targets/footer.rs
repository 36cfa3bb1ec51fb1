//! `torchcache_faults::fuzzed::footer`, which says what is promised.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| torchcache_faults::fuzzed::footer(bytes));
